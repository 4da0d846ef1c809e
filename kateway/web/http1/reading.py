"""Pauses reading from a client: while more requests wait than may, and where it does not wait as it was told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from kateway.web.http1.server_state import ServerState


class Reading:
    """One connection's. ``read_on`` is called at the end of a pause, when arrived bytes may be handled.

    Over TLS a paused transport still delivers what it has decrypted of its last read, so ``held`` is to be looked at
    before anything is handled.
    """

    __slots__ = ("_full", "_read_on", "_state", "_transport", "_wait_until", "held")

    def __init__(self, state: ServerState, transport: Any, read_on: Callable[[], None]) -> None:
        self._state = state
        self._transport = transport
        self._read_on = read_on
        self._full = False
        self._wait_until = 0.0
        # until when the client was told to wait
        self.held: IDelayedCall | None = None
        """Ends a pause in which nothing is handled, because the client did not wait."""

    def told_to_wait(self, seconds: float) -> None:
        """The client was told to wait; one that was told before and did not is read from after a pause."""
        state = self._state
        now = state.seconds()
        pause = state.config.refused_pause_seconds
        if now < self._wait_until and pause and self.held is None:
            self.held = state.later(pause, self._go_on)
            self._transport.pauseProducing()
        self._wait_until = now + seconds

    def set_full(self, full: bool) -> None:
        """Pauses while more bytes have arrived than may wait."""
        if full is not self._full:
            self._full = full
            if full:
                self._transport.pauseProducing()
            else:
                self._transport.resumeProducing()

    def let_come(self) -> None:
        """Ends every pause."""
        held = self.held is not None
        self.stop()
        if held or self._full:
            self._full = False
            self._transport.resumeProducing()

    def stop(self) -> None:
        """Forgets a pause; the connection is over."""
        if self.held is not None:
            self.held.cancel()
            self.held = None

    def _go_on(self) -> None:
        self.held = None
        if not self._full:
            self._transport.resumeProducing()
        self._read_on()
