"""What others feel of a flood: ``python bench/flood.py``. One application publishes calmly, one far beyond its quota.

Four times in each round: undisturbed; while the other application publishes just what its quota allows; beside its
flood; and beside the same flood on *another* gateway of the same machine, which takes its share of the processor and
nothing else. What is admitted is written by the same store and has its price; what the flood adds to that is what the
gateway itself fails to keep apart.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import access  # noqa: E402
import clients  # noqa: E402
import daemons  # noqa: E402
import load  # noqa: E402
from servers.daemon import Daemon  # noqa: E402

QUOTA_A_SECOND = 1000
PUBLISHES_A_SECOND = 100
PHASES = ("quiet", "within quota", "flooded", "flood elsewhere")
PACED_CONNECTIONS = 16
PACED_A_SECOND = 960
"""Of all those together: what the quota allows, nearly."""


class Phase(NamedTuple):
    """Milliseconds of the calm application, and requests of the flood."""

    p50: float
    p99: float
    offered: float = 0.0
    admitted: float = 0.0


class Applications(NamedTuple):
    """A script for ``wrk`` with the flooding application's key, a request of its, and one of the calm one's."""

    flood: str
    paced: bytes
    calm: bytes


def register(gateway: Daemon) -> Applications:
    keys = {}
    for name, quota in (("flooding", {"publish_records_per_second": QUOTA_A_SECOND}), ("calm", {})):
        access.admin(gateway, "PUT", f"/applications/{name}", {"quota": quota})
        keys[name] = access.admin(gateway, "POST", f"/applications/{name}/keys", {"kind": "pub"})
        access.admin(gateway, "PUT", f"/topics/{name}/bench/v1", {"partitions": 4})
    flooding, calm = keys["flooding"], keys["calm"]
    script = f'wrk.headers["Pubkey"] = "{flooding["key"]}"\nwrk.headers["Secret"] = "{flooding["secret"]}"\n'
    return Applications(load.ONE_RECORD + script, _request(flooding), _request(calm))


def _request(key: dict[str, str]) -> bytes:
    head = f"POST /v1/topics/bench HTTP/1.1\r\nHost: bench\r\nPubkey: {key['key']}\r\nSecret: {key['secret']}\r\n"
    return head.encode() + b"Content-Length: 100\r\n\r\n" + b"x" * 100


async def publish(port: int, request: bytes, seconds: float, a_second: float) -> list[float]:
    """Publishes at a steady pace, and gives how long each took, in milliseconds."""
    client = await clients.client(port)
    took = []
    start = time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        await client.ask(request)
        took.append((time.perf_counter() - now) * 1e3)
        await asyncio.sleep(max(start + len(took) / a_second - time.perf_counter(), 0))
    client.close()
    return took


def keep_pace(port: int, request: bytes, seconds: float) -> None:
    """Publishes what the quota allows, from a process of its own."""

    async def all_of_them() -> None:
        each = PACED_A_SECOND / PACED_CONNECTIONS
        await asyncio.gather(*(publish(port, request, seconds, each) for _ in range(PACED_CONNECTIONS)))

    asyncio.run(all_of_them())


def undisturbed(gateway: Daemon, request: bytes, seconds: float) -> Phase:
    took = asyncio.run(publish(gateway.public_port, request, seconds, PUBLISHES_A_SECOND))
    return Phase(clients.percentile(took, 50), clients.percentile(took, 99))


def within_quota(gateway: Daemon, applications: Applications, seconds: float) -> Phase:
    pacing = multiprocessing.Process(target=keep_pace, args=(gateway.public_port, applications.paced, seconds + 1.5))
    pacing.start()
    time.sleep(1)
    found = undisturbed(gateway, applications.calm, seconds)
    pacing.join()
    return found


def flooded(gateway: Daemon, request: bytes, other: Daemon, script: str, options: argparse.Namespace) -> Phase:
    """``gateway`` is measured, ``other`` is flooded."""
    flood = load.start(f"{other.public}/v1/topics/bench", script, options.connections, options.seconds + 2)
    time.sleep(1)
    found = undisturbed(gateway, request, options.seconds)
    seen = load.result(flood, refusals=True)
    return Phase(
        found.p50,
        found.p99,
        seen.rate,
        # the bucket is full at first: a second's worth
        (seen.requests - seen.refused - QUOTA_A_SECOND) / seen.seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--pause", type=float, help="http.refused_pause_seconds")
    options = parser.parse_args()
    load.require_wrk()
    with tempfile.TemporaryDirectory(prefix="kateway-bench-") as name:
        started: list[Daemon] = []
        try:
            for which in ("first", "second"):
                folder = Path(name) / which
                folder.mkdir()
                config = folder / "kateway.toml"
                pause = "" if options.pause is None else f"[http]\nrefused_pause_seconds = {options.pause}\n"
                config.write_text(
                    f'[storage.default]\ndriver = "embedded"\npath = "{folder}/data"\n'
                    f'[registry]\ndriver = "embedded"\n{pause}'
                )
                started.append(daemons.daemon(daemons.Checkout(ROOT), folder, ["--config", str(config)]))
            own, other = register(started[0]), register(started[1])
            rounds = []
            for _ in range(options.rounds):
                rounds.append(
                    [
                        undisturbed(started[0], own.calm, options.seconds),
                        within_quota(started[0], own, options.seconds),
                        flooded(started[0], own.calm, started[0], own.flood, options),
                        flooded(started[0], own.calm, started[1], other.flood, options),
                    ]
                )
                print(
                    *(
                        f"{what}: p50 {each.p50:.2f} p99 {each.p99:.2f} ms"
                        + (f" ({each.offered:.0f}/s offered, {each.admitted:.0f}/s admitted)" if each.offered else "")
                        for what, each in zip(
                            ("quiet", "within quota", "flooded", "flood elsewhere"), rounds[-1], strict=True
                        )
                    ),
                    sep="; ",
                    flush=True,
                )
        finally:
            for gateway in started:
                gateway.close()
    print(f"{daemons.machine()}, revision {daemons.revision(ROOT)}")
    compared = (
        (0, "undisturbed"),
        (1, "beside an application within its quota"),
        (3, "beside the same flood on another gateway"),
    )
    for index, what in compared:
        ratio = statistics.median(each[2].p99 / each[index].p99 for each in rounds)
        print(f"p99 flooded / {what}: {ratio:.2f}")
    admitted = statistics.median(each[2].admitted for each in rounds)
    print(f"admitted of a quota of {QUOTA_A_SECOND}/s: {admitted:.1f}/s")


if __name__ == "__main__":
    main()
