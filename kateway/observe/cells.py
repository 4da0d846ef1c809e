"""Counters and histograms of the hot path: counting never allocates and never fails.

A plain ``counter.value += n`` at the place that counts is all there is; what a cell means is known to ``series``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple


class Counter:
    """A sum that only grows. Added to where it is counted: ``counter.value += n``."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0.0


class Example(NamedTuple):
    """A value whose trace is known."""

    value: float
    trace_id: str
    at: float
    """Seconds since the epoch."""


class Histogram:
    """How many values were at most each of some bounds, and their sum."""

    __slots__ = ("bounds", "counts", "examples", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = list(bounds)
        self.counts: list[int] = [0] * (len(bounds) + 1)
        """By the first bound that a value does not exceed; the last one has those beyond all."""
        self.total: float = 0.0
        self.examples: dict[int, Example] | None = None
        """The last traced value of each bucket; ``None`` where none was."""

    def observe(self, value: float, times: int = 1) -> None:
        """Counts a value; ``times``: of so many at once. A clock that went back gives no negative value."""
        if value > 0.0:
            self.counts[bisect_left(self.bounds, value)] += times
            self.total += value * times
        else:
            self.counts[0] += times

    def keep_example(self, value: float, trace_id: str, at: float) -> None:
        """Keeps a value that is counted as the example of its bucket."""
        if self.examples is None:
            self.examples = {}
        self.examples[bisect_left(self.bounds, value)] = Example(value, trace_id, at)
