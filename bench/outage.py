"""A cluster that goes for a while under load: ``python bench/outage.py``. Publishers that send each record until it is
answered 201 or 504, through the death of every broker and its return; then everything is read and compared.

Prints when the breaker opened and closed, how late answers were meanwhile, and whether a record is missing or doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import daemons  # noqa: E402
from servers.kafka import KafkaCluster  # noqa: E402
from servers.oracle import Oracle  # noqa: E402

TOPIC = "outage"
_HEAD = re.compile(rb"HTTP/1\.1 (\d+)")
_LENGTH = re.compile(rb"(?i)content-length: (\d+)")
_CODE = re.compile(rb"urn:kateway:error:([a-z-]+)")
_RETRY_AFTER = re.compile(rb"(?i)retry-after: (\d+)")


class Answer(NamedTuple):
    """Seconds since the start when it was asked and how long it took, the status or error, and Retry-After."""

    asked: float
    took: float
    what: str
    retry_after: int


class Publishers:
    """So many connections, each with one publish at a time."""

    def __init__(self, port: int, timeout: float) -> None:
        self._port = port
        self._path = f"/v1/topics/{TOPIC}?timeout={timeout:g}"
        self.answers: list[Answer] = []
        self.written: list[bytes] = []
        self.unknown: list[bytes] = []
        self.over = False
        self.start = time.perf_counter()

    def run(self, connections: int) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(self._publisher(name) for name in range(connections)))

        asyncio.run(all_of_them())

    async def _publisher(self, name: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        number = 0
        while not self.over:
            value = b"%d-%d" % (name, number)
            number += 1
            while True:
                asked = time.perf_counter()
                writer.write(
                    b"POST %b HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%b"
                    % (self._path.encode(), len(value), value)
                )
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                status = _HEAD.match(head)
                code, retry = _CODE.search(body), _RETRY_AFTER.search(head)
                what = code[1].decode() if code else status[1].decode() if status else "?"
                wait = int(retry[1]) if retry else 0
                self.answers.append(Answer(asked - self.start, time.perf_counter() - asked, what, wait))
                if what == "201":
                    self.written.append(value)
                    break
                if what == "outcome-unknown":
                    self.unknown.append(value)
                    break
                await asyncio.sleep(wait)
                if self.over:
                    break
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the cluster is away")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=10.0, help="of a publish")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kateway-bench-") as name:
        cluster = KafkaCluster(daemons.KAFKA_VERSION).start()
        try:
            Oracle(cluster.direct).create_topic(TOPIC, 4)
            gateway = daemons.daemon(daemons.Checkout(ROOT), Path(name) / "gateway", ["--kafka", cluster.direct])
            try:
                status = measure(cluster, gateway.public_port, options)
                print("\n".join(line for line in gateway.log.splitlines() if "breaker" in line))
            finally:
                gateway.close()
        finally:
            cluster.close()
    sys.exit(status)


def measure(cluster: KafkaCluster, port: int, options: argparse.Namespace) -> int:
    """Returns the exit status: 1 where a record is lost or doubled."""
    publishers = Publishers(port, options.timeout)
    running = threading.Thread(target=publishers.run, args=(options.connections,))
    running.start()
    time.sleep(3)
    cluster.kill(1)
    away = time.perf_counter() - publishers.start
    time.sleep(options.seconds)
    cluster.restart(1)
    back = time.perf_counter() - publishers.start
    time.sleep(10)
    publishers.over = True
    running.join()
    answers = publishers.answers
    refused = [each for each in answers if each.what == "store-unavailable"]
    first_back = min(each.asked + each.took for each in answers if each.what == "201" and each.asked > away + 1)
    print(f"answers: {dict(Counter(each.what for each in answers))}")
    if refused:
        opened = min(each.asked for each in refused)
        after = [each for each in answers if opened <= each.asked < back]
        late = [each.took * 1e3 for each in after if each.what == "store-unavailable"]
        print(f"the first refusal came {opened - away:.1f} s after the end of the cluster")
        print(
            f"{len(after)} requests after it: p50 {statistics.median(late):.2f} ms, longest {max(late):.1f} ms; "
            f"{sum(1 for each in after if each.what != 'store-unavailable')} other answers"
        )
        wave = max(Counter(int(each.asked * 10) for each in after if each.asked > opened + 1).values(), default=0)
        print(f"the most requests in a tenth of a second, from the second after the opening on: {wave}")
        print(f"Retry-After of them: {dict(sorted(Counter(each.retry_after for each in refused).items()))}")
    print(f"the first record was written {first_back - back:.2f} s after the broker was up again")
    found = Counter(record.value for record in Oracle(cluster.direct).records(TOPIC))
    lost = [value for value in publishers.written if not found[value]]
    doubled = [value for value, times in found.items() if times > 1]
    print(
        f"{len(publishers.written)} answered 201, {len(publishers.unknown)} answered 504; "
        f"{len(lost)} lost, {len(doubled)} there twice"
    )
    return 1 if lost or doubled else 0


if __name__ == "__main__":
    main()
