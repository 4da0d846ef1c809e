"""Gateways, a registry and a store in memory, for tests of keys that go over to more partitions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from store_in_memory import MemoryStore
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock, deferLater

from kateway.core.elastic_topic import ElasticTopic
from kateway.core.elastic_topics import ElasticTopics
from kateway.core.growths import Growths
from kateway.errors import RegistryUnavailable
from kateway.model import Committed, Message, Receipt
from kateway.registry import plans
from kateway.registry.changes import WritableRegistry
from kateway.registry.interface import Application, Elastic, GatewayEntry, Placement, Snapshot, Topic
from kateway.registry.plans import Plan
from kateway.storage.interface import At, Outcome
from kateway.storage.partitioner import by_jump

NAME = "app1/t/v1"
STORED = "app1.t.v1"
LEASE_SECONDS = 5.0
SESSION_SECONDS = 2.0
SLOWEST_WRITE_SECONDS = 3.0
GONE_SECONDS = LEASE_SECONDS + SESSION_SECONDS + SLOWEST_WRITE_SECONDS + 0.5


class SharedRegistry(WritableRegistry):
    """A registry in memory; ``entries`` are the gateways that have a session."""

    driver = "memory"

    def __init__(self) -> None:
        super().__init__()
        topic = Topic(application="app1", topic="t", version="v1", partitions=2, elastic=Elastic(handover_seconds=3600))
        self._current.snapshot = plans.build([Application(name="app1"), topic], 1)
        self.entries: dict[str, GatewayEntry] = {}
        self.leader = "leader-0"
        self.away = False

    async def _commit(self, plan: Plan) -> tuple[Snapshot, Snapshot]:
        before = self.snapshot
        revision = before.revision + 1
        changes = [
            change
            if change.entry is None
            else attrs.evolve(change, entry=attrs.evolve(change.entry, etag=str(revision)))
            for change in plan(before)
        ]
        after = plans.apply(before, changes, revision)
        self._current.replace(after)
        return before, after

    async def gateways(self) -> Sequence[GatewayEntry]:
        return list(self.entries.values())

    @property
    def topic(self) -> Topic:
        return self.snapshot.topics["app1", "t", "v1"]

    @property
    def placement(self) -> Placement:
        return self.snapshot.placements["app1", "t", "v1"]

    def put(self, entry: Any) -> None:
        now(self._commit(plans.put(entry, None)))


class Leading:
    """The shared registry as one gateway sees it."""

    def __init__(self, shared: SharedRegistry, name: str) -> None:
        self._shared = shared
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shared, name)

    async def lead(self, report: bytes) -> bool:
        if self._shared.away:
            raise RegistryUnavailable()
        return self._shared.leader == self._name


class LogStore(MemoryStore):
    """Partitions as lists of (key, number); a publish is written when ``write`` is called."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.make(STORED, 2)
        self.kept: dict[int, list[tuple[bytes, int]]] = {0: [], 1: []}
        self.under_way: deque[tuple[float, str, Message, Deferred[list[Outcome]]]] = deque()
        self.read_to: dict[int, int] = {}
        self.undecided_now = False
        self.asked_for_topics = 0
        self.shown: int | None = None
        """As many partitions as are known without asking, where these are not all."""
        self.ends: Callable[[], Mapping[int, int] | Deferred[Mapping[int, int]]] | None = None
        """What answers instead when the ends are asked for."""
        self.groups = frozenset({"g1"})
        self.group_takes = 0.0
        """Seconds that a group's positions are waited for."""

    def publish_by(self, gateway: str, messages: Sequence[Message]) -> Deferred[list[Outcome]]:
        (message,) = messages
        answer: Deferred[list[Outcome]] = Deferred()
        self.under_way.append((self.clock.seconds(), gateway, message, answer))
        return answer

    def write(self) -> None:
        _since, _gateway, message, answer = self.under_way.popleft()
        assert message.key is not None
        assert message.value is not None
        assert message.partition is not None
        log = self.kept[message.partition]
        log.append((message.key, int(message.value)))
        answer.callback([Receipt(message.partition, len(log) - 1)])

    def partitions(self, topic: str) -> int | None:
        return len(self.kept) if self.shown is None else self.shown

    def undecided(self, topic: str, partition: int) -> bool:
        return self.undecided_now

    async def topic(self, topic: str) -> Any:
        return attrs.make_class("Info", ["partitions"])(len(self.kept))

    async def topics(self) -> Any:
        self.asked_for_topics += 1
        if self.shown is not None:
            self.shown = len(self.kept)

    async def add_partitions(self, topic: str, total: int) -> Any:
        for partition in range(len(self.kept), total):
            self.kept[partition] = []

    async def offsets(self, topic: str, at: At) -> Mapping[int, int]:
        if self.ends is not None:
            found = self.ends()
            return await found if isinstance(found, Deferred) else found
        return {partition: 0 if at == "earliest" else len(log) for partition, log in self.kept.items()}

    async def reading_groups(self, topic: str) -> frozenset[str]:
        return self.groups

    async def committed(self, group: str, topic: str) -> Mapping[int, Committed | None]:
        if self.group_takes:
            await deferLater(self.clock, self.group_takes)
        return {partition: Committed(self.read_to.get(partition, 0)) for partition in self.kept}


class Told:
    """What was counted and told."""

    def __init__(self) -> None:
        self.waited = 0
        self.refused = 0
        self.grown_to: list[tuple[int, int, bool]] = []
        self.given_up_for: list[str] = []

    def held(self, messages: int) -> None:
        self.waited += messages

    def not_released(self, messages: int) -> None:
        self.refused += messages

    def grown(self, topic: str, was: int, now: int, bound_hit: bool) -> None:
        self.grown_to.append((was, now, bound_hit))

    def given_up(self, topic: str, why: str) -> None:
        self.given_up_for.append(why)


class Gateway:
    """A gateway that hears of the registry when ``hear`` is called."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.world = world
        self.alive = True
        self.unheard_since: float | None = None
        self.asked = 0
        self.answers: Deferred[None] = Deferred()
        self.answers.callback(None)
        self.send = world.store.publish_by
        self.topics = ElasticTopics(
            {"default": world.store},  # type: ignore[dict-item]
            world.clock,
            lambda: self.unheard_since,
            world.told,
            self.tell,
            self.ask,
            lease_seconds=LEASE_SECONDS,
            max_held_bytes=1_000_000,
        )
        self.tell()
        self.hear()

    @property
    def topic(self) -> ElasticTopic:
        return self.topics.topics["default", STORED]

    async def ask(self) -> None:
        if self.unheard_since is not None:
            raise RegistryUnavailable()
        self.asked += 1
        await self.answers

    def tell(self) -> None:
        if self.alive and self.unheard_since is None:
            self.world.registry.entries[self.name] = GatewayEntry(name=self.name, placed=self.topics.placed())

    def hear(self) -> None:
        if self.unheard_since is None:
            self.topics.update(self.world.registry.snapshot)

    def cut_off(self) -> None:
        if self.unheard_since is None:
            self.unheard_since = self.world.clock.seconds()
            self.world.clock.callLater(SESSION_SECONDS, self._expired)

    def _expired(self) -> None:
        if self.unheard_since is not None:
            self.world.registry.entries.pop(self.name, None)

    def heal(self) -> None:
        if self.alive and self.unheard_since is not None:
            # as the ZooKeeper registry does it: the entry, then what was missed, and only then it is heard again
            self.world.registry.entries[self.name] = GatewayEntry(name=self.name, placed=self.topics.placed())
            self.topics.update(self.world.registry.snapshot)
            self.unheard_since = None
            self.topics.look()
            self.tell()

    def publish(self, key: bytes, number: int, seconds: float = 100.0) -> Deferred[list[Outcome]]:
        deadline = self.world.clock.seconds() + seconds
        message = Message(b"%d" % number, key)
        return self.topic.publish([message], deadline, lambda found, _: self.send(self.name, found))


def now(work: Any) -> Any:
    """The result of a coroutine that waits for nothing."""
    found: list[Any] = []
    ensureDeferred(work).addBoth(found.append)
    assert found, "it waits"
    if hasattr(found[0], "raiseException"):
        found[0].raiseException()
    return found[0]


class World:
    """Gateways, one topic, one group."""

    def __init__(self, gateways: int = 2, placement: Placement | None = None) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.store = LogStore(self.clock)
        self.registry = SharedRegistry()
        self.told = Told()
        self.stores = {"default": self.store}
        self.registry.put(placement or Placement(application="app1", topic="t", version="v1", partitions=2))
        self.gateways = [Gateway(self, f"gateway-{number}") for number in range(gateways)]
        self.leaders = [self._growths(f"leader-{number}") for number in range(2)]
        self.delivered: list[tuple[bytes, int]] = []
        self.pass_time(GONE_SECONDS)
        self.lead()
        self.pass_time(GONE_SECONDS)
        self.pass_time()

    def _growths(self, name: str) -> Growths:
        return Growths(
            name,
            Leading(self.registry, name),  # type: ignore[arg-type]
            self.stores,  # type: ignore[arg-type]
            self.clock,
            lambda: int(self.clock.seconds() * 1000),
            self.told,
            gone_seconds=GONE_SECONDS,
            sustained_seconds=1e9,
            sample_seconds=1e9,
            window_ms=10_000,
        )

    def lead(self) -> None:
        for leader in self.leaders:
            now(leader.look())

    def grow(self, partitions: int) -> None:
        """By hand: as a PUT of the topic does."""
        now(self.store.add_partitions(STORED, partitions))
        self.registry.put(attrs.evolve(self.registry.topic, partitions=partitions))

    def pass_time(self, seconds: float = 0.5) -> None:
        self.clock.advance(seconds)
        while self.store.under_way and self.clock.seconds() - self.store.under_way[0][0] >= SLOWEST_WRITE_SECONDS:
            self.store.write()
        for gateway in self.gateways:
            if gateway.alive:
                gateway.topics.look()

    def read(self, partition: int, most: int = 1000) -> None:
        log = self.store.kept.get(partition, [])
        start = self.store.read_to.get(partition, 0)
        self.delivered += log[start : start + most]
        self.store.read_to[partition] = min(start + most, len(log))

    def settle(self) -> None:
        """Lets everything come to its end."""
        for gateway in self.gateways:
            gateway.heal()
        for _ in range(200):
            for gateway in self.gateways:
                if gateway.alive:
                    gateway.hear()
            self.pass_time()
            self.lead()
            while self.store.under_way:
                self.store.write()
            for partition in list(self.store.kept):
                self.read(partition)


def a_key_that_moves(fewer: int = 2, more: int = 4) -> bytes:
    return next(b"k%d" % n for n in range(1000) if by_jump(b"k%d" % n, fewer) != by_jump(b"k%d" % n, more))


def a_key_that_stays(fewer: int = 2, more: int = 4) -> bytes:
    return next(b"k%d" % n for n in range(1000) if by_jump(b"k%d" % n, fewer) == by_jump(b"k%d" % n, more))


def outcomes(publishing: Deferred[list[Outcome]]) -> list[Any]:
    found: list[Any] = []
    publishing.addCallback(found.extend)
    return found


def raising(error: Exception) -> Callable[[], Any]:
    """What answers with an error when ends are asked for."""

    def ends() -> Any:
        raise error

    return ends
