"""Keeps the requests that failed, in groups with samples, the slowest ones, and what has changed; all of it bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappush, heapreplace
from typing import NamedTuple

MOST_GROUPS = 1000
MOST_SAMPLES = 5
MOST_SLOW = 100
MOST_EVENTS = 1000
SLOW_SECONDS = 0.05
"""What is answered sooner is not slow."""
SLOW_KEPT_SECONDS = 3600.0
"""The slowest are those of the last hour: else one bad moment would hide all that come later."""


class Failed(NamedTuple):
    """A request that failed."""

    at: float
    """Seconds since the epoch."""
    request_id: str
    operation: str
    status: int
    detail: str
    actor: str = ""
    """The name of the admin listener's caller; empty of a request of an application's."""


class ErrorGroup:
    """The requests of one application that failed for one reason on one topic."""

    __slots__ = ("application", "count", "first", "last", "reason", "samples", "topic")

    def __init__(self, reason: str, application: str, topic: str, at: float) -> None:
        self.reason = reason
        self.application = application
        """Empty where the caller was not known, and of a person's request."""
        self.topic = topic
        """Empty where none was named that is there."""
        self.count = 0
        self.first = self.last = at
        self.samples: deque[Failed] = deque(maxlen=MOST_SAMPLES)
        """The newest."""


class ErrorLog:
    """The groups; where there are too many, the one that has been quiet longest goes."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str, str], ErrorGroup] = {}

    def note(self, reason: str, application: str, topic: str, failed: Failed) -> None:
        """Counts a request that failed."""
        key = reason, application, topic
        group = self._groups.pop(key, None) or ErrorGroup(*key, failed.at)
        self._groups[key] = group
        if len(self._groups) > MOST_GROUPS:
            del self._groups[next(iter(self._groups))]
        group.count += 1
        group.last = failed.at
        group.samples.append(failed)

    def groups(self) -> list[ErrorGroup]:
        """Returns the groups, the one that failed last first."""
        return list(reversed(self._groups.values()))


class Slow(NamedTuple):
    """A request whose response was long in coming."""

    seconds: float
    """From its first byte to the response's first."""
    at: float
    """Seconds since the epoch."""
    request_id: str
    operation: str
    status: int
    application: str
    topic: str
    waited_seconds: float
    """Until it had its turn."""
    actor: str = ""
    """The name of the admin listener's caller; empty of a request of an application's."""
    store_seconds: float | None = None
    """For how long its store was waited for; ``None`` where none was asked, or that is not measured."""


class Slowest:
    """The slowest requests of the last hour."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self.floor = SLOW_SECONDS
        """What takes no longer is none of them. The hot path looks at nothing else."""
        self._wall = wall
        self._heap: list[Slow] = []

    def note(self, slow: Slow) -> None:
        """Takes a request that took longer than ``floor``."""
        self._forget()
        if len(self._heap) < MOST_SLOW:
            heappush(self._heap, slow)
        elif slow > self._heap[0]:
            heapreplace(self._heap, slow)
        self._set_floor()

    def slowest(self) -> list[Slow]:
        """Returns them, the slowest first."""
        self._forget()
        self._set_floor()
        return sorted(self._heap, reverse=True)

    def _forget(self) -> None:
        since = self._wall() - SLOW_KEPT_SECONDS
        if any(slow.at < since for slow in self._heap):
            # a list in order is a heap
            self._heap = sorted(slow for slow in self._heap if slow.at >= since)

    def _set_floor(self) -> None:
        self.floor = self._heap[0].seconds if len(self._heap) == MOST_SLOW else SLOW_SECONDS


class Change(NamedTuple):
    """Something that changed in the gateway."""

    at: float
    """Seconds since the epoch."""
    kind: str
    """One of ``CHANGES``."""
    object: str
    outcome: str


CHANGES = ("start", "reload", "drain", "breaker", "topic.grow")
"""Their kinds."""


class Changes:
    """The newest changes."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._changes: deque[Change] = deque(maxlen=MOST_EVENTS)
        self.noted = 0
        """How many were noted since the start."""

    def note(self, kind: str, object: str, outcome: str) -> None:
        """Notes a change of now."""
        self._changes.append(Change(self._wall(), kind, object, outcome))
        self.noted += 1

    def restore(self, kept: Sequence[Change]) -> None:
        """Takes over those from before the start."""
        self._changes = deque([*kept, *self._changes], maxlen=MOST_EVENTS)

    def newest(self) -> list[Change]:
        """Returns them, the newest first."""
        return list(reversed(self._changes))
