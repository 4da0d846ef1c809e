"""Measures how late the reactor's loop calls what is due: a timer of 10 Hz, and how late it comes."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kateway.observe.cells import Histogram

INTERVAL_SECONDS = 0.1


class ReactorLag:
    """A timer that counts its lateness. What is missed while the loop stands is not made up for."""

    def __init__(self, clock: IReactorTime, lag: Histogram) -> None:
        self._clock = clock
        self._lag = lag
        self._due = 0.0
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Begins to measure."""
        self._due = self._clock.seconds() + INTERVAL_SECONDS
        self._call = self._clock.callLater(INTERVAL_SECONDS, self._tick)

    def stop(self) -> None:
        """Ends the timer."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _tick(self) -> None:
        self._lag.observe(self._clock.seconds() - self._due)
        self.start()
