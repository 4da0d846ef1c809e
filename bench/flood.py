"""What others feel of a flood: ``python bench/flood.py``. One application publishes calmly, one far beyond its quota.

Three times in each round: undisturbed; beside the flood on the same gateway; and beside the same flood on *another*
gateway of the same machine, which takes its share of the processor and nothing else. What the flood adds beyond that is
what the gateway itself fails to keep apart.
"""

from __future__ import annotations

import argparse
import asyncio
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


class Phase(NamedTuple):
    """Milliseconds of the calm application, and requests of the flood."""

    p50: float
    p99: float
    offered: float = 0.0
    admitted: float = 0.0


def register(gateway: Daemon) -> tuple[str, bytes]:
    """A script for ``wrk`` with the flooding application's key, and a request of the calm one."""
    keys = {}
    for name, quota in (("flooding", {"publish_records_per_second": QUOTA_A_SECOND}), ("calm", {})):
        access.admin(gateway, "PUT", f"/applications/{name}", {"quota": quota})
        keys[name] = access.admin(gateway, "POST", f"/applications/{name}/keys", {"kind": "pub"})
        access.admin(gateway, "PUT", f"/topics/{name}/bench/v1", {"partitions": 4})
    flooding, calm = keys["flooding"], keys["calm"]
    script = f'wrk.headers["Pubkey"] = "{flooding["key"]}"\nwrk.headers["Secret"] = "{flooding["secret"]}"\n'
    head = f"POST /v1/topics/bench HTTP/1.1\r\nHost: bench\r\nPubkey: {calm['key']}\r\nSecret: {calm['secret']}\r\n"
    return load.ONE_RECORD + script, head.encode() + b"Content-Length: 100\r\n\r\n" + b"x" * 100


async def publish(port: int, request: bytes, seconds: float) -> list[float]:
    """Publishes at a steady pace, and gives how long each took, in milliseconds."""
    client = await clients.client(port)
    took = []
    start = time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        await client.ask(request)
        took.append((time.perf_counter() - now) * 1e3)
        await asyncio.sleep(max(start + len(took) / PUBLISHES_A_SECOND - time.perf_counter(), 0))
    client.close()
    return took


def phase(gateway: Daemon, request: bytes, flooded: Daemon | None, script: str, options: argparse.Namespace) -> Phase:
    if flooded is None:
        took = asyncio.run(publish(gateway.public_port, request, options.seconds))
        return Phase(clients.percentile(took, 50), clients.percentile(took, 99))
    flood = load.start(f"{flooded.public}/v1/topics/bench", script, options.connections, options.seconds + 2)
    time.sleep(1)
    took = asyncio.run(publish(gateway.public_port, request, options.seconds))
    seen = load.result(flood, refusals=True)
    return Phase(
        clients.percentile(took, 50),
        clients.percentile(took, 99),
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
            (own, request), (other, _) = register(started[0]), register(started[1])
            rounds = []
            for _ in range(options.rounds):
                rounds.append(
                    [
                        phase(started[0], request, None, "", options),
                        phase(started[0], request, started[0], own, options),
                        phase(started[0], request, started[1], other, options),
                    ]
                )
                print(
                    *(
                        f"{what}: p50 {each.p50:.2f} p99 {each.p99:.2f} ms"
                        + (f" ({each.offered:.0f}/s offered, {each.admitted:.0f}/s admitted)" if each.offered else "")
                        for what, each in zip(("quiet", "flooded", "flood elsewhere"), rounds[-1], strict=True)
                    ),
                    sep="; ",
                    flush=True,
                )
        finally:
            for gateway in started:
                gateway.close()
    print(f"{daemons.machine()}, revision {daemons.revision(ROOT)}")
    for index, what in ((0, "undisturbed"), (2, "beside the same flood on another gateway")):
        ratio = statistics.median(each[1].p99 / each[index].p99 for each in rounds)
        print(f"p99 flooded / {what}: {ratio:.2f}")
    admitted = statistics.median(each[1].admitted for each in rounds)
    print(f"admitted of a quota of {QUOTA_A_SECOND}/s: {admitted:.1f}/s")


if __name__ == "__main__":
    main()
