"""A store in memory that keeps the contract of ``storage.interface`` as far as groups need it; time is a parameter.

Assignments are made by hand (``give``, ``revoke``, ``lose``), because a test of sharing wants to say when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from kateway.errors import Conflict, KatewayError, OffsetOutOfRange, OutcomeUnknown, TopicNotFound
from kateway.model import Committed, Message, Receipt, Record, TopicInfo
from kateway.storage.interface import At, Fetched, Listener, MetadataRefused, Outcome, OwnMember, Reset
from kateway.storage.passed_member import PassedMember


class MemorySubscription:
    def __init__(self, store: MemoryStore, group: str, topic: str, listener: Listener) -> None:
        self.store, self.group, self.topic, self.listener = store, group, topic, listener
        self.positions: dict[int, int] = {}
        self.resting: set[int] = set()
        self.closed = False
        self.returning = False
        self.commits: list[Mapping[int, Committed]] = []
        self.refuse: KatewayError | None = None
        """Commits fail with this."""
        self.most_metadata = 4000
        """Commits whose metadata is longer are refused."""
        self.unanswered = False
        """Commits that fail are stored all the same."""

    # what a test says

    def give(self, *partitions: int) -> None:
        """The partitions are assigned."""
        offsets = {p: self.store.commits.get((self.group, self.topic, p)) for p in partitions}
        for partition, at in offsets.items():
            self.positions[partition] = at.offset if at else 0
        self.listener.assigned(offsets)
        for partition in partitions:
            self.tell(partition)

    def revoke(self, *partitions: int) -> Deferred[None] | None:
        """The partitions are to go; they are gone when the answer has fired."""
        held = self.listener.revoked(frozenset(partitions))
        if held is None:
            self._drop(partitions)
        else:
            held.addCallback(lambda _: self._drop(partitions))
        return held

    def lose(self, *partitions: int) -> None:
        self._drop(partitions)
        self.listener.lost(frozenset(partitions))

    def tell(self, partition: int) -> None:
        """Says that something is readable, if it is."""
        if partition in self.positions and partition not in self.resting and self._at_hand(partition):
            self.listener.readable(partition)

    def _drop(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            del self.positions[partition]
            self.resting.discard(partition)

    def _at_hand(self, partition: int) -> list[Record]:
        return [r for r in self.store.logs[self.topic][partition] if r.offset >= self.positions[partition]]

    # what a group calls

    def take(self, partition: int, max_records: int, max_bytes: int) -> list[Record]:
        if partition not in self.positions:
            return []
        if partition in self.resting:
            self.resting.remove(partition)
            self.store.clock.callLater(0, self.tell, partition)
            return []
        records: list[Record] = []
        size = 0
        for record in self._at_hand(partition)[:max_records]:
            size += len(record.value or b"")
            if records and size > max_bytes:
                break
            records.append(record)
        if records:
            self.positions[partition] = records[-1].offset + 1
            self.store.clock.callLater(0, self.tell, partition)
        return records

    def position(self, partition: int) -> int | None:
        if partition not in self.positions:
            return None
        at_hand = self._at_hand(partition)
        return at_hand[0].offset if at_hand else max(self.positions[partition], self.store.end(self.topic, partition))

    def commit(self, offsets: Mapping[int, Committed]) -> Deferred[None]:
        if self.refuse is not None and not self.unanswered:
            return fail(self.refuse)
        if not set(offsets) <= set(self.positions):
            return fail(Conflict("not ours"))
        if any(len(committed.metadata) > self.most_metadata for committed in offsets.values()):
            return fail(OutcomeUnknown("too long"))
        self.commits.append(offsets)
        refused = set()
        for partition, committed in offsets.items():
            assert len(committed.metadata) <= 4000
            if len(committed.metadata) > self.store.max_metadata_chars:
                refused.add(partition)
            else:
                self.store.commits[self.group, self.topic, partition] = committed
        if refused:
            return fail(MetadataRefused("metadata too long", frozenset(refused)))
        return succeed(None) if self.refuse is None else fail(self.refuse)

    def seek(self, partition: int, offset: int) -> None:
        assert partition in self.positions
        self.positions[partition] = offset
        self.store.clock.callLater(0, self.tell, partition)

    def pause(self, partition: int) -> None:
        if partition in self.positions:
            self.resting.add(partition)

    def lag(self, partition: int) -> int | None:
        position = self.position(partition)
        return None if position is None else self.store.end(self.topic, partition) - position

    def close(self, *, returning: bool = False) -> Deferred[None]:
        self.closed = True
        self.returning = returning
        partitions = tuple(self.positions)
        return (self.revoke(*partitions) if partitions else None) or succeed(None)

    def pass_on(self, *, returning: bool = False) -> Deferred[PassedMember | None]:
        partitions = sorted(self.positions)
        member = PassedMember(self.group, self.topic, "member", 1, True, partitions, 10.0, self.store.clock.seconds())
        return self.close(returning=returning).addCallback(lambda _: member if self.store.passes_on else None)


class MemoryStore:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.logs: dict[str, list[list[Record]]] = {}
        self.ends: dict[tuple[str, int], int] = {}
        self.starts: dict[tuple[str, int], int] = {}
        """Where logs begin, other than at 0."""
        self.hidden_from: dict[tuple[str, int], int] = {}
        """Records from there on are not shown: a new leader's high watermark lags."""
        self.commits: dict[tuple[str, str, int], Committed] = {}
        self.subscriptions: list[MemorySubscription] = []
        self.max_metadata_chars = 4000
        """Longer metadata is refused."""
        self.passes_on = True
        """Members can be passed on."""
        self.goes_on = True
        self.left: list[OwnMember] = []
        """On behalf of other processes."""
        self.refuse_publish: KatewayError | None = None
        self.raise_on_publish: Exception | None = None
        self.hold_publish: Deferred[None] | None = None
        """Publishes wait until this fires."""

    def make(self, topic: str, partitions: int) -> None:
        self.logs[topic] = [[] for _ in range(partitions)]

    def append(self, topic: str, partition: int, *values: bytes, skip: int = 0) -> None:
        """Writes records, ``skip`` offsets behind the last (invisible offsets)."""
        log = self.logs[topic][partition]
        offset = self.end(topic, partition) + skip
        for value in values:
            log.append(Record(offset, 0, None, value))
            offset += 1
        self.ends[topic, partition] = offset
        for subscription in self.subscriptions:
            if subscription.topic == topic:
                subscription.tell(partition)

    def end(self, topic: str, partition: int) -> int:
        return self.ends.get((topic, partition), 0)

    def subscribe(self, group: str, topic: str, listener: Listener, reset: Reset) -> MemorySubscription:
        subscription = MemorySubscription(self, group, topic, listener)
        self.subscriptions.append(subscription)
        return subscription

    def go_on(self, passed: PassedMember, listener: Listener) -> MemorySubscription | None:
        if not self.goes_on:
            return None
        subscription = MemorySubscription(self, passed.group, passed.topic, listener)
        self.subscriptions.append(subscription)
        self.clock.callLater(0, subscription.give, *passed.partitions)
        return subscription

    async def leave_for(self, member: OwnMember) -> None:
        self.left.append(member)

    async def committed(self, group: str, topic: str) -> Mapping[int, Committed | None]:
        return {p: self.commits.get((group, topic, p)) for p in range(len(self.logs[topic]))}

    async def reading_groups(self, topic: str) -> frozenset[str]:
        return frozenset()

    async def read(self, topic: str, partition: int, offset: int, *, max_bytes: int, wait_seconds: float) -> Fetched:
        if offset < self.starts.get((topic, partition), 0):
            raise OffsetOutOfRange("before the log's start")
        end = self.hidden_from.get((topic, partition), self.end(topic, partition))
        found = [record for record in self.logs[topic][partition] if offset <= record.offset < end][:1]
        return Fetched(found, found[-1].offset + 1 if found else offset, end)

    async def offsets(self, topic: str, at: At) -> Mapping[int, int]:
        assert at == "earliest"
        return {partition: self.starts.get((topic, partition), 0) for partition in range(len(self.logs[topic]))}

    def partitions(self, topic: str) -> int | None:
        return len(self.logs[topic]) if topic in self.logs else None

    async def topic(self, topic: str) -> TopicInfo:
        if topic not in self.logs:
            raise TopicNotFound(topic)
        return TopicInfo(topic, len(self.logs[topic]))

    async def create_topic(
        self, topic: str, *, partitions: int, replicas: int = 1, retention_ms: int | None = None
    ) -> TopicInfo:
        if topic in self.logs:
            raise Conflict("there is such a topic")
        self.make(topic, partitions)
        return await self.topic(topic)

    def publish(self, topic: str, messages: Sequence[Message], acks: int, deadline: float) -> Deferred[list[Outcome]]:
        if self.hold_publish is not None:
            waiter: Deferred[None] = Deferred()
            self.hold_publish.addCallback(lambda _: waiter.callback(None))
            return waiter.addCallback(lambda _: self._append_all(topic, messages))
        assert acks == -1
        if self.raise_on_publish is not None:
            return fail(self.raise_on_publish)
        return succeed(self._append_all(topic, messages))

    def _append_all(self, topic: str, messages: Sequence[Message]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for message in messages:
            if self.refuse_publish is not None:
                outcomes.append(self.refuse_publish)
                continue
            log = self.logs[topic][0]
            outcomes.append(Receipt(0, len(log)))
            log.append(Record(len(log), 0, message.key, message.value, message.headers))
        return outcomes
