"""What a connection's own end of TCP can testify: how much its client has acknowledged, and how it ended.

Who delivers records watches; ``over`` tells them in the end what was confirmed, and whether the client left in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from kateway.core.delivery.confirmation import Watcher
from kateway.web.tcp.half_close import Parting
from kateway.web.tcp.transport import CountingTls, PromptConnection

if TYPE_CHECKING:
    from kateway.web.http1.factory import HttpFactory


class Witness:
    """One connection's, from its beginning to its end."""

    __slots__ = ("_moved", "_moved_at", "cut", "parting", "tls", "watchers", "wire")

    def __init__(self, transport: object) -> None:
        self.tls = transport if isinstance(transport, CountingTls) else None
        below = transport if self.tls is None else self.tls.wire
        self.wire = below if isinstance(below, PromptConnection) else None
        self.watchers: list[Watcher] | None = None
        self.parting: Parting | None = None
        """The client said goodbye while something was unsettled."""
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
            watcher.asked()

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
        return (self.parting is not None and self.parting.lost()) or self.wire.stalled()

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

    def part(self, factory: HttpFactory, say: Callable[[], None] | None, over: Callable[[], None]) -> bool:
        """The client said goodbye: whether that leaves something in doubt, which is then seen to.

        ``say`` sends what its answer can be told by; ``None`` where the goodbye came with the request. ``over`` when
        the connection may end.
        """
        if self.parting is not None:
            if self.tls is not None and self.tls.notified and self.wire is not None and self.wire.fin:
                self.parting.again()
            return True
        if self.wire is None or not self.unsettled():
            return False
        parting = self.parting = Parting(self.wire, factory.seconds, factory.later, self.unsettled)
        if say is None:
            parting.wait(over)
        else:
            parting.ask(say, over, factory.config.lingering_close_seconds)
        return True

    def over(self, reason: Failure, sent: int) -> None:
        """The connection is over, ``sent`` bytes in: tells who watches."""
        wire, tls, parting = self.wire, self.tls, self.parting
        if parting is not None:
            orderly = parting.closed
            parting.end()
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
                watcher.closed(confirmed, orderly)

    def forget(self) -> None:
        """Lets go of the transport."""
        self.wire = self.tls = self.parting = None
