"""Queues one partition's messages: those that wait, batches under way, their numbers. Pure state: no I/O, no clock.

Kafka numbers an idempotent producer's records per partition: a broker takes a batch whose base sequence follows the
last one it has under that producer id, answers the last five batches again with their offsets (error 0), and refuses
anything else (45). So a batch whose fate is *unknown* is sent again under the same number until it is answered, and a
batch that is *certainly not written* gives its number back: its messages return to the queue and are batched anew.

Three rules keep the order:

1. After any failure nothing more is sent until everything in flight is answered. Then the batches up to the last
   unknown one are sent again, oldest first, and those behind it, certainly not written, return to the queue.
2. Under a new id one batch is in flight until the first is acknowledged: a broker that knows nothing of an id takes
   whatever number comes first.
3. A 45 for a batch that was sent alone means that broker and lane disagree: the id is given up. (A batch of unknown
   fate behind a refused one comes to that: it keeps its number, and nothing takes the number it would have to follow,
   or a copy that still travels on a broken connection could fit in behind.) A new id forgets the past, so only what
   was answered with a refusal is sent under it; the rest is lost to sight (``maybe_written``).

A lane that is not *numbered* (acks 0 and 1, or no right to an id) has one batch in flight and never sends again what
may have been written.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import Generic, TypeVar

from mypy_extensions import mypyc_attr

from kateway.storage.kafka.protocol.produce_requests import Identity

MAX_IN_FLIGHT = 5
"""Brokers remember the last five batches of an id."""

BATCH_OVERHEAD_BYTES = 96
"""A batch's header and its place in a request."""

_SEQUENCE_MASK = 0x7FFFFFFF


class Verdict(Enum):
    """The known state of a batch after an attempt to write it."""

    WRITTEN = auto()
    NOT_WRITTEN = auto()
    """Never sent, or answered with a refusal that may pass."""
    UNKNOWN = auto()
    """Sent and not answered, or answered with an error after the leader had written it."""
    REFUSED = auto()
    """Answered with a refusal that will stay."""
    BAD_RECORD = auto()
    """Answered with a refusal that is for one of the records; which one is found by halving."""
    TOO_LARGE = auto()
    OUT_OF_ORDER = auto()
    FORGOTTEN = auto()
    """The broker does not take the id any more."""
    LOST = auto()
    """An answer that says nothing: the batch is given up and may have been written."""


@mypyc_attr(allow_interpreted_subclasses=True)
class QueueItem:
    """A message in a lane. ``settled``: its caller has an outcome; its number is still needed."""

    __slots__ = ("deadline", "settled", "size")

    def __init__(self, size: int, deadline: float) -> None:
        self.size = size
        self.deadline = deadline
        self.settled = False


I = TypeVar("I", bound=QueueItem)  # noqa: E741


class QueuedBatch(Generic[I]):
    """Items that go under one number. ``data`` is the caller's: the encoded bytes, made once."""

    __slots__ = ("alone", "data", "identity", "in_flight", "items", "sequence", "size", "unclear", "unknown")

    def __init__(self, items: list[I], size: int, identity: Identity | None, sequence: int) -> None:
        self.items = items
        self.size = size
        self.identity = identity
        self.sequence = sequence
        self.data = b""
        self.in_flight = False
        self.unknown = False
        self.unclear = 0
        """How often it was answered with an error that says nothing."""
        self.alone = False

    @property
    def end(self) -> int:
        """The sequence that follows."""
        return (self.sequence + len(self.items)) & _SEQUENCE_MASK

    @property
    def certainly_not_written(self) -> bool:
        return not self.in_flight and not self.unknown


class Lane(Generic[I]):
    """One partition's messages on their way."""

    __slots__ = (
        "_acknowledged",
        "_broken",
        "_repairing",
        "_sift",
        "_sift_records",
        "batches",
        "dropped_bytes",
        "dropped_items",
        "identity",
        "in_flight",
        "max_batch_bytes",
        "numbered",
        "partition",
        "proven",
        "queue",
        "queued_bytes",
        "topic",
    )

    def __init__(self, topic: str, partition: int, *, numbered: bool, max_batch_bytes: int) -> None:
        self.topic = topic
        self.partition = partition
        self.numbered = numbered
        self.max_batch_bytes = max_batch_bytes
        self.queue: deque[I] = deque()
        self.queued_bytes = 0
        """Of ``queue``; ``put`` and ``put_all`` count them."""
        self.batches: deque[QueuedBatch[I]] = deque()
        self.in_flight = 0
        self.identity: Identity | None = None
        self.proven = False
        """Whether a batch was acknowledged under this identity."""
        self.dropped_bytes = 0
        self.dropped_items = 0
        self._sift = 0
        """So many items at the queue's front were refused together: one of them is bad."""
        self._sift_records = 0
        """Most of them in one batch: halved with each refusal, doubled with each success."""
        """Of settled items that the lane has dropped by itself; the producer adds them up and sets it to 0."""
        self._acknowledged = 0
        self._repairing = False
        self._broken = False

    @property
    def empty(self) -> bool:
        return not self.queue and not self.batches

    @property
    def records(self) -> int:
        """How many items wait, to be sent or for an answer."""
        return len(self.queue) + sum([len(batch.items) for batch in self.batches])

    def put(self, item: I) -> None:
        """Adds an item to the queue. Hot."""
        self.queue.append(item)
        self.queued_bytes += item.size

    def put_all(self, items: list[I]) -> None:
        """Adds items to the queue."""
        self.queue.extend(items)
        self.queued_bytes += sum([item.size for item in items])

    @property
    def wants_identity(self) -> bool:
        """Numbered, something to send, and no id."""
        return self.numbered and self.identity is None and bool(self.queue)

    @property
    def sendable(self) -> bool:
        """Whether ``next`` would give a batch, room permitting. Hot."""
        if self._repairing or (self.numbered and self.identity is None):
            return False
        if self.in_flight >= (MAX_IN_FLIGHT if self.proven and not self._sift else 1):
            return False
        return bool(self.queue) or self.in_flight < len(self.batches)

    def adopt(self, identity: Identity) -> None:
        """Goes on under a new id, from sequence 0. Only while no batch is held (``wants_identity``)."""
        assert not self.batches
        self.identity = identity
        self.proven = False
        self._acknowledged = 0

    def next(self, room: int, *, first: bool) -> QueuedBatch[I] | None:
        """The batch to send now; it counts as in flight. ``None`` where none may go or it is larger than ``room``;
        with ``first`` (nothing else is in the request) one goes whatever its size.
        """
        if not self.sendable:
            return None
        if self.in_flight < len(self.batches):
            batch = next(batch for batch in self.batches if not batch.in_flight)
            if batch.size > room and not first:
                return None
        else:
            found = self._form(room, first)
            if found is None:
                return None
            batch = found
        batch.alone = batch is self.batches[0]
        batch.in_flight = True
        self.in_flight += 1
        return batch

    def _form(self, room: int, first: bool) -> QueuedBatch[I] | None:
        limit = min(room, self.max_batch_bytes)
        queue = self.queue
        size = BATCH_OVERHEAD_BYTES + queue[0].size
        if size > limit and (not first and size > room):
            return None
        items = [queue.popleft()]
        most = self._sift_records if self._sift else len(queue) + 1
        while queue and size + queue[0].size <= limit and len(items) < most:
            item = queue.popleft()
            items.append(item)
            size += item.size
        if self._sift:
            self._sift = max(self._sift - len(items), 0)
            if not self._sift:
                self._sift_records = 0
        self.queued_bytes -= size - BATCH_OVERHEAD_BYTES
        batch = QueuedBatch(items, size, self.identity, self.batches[-1].end if self.batches else self._acknowledged)
        self.batches.append(batch)
        return batch

    def answered(self, batch: QueuedBatch[I], verdict: Verdict) -> tuple[list[I], list[I]]:
        """Takes what became of a batch. Gives the items that it settles in the verdict's sense, and those that are
        lost to sight: they may have been written. Both have left the lane. A batch not in flight is ignored.
        """
        if not batch.in_flight:
            return [], []
        batch.in_flight = False
        self.in_flight -= 1
        if verdict is Verdict.WRITTEN:
            self._remove(batch)
            self._sift_records *= 2
            self.proven = self.numbered
            self._acknowledged = batch.end
            return batch.items, self._repair() if self._repairing else []
        self._repairing = True
        settled: list[I] = []
        lost: list[I] = []
        if verdict is Verdict.UNKNOWN:
            batch.unknown = True
            if not self.numbered:
                self._remove(batch)
                lost = batch.items
        elif verdict is Verdict.TOO_LARGE and len(batch.items) > 1 and not batch.unknown:
            self.max_batch_bytes = min(self.max_batch_bytes, batch.size // 2)
        elif verdict is Verdict.BAD_RECORD and len(batch.items) > 1 and not batch.unknown:
            self._sift_records = len(batch.items) // 2
        elif verdict in (Verdict.REFUSED, Verdict.BAD_RECORD, Verdict.TOO_LARGE, Verdict.LOST):
            self._remove(batch)
            if verdict is Verdict.LOST or batch.unknown:
                lost = batch.items
                self._broken = True
            else:
                settled = batch.items
        elif verdict is Verdict.FORGOTTEN or (verdict is Verdict.OUT_OF_ORDER and batch.alone):
            self._broken = True
        return settled, lost + self._repair()

    def _remove(self, batch: QueuedBatch[I]) -> None:
        if self.batches and self.batches[0] is batch:
            self.batches.popleft()
        else:
            self.batches.remove(batch)

    def _repair(self) -> list[I]:
        """Applies rules 1 and 3 once nothing is in flight, and gives the items that are lost to sight. A refused batch
        with none behind it whose outcome is open returns to the queue before that: it is certainly not sent again.
        """
        back: list[I] = []
        while self.batches and self.batches[-1].certainly_not_written:
            back[:0] = self.batches.pop().items
        self._take_back(back)
        if self.in_flight:
            return []
        self._repairing = False
        lost: list[I] = []
        if self._broken:
            back = []
            for batch in self.batches:
                (lost if batch.unknown else back).extend(batch.items)
            self.batches.clear()
            self._take_back(back)
            self._broken = False
            self.identity = None
            self.proven = False
        for batch in self.batches:
            batch.unknown = True  # one that is not, but has to go first, will be sent whatever its callers are told
        return lost

    def _take_back(self, back: list[I]) -> None:
        """Returns items that were certainly not written to the front of the queue; drops those with an outcome."""
        for item in reversed(back):
            if item.settled:
                self.dropped_bytes += item.size
                self.dropped_items += 1
            else:
                self.queue.appendleft(item)
                self.queued_bytes += item.size
        if self._sift_records:
            self._sift += len(back)

    def expire(self, now: float) -> tuple[list[I], list[I]]:
        """Settles items whose deadline is over: those never sent, which leave the lane, and those that may have
        been written, or may yet be where they have to go before one that may have been; their batches go on.
        """
        unsent = [item for item in self.queue if item.deadline <= now]
        if unsent:
            self.queue = deque(item for item in self.queue if item.deadline > now)
            self.queued_bytes -= sum([item.size for item in unsent])
        unknown: list[I] = []
        for batch in self.batches:
            unknown += [item for item in batch.items if not item.settled and item.deadline <= now]
        for item in unsent:
            item.settled = True
        for item in unknown:
            item.settled = True
        return unsent, unknown

    @property
    def undecided(self) -> bool:
        """Whether a batch under way holds items whose callers were answered already."""
        return any(item.settled for batch in self.batches for item in batch.items)

    def take_unsent(self) -> list[I]:
        """Takes out the items that are in no batch yet."""
        unsent, self.queue = list(self.queue), deque()
        self.queued_bytes = 0
        return unsent

    def earliest_deadline(self) -> float:
        """Of the items whose callers still wait; infinite where there are none."""
        found = min((item.deadline for item in self.queue), default=float("inf"))
        for batch in self.batches:
            found = min(found, min((item.deadline for item in batch.items if not item.settled), default=found))
        return found

    def drop(self) -> tuple[list[I], list[I]]:
        """Gives everything up: the items that were certainly not written, and those that may have been. Answers
        that still come are ignored; the id is given up too, because it may have left a gap.
        """
        unsent: list[I] = []
        lost: list[I] = []
        for batch in self.batches:
            (unsent if batch.certainly_not_written else lost).extend(batch.items)
            batch.in_flight = False
        unsent += self.queue
        self.batches = deque()
        self.queue = deque()
        self.queued_bytes = 0
        self.in_flight = 0
        self.identity = None
        self.proven = self._repairing = self._broken = False
        return unsent, lost
