"""How a connection ends: after its last response, when its client leaves or merely stops sending, and by force."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kateway.web.http1.channel import HttpChannel


class Ending:
    """One connection's. ``begun``: nothing that arrives is handled any more; ``fin``: the client's was seen."""

    __slots__ = ("_channel", "_held", "begun", "fin")

    def __init__(self, channel: HttpChannel) -> None:
        self._channel = channel
        self.begun = self.fin = False
        self._held = False
        # our FIN waits for the answer to a WebSocket's goodbye

    def after_response(self) -> None:
        """Our FIN first, then the client's, so that it reads the answer and not a reset."""
        channel = self._channel
        if self.begun or channel.gone:
            return
        self.begun = True
        channel.take_no_more()
        channel.deadline = channel.factory.tick + channel.factory.config.lingering_close_seconds
        witness = channel.witness
        if self.fin and witness.part(channel.factory, None, self._parted):
            channel.deadline = inf  # our FIN would be the last that is heard of it
        elif channel.other is not None and witness.unsettled():
            self._held = True
        else:
            self._send_fin()

    def goodbye_answered(self, before: bool = False) -> None:
        """A WebSocket's client has had ours, and so everything before it (RFC 6455 7.1.1: the server closes first).
        ``before``: it said its own first, and may have left something unread: its FIN or its reset tells.
        """
        if self._held:
            self._send_fin(wait=before)

    def _send_fin(self, wait: bool = False) -> None:
        channel = self._channel
        self._held = False
        channel.deadline = channel.factory.tick + channel.factory.config.lingering_close_seconds
        tls = channel.witness.tls
        if tls is not None and wait:
            tls.half_close()
        elif channel.witness.wire is None or channel.secure:
            channel.transport.loseConnection()
        else:
            channel.transport.loseWriteConnection()

    def go_on(self, waited: bool = False) -> None:
        """Goes on with a lingering close; bytes that are still on their way to the client hold it up."""
        channel = self._channel
        if channel.gone:
            return
        witness = channel.witness
        if (waited or witness.watchers) and witness.under_way():
            # bounded by the write stall timeout
            channel.deadline = channel.factory.tick + channel.factory.interval
        elif self._held:
            self._send_fin()
        elif waited and (channel.secure or witness.backlog()):
            channel.transport.abortConnection()
        else:
            channel.transport.loseConnection()

    def at_once(self) -> None:
        """The client has left, or is idle."""
        channel = self._channel
        if channel.gone:
            return
        self.begun = True
        channel.deadline = channel.factory.tick + channel.factory.config.lingering_close_seconds
        if channel.witness.backlog():
            channel.transport.abortConnection()
        else:
            channel.transport.loseConnection()

    def by_force(self) -> None:
        """Resets the connection."""
        channel = self._channel
        if not channel.gone:
            self.begun = channel.witness.cut = True
            channel.transport.abortConnection()

    def check_stall(self, now: float) -> None:
        """Cuts a client that has taken nothing for ``write_stall_timeout_seconds`` while bytes wait for it."""
        channel = self._channel
        if channel.witness.stuck(now, channel.factory.config.write_stall_timeout_seconds):
            self.by_force()

    def client_ends(self) -> None:
        """The client's FIN. One that comes with its request is a half-close and still gets the answer; one that comes
        later, or in the middle of a response, means that it has left, or that it merely sends no more.
        """
        self.fin = True
        channel = self._channel
        exchange = channel.exchange
        if self.begun and channel.witness.parting is None and not self._held:
            self.go_on()
            return
        if exchange is not None and exchange.fresh:
            age = channel.factory.seconds() - exchange.request.received
            if age <= channel.factory.config.half_close_seconds:
                return
        if not self.in_doubt():
            self.at_once()

    def we_ended(self) -> None:
        """Our FIN is on its way."""
        if self.begun:
            channel = self._channel
            channel.deadline = channel.factory.tick + channel.factory.config.lingering_close_seconds
            if self.fin:
                self.go_on()

    def in_doubt(self) -> bool:
        """The client has said that it sends no more: whether anything depends on what it means by that."""
        channel = self._channel
        if self.begun and channel.witness.parting is None and not self._held:
            return False  # we have said goodbye first, and can ask nothing any more
        if not channel.witness.part(channel.factory, self._say_goodbye, self._parted):
            return False
        channel.deadline = inf
        self.begun = self.begun or (channel.exchange is None and channel.other is None)
        return True

    def _say_goodbye(self) -> None:
        """Ends the response, or sends what a client that has had its response may ignore."""
        channel = self._channel
        tls = channel.witness.tls
        if self._held and tls is None:
            channel.send(b"\r\n")  # RFC 6455 1.4: what is behind a goodbye is discarded
        elif channel.other is not None:
            channel.other.leave()
        elif channel.exchange is not None:
            channel.exchange.keep_alive = False
            channel.exchange.leave()
        elif tls is None:
            channel.send(b"\r\n")  # RFC 9112 9.2
        if tls is not None:
            tls.say_goodbye()

    def _parted(self) -> None:
        """What a goodbye meant has become clear."""
        channel = self._channel
        wire, parting = channel.witness.wire, channel.witness.parting
        if wire is None or parting is None:
            return
        if wire.reset:
            wire.abortConnection()  # type: ignore[no-untyped-call]
        elif parting.settled and channel.exchange is not None and channel.exchange.fresh:
            channel.witness.parting = None  # it still gets its answer
        elif parting.settled or parting.closed:
            wire.loseConnection()  # type: ignore[no-untyped-call]
        else:
            self.by_force()
