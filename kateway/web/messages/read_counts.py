"""Counts what one stream sends, and for how long its client had no room for more."""

from __future__ import annotations

from collections.abc import Callable

from kateway.core.groups.group_reader import GroupReader
from kateway.observe.bundles import GroupCells


class ReadCounts:
    """One stream's share of its group's cells; ``seconds`` is the reactor's clock."""

    __slots__ = ("_blocked_at", "_cells", "_reader", "_seconds")

    def __init__(self, cells: GroupCells, reader: GroupReader, seconds: Callable[[], float]) -> None:
        self._cells = cells
        self._reader = reader
        reader.blocked_seconds = 0.0
        self._seconds = seconds
        self._blocked_at: float | None = None
        """Since when there has been no room, as far as that is not counted yet."""

    def sent(self, records: int, size: int, attempts: list[int] | None) -> None:
        """Counts a batch: its records, its bytes, and how many were sent before. So there was room."""
        cells = self._cells
        cells.records.value += records
        cells.bytes.value += size
        if attempts is not None:
            cells.redelivered.value += sum([attempt > 1 for attempt in attempts])
        if self._blocked_at is not None:
            self.blocked(False)

    def blocked(self, blocked: bool) -> None:
        """Notes whether there is room; counts the time in which there was none."""
        if blocked is (self._blocked_at is None):
            self.count_blocked()
            self._blocked_at = self._seconds() if blocked else None

    def count_blocked(self) -> None:
        """Counts the time up to now in which there has been no room."""
        if self._blocked_at is not None:
            now = self._seconds()
            seconds = max(now - self._blocked_at, 0.0)
            self._cells.blocked.value += seconds
            self._reader.blocked_seconds = (self._reader.blocked_seconds or 0.0) + seconds
            self._blocked_at = now
