"""Keeps a few series of one object over time: the last samples fine, the older ones as means of longer steps.

All of it is one array. A slot's place follows from its number, the time since the epoch in steps, so that a gap stays a
gap. A longer step's mean is made when its time is over; until then it is worked out where it is read.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import attrs

from kateway.observe.levels import NOTHING, UNKNOWN, figure, level


class Tier(NamedTuple):
    """So many slots of one step."""

    step_seconds: int
    slots: int

    @property
    def seconds(self) -> int:
        """How far it reaches back."""
        return self.step_seconds * self.slots


@attrs.frozen
class Shape:
    """What rings keep. The steps of later tiers are multiples of the first one's, which reaches over the longest."""

    tiers: tuple[Tier, ...]
    series: tuple[str, ...]
    peaks: tuple[str, ...] = ()
    """Series whose highest sample is kept too, in the last tier."""
    bases: tuple[range, ...] = attrs.field(init=False, repr=False)
    """Where the slots of each series begin, by tier; behind them those of the peaks."""

    @bases.default
    def _bases(self) -> tuple[range, ...]:
        found, start = [], 0
        counts = [*((tier.slots, len(self.series)) for tier in self.tiers), (self.tiers[-1].slots, len(self.peaks))]
        for slots, count in counts:
            found.append(range(start, start + slots * count, slots))
            start += slots * count
        return tuple(found)

    @property
    def slots(self) -> int:
        """How many there are in all."""
        return len(self.series) * sum(tier.slots for tier in self.tiers) + len(self.peaks) * self.tiers[-1].slots

    def tier(self, seconds: float) -> int:
        """Returns the finest tier that reaches so far back, else the last."""
        found = (place for place, tier in enumerate(self.tiers) if tier.seconds >= seconds)
        return next(found, len(self.tiers) - 1)


class Points(NamedTuple):
    """Figures in their order, one a step."""

    step_seconds: int
    start: int
    """The first one's time, in seconds since the epoch."""
    figures: list[float | None]


class Rings:
    """The series of one object."""

    __slots__ = ("active_at", "data", "last", "shape")

    def __init__(self, shape: Shape, data: array[int] | None = None, last: int = 0, active_at: float = 0.0) -> None:
        self.shape = shape
        self.data = array("H", bytes(2 * shape.slots)) if data is None else data
        self.last = last
        """The number of the last sample's slot in the first tier; 0 before the first."""
        self.active_at = active_at
        """When a figure was last other than nothing."""

    def record(self, at: float, figures: Sequence[float | None]) -> None:
        """Keeps the sample of a time; a second one of the same slot takes its place."""
        tier = self.shape.tiers[0]
        number = int(at // tier.step_seconds)
        if number < self.last:
            # the clock was set back: what is ahead of it never was
            self._forget(0, number + 1, self.last)
        elif number > self.last and self.last:
            self._roll_up(number)
            self._forget(0, self.last + 1, number - 1)
        self.last = number
        data = self.data
        place = number % tier.slots
        for found in figures:
            data[place] = level(found)
            place += tier.slots
        if any(figures):
            self.active_at = at

    def points(self, series: str, tier: int, at: float, seconds: float, *, peak: bool = False) -> Points:
        """Returns a series over the time before ``at``, as far as the tier reaches. ``peak``: the highest samples,
        which the last tier alone has beside the first.
        """
        shape = self.shape
        step, slots = shape.tiers[tier]
        count = max(int(seconds // step), 1)
        end = int(at // step)
        newest = self.last * shape.tiers[0].step_seconds // step
        if abs(newest - end) == 1:
            end = newest  # the sample of now is still to come, or was taken a little early
        column = shape.series.index(series)
        if peak and tier and not (series in shape.peaks and tier == len(shape.tiers) - 1):
            return Points(step, (end - count + 1) * step, [None] * count)
        base = self._peaks(series) if peak and tier else shape.bases[tier][column]
        figures: list[float | None] = []
        for number in range(end - count + 1, end + 1):
            if number > newest or number <= newest - slots:
                figures.append(None)
            elif number == newest and tier:
                figures.append(self._highest(column, tier, number) if peak else self._mean(column, tier, number))
            else:
                figures.append(figure(self.data[base + number % slots]))
        return Points(step, (end - count + 1) * step, figures)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _peaks(self, series: str) -> int:
        return self.shape.bases[-1][self.shape.peaks.index(series)]

    def _roll_up(self, number: int) -> None:
        """Makes the means of the longer steps that end before ``number``."""
        shape = self.shape
        first = shape.tiers[0].step_seconds
        for tier in range(1, len(shape.tiers)):
            step, slots = shape.tiers[tier]
            over, now = self.last * first // step, number * first // step
            if now == over:
                continue
            for column, base in enumerate(shape.bases[tier]):
                self.data[base + over % slots] = level(self._mean(column, tier, over))
            if tier == len(shape.tiers) - 1:
                for series in shape.peaks:
                    highest = level(self._highest(shape.series.index(series), tier, over))
                    self.data[self._peaks(series) + over % slots] = highest
            self._forget(tier, over + 1, now - 1)

    def _samples(self, column: int, tier: int, number: int) -> list[int]:
        """The levels of the samples that a longer step has up to now."""
        first, slots = self.shape.tiers[0]
        step = self.shape.tiers[tier].step_seconds
        base = self.shape.bases[0][column]
        begin = max(number * step // first, self.last - slots + 1)
        end = min((number + 1) * step // first, self.last + 1)
        start, stop = begin % slots, (end - 1) % slots + 1
        if begin >= end:
            return []
        data = self.data
        if start < stop:
            return data[base + start : base + stop].tolist()
        return data[base + start : base + slots].tolist() + data[base : base + stop].tolist()

    def _mean(self, column: int, tier: int, number: int) -> float | None:
        samples = self._samples(column, tier, number)
        nothing, unknown = samples.count(NOTHING), samples.count(UNKNOWN)
        known = len(samples) - unknown
        if not known:
            return None
        if nothing == known:
            return 0.0
        return sum(figure(sample) or 0.0 for sample in samples if sample > NOTHING) / known

    def _highest(self, column: int, tier: int, number: int) -> float | None:
        return figure(max(self._samples(column, tier, number), default=UNKNOWN))

    def _forget(self, tier: int, first: int, last: int) -> None:
        """Makes the slots from one number to another unknown."""
        slots = self.shape.tiers[tier].slots
        numbers = range(max(first, last - slots + 1), last + 1)
        if not numbers:
            return
        bases = [*self.shape.bases[tier]]
        if tier == len(self.shape.tiers) - 1:
            bases += self.shape.bases[-1]
        for number in numbers:
            for base in bases:
                self.data[base + number % slots] = UNKNOWN
