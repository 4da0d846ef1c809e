"""Publishes while the cluster is away, to a gateway with a handoff that is killed: ``python bench/handoff.py``.

Each connection publishes records of one key, each when the one before was answered. The broker is killed for a while;
the gateway is killed with -9 several times meanwhile, and while it drains. Then everything is read: each record that
was answered 201 or 202 must be there once, and those of a key in their order.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import daemons  # noqa: E402
from servers.daemon import Daemon  # noqa: E402
from servers.kafka import KafkaCluster  # noqa: E402
from servers.oracle import Oracle  # noqa: E402
from servers.ports import held_port  # noqa: E402

_STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
_LENGTH = re.compile(rb"(?i)content-length: (\d+)")
TOPIC = "away"
OPTIONS = ("handoff = true", "breaker_open_after_seconds = 5.0")


class Publishers:
    """Connections that publish until they are told to stop."""

    def __init__(self, port: int, pause_seconds: float) -> None:
        self._port = port
        self._pause_seconds = pause_seconds
        self.over = False
        self.answers: Counter[str] = Counter()
        self.taken: dict[int, list[bytes]] = {}
        self.sent: set[bytes] = set()

    def run(self, connections: int) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(self._publisher(name) for name in range(connections)))

        asyncio.run(all_of_them())

    async def _publisher(self, name: int) -> None:
        taken = self.taken[name] = []
        streams = None
        number = 0
        while not self.over:
            body = b"%d-%d" % (name, number)
            number += 1
            self.sent.add(body)
            try:
                if streams is None:
                    streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = streams
                writer.write(
                    b"POST /v1/topics/%b?timeout=10&key=%d HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%b"
                    % (TOPIC.encode(), name, len(body), body)
                )
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                await reader.readexactly(int(length[1]) if length else 0)
            except (OSError, asyncio.IncompleteReadError):
                if streams is not None:
                    streams[1].transport.abort()
                    streams = None
                self.answers["broken"] += 1
                await asyncio.sleep(0.05)
                continue
            status = _STATUS.match(head)
            answer = status[1].decode() if status else "?"
            self.answers[answer] += 1
            if answer in {"201", "202"}:
                taken.append(body)
                await asyncio.sleep(self._pause_seconds)
            else:
                await asyncio.sleep(0.2)
        if streams is not None:
            streams[1].close()


def run(options: argparse.Namespace, folder: Path) -> bool:
    """Runs it all. Returns whether each record was there once, in its key's order."""
    cluster = KafkaCluster(daemons.KAFKA_VERSION).start()
    gateway = None
    try:
        oracle = Oracle(cluster.direct)
        oracle.create_topic(TOPIC, 4)
        port, admin = held_port(), held_port()
        settings = folder / "kateway.toml"
        settings.write_text(
            f'data_directory = "{folder / "data"}"\n'
            f'[http]\npublic = ["tcp:{port}:interface=127.0.0.1"]\nadmin = ["tcp:{admin}:interface=127.0.0.1"]\n'
            f'[storage.default]\ndriver = "kafka"\nbrokers = ["{cluster.direct}"]\n' + "\n".join(OPTIONS) + "\n",
            encoding="utf-8",
        )
        number = 0

        def start() -> Daemon:
            nonlocal number
            number += 1
            tree = daemons.Checkout(ROOT)
            work = folder / f"gateway-{number}"
            ports = {"public_port": port, "admin_port": admin}
            return Daemon(tree, work, ["--config", str(settings)], env={"PYTHONPATH": str(ROOT)}, **ports).start()

        gateway = start()
        publishers = Publishers(port, options.pause)
        running = threading.Thread(target=publishers.run, args=(options.connections,))
        running.start()
        time.sleep(5)
        cluster.kill(1)
        away = time.monotonic()
        kills = max(options.kills - 2, 0)
        for kill in range(kills):
            time.sleep(max(away + options.seconds * (kill + 1) / (kills + 1) - time.monotonic(), 0))
            gateway.kill()
            gateway = start()
        time.sleep(max(away + options.seconds - time.monotonic(), 0))
        kept = publishers.answers["202"]
        cluster.restart(1)
        for _ in range(options.kills - kills):
            time.sleep(3)
            gateway.kill()
            gateway = start()
        began = time.monotonic()
        while publishers.answers["202"] != kept or time.monotonic() - began < 10:
            # answered 201 alone: nothing is kept any more
            kept = publishers.answers["202"]
            time.sleep(1)
        drained = time.monotonic() - began
        publishers.over = True
        running.join()
        time.sleep(2)
        found = [record.value for record in oracle.records(TOPIC)]
    finally:
        if gateway is not None:
            gateway.close()
        cluster.close()
    return report(publishers, found, f"away for {options.seconds} s, {options.kills} kills, drained in {drained:.0f} s")


def report(publishers: Publishers, found: list[bytes | None], about: str) -> bool:
    """Prints the counts. Returns whether all is well."""
    times = Counter(found)
    taken = [value for each in publishers.taken.values() for value in each]
    missing = sum(1 for value in taken if not times[value])
    doubled = sum(1 for value in times if times[value] > 1)
    strange = sum(1 for value in times if value not in publishers.sent)
    place = {value: at for at, value in enumerate(found)}
    disordered = sum(
        1
        for each in publishers.taken.values()
        for first, second in itertools.pairwise(each)
        if place.get(first, -1) > place.get(second, -1)
    )
    print(
        f"{about}: answers {dict(publishers.answers)}; of {len(taken)} taken {missing} missing, {doubled} there more "
        f"than once, {disordered} out of order; {strange} never sent",
        flush=True,
    )
    return not (missing or doubled or disordered or strange)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=120, help="how long the cluster is away")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--pause", type=float, default=0.01, help="seconds between the records of a connection")
    parser.add_argument("--kills", type=int, default=5, help="of the gateway; the last two while it drains")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kateway-bench-") as name:
        sys.exit(0 if run(options, Path(name)) else 1)


if __name__ == "__main__":
    main()
