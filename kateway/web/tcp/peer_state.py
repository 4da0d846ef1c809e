"""Holds the known state of a connection's peer: how much its TCP has acknowledged, and how it ended.

Readers of a group watch; ``over`` notifies them in the end of the confirmed position, and of whether the client ended
in order.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.core.delivery.confirmation import Watcher
from kateway.web.tcp.half_close import HalfClose
from kateway.web.tcp.tls_transport import CountingTls
from kateway.web.tcp.transport import PromptConnection

_log = Logger()


class PeerState:
    """One connection's, from its beginning to its end. ``seconds`` and ``later`` are the reactor's clock."""

    __slots__ = ("_later", "_moved", "_moved_at", "_seconds", "cut", "half_close", "tls", "watchers", "wire")

    def __init__(self, transport: object, seconds: Callable[[], float], later: Callable[..., IDelayedCall]) -> None:
        self._seconds = seconds
        self._later = later
        self.tls = transport if isinstance(transport, CountingTls) else None
        below = transport if self.tls is None else self.tls.wire
        self.wire = below if isinstance(below, PromptConnection) else None
        self.watchers: list[Watcher] | None = None
        self.half_close: HalfClose | None = None
        """The client has stopped sending while something was unsettled."""
        self.cut = False
        """We ended it, whatever its client did."""
        self._moved = -1
        self._moved_at = 0.0

    def watch(self, watcher: Watcher) -> None:
        if self.watchers is None:
            self.watchers = []
        self.watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        if self.watchers is not None and watcher in self.watchers:
            self.watchers.remove(watcher)

    def unsettled(self) -> bool:
        """Whether anything that was sent may still come back."""
        return bool(self.watchers) and any(watcher.unsettled() for watcher in self.watchers or ())

    def asked(self) -> None:
        """The next request begins to arrive."""
        for watcher in tuple(self.watchers or ()):
            try:
                watcher.asked()
            except Exception:
                _log.failure("a watcher of a connection failed at the client's next request")

    def backlog(self) -> int:
        """Bytes that wait for the socket."""
        wire = self.wire
        return 0 if wire is None else wire.offered - wire.handed

    def confirmed(self) -> int | None:
        """See ``confirmation.Connection.confirmed``."""
        if self.tls is not None:
            return self.tls.confirmed()
        return None if self.wire is None else self.wire.confirmed()

    def under_way(self) -> bool:
        """Whether bytes are on their way that the client's TCP has not acknowledged, as far as that can be known."""
        wire = self.wire
        if wire is None:
            return False
        confirmed = wire.confirmed()
        return confirmed is not None and confirmed < wire.offered

    def stalled(self) -> bool:
        """See ``confirmation.Connection.stalled``. One whose reset has come counts as such: nothing lives on there."""
        if self.wire is None:
            return False
        return (self.half_close is not None and self.half_close.lost()) or self.wire.stalled()

    def stuck(self, now: float, seconds: float) -> bool:
        """Whether the client has taken nothing for so long while bytes waited for it."""
        wire = self.wire
        if wire is None or wire.offered == self._moved:
            return False
        confirmed = wire.confirmed()
        moved = wire.handed if confirmed is None else confirmed
        if moved != self._moved or moved == wire.offered:
            self._moved, self._moved_at = moved, now
            return False
        return now - self._moved_at >= seconds

    def half_closed(self, ask: Callable[[], None] | None, over: Callable[[], None], limit_seconds: float) -> bool:
        """The client has stopped sending: whether that leaves something in doubt, which is then found out.

        ``ask`` sends that whose answer tells; ``None`` where the FIN came with the request. ``over`` when the
        connection may end, at the latest ``limit_seconds`` after it was asked and nothing came back.
        """
        if self.half_close is not None:
            if self.tls is not None and self.tls.notified and self.wire is not None and self.wire.fin:
                self.half_close.again()
            return True
        if self.wire is None or not self.unsettled():
            return False
        half_close = self.half_close = HalfClose(self.wire, self._seconds, self._later, self.unsettled)
        if ask is None:
            half_close.wait(over)
        else:
            half_close.ask(ask, over, limit_seconds)
        return True

    def over(self, reason: Failure, sent: int) -> None:
        """The connection is over, ``sent`` bytes in: notifies the watchers."""
        wire, tls, half_close = self.wire, self.tls, self.half_close
        if half_close is not None:
            orderly = half_close.closed
            half_close.end()
        elif wire is None:
            orderly = reason.check(ConnectionDone) is not None
        else:
            orderly = (wire.fin or (tls is not None and tls.notified)) and not wire.reset
        orderly = orderly and not self.cut
        watchers, self.watchers = self.watchers, None
        if watchers:
            confirmed = self.confirmed()
            if confirmed is None:
                confirmed = sent if orderly else 0
            for watcher in watchers:
                try:
                    watcher.closed(confirmed, orderly)
                except Exception:
                    _log.failure("a watcher of a connection failed at its end")

    def forget(self) -> None:
        """Drops the transport."""
        self.wire = self.tls = self.half_close = None
