"""Decides when an elastic topic gets more partitions: samples of its load in, decisions out. No I/O and no clock."""

from __future__ import annotations

from typing import Literal, NamedTuple

import attrs

from kateway.registry.interface import Elastic

MOST_MISSED = 3
"""So many samples in a row may be missing before a load counts as interrupted."""

Action = Literal["grow", "stay"]


class Sample(NamedTuple):
    """A topic's load at a moment. ``None``: it could not be found out."""

    at: float
    """In seconds, of any clock that goes on evenly."""
    bytes_per_second: float | None
    readers: int | None
    """Of the group that has the most."""


class Decision(NamedTuple):
    """What is to be done now, and why."""

    action: Action
    partitions: int
    """As many as there shall be."""
    reason: str
    over_seconds: float = 0.0
    """For how long the load has been above its target without a break."""


def over(sample: Sample, partitions: int, rules: Elastic) -> str | None:
    """Says which target a load is above; empty: none; ``None``: that is not known."""
    rate, readers = sample.bytes_per_second, sample.readers
    most = rules.target_bytes_per_second
    if most is not None and rate is not None and rate > most * partitions:
        return f"{rate:.0f} bytes/s are more than {most:g} for each of {partitions} partitions"
    most = rules.target_readers_per_partition
    if most is not None and readers is not None and readers > most * partitions:
        return f"{readers} readers of a group are more than {most:g} for each of {partitions} partitions"
    known = (rules.target_bytes_per_second is None or rate is not None) and (
        rules.target_readers_per_partition is None or readers is not None
    )
    return "" if known else None


@attrs.define
class Controller:
    """Watches one topic. ``sustained_seconds``: a load has to be above its target for so long; ``interval_seconds``:
    a sample is due so often.
    """

    sustained_seconds: float
    interval_seconds: float
    _since: float | None = None
    _last_over: float = 0.0
    _partitions: int = 0

    def decide(self, sample: Sample, partitions: int, rules: Elastic, since_change: float | None) -> Decision:
        """Takes a sample. ``since_change``: seconds since the partitions last changed, or since a change was given up;
        ``None``: they never did.
        """
        if partitions != self._partitions:
            # the load of each partition is another one now
            self._since, self._partitions = None, partitions
        why = over(sample, partitions, rules)
        if self._since is not None and sample.at - self._last_over > MOST_MISSED * self.interval_seconds:
            self._since = None
        if why is None:
            return Decision("stay", partitions, "the load is not known just now", self._seconds(self._last_over))
        if not why:
            self._since = None
            return Decision("stay", partitions, "the load is within its target")
        if self._since is None:
            self._since = sample.at
        self._last_over = sample.at
        return self._above(why, partitions, rules, since_change)

    def _above(self, why: str, partitions: int, rules: Elastic, since_change: float | None) -> Decision:
        seconds = self._seconds(self._last_over)
        if partitions >= rules.max_partitions:
            return Decision("stay", partitions, f"{why}, but max_partitions are reached", seconds)
        if seconds < self.sustained_seconds:
            need = f"{why}, for {seconds:.0f} s of {self.sustained_seconds:g}"
            return Decision("stay", partitions, need, seconds)
        if since_change is not None and since_change < rules.cooldown_seconds:
            left = rules.cooldown_seconds - since_change
            return Decision("stay", partitions, f"{why}, but cooldown_seconds are over in {left:.0f} s", seconds)
        # twice as many, and not just enough: each growth holds keys back, so there should be few
        return Decision("grow", min(2 * partitions, rules.max_partitions), why, seconds)

    def _seconds(self, until: float) -> float:
        return 0.0 if self._since is None else max(until - self._since, 0.0)
