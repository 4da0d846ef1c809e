"""Counts requests by operation: their statuses, the time to their first byte, and those refused unlooked at."""

from __future__ import annotations

from bisect import bisect_left

from kateway.observe import families
from kateway.observe.cells import Counter, Histogram
from kateway.observe.families import OPERATIONS
from kateway.observe.series import Series

CLIENT_GONE = 499
"""The status of a request that got no response, as in the access log."""


class OperationCells:
    """The cells of the requests of one operation."""

    __slots__ = ("_series", "bounds", "codes", "duration", "name")

    def __init__(self, series: Series, name: str) -> None:
        self._series = series
        self.name = name
        self.duration: Histogram = series.histogram(families.HTTP_DURATION, (name,))
        self.bounds: list[float] = self.duration.bounds
        self.codes: dict[int, Counter] = {}

    def code(self, status: int) -> Counter:
        """Makes the counter of a status that comes for the first time."""
        # 0: given up before a response was begun
        labels = self.name, str(status or CLIENT_GONE)
        counter = self.codes[status] = self._series.counter(families.HTTP_REQUESTS, labels)
        return counter


class HttpCells:
    """The cells of every listener's requests."""

    __slots__ = ("_operations", "_series")

    def __init__(self, series: Series) -> None:
        self._series = series
        self._operations: dict[str, OperationCells] = {name: OperationCells(series, name) for name in OPERATIONS}

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """Counts a response that was written whole, so many seconds after its request's first byte. Hot: written out,
        a call less for every request.
        """
        cells = self._operations[operation]
        duration = cells.duration
        if seconds > 0.0:
            duration.counts[bisect_left(cells.bounds, seconds)] += 1
            duration.total += seconds
        else:
            duration.counts[0] += 1
        counter = cells.codes.get(status)
        if counter is None:
            counter = cells.code(status)
        counter.value += 1

    def began(self, operation: str, seconds: float) -> None:
        """Counts the first byte of a response that goes on."""
        self._operations[operation].duration.observe(seconds)

    def ended(self, operation: str, status: int) -> None:
        """Counts a request that is over: its response has gone on, or there is none."""
        cells = self._operations[operation]
        counter = cells.codes.get(status)
        if counter is None:
            counter = cells.code(status)
        counter.value += 1

    def rejected(self, reason: str) -> None:
        """Counts a request or a connection that was refused before it was looked at."""
        self._series.counter(families.HTTP_REJECTED, (reason,)).value += 1
