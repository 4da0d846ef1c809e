"""Reads one partition ahead of its reader, within bounds."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from kateway.errors import KatewayError
from kateway.model import Record
from kateway.storage.embedded import database
from kateway.storage.embedded.partition import Partition
from kateway.storage.interface import Reset
from kateway.storage.sqlite.records import Slice
from kateway.storage.sqlite.thread import Reactor, SqlThread

FIRST_WINDOW_BYTES = 32768
"""Of all partitions that are given together."""
LEAST_WINDOW_BYTES = 4096
RETRY_SECONDS = 1.0
IDLE_SECONDS = 2.0


class Cursor:
    """A position in a partition, with prefetched records.

    The window of bytes read ahead starts small, doubles while it is emptied within a quarter of a second and halves
    while that takes longer than two: a fast reader is never kept waiting, thousands of slow ones cost little.
    Records that are not taken for ``IDLE_SECONDS`` are dropped, and read again with the next ``take``.
    """

    def __init__(
        self,
        reactor: Reactor,
        reader: SqlThread,
        partition: Partition,
        offset: int,
        reset: Reset,
        max_window_bytes: int,
        on_readable: Callable[[int], None],
        on_failed: Callable[[KatewayError], None],
        shared_by: int = 1,
    ) -> None:
        """``shared_by``: how many partitions the same subscriber was given together."""
        self._reactor = reactor
        self._reader = reader
        self._partition = partition
        self._reset = reset
        self._max_window = max_window_bytes
        self._least_window = min(max(FIRST_WINDOW_BYTES // shared_by, LEAST_WINDOW_BYTES), max_window_bytes)
        self._window = self._least_window
        self._on_readable = on_readable
        self._on_failed = on_failed
        self._slices: list[Slice] = []
        self._held = 0
        self._next = offset
        self._read_to = 0
        """The end of the records read: past the partition's end where the news of the write is still on its way."""
        self._fetching: Deferred[Slice | None] | None = None
        self._fetched_at = float("-inf")
        self._retry: IDelayedCall | None = None
        self._look: IDelayedCall | None = None
        # of the last take, while something is held
        self._taken_at = 0.0
        self._asleep = False
        # the held records were dropped: nothing is read until the next take
        self._closed = False
        self.position = offset
        """The next offset that ``take`` looks at."""
        partition.followers.add(self._follow)

    @property
    def held_bytes(self) -> int:
        """Bytes prefetched."""
        return self._held

    @property
    def lag(self) -> int:
        return max(0, self._partition.end - self.position)

    def start(self) -> None:
        """Begins to read ahead."""
        self._fetch()

    def take(self, max_records: int, max_bytes: int) -> list[Record]:
        """Takes the records at hand, within both bounds, but at least one."""
        records: list[Record] = []
        slices = self._slices
        self._taken_at = self._reactor.seconds()
        self._asleep = False
        while slices and len(records) < max_records and (max_bytes > 0 or not records):
            first = slices[0]
            before = first.left
            max_bytes -= first.take(records, max_records, max_bytes)
            self._held -= before - first.left
            self.position = first.offset
            if first.left:
                break
            del slices[0]
            if slices:
                self.position = slices[0].offset
        if slices:
            self._on_readable(self._partition.number)
        if self._held * 2 < self._window:
            self._fetch()
        return records

    def seek(self, offset: int) -> None:
        """Goes elsewhere; drops the prefetched records."""
        self._drop()
        self._asleep = False
        self.position = self._next = offset
        self._fetch()

    def pause(self) -> None:
        """Drops the prefetched records; nothing is read until the next ``take``."""
        self._drop()
        self._next = self.position
        self._window = self._least_window
        self._asleep = True

    def close(self) -> None:
        """Reads no further and drops the prefetched records; ``position`` stays."""
        self._closed = True
        self._drop()
        self._partition.followers.discard(self._follow)
        for call in (self._retry, self._look):
            if call is not None:
                call.cancel()
        self._retry = self._look = None

    def _drop(self) -> None:
        self._slices.clear()
        self._held = 0
        fetching, self._fetching = self._fetching, None
        if fetching is not None:
            fetching.cancel()

    def _fetch(self) -> None:
        if self._closed or self._asleep or self._fetching is not None or self._retry is not None:
            return
        partition = self._partition
        if not partition.earliest <= self._next <= max(partition.end, self._read_to):
            # the held records lie before it and are still good
            self._next = partition.earliest if self._reset == "earliest" else partition.end
        if not self._slices:
            self.position = self._next
        if self._next >= partition.end:
            return
        now = self._reactor.seconds()
        if now - self._fetched_at < 0.25:
            self._window = min(self._window * 2, self._max_window)
        elif now - self._fetched_at > 2:
            self._window = max(self._window // 2, self._least_window)
        self._fetched_at = now
        self._fetching = self._reader.call(database.read, partition.id, self._next, self._window - self._held)
        self._fetching.addCallbacks(self._got, self._not_got)

    def _got(self, found: Slice | None) -> None:
        self._fetching = None
        if found is None:
            # retention is just taking it, and will say so
            self._retry = self._reactor.callLater(RETRY_SECONDS, self._again)
        else:
            self._append(found)
            if self._held * 2 < self._window:
                self._fetch()

    def _not_got(self, failure: Failure) -> None:
        if self._fetching is None:
            return  # cancelled by us
        self._fetching = None
        self._retry = self._reactor.callLater(RETRY_SECONDS, self._again)
        self._on_failed(database.translate(failure.value))

    def _again(self) -> None:
        self._retry = None
        self._fetch()

    def _let_go(self) -> None:
        """Drops records that are not taken; the next ``take`` finds none, and those read then are announced as new."""
        self._look = None
        if not self._slices:
            return
        idle = self._reactor.seconds() - self._taken_at
        if idle >= IDLE_SECONDS:
            self.pause()
        else:
            self._look = self._reactor.callLater(IDLE_SECONDS - idle, self._let_go)

    def _append(self, found: Slice) -> None:
        was_empty = not self._slices
        if was_empty:
            self.position = found.offset
            self._taken_at = self._reactor.seconds()
            if self._look is None:
                self._look = self._reactor.callLater(IDLE_SECONDS, self._let_go)
        self._slices.append(found)
        self._held += found.left
        self._next = self._read_to = found.end
        if was_empty:
            self._on_readable(self._partition.number)

    def _follow(self, first: int, count: int, data: bytes) -> None:
        """New records were written: takes them from memory where they are the next ones and fit, else has them
        read.
        """
        if self._asleep:
            return
        if self._fetching is None and first == self._next and self._held + len(data) <= self._window:
            self._append(Slice(data, first, first + count))
        elif self._held * 2 < self._window:
            self._fetch()
