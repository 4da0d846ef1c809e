"""What delivery costs, as one table: ``python bench/delivery.py``. Issue 4's figures but those of the history checker.

Acknowledged reading, thousands of idle followers, readers that are slow, groups that join together; on the embedded
store and on Kafka. What streams with confirmation give is in ``bench/run.py`` (there is no reading without it).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import clients  # noqa: E402
import daemons  # noqa: E402
import load  # noqa: E402
from figures import Figure, Results, rst_table, text_table  # noqa: E402
from reading import ReadFailed  # noqa: E402
from servers.daemon import Daemon  # noqa: E402
from servers.kafka import KafkaCluster  # noqa: E402
from servers.oracle import Oracle  # noqa: E402

FIGURES = (
    Figure("upto-embedded", "explicit, 8 readers, batches of 100, upto; embedded: records", "/s", 50_000),
    Figure("upto-kafka", "the same; Kafka", "/s", 50_000),
    Figure("each-embedded", "each record acknowledged, 100 in one POST; embedded", "/s", 10_000, "upto-embedded"),
    Figure("each-kafka", "the same; Kafka", "/s", 10_000, "upto-kafka"),
    Figure("alone-embedded", "each record acknowledged by a POST of its own; embedded", "/s", 10_000, "upto-embedded"),
    Figure("alone-kafka", "the same; Kafka", "/s", 10_000, "upto-kafka"),
    Figure("followers-embedded", "2,000 idle followers, a group each; embedded: memory each", "kB", 25),
    Figure("followers-embedded-p99", "publish to receipt among them: p99", "ms", 20),
    Figure("followers-kafka", "2,000 idle followers, one group of 2,000 partitions; Kafka: memory each", "kB", 25),
    Figure("followers-kafka-p99", "publish to receipt among them: p99", "ms", 20),
    Figure("quiet-embedded", "publish over one connection, no slow readers; embedded: p99", "ms"),
    Figure("slow-embedded-p99", "the same beside 200 readers of 1 kB/s", "ms", None, "quiet-embedded", 2.0),
    Figure("slow-embedded", "memory for each of those readers", "kB", 64),
    Figure("quiet-kafka", "publish over one connection, no slow readers; Kafka: p99", "ms"),
    Figure("slow-kafka-p99", "the same beside 200 readers of 1 kB/s", "ms", None, "quiet-kafka", 2.0),
    Figure("slow-kafka", "memory for each of those readers", "kB", 64),
    Figure("join-embedded", "200 groups joined at once, until the last has its record; embedded", "s", 5),
    Figure("join-kafka", "the same; Kafka", "s", 5),
)
BY_NAME = {figure.name: figure for figure in FIGURES}
CASES = ("upto", "each", "alone", "followers", "slow", "join")
STORES = ("embedded", "kafka")
PARTITIONS = 4
READERS = 8
ACK_CONNECTIONS = 8
"""For each reader, where every record has a POST of its own."""
QUIET_LOAD = 1.3
LINE_BYTES = 1000
PRODUCER_BATCH_BYTES = 16384
"""Of the backlog: what Kafka's own producer makes by default. A batch is the least that can be fetched."""
GROUPS_A_TOPIC = 10
PUBLISHES_A_SECOND = 50


def tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


class Bench:
    """The daemons and the cases; each case gets a daemon of its own, so that memory is that of the case."""

    def __init__(self, options: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
        self.options = options
        self.folder = folder
        self.results = Results(FIGURES)
        self._stack = stack
        self._kafka: KafkaCluster | None = None
        self._number = 0

    @property
    def kafka(self) -> KafkaCluster:
        if self._kafka is None:
            tell("starting Kafka")
            self._kafka = daemons.kafka()
            self._stack.callback(self._kafka.close)
        return self._kafka

    @contextmanager
    def daemon(self, store: str) -> Iterator[Daemon]:
        self._number += 1
        options = ["--kafka", self.kafka.bootstrap] if store == "kafka" else []
        installed = daemons.Checkout(self.options.tree)
        gateway = daemons.daemon(installed, self.folder / f"gateway-{self._number}", options, self.options.twistd)
        try:
            yield gateway
        finally:
            gateway.kill()

    def topic(self, store: str, partitions: int = PARTITIONS) -> str:
        """A new topic. (The embedded store makes it at the first publish.)"""
        name = f"bench-{uuid.uuid4().hex[:12]}"
        if store == "kafka":
            Oracle(self.kafka.bootstrap).create_topic(name, partitions)
        return name

    def add(self, name: str, value: float) -> None:
        self.results.values.setdefault(name, []).append(value)
        tell(f"{name}: {value:,.2f} {BY_NAME[name].unit}")

    async def run(self, case: str, store: str) -> None:
        method: Callable[[str], Awaitable[None]] = {
            "upto": self.upto,
            "each": self.each,
            "alone": self.alone,
            "followers": self.followers,
            "slow": self.slow,
            "join": self.join,
        }[case]
        try:
            await method(store)
        except (ReadFailed, RuntimeError, OSError) as error:
            self.results.failures.setdefault(f"{case}-{store}", []).append(str(error))
            tell(f"{case}-{store}: failed: {error}")

    # --- explicit acknowledgements ---------------------------------------------------------------------------------

    async def upto(self, store: str) -> None:
        def acks(found: list[tuple[int, int]]) -> list[dict[str, int]]:
            return [{"partition": partition, "upto": offset} for partition, offset in dict(found).items()]

        await self._explicit(f"upto-{store}", store, self.options.records, acks, together=True)

    async def each(self, store: str) -> None:
        await self._explicit(f"each-{store}", store, self.options.records // 2, _items, together=True)

    async def alone(self, store: str) -> None:
        await self._explicit(f"alone-{store}", store, self.options.records // 4, _items, together=False)

    async def _explicit(
        self,
        name: str,
        store: str,
        records: int,
        acks: Callable[[list[tuple[int, int]]], list[dict[str, int]]],
        *,
        together: bool,
    ) -> None:
        """Reads and acknowledges everything; timed from each reader's first batch on, so that joining is not in it."""
        with self.daemon(store) as gateway:
            port, topic = gateway.public_port, self.topic(store)
            await _fill(port, topic, records, load.VALUE_BYTES)
            # a group of its own: the member of a daemon that was killed lives on in Kafka for its session
            path = f"/v1/topics/{topic}/{topic}-readers"
            fetch = clients.get(f"{path}?limit=100&ack=explicit&timeout=5")
            connections = [await clients.client(port) for _ in range(READERS)]
            ackers = [
                [await clients.client(port) for _ in range(0 if together else ACK_CONNECTIONS)] for _ in connections
            ]
            seen: set[tuple[int, int]] = set()
            asked = read = 0
            times = [0.0, 0.0, 0.0]  # of the first batch, of the last, the daemon's CPU at the first

            async def acknowledge(reader: int, items: list[dict[str, int]]) -> None:
                if together:
                    await connections[reader].ask(_acks(path, items))
                    return
                own = ackers[reader]

                async def some(acker: clients.Client, mine: list[dict[str, int]]) -> None:
                    for item in mine:
                        if b'"status":200' not in await acker.ask(_acks(path, [item])):
                            raise ReadFailed("an acknowledgement was refused")

                await asyncio.gather(*(some(acker, items[start :: len(own)]) for start, acker in enumerate(own)))

            async def reader(number: int) -> None:
                nonlocal asked, read
                while (
                    asked + 100 < records * 0.95
                ):  # the backlog's end gives small batches that wait for their idle end
                    asked += 100
                    found = clients.positions(await connections[number].ask(fetch))
                    if not times[0]:
                        times[0], times[2] = time.perf_counter(), daemons.cpu_seconds(gateway.pid)
                    if not found:
                        raise ReadFailed("a reader waited in vain")
                    await acknowledge(number, acks(found))
                    read += len(found)
                    seen.update(found)
                    times[1] = time.perf_counter()

            await asyncio.gather(*(reader(number) for number in range(READERS)))
            used = daemons.cpu_seconds(gateway.pid) - times[2]
            if len(seen) != read:
                raise ReadFailed(f"{read - len(seen)} records came twice")
            self.results.cpu_microseconds.setdefault(name, []).append(used / read * 1e6)
            self.add(name, read / (times[1] - times[0]))
            for each in (*connections, *(acker for own in ackers for acker in own)):
                each.close()

    # --- followers -------------------------------------------------------------------------------------------------

    async def followers(self, store: str) -> None:
        """On the embedded store ten groups of one reader on each of 200 topics; on Kafka one group, a reader for each
        of as many partitions (a membership is a client of Kafka with connections of its own).
        """
        count = self.options.followers
        with self.daemon(store) as gateway:
            port = gateway.public_port
            warm = f"/v1/topics/{self.topic(store)}"
            publisher = await clients.client(port)
            await publisher.ask(clients.post(warm, clients.stamp()))
            delays: list[float] = []
            # allocators and caches are warm: only the cost of the followers is counted
            await clients.begun(await clients.followers(port, [f"{warm}/warm-{n}?follow=1" for n in range(20)], []), 20)
            if store == "kafka":
                topics = [self.topic(store, count)]
                paths = [f"/v1/topics/{topics[0]}/{topics[0]}?follow=1&offset=latest"] * count
                targets = [f"/v1/topics/{topics[0]}?partition={number}" for number in range(count)]
            else:
                topics = [self.topic(store) for _ in range(max(count // GROUPS_A_TOPIC, 1))]
                paths = [
                    f"/v1/topics/{topics[number % len(topics)]}/group-{number}?follow=1&offset=latest"
                    for number in range(count)
                ]
                targets = [f"/v1/topics/{topic}" for topic in topics]
                for target in targets:
                    await publisher.ask(clients.post(target, b"first"))
            await asyncio.sleep(2)
            before = daemons.resident_bytes(gateway.pid)
            following = await clients.followers(port, paths, delays)
            held = await clients.begun(following, 60)
            await asyncio.sleep(self.options.settling)
            grown = daemons.resident_bytes(gateway.pid) - before
            self.add(f"followers-{store}", grown / count / 1e3)
            if store == "kafka":
                # the share-out of so many takes a moment
                await _until_received(publisher, targets[-1], delays, 60)
                delays.clear()
            published = await _publish_steadily(publisher, targets, self.options.seconds)
            await asyncio.sleep(0.5)
            wanted = published * (1 if store == "kafka" else count // len(topics))
            self.add(f"followers-{store}-p99", clients.percentile(delays, 99) * 1e3)
            tell(f"{len(delays)} of {wanted} received, p50 {clients.percentile(delays, 50) * 1e3:.2f} ms, "
                 f"RSS {daemons.resident_bytes(gateway.pid) / 1e6:.1f} MB")  # fmt: skip
            held = sum(each.begun and not each.lost for each in following)
            if held != count or len(delays) < wanted:
                raise ReadFailed(f"{held} of {count} followers are held, {len(delays)} of {wanted} records came")
            for each in following:
                each.close()

    # --- slow readers ----------------------------------------------------------------------------------------------

    async def slow(self, store: str) -> None:
        with self.daemon(store) as gateway:
            port = gateway.public_port
            backlog, other = self.topic(store), self.topic(store)
            await _fill(port, backlog, self.options.backlog_megabytes * 1000, LINE_BYTES, PRODUCER_BATCH_BYTES)
            publisher = await clients.client(port)
            await publisher.ask(clients.get(f"/v1/topics/{backlog}/{backlog}?limit=100"))
            await _latencies(publisher, other, 1)
            await asyncio.sleep(2)
            quiet = await _latencies(publisher, other, self.options.seconds)
            self.add(f"quiet-{store}", clients.percentile(quiet, 99) * 1e3)
            before = daemons.resident_bytes(gateway.pid)
            count = self.options.slow_readers
            path = f"/v1/topics/{backlog}/{backlog}"
            readers = [clients.SlowReader(port, f"{path}-{number}?follow=1") for number in range(count)]
            taking = asyncio.create_task(clients.take_slowly(readers, 1000))
            await asyncio.sleep(self.options.settling + 5)
            beside = await _latencies(publisher, other, self.options.seconds)
            self.add(f"slow-{store}-p99", clients.percentile(beside, 99) * 1e3)
            self.add(f"slow-{store}", (daemons.resident_bytes(gateway.pid) - before) / count / 1e3)
            if taking.done():
                taking.result()
            taking.cancel()
            starved = sum(not reader.read for reader in readers)
            for reader in readers:
                reader.close()
            if starved:
                raise ReadFailed(f"{starved} of {count} slow readers had nothing")

    # --- groups that join together ---------------------------------------------------------------------------------

    async def join(self, store: str) -> None:
        with self.daemon(store) as gateway:
            port, topic = gateway.public_port, self.topic(store)
            await _fill(port, topic, 100, 100)
            warm = await clients.client(port)
            await warm.ask(clients.get(f"/v1/topics/{topic}/{topic}?limit=1"))
            joining = [await clients.client(port) for _ in range(self.options.groups)]
            asked = time.perf_counter()
            waits: list[float] = []

            async def one(number: int, connection: clients.Client) -> None:
                if not clients.positions(
                    await connection.ask(clients.get(f"/v1/topics/{topic}/{topic}-{number}?limit=1&timeout=60"))
                ):
                    raise ReadFailed("a group had nothing")
                waits.append(time.perf_counter() - asked)

            await asyncio.gather(*(one(*each) for each in enumerate(joining)))
            half = clients.percentile(waits, 50)
            tell(f"{len(waits)} groups: the first after {min(waits):.2f} s, half after {half:.2f} s")
            self.add(f"join-{store}", max(waits))
            for each in (*joining, warm):
                each.close()


def _items(found: list[tuple[int, int]]) -> list[dict[str, int]]:
    return [{"partition": partition, "offset": offset} for partition, offset in found]


def _acks(path: str, items: list[dict[str, int]]) -> bytes:
    return clients.post(f"{path}/acks", json.dumps(items).encode(), "application/json")


async def _fill(port: int, topic: str, records: int, size: int, batch_bytes: int = 1_000_000) -> None:
    publisher = await clients.client(port)
    batch = max(min(records, batch_bytes // (size + 1)), 1)
    body = (b"x" * size + b"\n") * batch
    for _ in range(-(-records // batch)):
        await publisher.ask(clients.post(f"/v1/topics/{topic}?batch=1&timeout=60", body, clients.NDJSON))
    publisher.close()


async def _publish_steadily(publisher: clients.Client, targets: list[str], seconds: float) -> int:
    """Stamped records at ``PUBLISHES_A_SECOND``, to one target after the other; answers how many."""
    due = began = time.monotonic()
    count = 0
    while due - began < seconds:
        await publisher.ask(clients.post(targets[count % len(targets)], clients.stamp()))
        count += 1
        due += 1 / PUBLISHES_A_SECOND
        await asyncio.sleep(max(due - time.monotonic(), 0))
    return count


async def _until_received(publisher: clients.Client, target: str, delays: list[float], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not delays and time.monotonic() < until:
        with suppress(ReadFailed):  # a broker takes its time to lead thousands of new partitions
            await publisher.ask(clients.post(target, clients.stamp()))
        await asyncio.sleep(1)


async def _latencies(publisher: clients.Client, topic: str, seconds: float) -> list[float]:
    """Of publishes one after the other, a hundred a second."""
    found = []
    until = time.perf_counter() + seconds
    request = clients.post(f"/v1/topics/{topic}", b"x" * load.VALUE_BYTES)
    while time.perf_counter() < until:
        began = time.perf_counter()
        await publisher.ask(request)
        found.append(time.perf_counter() - began)
        await asyncio.sleep(0.01)
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [f"{case}-{store}" for case in CASES for store in STORES]
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round: only shows that it works")
    parser.add_argument("--only", action="append", choices=(*CASES, *names), metavar="CASE",
                        help=f"may be repeated: {', '.join(CASES)}, or one on one store, as join-kafka")  # fmt: skip
    parser.add_argument("--rounds", type=int, help="default 3")
    parser.add_argument("--records", type=int, help="to read and acknowledge, default 400,000")
    parser.add_argument("--followers", type=int, help="default 2,000")
    parser.add_argument("--slow-readers", type=int, help="default 200")
    parser.add_argument("--backlog-megabytes", type=int, help="default 100")
    parser.add_argument("--groups", type=int, help="that join at once, default 200")
    parser.add_argument("--seconds", type=float, help="of each measurement of latency, default 10")
    parser.add_argument("--settling", type=float, help="seconds before memory is looked at, default 5")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout whose daemon is measured")
    parser.add_argument("--twistd", type=shlex.split, default=[], help="options of twistd's own")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value")
    parser.add_argument("--rst", type=Path, metavar="FILE", help="write the table for docs/delivery-figures.rst")
    options = parser.parse_args()
    sizes = {"rounds": (3, 1), "records": (400_000, 20_000), "followers": (2000, 200), "slow_readers": (200, 20),
             "backlog_megabytes": (100, 10), "groups": (200, 20), "seconds": (10, 2), "settling": (5, 1)}  # fmt: skip
    for name, (full, quick) in sizes.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    options.chosen = [
        (case, store)
        for case in CASES
        for store in STORES
        if not options.only or case in options.only or f"{case}-{store}" in options.only
    ]
    return options


def main() -> None:
    options = arguments()
    clients.allow_descriptors(options.followers + 500)
    begun_load = os.getloadavg()[0]
    if begun_load > QUIET_LOAD:
        tell(f"the machine is busy (load average {begun_load:.1f}): look at ratios, memory and CPU each only")
    with tempfile.TemporaryDirectory(prefix="kateway-bench-") as folder, ExitStack() as stack:
        bench = Bench(options, Path(folder), stack)
        try:
            for number in range(options.rounds):
                tell(f"round {number + 1} of {options.rounds}, load average {os.getloadavg()[0]:.1f}")
                for case, store in options.chosen:
                    asyncio.run(bench.run(case, store))
        finally:
            results = bench.results
            said = {
                "Machine": daemons.machine(),
                "Date": time.strftime("%Y-%m-%d"),
                "Revision": daemons.revision(options.tree),
                "Kafka": f"{daemons.KAFKA_VERSION}, one broker on the same machine",
                "Command": shlex.join(["python", "bench/delivery.py", *sys.argv[1:]]),
                "Load before": f"{begun_load:.2f}",
            }
            if options.json:
                everything = {"facts": said, "values": results.values, "cpu_microseconds": results.cpu_microseconds,
                              "failures": results.failures}  # fmt: skip
                options.json.write_text(json.dumps(everything, indent=1) + "\n")
            if options.rst:
                options.rst.write_text(rst_table(results.rows(), said))
            print("\n".join(f"{name}: {value}" for name, value in said.items()))
            print()
            print(text_table(results.rows()))
    if results.failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
