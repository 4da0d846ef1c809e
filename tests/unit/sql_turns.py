"""A clock whose calls from SQLite's thread are run when the test says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

PATIENCE_SECONDS = 10.0


class Turns(Clock):
    """``turn`` runs one call from the thread."""

    def __init__(self) -> None:
        super().__init__()
        self._from_thread: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()

    def callFromThread(self, call: Callable[..., Any], /, *args: Any) -> None:
        self._from_thread.put((call, args))

    def turn(self, patience_seconds: float = 0.2) -> bool:
        """Runs one call; false where none came within the patience."""
        try:
            call, args = self._from_thread.get(timeout=patience_seconds)
        except Empty:
            return False
        call(*args)
        return True

    def run_until(self, done: Callable[[], bool], step_seconds: float = 0.0) -> None:
        """Runs calls until ``done``, and lets the clock go on by a step after each."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not done():
            assert time.monotonic() < until, "it did not happen in time"
            self.turn(0.002 if step_seconds else 0.2)
            if step_seconds:
                self.advance(step_seconds)

    def result(self, work: Any) -> Any:
        """Runs calls until work is done; returns its result, or raises its error."""
        done = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        found: list[Any] = []
        done.addBoth(found.append)
        self.run_until(lambda: bool(found), 0.01)
        if hasattr(found[0], "raiseException"):
            found[0].raiseException()
        return found[0]
