"""Keeps what was found of each group lately: what it did within the last minute, how far behind it is, since when."""

from __future__ import annotations

from typing import Literal

from kateway.observe.bundles import GroupCells, Labels
from kateway.observe.last_minute import MINUTE_SECONDS, LastMinute

DAY_SECONDS = 86400.0
"""A group that was not read here for so long is watched no more."""
COUNTERS = 9
Found = Literal["", "store", "shared store"]
"""Where a group was found that was not read here since the start; in a store that others may read without a gateway it
may be read by them.
"""
LEAST_GROWTH_SECONDS = 5.0
"""Over less, a single batch more or fewer would be taken for a trend."""


class GroupWatch:
    """One group. ``at`` is a clock that never goes back."""

    __slots__ = (
        "_counted",
        "_lags",
        "_looks",
        "found_in",
        "lag",
        "lag_at",
        "oldest_seconds",
        "read_at",
        "unacknowledged",
        "unread_at",
    )

    def __init__(self, at: float) -> None:
        self._counted = LastMinute(at, COUNTERS)
        self._looks: list[tuple[float, int]] = []
        """Of the last minute, with the readers."""
        self._lags: list[tuple[float, int]] = []
        """Of the last minute, where it was known."""
        self.lag: int | None = None
        self.lag_at: float | None = None
        """When that was found."""
        self.oldest_seconds: float | None = None
        self.unacknowledged = 0
        """Records with readers here, at the last look."""
        self.read_at = at
        """When it last had a reader or was given records."""
        self.unread_at: float | None = None
        """The first look of those since then; ``None`` while it is read."""
        self.found_in: Found = ""

    def look(self, at: float, cells: GroupCells | None, readers: int, unread_since: float | None = None) -> None:
        """Notes its counters and how many readers it has here; ``cells``: ``None`` where nothing was counted.
        ``unread_since``: when the last of its readers ended, where that is known.
        """
        counters = (
            (0.0,) * COUNTERS
            if cells is None
            else (
                cells.records.value,
                cells.bytes.value,
                cells.ok.value,
                cells.retry.value,
                cells.dead.value,
                cells.expired.value,
                cells.redelivered.value,
                cells.blocked.value,
                cells.commit_failures.value,
            )
        )
        self._counted.look(at, counters)
        self._looks.append((at, readers))
        while at - self._looks[0][0] >= MINUTE_SECONDS:
            del self._looks[0]
        if readers or cells is not None:
            self.found_in = ""
        if readers:
            self.read_at, self.unread_at = at, None
        elif unread_since is not None:
            self.read_at, self.unread_at = max(self.read_at, unread_since), at
        elif self._counted.rates()[0]:
            self.read_at, self.unread_at = at, None
        elif self.unread_at is None:
            self.unread_at = at

    def found(self, at: float, lag: int | None, oldest_seconds: float | None) -> None:
        """Notes how far behind it is; what is not known any more is forgotten."""
        self.lag, self.oldest_seconds, self.lag_at = lag, oldest_seconds, at
        if lag is None:
            self._lags.clear()
            return
        self._lags.append((at, lag))
        # an older one than a minute stays where it is the last before: lags of groups left are asked for more rarely
        while len(self._lags) > 2 and at - self._lags[1][0] >= MINUTE_SECONDS:
            del self._lags[0]

    def unread_seconds(self, now: float) -> float | None:
        """For how long it was seen without a reader; ``None`` while it is read."""
        return None if self.unread_at is None else now - self.read_at

    def rates(self, least_seconds: float = 0.001) -> dict[str, float]:
        """What it did a second, since the look before the last; over ``least_seconds`` where that is less."""
        records, size, ok, *_rest = self._counted.rates(least_seconds)
        return {"out_records": records, "out_bytes": size, "acknowledged": ok}

    @property
    def sent(self) -> tuple[float, float]:
        """Records and bytes since the look before the last."""
        records, size, *_rest = self._counted.step()
        return records, size

    @property
    def delivered(self) -> float:
        """Records sent within the last minute."""
        return self._counted.growth()[0]

    @property
    def ended(self) -> float:
        """Deliveries that ended within it, in whatever way."""
        return sum(self._counted.growth()[2:6])

    @property
    def expired(self) -> float:
        """Those whose lease ran out."""
        return self._counted.growth()[5]

    @property
    def commit_failures(self) -> float:
        """Commits that failed within it."""
        return self._counted.growth()[8]

    @property
    def blocked_share(self) -> float | None:
        """How much of the last minute its readers had no room in, on average; ``None`` where there were none."""
        readers = sum(count for _, count in self._looks) / len(self._looks) if self._looks else 0.0
        seconds = self._counted.seconds
        return min(self._counted.growth()[7] / (readers * seconds), 1.0) if readers and seconds else None

    def before(self, at: float) -> tuple[float, int] | None:
        """The oldest lag that is known of the last minute, and how long ago that was."""
        return (at - self._lags[0][0], self._lags[0][1]) if self._lags else None

    def growth(self, at: float, lag: int | None) -> float | None:
        """How many records a second it falls further behind, over the last minute; ``None`` where that is not known."""
        if lag is None or not self._lags:
            return None
        before_at, before = self._lags[0]
        return (lag - before) / (at - before_at) if at - before_at >= LEAST_GROWTH_SECONDS else None

    def drain_seconds(self, at: float, lag: int | None) -> float | None:
        """When nothing is left at the pace of the last minute; ``None`` where the lag of now is not known, or is not
        less than it was.
        """
        if lag == 0:
            return 0.0
        if lag is None or not self._lags:
            return None
        before_at, before = self._lags[0]
        return lag * (at - before_at) / (before - lag) if lag < before and at > before_at else None


class GroupWatches:
    """All groups that were read here within the last day."""

    def __init__(self) -> None:
        self.by_labels: dict[Labels, GroupWatch] = {}

    def of(self, labels: Labels, at: float) -> GroupWatch:
        """Returns a group's, from now on where there was none."""
        found = self.by_labels.get(labels)
        if found is None:
            found = self.by_labels[labels] = GroupWatch(at)
        return found

    def sweep(self, at: float) -> None:
        """Forgets groups that were not read for a day."""
        for labels, watch in list(self.by_labels.items()):
            if at - watch.read_at >= DAY_SECONDS:
                del self.by_labels[labels]
