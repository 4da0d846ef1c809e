"""Says how a group does and why, from its sampled state: a pure function, the first cause that holds wins.

A figure that is not known decides nothing; where nothing is decided without it the verdict is ``unknown`` and names it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

State = Literal[
    "idle",
    "abandoned",
    "poisoned",
    "throttled",
    "store",
    "blocked",
    "leases-run-out",
    "too-few-readers",
    "catching-up",
    "keeping-up",
    "unknown",
]
STATES: tuple[State, ...] = get_args(State)
"""In the order in which they are looked for."""
SEVERITIES: dict[State, int] = {
    "abandoned": 9,
    "poisoned": 8,
    "store": 7,
    "blocked": 6,
    "leases-run-out": 5,
    "too-few-readers": 4,
    "throttled": 3,
    "unknown": 2,
    "catching-up": 1,
    "keeping-up": 0,
    "idle": 0,
}
"""How soon a person should look, to sort by."""
POISONED_ATTEMPTS = 3
BLOCKED_SHARE = 0.5
EXPIRED_SHARE = 0.1
RISING_MINUTES = 5
NOTABLE_GROWTH = 1.0
"""Records a second; a group that is read steadily is now and then a few records more or fewer behind."""
AT_HAND_SECONDS = 5.0
"""What is read within so long is no backlog: a lag that falls from there is no catching up."""


class Poison(NamedTuple):
    """The record at the committed edge, where it was delivered again and again."""

    partition: int
    offset: int
    attempts: int


class Situation(NamedTuple):
    """The sampled state of a group; ``None`` is unknown. What happens is counted over the last minute."""

    lag: int | None = None
    readers: int | None = None
    """On all live gateways."""
    unread_seconds: float | None = None
    """For how long there has been no reader."""
    unacknowledged: int | None = None
    delivered: float | None = None
    poison: Poison | None = None
    throttled: float | None = None
    """Requests refused for the quota of the application that reads."""
    store_errors: float | None = None
    """Commits and fetches that failed."""
    breaker_open: bool = False
    last_error: str | None = None
    """The subscription's error, while the driver keeps trying."""
    blocked_share: float | None = None
    """How much of the time the readers' windows were closed, on average."""
    ended: float | None = None
    """Deliveries that ended, in whatever way."""
    expired: float | None = None
    """Those of them whose lease ran out."""
    busy: bool | None = None
    """Whether every reader has work."""
    rising_minutes: int | None = None
    """For how many minutes running the age of the oldest record has risen, or the lag where no age is known."""
    drain_seconds: float | None = None
    """When nothing is left at the rate of the last minute; ``None`` where the lag does not fall."""
    growth: float | None = None
    """How many records a second it falls further behind, over the last minute."""


class Verdict(NamedTuple):
    """How a group does, and why, in words."""

    state: State
    reason: str


def verdict(found: Situation) -> Verdict:
    """Returns the first state that holds."""
    lag = found.lag
    if lag == 0 and found.delivered == 0 and not found.unacknowledged:
        return Verdict("idle", "everything is read, and nothing came within the last minute")
    if lag and found.readers == 0:
        since = "" if found.unread_seconds is None else f" for {span(found.unread_seconds)}"
        return Verdict("abandoned", f"{_records(lag)} behind, and no reader{since}")
    return _trouble(found) or _pace(found)


def _trouble(found: Situation) -> Verdict | None:
    """What keeps the readers from reading."""
    poison = found.poison
    if poison is not None and poison.attempts >= POISONED_ATTEMPTS:
        place = f"partition {poison.partition} offset {poison.offset}"
        return Verdict("poisoned", f"the record at {place} was delivered {poison.attempts} times and holds up the rest")
    if found.throttled:
        return Verdict("throttled", f"its quota refused {_times(found.throttled)} within the last minute")
    if found.breaker_open:
        return Verdict("store", "the breaker of its store is open")
    if found.last_error is not None:
        return Verdict("store", f"its store does not serve it: {found.last_error}")
    if found.store_errors:
        return Verdict("store", f"commits failed {_times(found.store_errors)} within the last minute")
    share = found.blocked_share
    if share is not None and share >= BLOCKED_SHARE:
        return Verdict("blocked", f"its readers had no room for more in {share:.0%} of the last minute")
    if found.expired and found.ended and found.expired > EXPIRED_SHARE * found.ended:
        part = found.expired / found.ended
        return Verdict(
            "leases-run-out", f"{part:.0%} of the leases of the last minute ran out before an acknowledgement"
        )
    return None


def _pace(found: Situation) -> Verdict:
    """Whether the readers are fast enough."""
    lag, minutes, drain = found.lag, found.rising_minutes, found.drain_seconds
    if found.busy and minutes is not None and minutes >= RISING_MINUTES:
        return Verdict("too-few-readers", f"every reader is busy, and it has fallen behind for {minutes} minutes")
    if lag is None:
        return Verdict("unknown", "its lag is not known here")
    if lag and found.readers is None:
        return Verdict("unknown", f"{_records(lag)} behind, and whether another gateway has readers is not known")
    if lag and drain is not None and lag > (found.delivered or 0.0) / 60 * AT_HAND_SECONDS:
        return Verdict("catching-up", f"{_records(lag)} behind, done in {span(drain)} at this rate")
    if not lag:
        return Verdict("keeping-up", "everything is read")
    since = f" for {span(minutes * 60)}" if minutes else ""
    if found.growth is not None and found.growth >= NOTABLE_GROWTH:
        return Verdict("keeping-up", f"{_records(lag)} behind, and {found.growth:.0f} more each second{since}")
    if since:
        return Verdict("keeping-up", f"{_records(lag)} behind, more{since}")
    return Verdict("keeping-up", f"{_records(lag)} behind")


def span(seconds: float) -> str:
    """Formats a time in words."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"


def _times(count: float) -> str:
    return "once" if round(count) <= 1 else f"{count:.0f} times"
