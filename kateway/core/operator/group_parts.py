"""Describes a group as one process knows it, and adds up what several processes of a gateway know of it.

A process knows the partitions that it holds, its own readers, and what it counted itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kateway.core.operator.naming import GroupName
from kateway.observe.group_watch import LEAST_GROWTH_SECONDS
from kateway.observe.verdicts import Poison, Situation

READING = "reading"
LINGERING = "lingering"
NOT_READ_HERE = "not-read-here"


class Before(NamedTuple):
    """How far behind a group was about a minute ago."""

    seconds: float
    """So long ago."""
    lag: int


class GroupPart(NamedTuple):
    """What one process knows of a group, or all that were added up; ``None`` is unknown."""

    name: GroupName
    dead: bool
    state: str
    readers: int
    partitions: int = 0
    """How many it holds."""
    total: int | None = None
    """How many the topic has."""
    lag: int | None = None
    """Of the partitions that it holds."""
    lag_age_seconds: float | None = None
    oldest_seconds: float | None = None
    unacknowledged: int = 0
    oldest_unacknowledged_seconds: float | None = None
    rebalancing: bool = False
    last_error: str | None = None
    rates: Mapping[str, float] | None = None
    """``None`` where it is not watched."""
    before: Before | None = None
    blocked_share: float | None = None
    situation: Situation | None = None
    looked: bool = False
    """Whether a look at it was taken since it is read."""

    @property
    def whole_lag(self) -> int | None:
        """How far it is behind in all partitions."""
        return self.lag if not self.read or self.partitions == self.total else None

    @property
    def read(self) -> bool:
        """Whether the group has a membership there."""
        return self.state != NOT_READ_HERE


def from_table(table: Mapping[str, Any]) -> GroupPart:
    """Reads a part that came as JSON."""
    found = dict(table)
    situation, before = found.get("situation"), found.get("before")
    if situation is not None:
        poison = situation["poison"]
        situation = Situation(**{**situation, "poison": None if poison is None else Poison(*poison)})
    return GroupPart(
        **{
            **found,
            "name": GroupName(*found["name"]),
            "before": None if before is None else Before(*before),
            "situation": situation,
        }
    )


def to_table(part: GroupPart) -> dict[str, Any]:
    """Writes a part as JSON takes it."""
    situation = None
    if part.situation is not None:
        poison = part.situation.poison
        situation = {**part.situation._asdict(), "poison": None if poison is None else list(poison)}
    before = None if part.before is None else list(part.before)
    return {**part._asdict(), "name": list(part.name), "before": before, "situation": situation}


def together(parts: Sequence[GroupPart]) -> GroupPart:
    """Adds up what the processes know of one group."""
    if len(parts) == 1:
        return parts[0]
    reading = [part for part in parts if part.read]
    # what a process remembers of a group that it reads no more is older than what those know that read it
    asked = reading or sorted(parts, key=lambda part: (part.lag is None, part.lag_age_seconds or 0.0))[:1]
    readers = sum(part.readers for part in parts)
    watched = [part.rates for part in parts if part.rates is not None]
    lag = _sum([part.lag for part in asked])
    befores = [part.before for part in asked]
    situations = [part.situation for part in parts if part.situation is not None]
    before = None
    if all(each is not None for each in befores):
        known = [each for each in befores if each is not None]
        before = Before(sum(each.seconds for each in known) / len(known), sum(each.lag for each in known))
    return GroupPart(
        parts[0].name,
        parts[0].dead,
        READING if readers else LINGERING if reading else NOT_READ_HERE,
        readers,
        sum(part.partitions for part in reading),
        max((part.total for part in parts if part.total is not None), default=None),
        lag,
        _highest([part.lag_age_seconds for part in asked]),
        _highest([part.oldest_seconds for part in asked]),
        sum(part.unacknowledged for part in parts),
        _highest([part.oldest_unacknowledged_seconds for part in parts]),
        any(part.rebalancing for part in parts),
        next((part.last_error for part in parts if part.last_error is not None), None),
        {name: sum(rates[name] for rates in watched) for name in watched[0]} if watched else None,
        before,
        _mean_of_readers(parts),
        _situation(situations, lag, before, _mean_of_readers(parts)) if situations else None,
        any(part.looked for part in parts),
    )


def drain_seconds(lag: int | None, before: Before | None) -> float | None:
    """When nothing is left at the pace of the last minute; ``None`` where the lag of now is not known, or is not less
    than it was.
    """
    if lag == 0:
        return 0.0
    if lag is None or before is None:
        return None
    return lag * before.seconds / (before.lag - lag) if lag < before.lag and before.seconds > 0 else None


def growth(lag: int | None, before: Before | None) -> float | None:
    """How many records a second it falls further behind; ``None`` where that is not known."""
    if lag is None or before is None or before.seconds < LEAST_GROWTH_SECONDS:
        return None
    return (lag - before.lag) / before.seconds


def _situation(found: Sequence[Situation], lag: int | None, before: Before | None, blocked: float | None) -> Situation:
    """The situation of the group as a whole."""

    def known(of: Callable[[Situation], Any]) -> list[Any]:
        return [value for value in map(of, found) if value is not None]

    readers = known(lambda each: each.readers)
    unread = known(lambda each: each.unread_seconds)
    poisons = known(lambda each: each.poison)
    return Situation(
        lag=lag if lag is not None else _total(known(lambda each: each.lag)),
        readers=sum(readers) if any(readers) or len(readers) == len(found) else None,
        unread_seconds=min(unread) if len(unread) == len(found) else None,
        unacknowledged=_total(known(lambda each: each.unacknowledged)),
        delivered=_total(known(lambda each: each.delivered)),
        poison=max(poisons, key=lambda each: int(each.attempts), default=None),
        throttled=_total(known(lambda each: each.throttled)),
        store_errors=_total(known(lambda each: each.store_errors)),
        breaker_open=any(each.breaker_open for each in found),
        last_error=next(iter(known(lambda each: each.last_error)), None),
        blocked_share=blocked,
        ended=_total(known(lambda each: each.ended)),
        expired=_total(known(lambda each: each.expired)),
        busy=all(known(lambda each: each.busy)) if known(lambda each: each.busy) else None,
        rising_minutes=max(known(lambda each: each.rising_minutes), default=None),
        drain_seconds=drain_seconds(lag, before),
        growth=growth(lag, before),
    )


def _mean_of_readers(parts: Sequence[GroupPart]) -> float | None:
    shares = [(part.blocked_share, max(part.readers, 1)) for part in parts if part.blocked_share is not None]
    return sum(share * weight for share, weight in shares) / sum(weight for _, weight in shares) if shares else None


def _sum(found: Sequence[int | None]) -> int | None:
    """The sum; ``None`` where one of them is not known."""
    return None if not found or None in found else sum(each for each in found if each is not None)


def _total(found: Sequence[Any]) -> Any:
    """The sum of those that are known; ``None`` where none is."""
    return sum(found) if found else None


def _highest(found: Sequence[float | None]) -> float | None:
    return max((each for each in found if each is not None), default=None)
