"""Decides how soon a process that has ended is replaced."""

from __future__ import annotations

from kateway.backoff import Backoff

EARLY_SECONDS = 10.0
"""A process that ends sooner after its start may do so again: pauses between its successors grow."""
FIRST_PAUSE_SECONDS = 0.5


class Restarts:
    """The pauses before one place's successors: none, but after early ends pauses that double up to a bound."""

    def __init__(self, max_pause_seconds: float) -> None:
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, max_pause_seconds)
        self._early = 0

    def pause(self, lived_seconds: float) -> float:
        """Returns the seconds until the next start, of a process that has lived so long."""
        if lived_seconds >= EARLY_SECONDS:
            self._early = 0
            self._backoff.reset()
            return 0.0
        self._early += 1
        # a first one may have been killed by a person, and is replaced as soon as any
        return 0.0 if self._early == 1 else self._backoff.next()
