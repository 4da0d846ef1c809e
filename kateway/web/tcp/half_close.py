"""Finds out what a client's FIN means: has it closed, having read what it had, or only stopped sending?

Both are the same FIN. A kernel that is asked to close while something is unread sends a reset instead, so after a
``close`` everything that had arrived was read. A ``shutdown`` says nothing of that, and its program may still be
killed with all of it unread. They differ in what becomes of what we send next, which Linux does like this:

==============================================  ====================================================
the client                                      what we send after its FIN
==============================================  ====================================================
closed, nothing unread                          is answered by a reset, never acknowledged
shut down and lives                             is acknowledged, at the latest 40 ms after it arrived
shut down and closes or dies, something unread  is late: a reset comes by itself
shut down, reads all, closes                    is answered by a reset
==============================================  ====================================================

So a moment after the FIN, in which only a reset of the third kind can come, the response is ended (or, after a
response, what a client may ignore there is sent), and what comes back tells. A client that lives is held to what every
client is: it lived on with its window open for ``settle_seconds``, or a reset gives everything back.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from kateway.web.tcp.transport import PromptConnection

_log = Logger()

GRACE_SECONDS = 0.02
"""In which a program that half-closes and ends at once is found out by its reset."""
FIRST_LOOK_SECONDS = 0.001
LONGEST_LOOK_SECONDS = 0.1


class HalfClose:
    """Finds out what one client's FIN, or TLS close alert, means. ``end`` once, when the connection is over or goes on
    without it.
    """

    __slots__ = (
        "_acknowledged", "_asked", "_call", "_interval", "_later", "_limit_at", "_over", "_prompt", "_prompt_until",
        "_seconds", "_send", "_unsettled", "_whole", "_wire", "alive", "twice",
    )  # fmt: skip

    def __init__(
        self,
        wire: PromptConnection,
        seconds: Callable[[], float],
        later: Callable[..., IDelayedCall],
        unsettled: Callable[[], bool],
    ) -> None:
        self._wire = wire
        self._seconds = seconds
        self._later = later
        self._unsettled = unsettled
        self.alive = False
        """It has acknowledged bytes sent after its FIN: it had not closed."""
        self.twice = False
        """It has sent a close alert, had ours, and has then closed."""
        self._acknowledged = wire.confirmed()
        self._whole = self._acknowledged is None or self._acknowledged == wire.offered
        # bytes under way to a client that closes are answered by a reset as well, and nothing can be told from that
        self._asked = False
        self._prompt = True
        # a reset that comes now is the answer to the bytes sent
        self._prompt_until = self._limit_at = inf
        self._interval = FIRST_LOOK_SECONDS
        self._call: IDelayedCall | None = None
        self._send: Callable[[], None] | None = None
        self._over: Callable[[], None] | None = None

    def ask(self, send: Callable[[], None], over: Callable[[], None], limit_seconds: float) -> None:
        """Finds out by sending: ``send`` ends the response or sends what a client may ignore. ``over`` when that is
        clear, or when nothing has come back for ``limit_seconds``.
        """
        self._send, self._over, self._limit_at = send, over, self._seconds() + GRACE_SECONDS + limit_seconds
        self._call = self._later(GRACE_SECONDS, self._run, self._ask)

    def wait(self, over: Callable[[], None]) -> None:
        """Its FIN came before the response, so what it acknowledges of that shows that it lives."""
        self.alive, self._over = True, over
        self._call = self._later(self._interval, self._run, self._look)

    def again(self) -> None:
        """A FIN behind TLS's close alert. Once ours was sent, it is that of a client which has read it."""
        if self._asked and not self.twice:
            self.end()
            self._call = self._later(GRACE_SECONDS, self._run, self._twice)

    def lost(self) -> bool:
        """Whether a reset has come."""
        self._wire.look_for_error()
        return self._wire.reset

    @property
    def closed(self) -> bool:
        """It had closed when its FIN came, so what it had acknowledged by then it had read."""
        self._notice()
        if self.twice:
            return not self._wire.reset
        if not self._asked or not self._whole or self.alive:
            return False
        # without a FIN, behind a close alert, a reset shows that something was left unread
        return self._prompt and self._wire.fin if self._wire.reset else not self._wire.unsent()

    @property
    def settled(self) -> bool:
        """Nothing is in doubt any more."""
        return not self._unsettled()

    def end(self) -> None:
        """Looks no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _run(self, step: Callable[[], None]) -> None:
        self._call = None
        try:
            step()
        except Exception:
            # no step may be the last: the connection would stay for ever
            _log.failure("finding out what a client's FIN means failed; its connection is reset")
            self._wire.abortConnection()  # type: ignore[no-untyped-call]

    def _ask(self) -> None:
        if not self.lost() and self._send is not None:
            before = self._wire.offered
            self._prompt_until = self._seconds() + self._wire.round_trip_seconds()
            self._send()
            self._asked = self._wire.offered > before
        self._look()

    def _twice(self) -> None:
        self.twice = not self.lost()
        if self._over is not None:
            self._over()

    def _look(self) -> None:
        over = self._over
        if over is None:
            return
        now = self._seconds()
        self._notice()
        if self.lost() or self.settled or (now >= self._limit_at and not self.alive):
            over()
            return
        self._prompt = now < self._prompt_until
        self._interval = min(self._interval * 2, LONGEST_LOOK_SECONDS)
        self._call = self._later(self._interval, self._run, self._look)

    def _notice(self) -> None:
        confirmed = self._wire.confirmed()
        if confirmed is None:
            # a UNIX socket takes bytes only while its other end is open
            self.alive = self.alive or (self._asked and not self._wire.reset)
        elif self._acknowledged is not None and confirmed > self._acknowledged:
            self.alive = True
