"""Implements the storage contract on SQLite: the embedded store as ``core`` sees it."""

from __future__ import annotations

import re
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from twisted.internet.defer import CancelledError, Deferred, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from kateway.config.schema import EmbeddedStorageConfig
from kateway.errors import (
    Conflict,
    Draining,
    GroupBusy,
    InvalidParameter,
    InvalidTopic,
    KatewayError,
    OffsetOutOfRange,
    Overloaded,
    PartitionNotFound,
    TooLarge,
    TopicNotFound,
    Unavailable,
)
from kateway.model import Committed, Health, Message, Receipt, Record, TopicInfo
from kateway.observe.store import StoreCells
from kateway.shield import shield
from kateway.storage.embedded import database
from kateway.storage.embedded.listeners import NextTurn
from kateway.storage.embedded.maintenance import Keeper
from kateway.storage.embedded.partition import Partition, TopicState
from kateway.storage.embedded.subscription import EmbeddedSubscription, SubscriptionContext
from kateway.storage.embedded.writer import PendingWrite, Writer, WriteResult
from kateway.storage.interface import At, Fetched, Listener, Outcome, Reset, Subscription
from kateway.storage.sqlite.directory import DataDirectory
from kateway.storage.sqlite.records import encode
from kateway.storage.sqlite.thread import Reactor, SqlThread

T = TypeVar("T")

FILE = "kateway.sqlite3"
MAX_PARTITIONS = 10000
MAX_RECORD_BYTES = 256 << 20
"""SQLite takes rows of up to 1,000,000,000 bytes; this leaves room, and no HTTP body of ours is larger by default."""

_TOPIC = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}")


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class EmbeddedStore:
    """A cluster in one SQLite file of a directory that this process alone uses."""

    def __init__(
        self,
        config: EmbeddedStorageConfig,
        reactor: Reactor,
        name: str = "default",
        now_ms: Callable[[], int] = _wall_clock_ms,
        cells: StoreCells | None = None,
    ) -> None:
        """``name`` is the cluster's, for messages; ``cells`` count its requests. ``now_ms`` stamps records,
        in ms since the epoch.
        """
        self._config = config
        self._reactor = reactor
        self._where = f"storage.{name}.path"
        self._now_ms = now_ms
        self._file = Path(config.path) / FILE
        self._writing = SqlThread(reactor, f"kateway-{name}-writer", cells=cells)
        self._reader = SqlThread(reactor, f"kateway-{name}-reader", reads=True, cells=cells)
        self._writer = Writer(reactor, self._writing, config.max_inflight_bytes, cells)
        self._keeper = Keeper(config, reactor, self._writing, self._writer, self._file, now_ms)
        self._context = SubscriptionContext(
            reactor,
            NextTurn(reactor),
            self._reader,
            self._writer,
            config.rebalance_grace_seconds,
            config.prefetch_max_bytes,
        )
        self._topics: dict[str, TopicState] = {}
        self._subscriptions: dict[tuple[str, str], EmbeddedSubscription] = {}
        """By group and topic."""
        self._directory: DataDirectory | None = None
        self._refusal: KatewayError | None = Unavailable("the embedded store is not started")

    # --- its life

    async def start(self) -> None:
        directory = DataDirectory(Path(self._config.path), self._where)
        try:
            await self._writing.start(
                lambda: database.open_for_writing(self._file, self._where, self._config.max_bytes)
            )
            try:
                for number, topic, retention_ms, partitions in await self._writing.call(database.load):
                    self._topics[topic] = TopicState(number, topic, retention_ms, partitions)
                await self._reader.start(lambda: database.open_for_reading(self._file))
            except BaseException:
                await self._writing.stop()
                raise
        except BaseException as error:
            directory.release()
            if isinstance(error, CancelledError):
                raise
            raise database.cannot_open(error, self._file, self._where) from error
        self._directory = directory
        self._refusal = None
        self._keeper.start(self._topics)

    async def stop(self, grace_seconds: float) -> None:
        if self._directory is None:
            return
        self._refusal = Draining("the gateway is shutting down")
        ended = [subscription.close() for subscription in list(self._subscriptions.values())]
        await self._at_most(grace_seconds, gatherResults([*ended, self._writer.idle()], consumeErrors=True))
        for subscription in list(self._subscriptions.values()):
            subscription.abandon()
        self._writer.give_up()
        self._keeper.stop()
        await self._reader.stop()
        await self._writing.stop()
        self._directory.release()
        self._directory = None

    async def _at_most(self, seconds: float, done: Deferred[T]) -> None:
        """Waits for ``done``, but not for longer."""
        timeout = self._reactor.callLater(seconds, done.cancel)
        try:
            await done
        except Exception:
            # cancelled by the timeout: the rest is given up. Otherwise by our caller: the same
            pass
        finally:
            if timeout.active():
                timeout.cancel()

    def health(self) -> Health:
        if self._refusal is not None:
            return Health(False, self._refusal.detail)
        return self._keeper.health()

    def bytes_in_flight(self) -> int:
        return self._writer.inflight_bytes

    # --- topics

    def partitions(self, topic: str) -> int | None:
        known = self._topics.get(topic)
        return None if known is None else len(known.partitions)

    async def topics(self) -> Mapping[str, TopicInfo]:
        return {name: TopicInfo(name, len(topic.partitions)) for name, topic in self._topics.items()}

    async def topic(self, topic: str) -> TopicInfo:
        return TopicInfo(topic, len(self._topic(topic).partitions))

    async def create_topic(
        self, topic: str, *, partitions: int, replicas: int = 1, retention_ms: int | None = None
    ) -> TopicInfo:
        if not _TOPIC.fullmatch(topic):
            raise InvalidTopic(f"{topic!r} is not a topic's name: 1 to 249 of A-Z a-z 0-9 . _ -")
        if not 1 <= partitions <= MAX_PARTITIONS:
            raise InvalidTopic(f"a topic has 1 to {MAX_PARTITIONS} partitions, not {partitions}")
        if topic in self._topics:
            raise Conflict(f"the topic {topic} exists")
        # the memory follows the file, though the caller may have gone
        work = self._write(database.create_topic, topic, partitions, retention_ms)
        return await shield(work.addCallback(self._created, topic, retention_ms))

    def _created(
        self, created: tuple[int, list[database.Loaded]] | None, topic: str, retention_ms: int | None
    ) -> TopicInfo:
        if created is None:
            raise Conflict(f"the topic {topic} exists")
        self._topics[topic] = TopicState(created[0], topic, retention_ms, created[1])
        return TopicInfo(topic, len(created[1]))

    async def add_partitions(self, topic: str, total: int) -> TopicInfo:
        known = self._topic(topic)
        if total < len(known.partitions):
            raise Conflict(f"the topic {topic} has {len(known.partitions)} partitions and cannot have fewer")
        if total > MAX_PARTITIONS:
            raise InvalidTopic(f"a topic has 1 to {MAX_PARTITIONS} partitions, not {total}")
        work = self._write(database.add_partitions, known.id, total)
        return await shield(work.addCallback(self._grown, known))

    def _grown(self, partitions: list[database.Loaded], topic: TopicState) -> TopicInfo:
        topic.grow(partitions)
        for subscription in list(self._subscriptions.values()):
            if subscription.topic is topic:
                subscription.topic_grew()
        return TopicInfo(topic.name, len(topic.partitions))

    async def set_retention(self, topic: str, retention_ms: int) -> None:
        known = self._topic(topic)
        work = self._write(database.set_retention, known.id, retention_ms)
        await shield(work.addCallback(lambda _: setattr(known, "retention_ms", retention_ms)))

    async def delete_topic(self, topic: str) -> None:
        known = self._topic(topic)
        for partition in known.partitions:
            partition.dropped = True
        work = self._write(database.delete_topic, known.id)
        work.addCallbacks(self._deleted, self._not_deleted, callbackArgs=(known,), errbackArgs=(known,))
        await shield(work)

    def _deleted(self, _: None, topic: TopicState) -> None:
        if self._topics.get(topic.name) is topic:
            del self._topics[topic.name]
        for subscription in list(self._subscriptions.values()):
            if subscription.topic is topic:
                subscription.fail(TopicNotFound(f"the topic {topic.name} was deleted"))
        for partition in topic.partitions:
            partition.wake()
        self._keeper.look_soon()

    def _not_deleted(self, failure: Failure, topic: TopicState) -> Failure:
        for partition in topic.partitions:
            partition.dropped = False
        return failure

    def _topic(self, topic: str) -> TopicState:
        if self._refusal is not None:
            raise self._refusal
        known = self._topics.get(topic)
        if known is None:
            raise TopicNotFound(f"there is no topic {topic}")
        return known

    def _partition(self, topic: str, number: int) -> Partition:
        known = self._topic(topic)
        if not 0 <= number < len(known.partitions):
            raise PartitionNotFound(f"the topic {topic} has partitions 0 to {len(known.partitions) - 1}")
        return known.partitions[number]

    # --- publishing

    def publish(self, topic: str, messages: Sequence[Message], acks: int, deadline: float) -> Deferred[list[Outcome]]:
        known = self._topics.get(topic)
        if self._refusal is not None or known is None:
            error = self._refusal or TopicNotFound(f"there is no topic {topic}")
            return succeed([error for _ in messages])
        partitions, choose = known.partitions, known.partitioner.choose
        count = len(partitions)
        now = self._now_ms()
        newest = size = 0
        outcomes: list[Outcome | None] = []
        entries: list[tuple[int, Partition, bytes]] = []
        for value, key, headers, number, timestamp in messages:
            if number is None:
                number = choose(count, key)  # noqa: PLW2901
            elif not 0 <= number < count:
                outcomes.append(PartitionNotFound(f"the topic {topic} has partitions 0 to {count - 1}"))
                continue
            when = now if timestamp is None else timestamp
            entry = encode(when, key, value, headers)
            if len(entry) > MAX_RECORD_BYTES:
                outcomes.append(TooLarge(f"a record has at most {MAX_RECORD_BYTES} bytes"))
                continue
            newest = max(newest, when)
            size += len(entry)
            entries.append((len(outcomes), partitions[number], entry))
            outcomes.append(None if acks else Receipt(number, None))
        wait = self._writer.too_slow(deadline)
        if wait or not self._writer.room_for(size, len(entries)):
            if wait:
                slow = f"the disk takes less than arrives: this would have waited {wait:.1f} s"
                full = Overloaded(slow, retry_after_seconds=max(wait, 1.0), late=True)
            else:
                full = Overloaded(f"{self._config.max_inflight_bytes} bytes are waiting to be written")
            return succeed([each if isinstance(each, KatewayError) else full for each in outcomes])
        if not entries or not acks:
            # no caller waits for these: their outcomes are not looked at
            if entries:
                self._writer.publish(PendingWrite(list(outcomes), entries, size, newest, deadline, None))
            return succeed(outcomes)  # type: ignore[arg-type]
        answer = WriteResult()
        self._writer.publish(PendingWrite(outcomes, entries, size, newest, deadline, answer))
        return answer

    def undecided(self, topic: str, partition: int) -> bool:
        return self._writer.undecided

    def fail_unsent(self) -> None:
        self._writer.fail_gathered()

    # --- reading without a group

    async def offsets(self, topic: str, at: At) -> Mapping[int, int]:
        known = self._topic(topic)
        if at == "earliest":
            return {partition.number: partition.earliest for partition in known.partitions}
        if at == "latest":
            return {partition.number: partition.end for partition in known.partitions}
        found = {}
        for partition in list(known.partitions):
            end = partition.end
            offset = None
            if partition.newest >= at:
                offset = await self._read(database.offset_at, partition.id, at)
            found[partition.number] = end if offset is None else offset
        return found

    async def read(self, topic: str, partition: int, offset: int, *, max_bytes: int, wait_seconds: float) -> Fetched:
        known = self._partition(topic, partition)
        if not known.earliest <= offset <= known.end:
            raise OffsetOutOfRange(f"partition {partition} of {topic} holds {known.earliest} to {known.end}")
        if offset == known.end and wait_seconds > 0:
            await self._more(known, wait_seconds)
        self._partition(topic, partition)
        if offset == known.end:
            return Fetched([], offset, known.end)
        found = await self._read(database.read, known.id, offset, max_bytes)
        if found is None or found.offset != offset:
            raise OffsetOutOfRange(f"partition {partition} of {topic} holds {known.earliest} to {known.end}")
        records: list[Record] = []
        found.take(records, sys.maxsize, max_bytes)
        return Fetched(records, found.offset, known.end)

    async def _more(self, partition: Partition, wait_seconds: float) -> None:
        """Waits for a write to the partition, but not for longer."""
        woken: Deferred[None] = Deferred()

        def wake(*_: object) -> None:
            if not woken.called:
                woken.callback(None)

        timeout: IDelayedCall = self._reactor.callLater(wait_seconds, wake)
        partition.followers.add(wake)
        try:
            await woken
        finally:
            partition.followers.discard(wake)
            if timeout.active():
                timeout.cancel()

    # --- groups

    async def committed(self, group: str, topic: str) -> Mapping[int, Committed | None]:
        known = self._topic(topic)
        ids = [partition.id for partition in known.partitions]
        found = await self._read(database.committed, group, ids)
        return {number: found.get(partition) for number, partition in enumerate(ids)}

    async def reading_groups(self, topic: str) -> frozenset[str]:
        return frozenset(group for group, read in self._subscriptions if read == topic)

    async def committed_groups(self, wanted: Callable[[str], bool]) -> Mapping[str, frozenset[str]]:
        if self._refusal is not None:
            raise self._refusal
        found: defaultdict[str, set[str]] = defaultdict(set)
        for group, topic in await self._read(database.committed_groups):
            if wanted(group):
                found[group].add(topic)
        return {group: frozenset(topics) for group, topics in found.items()}

    async def reset(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        by_id = []
        for number, offset in offsets.items():
            if offset < 0:
                raise InvalidParameter(f"an offset is 0 or more, not {offset}")
            by_id.append((self._partition(topic, number).id, Committed(offset)))
        self._topic(topic)
        if (group, topic) in self._subscriptions:
            raise GroupBusy(f"the group {group} has readers on {topic}")
        await self._writer.commit(group, by_id)

    def subscribe(self, group: str, topic: str, listener: Listener, reset: Reset) -> Subscription:
        if self._refusal is not None:
            raise self._refusal
        if (group, topic) in self._subscriptions:
            raise GroupBusy(f"this process reads {topic} in the group {group} already")
        known = self._topics.get(topic)
        subscription = EmbeddedSubscription(
            group, known or TopicState(0, topic, None, []), listener, reset, self._context, self._forget
        )
        self._subscriptions[group, topic] = subscription
        if known is None:
            subscription.fail(TopicNotFound(f"there is no topic {topic}"))
        else:
            subscription.start()
        return subscription

    def _forget(self, subscription: EmbeddedSubscription) -> None:
        del self._subscriptions[subscription.group, subscription.topic.name]

    # --- the threads

    def _write(self, function: Callable[..., T], *args: object) -> Deferred[T]:
        if self._refusal is not None:
            raise self._refusal
        return self._writing.call(function, *args).addErrback(_translated)

    def _read(self, function: Callable[..., T], *args: object) -> Awaitable[T]:
        return self._reader.call(function, *args).addErrback(_translated)


def _translated(failure: Failure) -> Failure:
    if failure.check(CancelledError):
        return failure
    return Failure(database.translate(failure.value))
