"""Writes a group's dead letters to ``<topic>.<group>.dead``, made when its first record comes.

A record is written there with acks from all replicas before the original counts as acknowledged: a gateway that dies
between the two leaves it in both places, never in none. That topic has as many partitions and replicas as the original,
and a record keeps its partition, so that the order of those from one partition is kept and losing a broker loses none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.core.delivery.batch import Lease
from kateway.core.delivery.ledger import Ledger
from kateway.errors import Conflict, KatewayError, NotFound, OffsetOutOfRange, Unavailable
from kateway.model import Message, Record
from kateway.registry.interface import DEAD_SUFFIX
from kateway.storage.interface import Store

PUBLISH_SECONDS = 10.0
MAX_AT_ONCE = 100
"""Records in one write."""
MAX_WAIT_SECONDS = 30.0
READ_WAIT_SECONDS = 0.5
"""For a record that the store does not show: a new leader's high watermark waits for its followers' next fetch."""
HEADER_PREFIX = "kateway-dead-"
"""Of the headers that a dead letter has beside the record's own."""

_log = Logger()
DeadLetter = tuple[Ledger, Lease]


def dead_letter_topic(topic: str, group: str) -> str:
    """Returns the name of a group's dead-letter topic, from names as they are in the store."""
    return f"{topic}.{group}{DEAD_SUFFIX}"


class DeadLetterTopic:
    """The topic of one group's dead letters of one topic."""

    def __init__(self, store: Store, topic: str, group: str, clock: IReactorTime) -> None:
        self.name = dead_letter_topic(topic, group)
        self._store = store
        self._topic = topic
        self._group = group
        self._clock = clock

    async def write(self, leases: list[tuple[int, Lease]]) -> list[KatewayError | None]:
        """Writes records (with the partition each came from); ``None`` for each that is safe, else its error."""
        try:
            partitions = await self.make()
            records = await self._records(leases)
            messages = [
                self._message(partition, lease, record, partition % partitions)
                for (partition, lease), record in zip(leases, records, strict=True)
                if isinstance(record, Record)
            ]
            deadline = self._clock.seconds() + PUBLISH_SECONDS
            outcomes = iter(await self._store.publish(self.name, messages, -1, deadline) if messages else ())
        except KatewayError as error:
            return [error] * len(leases)
        written = [next(outcomes) if isinstance(record, Record) else record for record in records]
        return [outcome if isinstance(outcome, KatewayError) else None for outcome in written]

    async def _records(self, leases: list[tuple[int, Lease]]) -> list[Record | KatewayError | None]:
        """Returns the record of each; ``None`` where the store has it no more, the error where that is not known."""
        unread: dict[int, list[int]] = {}
        for partition, lease in leases:
            if not lease.read:
                unread.setdefault(partition, []).append(lease.record.offset)
        reads = [Deferred.fromCoroutine(self._read_all(*each)) for each in unread.items()]
        found = dict(zip(unread, await gatherResults(reads, consumeErrors=True), strict=True))
        return [lease.record if lease.read else found[partition][lease.record.offset] for partition, lease in leases]

    async def _read_all(self, partition: int, offsets: Sequence[int]) -> dict[int, Record | KatewayError | None]:
        """Reads records whose leases the partition's last owner left."""
        found: dict[int, Record | KatewayError | None] = {}
        wait_seconds = READ_WAIT_SECONDS
        for offset in offsets:
            try:
                found[offset] = await self._read(partition, offset, wait_seconds)
            except KatewayError as error:
                # the store is asked for the others when it answers again
                return dict.fromkeys(offsets, error) | found
            if isinstance(found[offset], KatewayError):
                wait_seconds = 0
        return found

    async def _read(self, partition: int, offset: int, wait_seconds: float) -> Record | KatewayError | None:
        """Reads a record; ``None`` only where the store says that it is gone. A read that brings nothing does not say
        so: a new leader shows a record again when its high watermark has come up to it.
        """
        try:
            found = await self._store.read(self._topic, partition, offset, max_bytes=1, wait_seconds=wait_seconds)
        except OffsetOutOfRange:
            earliest = (await self._store.offsets(self._topic, "earliest")).get(partition)
            if earliest is not None and earliest > offset:
                return None  # retention
        else:
            record = next((record for record in found.records if record.offset == offset), None)
            if record is not None or found.next_offset > offset:
                return record  # else compaction: what lies behind it is there
        return Unavailable(
            f"partition {partition} does not show the record at offset {offset} just now, though it is not known to be "
            "deleted; it is read again until the partition's leader shows it, or a later record"
        )

    async def make(self) -> int:
        """Makes the topic where it is missing; returns its partition count. ``TopicNotFound``: the original is gone."""
        known = self._store.partitions(self.name)
        if known:
            return known
        try:
            info = await self._store.topic(self.name)
        except NotFound:
            original = await self._store.topic(self._topic)
            try:
                info = await self._store.create_topic(
                    self.name, partitions=original.partitions, replicas=original.replicas
                )
            except Conflict:  # another gateway was faster
                info = await self._store.topic(self.name)
        return info.partitions

    def _message(self, partition: int, lease: Lease, record: Record, into: int) -> Message:
        about = {
            "topic": self._topic,
            "partition": partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
            "group": self._group,
            "reason": lease.reason,
            "attempts": lease.attempts,
        }
        headers = tuple((f"{HEADER_PREFIX}{name}", str(value).encode()) for name, value in about.items())
        return Message(value=record.value, key=record.key, partition=into, headers=(*record.headers, *headers))


class DeadLetterWriter:
    """Takes dying records out of ledgers and writes them, one request at a time. A record that could not be written is
    tried again, for as long as its partition is ours. ``written`` is called with the ledger of each that is.
    """

    def __init__(self, topic: DeadLetterTopic, clock: IReactorTime, written: Callable[[Ledger], None]) -> None:
        self._topic = topic
        self._clock = clock
        self._written = written
        self._queue: list[DeadLetter] = []
        self._writing: Deferred[None] | None = None
        self._later: IDelayedCall | None = None
        self._failures = 0
        self._waiting: list[tuple[Deferred[None], frozenset[Lease]]] = []
        self._stopped = False

    def take(self, delivery: Ledger) -> None:
        """Takes over a ledger's dying records."""
        if delivery.leases.dying:
            queued = {lease for _delivery, lease in self._queue}  # of a partition that went and is back
            self._queue += [(delivery, lease) for lease in delivery.leases.dying if lease not in queued]
            delivery.leases.dying.clear()
            self._write()

    def done(self, only: Collection[tuple[int, int]] | None = None) -> Deferred[None]:
        """Fires when everything taken until now is written, or ``only`` some, by partition and offset. Fails where an
        attempt does, with the store's error, though more follow; and where a partition is given away before.
        """
        awaited = frozenset(
            lease
            for delivery, lease in self._queue
            if only is None or (delivery.partition, lease.record.offset) in only
        )
        if not awaited:
            return succeed(None)
        done: Deferred[None] = Deferred(self._forget)
        self._waiting.append((done, awaited))
        return done

    def stop(self) -> None:
        """Writes no more; records that were not written were not acknowledged either."""
        self._stopped = True
        queue, self._queue = self._queue, []
        self._answer(
            [lease for _delivery, lease in queue],
            Unavailable("the group was left before its dead letters were written"),
        )
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._writing is not None:
            self._writing.cancel()

    def _write(self) -> None:
        if self._writing is not None or self._later is not None or self._stopped:
            return
        gone = [lease for delivery, lease in self._queue if not delivery.live]
        left = [(delivery, lease) for delivery, lease in self._queue if delivery.live and not _is_moot(delivery, lease)]
        if len(left) < len(self._queue):
            self._queue = left
            self._answer(gone, Unavailable("the partition was given away before its dead letters were written"))
        batch = self._queue[:MAX_AT_ONCE]
        if batch:
            writing = Deferred.fromCoroutine(self._topic.write([(owner.partition, lease) for owner, lease in batch]))
            self._writing = writing.addErrback(self._unforeseen, len(batch)).addCallback(self._finish, batch)
            self._writing.addErrback(lambda failure: _log.failure("the end of a write of dead letters broke", failure))
            if self._writing.called:
                self._next()
            else:
                self._writing.addBoth(lambda _: self._next())

    def _finish(self, results: list[KatewayError | None], batch: list[DeadLetter]) -> None:
        if self._stopped:
            return
        del self._queue[: len(batch)]
        errors: list[KatewayError] = []
        failed: list[Lease] = []
        for (delivery, lease), error in zip(batch, results, strict=True):
            if error is None:
                delivery.complete(lease)
                self._written(delivery)
            else:
                errors.append(error)
                failed.append(lease)
                self._queue.append((delivery, lease))
        if errors:
            self._later = self._clock.callLater(
                min(float(1 << min(self._failures, 10)), MAX_WAIT_SECONDS), self._wait_over
            )
            self._failures += 1
            _log.warn("{n} dead letters could not be written: {e}", n=len(errors), e=errors[0].detail)
            self._answer(failed, errors[0])
        else:
            self._failures = 0
            self._answer()

    def _next(self) -> None:
        self._writing = None
        self._write()

    def _wait_over(self) -> None:
        self._later = None
        self._write()

    def _answer(self, failed: Collection[Lease] = (), error: KatewayError | None = None) -> None:
        """Answers the waiters whose records have failed, or are all written."""
        left = {lease for _delivery, lease in self._queue}
        waiting, self._waiting = self._waiting, []
        for done, awaited in waiting:
            if done.called:
                continue  # the end of another has given it up
            if error is not None and not awaited.isdisjoint(failed):
                done.errback(error)
            elif awaited.isdisjoint(left):
                done.callback(None)
            else:
                self._waiting.append((done, awaited))

    def _forget(self, done: Deferred[None]) -> None:
        self._waiting = [(other, awaited) for other, awaited in self._waiting if other is not done]

    def _unforeseen(self, failure: Failure, count: int) -> list[KatewayError | None]:
        """Turns an exception that a store should not raise into an error of each record: it is tried again."""
        if not self._stopped:
            _log.failure("writing dead letters broke", failure)
        return [Unavailable("writing dead letters broke; the gateway's log says why")] * count


def _is_moot(delivery: Ledger, lease: Lease) -> bool:
    """Whether the partition began anew, or a client has acknowledged the record, before it was read: another record may
    be at its offset.
    """
    return not lease.read and delivery.leases.items.get(lease.record.offset) is not lease
