"""Waits for the memberships that the process before this one passes on: a reader that comes meanwhile must not have
this process join the group as a second member.
"""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from kateway.core.groups.memberships import Key

TO_COME_SECONDS = 4.0
"""Until a membership comes at the latest: the process before gives its clients two seconds to confirm what they were
sent, and makes its last commits.
"""
TO_SAY_SECONDS = 1.0
"""Until the process before has said which memberships it has; one of an older version says nothing."""


class Succession:
    """One process's, after another one."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._began = 0.0
        self._under_way = self._told = False
        self._coming: set[Key] = set()
        self._waiting: list[Deferred[None]] = []

    def begin(self) -> None:
        """The process before begins to give way."""
        self._began = self._clock.seconds()
        self._under_way = True

    def will_come(self, keys: Iterable[Key], *, all_told: bool) -> None:
        """These are going to be passed on, and no others where ``all_told``."""
        self._coming.update(keys)
        self._told = self._told or all_told
        self._wake()

    def came(self, key: Key) -> None:
        """It was passed on, or left."""
        self._coming.discard(key)
        self._wake()

    def end(self) -> None:
        """Nothing comes any more."""
        self._under_way = False
        self._coming.clear()
        self._wake()

    async def wait_for(self, key: Key) -> None:
        """Waits while the membership may come."""
        while (seconds := self._left(key)) > 0:
            waiter: Deferred[None] = Deferred()
            self._waiting.append(waiter)
            late = self._clock.callLater(seconds, waiter.callback, None)
            try:
                await waiter
            finally:
                if late.active():
                    late.cancel()
                if waiter in self._waiting:
                    self._waiting.remove(waiter)

    def _left(self, key: Key) -> float:
        if not self._under_way or (self._told and key not in self._coming):
            return 0.0
        return self._began + (TO_COME_SECONDS if self._told else TO_SAY_SECONDS) - self._clock.seconds()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)
