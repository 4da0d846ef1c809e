"""Reads without a group: one partition from a place on, or all partitions of a topic merged by time.

Both give *runs*: a partition and records of it, in their order there.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from kateway.errors import InvalidParameter, OffsetOutOfRange, PartitionNotFound
from kateway.gathering import gathered
from kateway.model import Record
from kateway.storage.interface import Fetched, Store

ONE_READ_BYTES = 1 << 20
"""Asked of one partition at once."""
MERGED_BYTES = 16 << 20
"""Held at most of all partitions together while they are merged, beyond one record of each."""
MOST_LAST = 10_000
"""Records that ``last`` may ask for over all partitions: they are held until the newest are known."""
MOST_COUNTED = 1000
"""Records that are counted one by one from the end of a partition."""
_READS_AT_ONCE = 16
_LOOK_SECONDS = 0.25
"""How often a read that waits at the end of all partitions asks for their ends."""


class Start(NamedTuple):
    """Where a read without a group begins: ``offset`` with ``at`` an offset, ``last`` with a count of records,
    ``timestamp`` with ms since the epoch, ``earliest``, ``latest``.
    """

    kind: str
    at: int = 0


Run = tuple[int, list[Record]]
"""A partition and some of its records, at least one."""


class Read(Protocol):
    """A read under way. Cancelling a call ends the read."""

    async def first(self, wait_seconds: float, max_bytes: int) -> Run | None:
        """Returns the first run; at the end it waits for one, ``None`` where none comes in time."""

    async def next(self, max_bytes: int) -> Run | None:
        """Returns a further run of about ``max_bytes``, ``None`` at the end. Never waits for new records."""

    async def more(self, wait_seconds: float, max_bytes: int) -> Run | None:
        """Waits at the end for a further run; ``None`` where none comes in time, or the read ends where it ended."""

    @property
    def incomplete(self) -> bool:
        """Whether records that were asked for were left out, because together they were too large."""


class PartitionRead:
    """Reads one partition."""

    incomplete = False

    def __init__(self, store: Store, topic: str, partition: int, start: Start) -> None:
        self._store = store
        self._topic = topic
        self._partition = partition
        self._start = start
        self._next = 0
        self._end = 0

    async def first(self, wait_seconds: float, max_bytes: int) -> Run | None:
        self._next = await self._offset()
        return await self._read(wait_seconds, max_bytes) or await self.next(max_bytes)

    async def next(self, max_bytes: int) -> Run | None:
        # records may be missing where a topic is compacted: then an answer has none, and is not the last
        while self._next < self._end:
            run = await self._read(0, max_bytes)
            if run is not None:
                return run
        return None

    async def more(self, wait_seconds: float, max_bytes: int) -> Run | None:
        return await self._read(wait_seconds, max_bytes)

    async def _offset(self) -> int:
        """Finds the offset of the start. ``PartitionNotFound``, ``TopicNotFound``."""
        kind, at = self._start
        if kind == "offset":
            return at
        await self._exists()
        store, topic, partition = self._store, self._topic, self._partition
        if kind == "earliest":
            return (await store.offsets(topic, "earliest"))[partition]
        if kind == "timestamp":
            return (await store.offsets(topic, at))[partition]
        end = (await store.offsets(topic, "latest"))[partition]
        return end if kind == "latest" else await self._last(at, end)

    async def _last(self, count: int, end: int) -> int:
        """Finds the offset of the last ``count`` records. Where offsets are invisible (transactions, compaction) it
        lies further back than so many offsets; that is looked for up to ``MOST_COUNTED``.
        """
        earliest = (await self._store.offsets(self._topic, "earliest"))[self._partition]
        start = max(earliest, end - count)
        if count > MOST_COUNTED:
            return start
        found: list[int] = []
        upto = end
        while True:
            found = await self._offsets(start, upto) + found
            if len(found) >= count or start == earliest:
                return found[-count] if len(found) >= count else start
            upto, start = start, max(earliest, start - max(2 * (count - len(found)), MOST_COUNTED))

    async def _offsets(self, start: int, end: int) -> list[int]:
        """Returns the offsets of the visible records from ``start`` up to ``end``."""
        found: list[int] = []
        while start < end:
            fetched = await self._store.read(
                self._topic, self._partition, start, max_bytes=ONE_READ_BYTES, wait_seconds=0
            )
            found += [record.offset for record in fetched.records if record.offset < end]
            if fetched.next_offset <= start:
                break
            start = fetched.next_offset
        return found

    async def _read(self, wait_seconds: float, max_bytes: int) -> Run | None:
        await self._exists()
        fetched = await self._store.read(
            self._topic,
            self._partition,
            self._next,
            max_bytes=min(max_bytes, ONE_READ_BYTES),
            wait_seconds=wait_seconds,
        )
        self._next, self._end = fetched.next_offset, fetched.end
        return (self._partition, fetched.records) if fetched.records else None

    async def _exists(self) -> None:
        info = await self._store.topic(self._topic)
        if self._partition >= info.partitions:
            raise PartitionNotFound(f"{info.name} has partitions 0 to {info.partitions - 1}")


class _Part:
    """One partition of a merged read: its held records, and where it goes on."""

    __slots__ = ("earliest", "end", "held", "next", "number")

    def __init__(self, number: int, earliest: int, start: int, end: int) -> None:
        self.number = number
        self.earliest = earliest
        self.next = start
        self.end = end
        self.held: deque[Record] = deque()


class MergedRead:
    """Reads all partitions from a time on, the earliest record first; up to the ends that they had when it began.

    Each partition keeps its order. Records whose time is before an earlier one's of their partition come behind that.
    """

    incomplete = False

    def __init__(self, store: Store, topic: str, from_ms: int, clock: IReactorTime) -> None:
        self._parts = _Parts(store, topic, clock)
        self._from_ms = from_ms
        self._heads: list[tuple[int, int]] = []
        """Heap of (time, partition) of each partition's first held record."""

    async def first(self, wait_seconds: float, max_bytes: int) -> Run | None:
        parts = self._parts
        await parts.start(lambda _earliest, end: end, from_ms=self._from_ms)
        await parts.wait(wait_seconds)
        await parts.each(self._fill)
        return await self.next(max_bytes)

    async def next(self, max_bytes: int) -> Run | None:
        heads = self._heads
        if not heads:
            return None
        _, number = heapq.heappop(heads)
        part = self._parts.by_number[number]
        records = [part.held.popleft()]
        max_bytes -= _size(records[0])
        while part.held and max_bytes > 0 and (not heads or (part.held[0].timestamp, number) < heads[0]):
            records.append(part.held.popleft())
            max_bytes -= _size(records[-1])
        await self._fill(part)
        return number, records

    async def more(self, wait_seconds: float, max_bytes: int) -> Run | None:
        return None

    async def _fill(self, part: _Part) -> None:
        """Reads on where nothing is held, and puts the partition among the heads."""
        while not part.held and part.next < part.end:
            part.held.extend(await self._parts.read(part))
        if part.held:
            heapq.heappush(self._heads, (part.held[0].timestamp, part.number))


class NewestRead:
    """Reads the newest records of all partitions together, in the order of their time."""

    incomplete = False

    def __init__(self, store: Store, topic: str, count: int, clock: IReactorTime) -> None:
        if count > MOST_LAST:
            raise InvalidParameter(f"last without a partition is at most {MOST_LAST}")
        self._parts = _Parts(store, topic, clock)
        self._count = count
        self._newest: list[tuple[tuple[int, int, int], Record]] = []
        """Heap by (time, partition, offset)."""
        self._size = 0
        self._oldest = (-1, -1, -1)
        """The newest key that was left out: all up to it are."""
        self._runs: deque[Run] = deque()
        self._too_large = False
        """Whether a record was left out for the size of those that were held."""

    async def first(self, wait_seconds: float, max_bytes: int) -> Run | None:
        parts, count = self._parts, self._count
        await parts.start(lambda earliest, end: max(earliest, end - count))
        await parts.wait(wait_seconds)
        bound = min(max_bytes, MERGED_BYTES)

        async def collect(part: _Part) -> None:
            found, low, earliest = 0, part.next, part.earliest
            while True:
                while part.next < part.end:
                    records = await parts.read(part)
                    found += len(records)
                    for record in records:
                        self._add(part.number, record, bound)
                if found >= count or low <= earliest:
                    return
                # invisible offsets among the last ones: further back
                part.end = low
                part.next = low = max(earliest, low - max(2 * (count - found), MOST_COUNTED))

        await parts.each(collect)
        self.incomplete = self._too_large and len(self._newest) < count
        for (_, partition, _), record in sorted(self._newest, key=lambda each: each[0]):
            if self._runs and self._runs[-1][0] == partition:
                self._runs[-1][1].append(record)
            else:
                self._runs.append((partition, [record]))
        return await self.next(max_bytes)

    async def next(self, max_bytes: int) -> Run | None:
        return self._runs.popleft() if self._runs else None

    async def more(self, wait_seconds: float, max_bytes: int) -> Run | None:
        return None

    def _add(self, partition: int, record: Record, bound: int) -> None:
        key = (record.timestamp, partition, record.offset)
        if key <= self._oldest:
            return
        heapq.heappush(self._newest, (key, record))
        self._size += _size(record)
        while (many := len(self._newest) > self._count) or (self._size > bound and len(self._newest) > 1):
            self._too_large = self._too_large or not many
            self._oldest, dropped = heapq.heappop(self._newest)
            self._size -= _size(dropped)


class _Parts:
    """The partitions of a merged read."""

    def __init__(self, store: Store, topic: str, clock: IReactorTime) -> None:
        self._store = store
        self._topic = topic
        self._clock = clock
        self.by_number: dict[int, _Part] = {}
        self._one_read_bytes = ONE_READ_BYTES

    async def start(self, start: Callable[[int, int], int], from_ms: int | None = None) -> None:
        """Finds each partition's start: ``start(earliest, end)``, or its first record at or after ``from_ms``."""
        store, topic = self._store, self._topic
        await store.topic(topic)
        earliest = await store.offsets(topic, "earliest" if from_ms is None else from_ms)
        ends = await store.offsets(topic, "latest")
        for number in sorted(earliest.keys() & ends.keys()):
            first, end = earliest[number], ends[number]
            place = start(first, end) if from_ms is None else min(first, end)
            self.by_number[number] = _Part(number, first, place, end)
        self._one_read_bytes = min(ONE_READ_BYTES, max(MERGED_BYTES // max(len(self.by_number), 1), 4096))

    async def wait(self, seconds: float) -> None:
        """Waits until there is something to read in one of them, but not for longer."""
        deadline = self._clock.seconds() + seconds
        while all(part.next >= part.end for part in self.by_number.values()):
            left = deadline - self._clock.seconds()
            if left <= 0:
                return
            await deferLater(self._clock, min(_LOOK_SECONDS, left))
            for number, end in (await self._store.offsets(self._topic, "latest")).items():
                part = self.by_number.setdefault(number, _Part(number, 0, 0, 0))
                part.end = end

    async def each(self, do: Callable[[_Part], Coroutine[Any, Any, None]]) -> None:
        """Does something with each partition, several at a time."""
        parts = [part for part in self.by_number.values() if part.next < part.end]

        async def some() -> None:
            while parts:
                await do(parts.pop())

        doing = [Deferred.fromCoroutine(some()) for _ in range(min(_READS_AT_ONCE, len(parts)))]
        await gathered(doing)

    async def read(self, part: _Part) -> list[Record]:
        """Reads on in one of them, up to its end; records that retention takes meanwhile are passed over."""
        try:
            fetched: Fetched = await self._store.read(
                self._topic, part.number, part.next, max_bytes=self._one_read_bytes, wait_seconds=0
            )
        except OffsetOutOfRange:
            earliest: Mapping[int, int] = await self._store.offsets(self._topic, "earliest")
            if earliest.get(part.number, 0) <= part.next:
                raise
            part.next = earliest[part.number]
            return []
        records = [record for record in fetched.records if record.offset < part.end]
        part.next = fetched.next_offset
        if part.next >= fetched.end:
            # the records up to the end cannot be seen: an open transaction, or a topic made anew
            part.end = min(part.end, part.next)
        return records


def _size(record: Record) -> int:
    return len(record.value or b"") + len(record.key or b"")
