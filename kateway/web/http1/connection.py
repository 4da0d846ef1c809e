"""Holds one client's connection: received and sent bytes, the state of its peer, and the ways in which it ends.

It ends after its last response, when its client leaves or merely stops sending, and by force. What speaks on it, an
exchange or a protocol that has taken it over, is known here by what its end needs of it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from kateway.core.delivery.confirmation import Watcher
from kateway.web.exchange import Request
from kateway.web.http1.parser import RequestParser
from kateway.web.http1.reading import Reading
from kateway.web.http1.server_state import ServerState
from kateway.web.tcp.peer_state import PeerState
from kateway.web.tcp.tls import subject_of
from kateway.web.tcp.transport import PromptServer


class Answering(Protocol):
    """The exchange that is being answered."""

    request: Request
    keep_alive: bool
    body_bytes: int
    operation: str

    @property
    def fresh(self) -> bool:
        """Nothing of the response was sent."""

    @property
    def streaming(self) -> bool:
        """The response has begun and is not over."""

    def drained(self) -> None:
        """Everything that waited was handed to the socket."""

    def leave(self) -> None:
        """The client says that it sends no more: the response may still be ended."""

    def client_gone(self) -> None:
        """The connection is over before the response was."""


class Successor(Protocol):
    """A protocol that has taken the connection over."""

    def dataReceived(self, data: bytes) -> None: ...
    def drained(self) -> None: ...
    def leave(self) -> None: ...
    def connectionLost(self, reason: Failure) -> None: ...


class HttpConnection:
    """Implements ``exchange.ClientConnection``. ``answered`` is called with an exchange whose response was written
    whole, ``read_on`` when a pause in reading is over or the client has taken what waited for it.
    """

    __slots__ = (
        "_end_held", "_read_on", "_subject", "address", "answered", "closing", "deadline", "exchange", "fin", "gone",
        "other", "parser", "peer", "reading", "remembered", "secure", "sent", "state", "transport",
    )  # fmt: skip

    def __init__(
        self,
        state: ServerState,
        transport: Any,
        address: str,
        answered: Callable[[Any], None],
        read_on: Callable[[], None],
    ) -> None:
        self.state = state
        self.transport = transport
        self.address = address
        """The client's, without port."""
        self.answered = answered
        self.secure = isinstance(transport, TLSMemoryBIOProtocol)
        self.peer = PeerState(transport, state.seconds, state.later)
        self.reading = Reading(state, transport, read_on)
        self._read_on = read_on
        self.parser: RequestParser | None = None
        self.exchange: Answering | None = None
        self.other: Successor | None = None
        self.sent = 0
        """Plaintext bytes written since the beginning: the stream that spans are counted on."""
        self.gone = False
        self.closing = False
        """Nothing that arrives is handled any more."""
        self.fin = False
        """The client's FIN was seen."""
        self.deadline = inf
        """When the factory's sweep is to look at this connection, on the factory's clock."""
        self.remembered: Any = None
        self._subject: str | None = None
        self._end_held = False
        # our FIN waits for the answer to a WebSocket's Close frame
        if self.peer.wire is not None:
            self.peer.wire.drained = self._drained
            self.peer.wire.keep_unsent_below(state.config.max_unsent_bytes)
        if self.peer.tls is not None:
            self.peer.tls.leaving = self.in_doubt

    # --- ClientConnection -------------------------------------------------------------------------------------------

    @property
    def subject(self) -> str:
        """Of the client's certificate; asked of TLS once a connection, when the handshake is done."""
        if self._subject is None:
            self._subject = subject_of(self.transport) if self.secure else ""
        return self._subject

    def confirmed(self) -> int | None:
        return self.peer.confirmed()

    def stalled(self) -> bool:
        return self.peer.stalled()

    def watch(self, watcher: Watcher) -> None:
        self.peer.watch(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        self.peer.unwatch(watcher)

    def told_to_wait(self, seconds: float) -> None:
        if not self.closing:
            self.reading.told_to_wait(seconds)

    # --- sending ----------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        self.sent += len(data)
        if not self.gone:
            self.transport.write(data)

    def writable(self) -> bool:
        """Whether the client has room for more, and has not stopped sending."""
        peer = self.peer
        return not peer.backlog() and peer.half_close is None

    def must_close(self) -> bool:
        """Whether the connection ends with the response that is given now, whatever the client wishes."""
        if self.fin:
            return not self.requests_wait
        return self.state.draining and not self.can_be_passed_on

    @property
    def can_be_passed_on(self) -> bool:
        """Whether another process is to go on with this connection. TLS is bound to this one's memory, and so is the
        address that a PROXY header named.
        """
        transport = self.transport
        if self.state.pass_on is None or self.secure or not isinstance(transport, PromptServer):
            return False
        return bool(transport.client[0] == self.address)

    def pass_on(self) -> bool:
        """Gives the connection, between two requests, to the process that takes over; ``False``: not yet. What was
        sent must have been confirmed before: that is judged here. The next request is left to the successor.
        """
        pass_on, peer = self.state.pass_on, self.peer
        if pass_on is not None and peer.watchers and not peer.backlog() and self._is_asked():
            # it has read what it was sent, which would be settled by time alone: group and client would wait for that
            peer.asked()
        if (
            pass_on is None
            or peer.watchers
            or peer.backlog()
            or self.reading.held is not None
            or not pass_on(self.transport.fileno())
        ):
            self.transport.pauseProducing()
            return False
        self.closing = True
        self.transport.detach()
        return True

    def _is_asked(self) -> bool:
        """Whether the client's next request has come; it stays in the kernel."""
        try:
            return bool(self.transport.getHandle().recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False

    @property
    def requests_wait(self) -> bool:
        """Requests have arrived that are not answered yet, behind the one that is being answered."""
        parser = self.parser
        return parser is not None and bool(parser.ready or parser.rest)

    def hand_over(self, protocol: Successor) -> bytes:
        """See ``WireExchange.take_over``. The exchange is over: what drains and ends is its successor's."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self.state.held_bytes -= exchange.body_bytes
        self.other = protocol
        self.deadline = inf
        parser, self.parser = self.parser, None
        self.reading.let_come()
        if parser is None:
            return b""
        rest = parser.rest
        parser.abandon()
        return rest

    def _drained(self) -> None:
        if self.exchange is not None:
            self.exchange.drained()
        elif self.other is not None:
            self.other.drained()
        else:
            self._read_on()

    # --- ending -----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Ends the connection behind the bytes sent: our FIN first, then the client's, so that it reads that and not a
        reset. What still arrives is dropped.
        """
        if self.closing or self.gone:
            return
        self.closing = True
        if self.parser is not None:
            self.parser.abandon()
        self.reading.let_come()
        self.deadline = self._lingering_end()
        if self.fin and self._in_doubt(None):
            self.deadline = inf  # our FIN would be the last that is heard of it
        elif self.other is not None and self.peer.unsettled():
            self._end_held = True
        else:
            self._send_fin()

    def close_answered(self) -> None:
        """A WebSocket's client has sent its Close frame (RFC 6455 7.1.1: the server closes first). That may have
        crossed ours, with records unread: its FIN or its reset, behind our FIN, tells.
        """
        if self._end_held:
            self._send_fin(wait=True)
        elif self.closing:
            self.go_on_ending()

    def go_on_ending(self, waited: bool = False) -> None:
        """Goes on with a lingering close; bytes that are still on their way to the client hold it up."""
        if self.gone:
            return
        peer = self.peer
        if (waited or peer.watchers) and peer.under_way():
            # bounded by the write stall timeout
            self.deadline = self.state.tick + self.state.interval
        elif self._end_held:
            self._send_fin()
        elif waited and (self.secure or peer.backlog()):
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def end_at_once(self) -> None:
        """The client has left, or is idle."""
        if self.gone:
            return
        self.closing = True
        self.deadline = self._lingering_end()
        if self.peer.backlog():
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def cut(self) -> None:
        """Resets the connection."""
        if not self.gone:
            self.closing = self.peer.cut = True
            self.transport.abortConnection()

    def cut_if_stuck(self, now: float) -> None:
        """Cuts a client that has taken nothing for ``write_stall_timeout_seconds`` while bytes wait for it."""
        if self.peer.stuck(now, self.state.config.write_stall_timeout_seconds):
            self.cut()

    def client_ends(self) -> None:
        """The client's FIN. One that comes with its request is a half-close and still gets the answer; one that comes
        later, or in the middle of a response, means that it has left, or that it merely sends no more.
        """
        self.fin = True
        exchange = self.exchange
        if self.closing and self.peer.half_close is None and not self._end_held:
            self.go_on_ending()
            return
        if exchange is None and self.requests_wait:
            return
        if exchange is not None and exchange.fresh:
            age = self.state.seconds() - exchange.request.received
            if age <= self.state.config.half_close_seconds:
                return
        if not self.in_doubt():
            self.end_at_once()

    def we_ended(self) -> None:
        """Our FIN is on its way."""
        if self.closing:
            self.deadline = self._lingering_end()
            if self.fin:
                self.go_on_ending()

    def in_doubt(self) -> bool:
        """The client has said that it sends no more: whether anything depends on what it means by that."""
        if self.closing and self.peer.half_close is None and not self._end_held:
            return False  # we have ended first, and can ask nothing any more
        if not self._in_doubt(self._ask):
            return False
        self.deadline = inf
        self.closing = self.closing or (self.exchange is None and self.other is None)
        return True

    def _in_doubt(self, ask: Callable[[], None] | None) -> bool:
        return self.peer.half_closed(ask, self._doubt_over, self.state.config.lingering_close_seconds)

    def _ask(self) -> None:
        """Ends the response, or sends what a client that has had its response may ignore."""
        tls = self.peer.tls
        if self._end_held and tls is None:
            self.send(b"\r\n")  # RFC 6455 1.4: bytes behind a Close frame are discarded
        elif self.other is not None:
            self.other.leave()
        elif self.exchange is not None:
            self.exchange.keep_alive = False
            self.exchange.leave()
        elif tls is None:
            self.send(b"\r\n")  # RFC 9112 9.2
        if tls is not None:
            tls.send_close_alert()

    def _doubt_over(self) -> None:
        """What the client meant has become clear."""
        wire, half_close = self.peer.wire, self.peer.half_close
        if wire is None or half_close is None:
            return
        if wire.reset:
            wire.abortConnection()  # type: ignore[no-untyped-call]
        elif half_close.settled and self.exchange is not None and self.exchange.fresh:
            self.peer.half_close = None  # it still gets its answer
        elif half_close.settled or half_close.closed:
            wire.loseConnection()  # type: ignore[no-untyped-call]
        else:
            self.cut()

    def _send_fin(self, wait: bool = False) -> None:
        self._end_held = False
        self.deadline = self._lingering_end()
        tls = self.peer.tls
        if tls is not None and wait:
            tls.half_close()
        elif self.peer.wire is None or self.secure:
            self.transport.loseConnection()
        else:
            self.transport.loseWriteConnection()

    def _lingering_end(self) -> float:
        return self.state.tick + self.state.config.lingering_close_seconds
