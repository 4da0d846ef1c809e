"""How long an item will wait in a queue: measured while the queue stands, unknown while it does not."""

from __future__ import annotations

SLOW_SECONDS = 0.2
"""A server that takes longer than this for a batch, with ``least`` items waiting after it, is behind. (With fewer, it
may be slow for the way to it, which more items would share.)
"""

CAUGHT_UP_SECONDS = 1.0
"""Without such a batch for so long it is not behind any more."""

_WINDOW_SECONDS = 0.5
"""What is older counts half as much, and again half after each further window."""


class DrainPace:
    """Measures how fast a standing queue of ``least`` items or more is emptied.

    A queue that is emptied by each batch says nothing of what its server could do: one record a round trip is no
    measure of a thousand. So only what is served while more waits counts.
    """

    __slots__ = ("_behind_until", "_items", "_last", "_least", "_seconds", "behind", "seconds_per_item")

    def __init__(self, least: int) -> None:
        self.behind = False
        """The server takes less than arrives, and ``seconds_per_item`` is known. Hot: callers look at this first."""
        self.seconds_per_item = 0.0
        """0 until ``least`` items were served."""
        self._least = least
        self._items = 0.0
        self._seconds = 0.0
        self._last = 0.0
        self._behind_until = 0.0

    def answered(self, items: int, began: float, now: float, waiting: int) -> None:
        """Takes note of a batch that was sent at ``began`` and answered at ``now``, with ``waiting`` items after it."""
        slow = now - began > SLOW_SECONDS and waiting >= self._least
        if slow:
            self._behind_until = now + CAUGHT_UP_SECONDS
        if slow or now < self._behind_until:
            self.served(items, began, now)
            self.behind = self.seconds_per_item > 0
        elif self.behind:
            self._items = self._seconds = self.seconds_per_item = 0.0
            self.behind = False

    def served(self, items: int, began: float, now: float) -> None:
        """Takes note of items of a standing queue that were served from ``began``, or from when those before them were
        done, until ``now``.
        """
        self._items += items
        self._seconds += max(now - max(began, self._last), 0.0)
        self._last = now
        if self._items >= self._least or self.seconds_per_item:
            self.seconds_per_item = self._seconds / self._items
        if self._seconds > _WINDOW_SECONDS:
            self._seconds /= 2
            self._items /= 2
