"""Plants troubles on a gateway, to look at them in its manager: ``python bench/demo.py``, until Ctrl-C.

Six applications, twelve topics, and groups of readers in every verdict that a healthy store allows. The gateway needs a
registry: ``KATEWAY_REGISTRY_DRIVER=embedded twistd -n kateway``. Each trouble is told with where to look for it, and
again when the gateway has found it. What is planted stays in the gateway's data; it can be planted there again.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from demo_traffic import Client, Traffic, over

from kateway.cli.client import AdminClient, Refused, Unreachable

APPLICATIONS = ("shop", "billing", "search", "mobile", "warehouse", "analytics")
RATES = {
    "shop/orders/v1": 40,
    "shop/carts/v1": 10,
    "billing/invoices/v1": 5,
    "billing/payments/v1": 4,
    "search/queries/v1": 30,
    "search/clicks/v1": 0,
    "mobile/sessions/v1": 12,
    "mobile/pushes/v1": 6,
    "warehouse/stock/v1": 2,
    "warehouse/shipments/v1": 5,
    "analytics/events/v1": 20,
    "analytics/reports/v1": 0,
}
"""Topics, and how many records a second are published to each."""
PLANTED = {
    "analytics/search/clicks/v1/ranking": ("abandoned", "500 records behind, and its reader went"),
    "billing/billing/payments/v1/ledger": ("poisoned", "its reader fails again and again at one record"),
    "warehouse/shop/carts/v1/export": ("blocked", "its reader opened a stream and takes nothing from it"),
    "search/mobile/sessions/v1/profiles": ("leases-run-out", "every third record is not acknowledged in time"),
    "mobile/search/queries/v1/suggestions": ("throttled", "it asks 5 times a second, and its key's quota is 2"),
    "analytics/warehouse/stock/v1/backfill": ("catching-up", "it reads a backlog faster than more comes"),
    "warehouse/shop/orders/v1/picking": (
        "keeping-up",
        "40 a second come and it reads 5; later too-few-readers",
    ),
    "billing/shop/orders/v1/invoicing": ("keeping-up", "all is well"),
    "analytics/analytics/reports/v1/archive": ("idle", "nothing comes"),
}
"""Groups: the verdict that is to come, and what is done to them."""
ABANDONED_RECORDS = 500
LARGE_RECORDS, LARGE_BYTES = 20, 500_000
"""What fills the socket's buffers and the gateway's window."""
STALL_SECONDS = 240
BACKLOG = 6000
POISON = b"amount: none"
RETENTION_HOURS = 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--admin", default="http://127.0.0.1:9093", metavar="URL", help="its admin listener")
    parser.add_argument("--public", default="http://127.0.0.1:9090", metavar="URL", help="its public listener")
    parser.add_argument(
        "--token-file",
        default=os.environ.get("KATEWAY_ADMIN_TOKEN_FILE", ""),
        metavar="FILE",
        help="the token of the admin API, where it has one (default: $KATEWAY_ADMIN_TOKEN_FILE)",
    )
    return parser.parse_args()


def client(options: argparse.Namespace) -> AdminClient:
    token = ""
    if options.token_file:
        with open(options.token_file, encoding="utf-8") as file:
            token = file.read().strip()
    return AdminClient(options.admin, token)


# --- what is registered ---------------------------------------------------------------------------------------------


def register(admin: AdminClient) -> dict[str, tuple[str, str]]:
    """Applications, topics and bindings; returns a key and its secret for each application and kind (``shop pub``)."""
    status = admin.call("GET", "/status").body
    if status["registry"]["driver"] == "open":
        raise SystemExit(
            "demo: this gateway has no registry, so it keeps no applications. Start it with one:\n"
            "  KATEWAY_REGISTRY_DRIVER=embedded twistd -n kateway"
        )
    for application in APPLICATIONS:
        admin.call("PUT", f"/applications/{application}", {"description": f"The demo's {application}"})
    for topic in RATES:
        admin.call("PUT", f"/topics/{topic}", {"partitions": 2, "retention_hours": RETENTION_HOURS})
    for group in PLANTED:
        reader, application, name, version, _ = group.split("/")
        if reader != application:
            admin.call("PUT", f"/bindings/{reader}/{application}/{name}/{version}", {"groups": ["*"]})
    keys = {}
    for application in APPLICATIONS:
        for kind in ("pub", "sub"):
            quota = {"requests_per_second": 2} if (application, kind) == ("mobile", "sub") else None
            keys[f"{application} {kind}"] = new_key(admin, application, kind, quota)
    return keys


def new_key(admin: AdminClient, application: str, kind: str, quota: Any) -> tuple[str, str]:
    """A key; one of the same name, of an earlier run, is revoked."""
    name, path = f"demo-{application}-{kind}", f"/applications/{application}/keys"
    if any(known["key"] == name for known in admin.list(path)["items"]):
        admin.call("DELETE", f"{path}/{name}")
    asked = {"kind": kind, "key": name, **({"quota": quota} if quota else {})}
    made = admin.call("POST", path, asked).body
    return made["key"], made["secret"]


# --- what flows, and what goes wrong --------------------------------------------------------------------------------


def publish_all(gateway: Client) -> None:
    """Publishes to every topic at its rate, in batches of half a second."""
    turn = 0
    while not over.wait(0.5):
        turn += 1
        for topic, rate in RATES.items():
            if count := rate // 2:
                gateway.publish(topic, [b'{"number": %d, "at": %d}' % (turn, time.time()) for _ in range(count)])


def abandon(gateway: Client) -> None:
    """Reads a little, goes, and leaves so many records."""
    group = "analytics/search/clicks/v1/ranking"
    gateway.publish("search/clicks/v1", [b'{"click": 0}'])
    gateway.poll(group, limit=1000, timeout=5, idle=0.2)
    while gateway.lag(group):  # what was read is committed within a second
        over.wait(0.2)
    gateway.publish("search/clicks/v1", [b'{"click": %d}' % number for number in range(ABANDONED_RECORDS)])


def fail_at_one(gateway: Client) -> None:
    """Acknowledges what it can; the poison is to be tried again, each time."""
    group = "billing/billing/payments/v1/ledger"
    gateway.publish("billing/payments/v1", [POISON], key="poison")
    while not over.is_set():
        for record in gateway.poll(group, limit=50, timeout=2, idle=0.1, ack="explicit"):
            poisoned = record["value"].encode() == POISON
            gateway.acknowledge(group, record, **({"outcome": "retry", "delay": 1} if poisoned else {}))


def take_nothing(gateway: Client) -> None:
    """Opens a stream of large records and reads no byte of it; another one before the gateway's patience ends."""
    group = "warehouse/shop/carts/v1/export"
    for _ in range(LARGE_RECORDS):
        gateway.publish("shop/carts/v1", [random.randbytes(LARGE_BYTES // 2).hex().encode()])
    while not over.is_set():
        with gateway.held_stream(group):
            over.wait(STALL_SECONDS)


def forget_leases(gateway: Client) -> None:
    """Acknowledges every third record at its second delivery only, when its lease has run out."""
    group = "search/mobile/sessions/v1/profiles"
    while not over.is_set():
        for record in gateway.poll(group, limit=20, timeout=2, idle=0.1, ack="explicit", ack_timeout=1):
            if record["offset"] % 3 or record.get("attempt", 1) > 1:
                gateway.acknowledge(group, record)


def ask_too_often(gateway: Client) -> None:
    while not over.wait(0.2):
        gateway.poll("mobile/search/queries/v1/suggestions", limit=100, timeout=0.1, idle=0.05)


def catch_up(gateway: Client) -> None:
    """Reads a backlog at 50 records a second; once it is small there is another."""
    group = "analytics/warehouse/stock/v1/backfill"
    gateway.poll(group, limit=1, timeout=1)
    while not over.is_set():
        if gateway.lag(group) < BACKLOG // 6:
            for _ in range(BACKLOG // 1000):
                gateway.publish("warehouse/stock/v1", [b'{"stock": %d}' % number for number in range(1000)])
        for _ in range(20):
            if not over.wait(1):
                gateway.poll(group, limit=50, timeout=1, idle=0.1)


def fall_behind(gateway: Client) -> None:
    while not over.wait(1):
        gateway.poll("warehouse/shop/orders/v1/picking", limit=5, timeout=5)


def follow(group: str) -> Callable[[Client], None]:
    def read(gateway: Client) -> None:
        while not over.is_set():
            gateway.poll(group, limit=100_000, timeout=10, idle=10)

    return read


TRAFFIC: tuple[Callable[[Client], None], ...] = (
    publish_all,
    abandon,
    fail_at_one,
    take_nothing,
    forget_leases,
    ask_too_often,
    catch_up,
    fall_behind,
    follow("billing/shop/orders/v1/invoicing"),
)


def archive(gateway: Client) -> None:
    """Reads what there is; nothing more comes."""
    gateway.publish("analytics/reports/v1", [b'{"report": 1}'])
    gateway.poll("analytics/analytics/reports/v1/archive", limit=1000, timeout=5, idle=1)


# --- what the gateway finds -----------------------------------------------------------------------------------------


def tell_found(admin: AdminClient, began: float, left: dict[str, str]) -> None:
    """Tells of each group once its verdict is what was planted, and takes it out of those ``left``."""
    for row in admin.list("/groups")["items"]:
        verdict = row["verdict"]
        if left.get(row["name"]) == verdict["state"]:
            del left[row["name"]]
            print(f"  after {time.monotonic() - began:3.0f} s  {verdict['state']:14} {row['name']}")
            print(f"                               {verdict['reason']}", flush=True)
            if not left:
                print("All are found. Ctrl-C ends it.", flush=True)


def main() -> int:
    options = arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    traffic: Traffic | None = None
    try:
        admin = client(options)
        keys = register(admin)
        print(f"Planted on {options.public}; look at {options.admin}/ui/")
        for name, (state, words) in PLANTED.items():
            print(f"  {state:14} {name}\n                 {words}")
        print("Found by the gateway:", flush=True)
        began, left = time.monotonic(), {name: state for name, (state, _) in PLANTED.items()}
        traffic = Traffic(options.public, keys, (*TRAFFIC, archive))
        while True:
            time.sleep(1)
            try:
                tell_found(admin, began, left)
            except Unreachable as error:
                print(f"demo: {error}; it goes on when the gateway is back", file=sys.stderr)
                time.sleep(5)
    except KeyboardInterrupt:
        print("\ndemo: ended; its applications, topics and groups are still there")
        return 0
    except (Refused, Unreachable, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    finally:
        if traffic is not None:
            traffic.end()


if __name__ == "__main__":
    sys.exit(main())
