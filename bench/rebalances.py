"""Rebalances under load: ``python bench/rebalances.py``. A topic of eight partitions at 1,000 records/s is read by four
members of a group, each a driver of its own, while a reader of another topic in the same group comes and goes every two
seconds and a fifth member joins and leaves every ten.

The clients of one of the four confirm slowly: it needs a second to hand a partition over, as long as a gateway gives
them. Without that all members, in one process, would hear of a rebalance and be through it within milliseconds.

Prints the longest pause of partitions that stayed where they were, how many records were lost, and how many came twice.
Beside it the longest time in which no partition at all got a record: a rebalance stops some, a busy machine stops all.

With ``--groups 200`` instead: so many groups read two topics of four partitions each on two gateways (drivers, in one
process here), of which one stops and is started again at once. Prints for how long a partition had no reader at most.

``--protocol`` chooses the group protocol; ``--tree`` measures another checkout.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
_parser.add_argument("--kafka", default="4.3.1", help="the broker's version")
_parser.add_argument("--seconds", type=float, default=120.0, help="how long the others come and go")
_parser.add_argument("--protocol", default="auto", choices=["auto", "consumer", "classic"])
_parser.add_argument("--groups", type=int, default=0, help="measure a restart with so many groups")
_parser.add_argument("--named", action="store_true", help="the gateways of --groups have names of their own")
_parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout that is measured")
ARGUMENTS = _parser.parse_args()
sys.path[:0] = [str(ARGUMENTS.tree), str(ROOT / "tests")]

from confluent_kafka import Producer  # noqa: E402
from servers.kafka import KafkaCluster  # noqa: E402
from servers.oracle import Oracle  # noqa: E402
from twisted.internet import reactor, task  # noqa: E402
from twisted.internet.defer import Deferred, ensureDeferred  # noqa: E402
from twisted.internet.task import deferLater  # noqa: E402

from kateway.config.schema import KafkaStorageConfig  # noqa: E402
from kateway.model import Committed  # noqa: E402
from kateway.storage.kafka.driver import KafkaStore  # noqa: E402

PARTITIONS = 8
RECORDS_PER_SECOND = 1000
MEMBERS = 4
SESSION_SECONDS = 10.0
COMMIT_SECONDS = 0.5
HAND_OVER_SECONDS = 1.0


class Seen:
    """The records that came, by all members, and the pauses between them."""

    def __init__(self) -> None:
        self.times: Counter[tuple[int, int]] = Counter()
        self.last: dict[int, tuple[float, str]] = {}
        self.longest = 0.0
        self.longest_of_all = 0.0
        self._last_of_all = time.perf_counter()
        self.moves = self.came_back = 0
        self.away: set[int] = set()
        """Partitions that were taken from their reader; one may come back to it."""
        self.longest_move = 0.0
        self.twice_moved = self.twice_unmoved = 0
        self.measuring = False
        self.receivers: dict[tuple[int, int], str] = {}

    def came(self, partition: int, offsets: list[int], by: str) -> None:
        now = time.perf_counter()
        at, last = self.last.get(partition, (now, by))
        self.last[partition] = now, by
        if self.measuring:
            self.longest_of_all = max(self.longest_of_all, now - self._last_of_all)
        self._last_of_all = now
        taken_away = partition in self.away
        self.away.discard(partition)
        if self.measuring and (last != by or taken_away):
            self.moves += 1
            self.came_back += last == by
            self.longest_move = max(self.longest_move, now - at)
        elif self.measuring and now - at > self.longest:
            self.longest = now - at
        for offset in offsets:
            place = partition, offset
            self.times[place] += 1
            first = self.receivers.setdefault(place, by)
            if self.times[place] > 1:
                if first == by:
                    self.twice_unmoved += 1
                else:
                    self.twice_moved += 1


class Member:
    """Takes whatever comes, and commits it twice a second and before it goes."""

    def __init__(self, store: KafkaStore, topic: str, name: str, seen: Seen, hand_over: float = 0.0) -> None:
        self._name, self._seen, self._hand_over = name, seen, hand_over
        self.owned: set[int] = set()
        self.subscription = store.subscribe("group", topic, self, "earliest")
        self._committing = task.LoopingCall(self._commit_owned)
        self._committing.start(COMMIT_SECONDS, now=False)

    def assigned(self, partitions: Mapping[int, Committed | None]) -> None:
        self.owned |= set(partitions)

    def revoked(self, partitions: frozenset[int]) -> Deferred[None] | None:
        self.owned -= partitions
        self._seen.away |= partitions
        if self._hand_over:
            return deferLater(reactor, self._hand_over, self._commit, partitions)
        return self._commit(partitions)

    def lost(self, partitions: frozenset[int]) -> None:
        print(f"  {self._name} lost {sorted(partitions)}")
        self._seen.away |= partitions
        self.owned -= partitions

    def readable(self, partition: int) -> None:
        records = self.subscription.take(partition, 1000, 1 << 20)
        self._seen.came(partition, [record.offset for record in records], self._name)

    def failed(self, error: Exception) -> None:
        print(f"  {self._name}: {error}")

    def _commit_owned(self) -> None:
        self._commit(frozenset(self.owned))

    def _commit(self, partitions: frozenset[int]) -> Deferred[None]:
        positions = {partition: self.subscription.position(partition) for partition in partitions}
        places = {partition: Committed(at) for partition, at in positions.items() if at is not None}
        return self.subscription.commit(places).addErrback(lambda _: None)

    async def leave(self) -> None:
        self._committing.stop()
        await self.subscription.close()


class Producing(threading.Thread):
    """Writes at a steady rate, in turn to each partition."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(daemon=True)
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 2})
        self.count = 0
        self.over = False

    def run(self) -> None:
        start = time.perf_counter()
        while not self.over:
            while self.count < (time.perf_counter() - start) * RECORDS_PER_SECOND:
                self._producer.produce("a", b"%d" % self.count, partition=self.count % PARTITIONS)
                self.count += 1
            self._producer.poll(0)
            time.sleep(0.002)
        self._producer.flush(30)


async def coming_and_going(store: KafkaStore, topic: str, name: str, seen: Seen, seconds: float, until: float) -> int:
    """A member for one half of each ``seconds``; answers how many times."""
    times = 0
    while time.perf_counter() < until:
        member = Member(store, topic, name, seen)
        await deferLater(reactor, seconds / 2)
        await member.leave()
        await deferLater(reactor, seconds / 2)
        times += 1
    return times


def configuration(cluster: KafkaCluster) -> KafkaStorageConfig:
    """The driver's options; an older checkout does not know the protocol's."""
    options: dict[str, Any] = {} if ARGUMENTS.protocol == "auto" else {"group_protocol": ARGUMENTS.protocol}
    return KafkaStorageConfig(driver="kafka", brokers=tuple(cluster.addresses), **options)


class Served:
    """Which partitions have a reader, and since when those have none that had one."""

    def __init__(self) -> None:
        self.readers: Counter[tuple[str, str, int]] = Counter()
        self.unserved: dict[tuple[str, str, int], float] = {}
        self.longest = 0.0

    def comes(self, place: tuple[str, str, int]) -> None:
        self.readers[place] += 1
        if place in self.unserved:
            self.longest = max(self.longest, time.perf_counter() - self.unserved.pop(place))

    def goes(self, place: tuple[str, str, int]) -> None:
        self.readers[place] -= 1
        if not self.readers[place]:
            self.unserved[place] = time.perf_counter()


class Idle:
    """A member that only notes what it holds."""

    def __init__(self, store: KafkaStore, group: str, topic: str, served: Served) -> None:
        self._where, self._served = (group, topic), served
        self.owned: set[int] = set()
        self.subscription = store.subscribe(group, topic, self, "latest")

    def assigned(self, partitions: Mapping[int, Committed | None]) -> None:
        for partition in partitions:
            self.owned.add(partition)
            self._served.comes((*self._where, partition))

    def revoked(self, partitions: frozenset[int]) -> None:
        for partition in partitions:
            self.owned.discard(partition)
            self._served.goes((*self._where, partition))

    lost = revoked

    def readable(self, partition: int) -> None:
        self.subscription.take(partition, 1000, 1 << 20)

    def failed(self, error: Exception) -> None:
        print(f"  {self._where}: {error}")


async def measure_restart(cluster: KafkaCluster) -> None:
    oracle = Oracle(cluster.direct)
    for topic in ("a", "b"):
        oracle.create_topic(topic, 4)
    served = Served()

    async def gateway(number: int) -> tuple[KafkaStore, list[Idle]]:
        name = f"gateway-{number}" if ARGUMENTS.named else ""
        store = KafkaStore(configuration(cluster), reactor, session_timeout_seconds=SESSION_SECONDS, instance_name=name)
        await store.start()
        groups = [f"group-{each}" for each in range(ARGUMENTS.groups)]
        return store, [Idle(store, group, topic, served) for group in groups for topic in ("a", "b")]

    async def settled(*members: list[Idle]) -> float:
        """Waits until each member has its half."""
        since = time.perf_counter()
        while not all(len(member.owned) == 2 for each in members for member in each):
            await deferLater(reactor, 0.05)
        return time.perf_counter() - since

    (first, of_first), (second, of_second) = [await gateway(number) for number in (1, 2)]
    joined = await settled(of_first, of_second)
    print(f"  {ARGUMENTS.groups} groups x 2 topics on two gateways: all joined and halved within {joined:.1f} s")
    await deferLater(reactor, 5.0)
    served.longest, began = 0.0, time.perf_counter()
    await second.stop(5.0)
    stopped = time.perf_counter() - began
    second, of_second = await gateway(2)
    await settled(of_first, of_second)
    print(
        f"  one restarted: stopped within {stopped:.1f} s, all halved again {time.perf_counter() - began:.1f} s after"
    )
    print(f"  longest that a partition had no reader: {served.longest:.2f} s; without one now: {len(served.unserved)}")
    for store in (first, second):
        await store.stop(5.0)


async def measure(cluster: KafkaCluster) -> None:
    oracle = Oracle(cluster.direct)
    oracle.create_topic("a", PARTITIONS)
    oracle.create_topic("b", PARTITIONS)
    config = configuration(cluster)
    stores = [KafkaStore(config, reactor, session_timeout_seconds=SESSION_SECONDS) for _ in range(MEMBERS + 1)]
    for store in stores:
        await store.start()
    seen, others = Seen(), Seen()
    members = [
        Member(store, "a", f"member {number}", seen, 0.0 if number else HAND_OVER_SECONDS)
        for number, store in enumerate(stores[:MEMBERS])
    ]
    while sum(len(member.owned) for member in members) < PARTITIONS or not all(member.owned for member in members):
        await deferLater(reactor, 0.05)
    producing = Producing(cluster.direct)
    producing.start()
    await deferLater(reactor, 3.0)
    seen.measuring = True
    until = time.perf_counter() + ARGUMENTS.seconds
    churn: list[Any] = [
        ensureDeferred(coming_and_going(stores[0], "b", "reader of b", others, 2.0, until)),
        ensureDeferred(coming_and_going(stores[MEMBERS], "a", "fifth member", seen, 20.0, until)),
    ]
    times = [await each for each in churn]
    producing.over = True
    producing.join()
    wanted = producing.count
    deadline = time.perf_counter() + 20
    while len(seen.times) < wanted and time.perf_counter() < deadline:
        await deferLater(reactor, 0.1)
    for member in members:
        await member.leave()
    for store in stores:
        await store.stop(5.0)
    print(f"Kafka {ARGUMENTS.kafka}, {ARGUMENTS.seconds:g} s: the reader of b came {times[0]} times, "
          f"the fifth member {times[1]} times")  # fmt: skip
    print(f"  longest pause of partitions that stayed: {seen.longest:.3f} s; of all: {seen.longest_of_all:.3f} s")
    print(f"  {seen.moves} moves ({seen.came_back} back to the same member), the longest {seen.longest_move:.3f} s")
    print(f"  {wanted} written, {wanted - len(seen.times)} lost; "
          f"twice: {seen.twice_moved} by another member, {seen.twice_unmoved} by the same")  # fmt: skip


def main() -> None:
    cluster = KafkaCluster(ARGUMENTS.kafka).start()
    try:
        measuring = measure_restart if ARGUMENTS.groups else measure
        task.react(lambda _reactor: ensureDeferred(measuring(cluster)))
    finally:
        cluster.close()


if __name__ == "__main__":
    main()
