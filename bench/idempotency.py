"""Publishes with Idempotency-Keys whose answers are cut, by a gateway that is killed: ``python bench/idempotency.py``.

Each record is sent until it is answered 201. Connections are cut at random while an answer is under way, and the
gateway is killed with -9 and started again meanwhile. Then everything is read: with keys no record is missing or
doubled. The same without keys shows how many are doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import random
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


class Publishers:
    """Connections that share the records to publish."""

    def __init__(self, port: int, topic: str, records: int, options: argparse.Namespace) -> None:
        self._port = port
        self._topic = topic
        self._left = iter(range(records))
        self._cut = options.cut
        self.answers: Counter[str] = Counter()
        self.done = 0

    def run(self, connections: int, keys: bool) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(self._publisher(keys) for _ in range(connections)))

        asyncio.run(all_of_them())

    async def _publisher(self, keys: bool) -> None:
        chance = random.Random(self._topic)
        streams = None
        for number in self._left:
            key = f"Idempotency-Key: {self._topic}-{number}\r\n" if keys else ""
            body = str(number)
            request = (
                f"POST /v1/topics/{self._topic}?timeout=5 HTTP/1.1\r\nHost: bench\r\n{key}"
                f"Content-Length: {len(body)}\r\n\r\n{body}"
            ).encode()
            while True:
                try:
                    if streams is None:
                        streams = await asyncio.open_connection("127.0.0.1", self._port)
                    reader, writer = streams
                    writer.write(request)
                    if chance.random() < self._cut:
                        await asyncio.sleep(chance.random() * 0.02)
                        raise ConnectionError("cut")
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = _LENGTH.search(head)
                    await reader.readexactly(int(length[1]) if length else 0)
                except (OSError, asyncio.IncompleteReadError) as error:
                    if streams is not None:
                        streams[1].transport.abort()
                        streams = None
                    self.answers["cut" if str(error) == "cut" else "broken"] += 1
                    await asyncio.sleep(0.01)
                    continue
                status = _STATUS.match(head)
                what = status[1].decode() if status else "?"
                self.answers[what + (" replayed" if b"Idempotency-Replayed" in head else "")] += 1
                if what == "201":
                    self.done += 1
                    break
                await asyncio.sleep(0.2)
        if streams is not None:
            streams[1].close()


def run(cluster: KafkaCluster, folder: Path, options: argparse.Namespace, *, keys: bool) -> tuple[int, int]:
    """Publishes all records; returns how many are missing and how many are there more than once."""
    topic = "with-keys" if keys else "without-keys"
    Oracle(cluster.direct).create_topic(topic, 4)
    port, admin = held_port(), held_port()

    def start(number: int) -> Daemon:
        tree = daemons.Checkout(ROOT)
        env = {"PYTHONPATH": str(ROOT)}
        ports = {"public_port": port, "admin_port": admin}
        return Daemon(tree, folder / f"{topic}-{number}", ["--kafka", cluster.direct], env=env, **ports).start()

    gateway = start(0)
    publishers = Publishers(port, topic, options.records, options)
    running = threading.Thread(target=publishers.run, args=(options.connections, keys))
    began = time.perf_counter()
    running.start()
    for number in range(1, options.kills + 1):
        while running.is_alive() and publishers.done < options.records * number // (options.kills + 1):
            time.sleep(0.01)
        gateway.kill()
        gateway = start(number)
    running.join()
    seconds = time.perf_counter() - began
    gateway.close()
    found = Counter(int(record.value) for record in Oracle(cluster.direct).records(topic))
    missing = options.records - len(found)
    doubled = sum(1 for times in found.values() if times > 1)
    print(
        f"{topic}: {options.records} records in {seconds:.0f} s, {options.kills} kills, answers "
        f"{dict(publishers.answers)}: {missing} missing, {doubled} there more than once",
        flush=True,
    )
    return missing, doubled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--cut", type=float, default=0.05, help="share of requests whose connection is cut")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kateway-bench-") as name:
        cluster = KafkaCluster(daemons.KAFKA_VERSION).start()
        try:
            with_keys = run(cluster, Path(name), options, keys=True)
            run(cluster, Path(name), options, keys=False)
        finally:
            cluster.close()
    sys.exit(1 if any(with_keys) else 0)


if __name__ == "__main__":
    main()
