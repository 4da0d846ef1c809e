"""Buffers the fetched records of one partition until they are taken: batches as they came, decoded one at a time, and
no more of one than is taken. No I/O.

``limit`` bounds the bytes kept. It starts small and doubles each time that the reader takes everything and as much
comes again, so that a fast reader gets whole megabytes and many slow ones cost little.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

from kateway.errors import CorruptRecords
from kateway.model import Record
from kateway.storage.kafka.protocol.record_batches import BatchReader, RecordBatch, batches

LEAST_DECODED = 64
"""Records at once, where fewer are taken."""


class Prefetch:
    """One partition's position and the records at hand behind it."""

    __slots__ = (
        "_after", "_at", "_batches", "_drained", "_ends", "_head", "_head_bytes", "_least", "_most", "_plain",
        "_records", "_whole_bytes", "asleep", "changes", "end", "held_bytes", "limit", "next_fetch", "partition",
        "position", "taken_at",
    )  # fmt: skip

    def __init__(self, partition: int, limit: int, most: int) -> None:
        self.partition = partition
        self.position: int | None = None
        """The next offset that ``take`` looks at."""
        self.next_fetch = 0
        """The next offset to ask a broker for."""
        self.end: int | None = None
        """The end of the readable records, as last heard."""
        self.limit = limit
        self.held_bytes = 0
        self.taken_at = 0.0
        """When something was last taken, or came where there was nothing, by the reader's clock."""
        self.asleep = False
        """The records at hand were dropped, because none was taken: none is fetched until the next ``take``."""
        self.changes: set[int] = set()
        """Partitions whose part of the next fetch request changes; the fetcher puts its own set here."""
        self._least = limit
        self._most = most
        self._batches: list[RecordBatch] = []
        self._records: list[Record] = []
        """Records of the head batch, those not taken from ``_at`` on."""
        self._at = 0
        self._head: BatchReader | None = None
        """What of the head batch is not decoded yet."""
        self._plain = False
        """Whether each offset of the head batch has a record."""
        self._whole_bytes: int | None = None
        """The head batch's bytes, where they are not less than its keys and values, and nothing of it is decoded."""
        self._ends: list[int] | None = None
        self._after = 0
        """Where the position goes when ``_records`` are all taken."""
        self._head_bytes = 0
        self._drained = False

    def start_at(self, offset: int) -> None:
        """Drops the records at hand and goes on from ``offset``."""
        self._batches.clear()
        self._clear_head()
        self.held_bytes = 0
        self._drained = self.asleep = False
        self.position = self.next_fetch = offset
        self.changes.add(self.partition)

    @property
    def readable(self) -> bool:
        """Whether ``take`` will give something."""
        return self._at < len(self._records) or self._head is not None or bool(self._batches)

    @property
    def wants(self) -> int:
        """How many bytes to ask for; 0: none, enough is at hand."""
        if self.position is None or self.asleep or self.held_bytes * 2 > self.limit:
            return 0
        return self.limit - self.held_bytes

    def fetched(self, blob: bytes, aborted: list[tuple[int, int]]) -> None:
        """Takes in the bytes fetched from ``next_fetch``. ``CorruptRecords`` changes nothing."""
        assert self.position is not None
        found = [batch for batch in batches(blob, aborted) if batch.last_offset >= self.next_fetch]
        if not found:
            return
        drained, was_empty = self._drained, not self.readable
        if was_empty and drained and len(blob) * 2 > self.limit:
            self.limit = min(self._most, self.limit * 2)
        self._drained = False
        self.changes.add(self.partition)
        self.next_fetch = found[-1].last_offset + 1
        for batch in found:
            self._batches.append(batch)
            self.held_bytes += len(batch.data)
        if was_empty:
            self._settle()

    def take(self, max_records: int, max_bytes: int) -> list[Record]:
        """The next records: at least one if any is at hand. ``CorruptRecords`` if the next batch cannot be decoded.

        Hot: a batch that fits is handed over as the list that it was decoded to, without a look at its records.
        """
        taken: list[Record] = []
        self.changes.add(self.partition)
        while self.readable and (not taken or (max_records > 0 and max_bytes > 0)):
            if self._at >= len(self._records):
                try:
                    self._open(max_records)
                except CorruptRecords:
                    if not taken:
                        raise
                    break  # first the sound ones
                continue
            left = len(self._records) - self._at
            if self._at == 0 and left <= max_records and self._head_bytes <= max_bytes:
                part, size = self._records, self._head_bytes
                self._finish_head()
            else:
                count, size = self._that_fit(max_records, max_bytes, at_least_one=not taken)
                if not count:
                    break
                part = self._records[self._at : self._at + count]
                self._at += count
                if self._at < len(self._records):
                    self.position = self._records[self._at].offset
                else:
                    self._finish_head()
            if taken:
                taken += part
            else:
                taken = part
            max_records -= len(part)
            max_bytes -= size
        if not self.readable:
            self._drained = True
        return taken

    def let_go(self) -> None:
        """Drops records that are not taken; the next ``take`` has them fetched again."""
        assert self.position is not None
        self.start_at(self.position)
        self.shrink()
        self.asleep = True

    def wake(self) -> None:
        """Fetches again: there was a ``take``."""
        self.asleep = False
        self.changes.add(self.partition)

    def lose_place(self) -> None:
        """The position is not in the partition any more."""
        self.position = None
        self.changes.add(self.partition)

    def shrink(self) -> None:
        """Shrinks to the first size: nothing was taken for a while."""
        self.limit = self._least
        self._drained = False
        self.changes.add(self.partition)

    @property
    def grown(self) -> bool:
        """Whether more is asked for than at the start."""
        return self.limit > self._least

    # --- the head batch ----------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Moves the position past invisible records, so that a visible one is at the head."""
        while self._at >= len(self._records):
            if self._head is not None:
                if self._plain:
                    return
            elif self._batches:
                head = self._batches[0]
                assert self.position is not None
                if not head.hidden and _is_plain(head):
                    self.position = max(self.position, head.base_offset)
                    return
            else:
                return
            try:
                self._open(LEAST_DECODED)
            except CorruptRecords:
                return  # ``take`` will say so

    def _open(self, count: int) -> None:
        """Decodes the next records, so many where there are: of the next batch where nothing is left of the first.
        ``CorruptRecords`` leaves everything where it is.
        """
        if self._head is None:
            self._open_batch()
        if self._head is not None:
            self._decode(self._head, max(count, LEAST_DECODED))

    def _open_batch(self) -> None:
        batch = self._batches[0]
        assert self.position is not None
        reader = None if batch.hidden else BatchReader(batch, self.position)
        del self._batches[0]
        self._clear_head()
        self._after = max(self.position, batch.last_offset + 1)
        self._plain = _is_plain(batch)
        size = len(batch.data)
        self.held_bytes -= size
        if reader is not None and reader.left:
            self._head = reader
            # an uncompressed batch is larger than its keys and values together: no need to count those
            self._whole_bytes = None if batch.magic < 2 or batch.data[22] & 0x07 else size
        else:
            self.position = self._after

    def _decode(self, head: BatchReader, count: int) -> None:
        records = head.take(count)
        self._records, self._at, self._ends = records, 0, None
        if head.left:
            self._whole_bytes = None
        else:
            self._head = None
            if records:
                self._after = max(self._after, records[-1].offset + 1)
        if records:
            self.position = records[0].offset
            self._head_bytes = self._count_ends()[-1] if self._whole_bytes is None else self._whole_bytes
        elif self._head is None:
            self.position = self._after

    def _finish_head(self) -> None:
        """All decoded records are taken."""
        if self._head is None:
            self.position = self._after
            self._clear_head()
        else:
            self.position = self._records[-1].offset + 1
            self._records, self._at, self._ends, self._head_bytes = [], 0, None, 0
        self._settle()

    def _clear_head(self) -> None:
        self._head = None
        self._records, self._at, self._ends, self._head_bytes = [], 0, None, 0

    def _count_ends(self) -> list[int]:
        if self._ends is None:
            sizes = [len(record.key or b"") + len(record.value or b"") for record in self._records]
            self._ends = list(accumulate(sizes))
        return self._ends

    def _that_fit(self, max_records: int, max_bytes: int, *, at_least_one: bool) -> tuple[int, int]:
        """How many of the head's records fit, and how many bytes of keys and values that is."""
        ends = self._count_ends()
        before = ends[self._at - 1] if self._at else 0
        fitting = bisect_right(ends, before + max_bytes, lo=self._at) - self._at
        count = max(min(fitting, max_records), 1 if at_least_one else 0)
        return count, (ends[self._at + count - 1] - before if count else 0)


def _is_plain(batch: RecordBatch) -> bool:
    return batch.magic == 2 and batch.record_count == batch.last_offset - batch.base_offset + 1
