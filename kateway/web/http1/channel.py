"""The HTTP/1.1 wire: a protocol on httptools that answers one request at a time, in order, and never trusts a client.

Hot routes get the request straight from here; every other is driven through the ``twisted.web`` tree by ``bridge.py``.
Plain callbacks throughout: a coroutine a request would cost more than the request.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from kateway.core.delivery.confirmation import Watcher
from kateway.errors import KatewayError, RequestTimeout
from kateway.web.exchange import Request
from kateway.web.http1.closing import Ending
from kateway.web.http1.exchange import WireExchange
from kateway.web.http1.parser import Parsed, RequestParser, new_request_id
from kateway.web.http1.twisted_request import drive
from kateway.web.problems import problem
from kateway.web.tcp.peer_state import Witness
from kateway.web.tcp.tls import subject_of

if TYPE_CHECKING:
    from kateway.web.http1.factory import HttpFactory


@implementer(IHalfCloseableProtocol)
class HttpChannel(Protocol):
    """One client's connection; implements ``exchange.ClientConnection``."""

    factory: HttpFactory
    transport: Any
    _wait_until = 0.0
    """Until when the client was told to wait."""
    _held: IDelayedCall | None = None
    """Ends a pause in which nothing is read, because the client did not wait."""

    def __init__(self, factory: HttpFactory, peer: str, turned_away: KatewayError | None) -> None:
        self.factory = factory
        self.peer = peer
        self.exchange: WireExchange | None = None
        """The one being answered."""
        self.sent = 0
        """Plaintext bytes written since the beginning: the stream that spans are counted on."""
        self.gone = False
        self.deadline = inf
        """When the factory's sweep is to look at this connection, on the factory's clock."""
        self._turned_away = turned_away
        self.ending = Ending(self)
        self._parser: RequestParser | None = None
        self.other: Any = None
        """Who has taken the connection over."""
        self._subject: str | None = None
        self.remembered: Any = None
        self._advancing = self._paused = self._secure = False

    # --- the transport's side ---------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._secure = isinstance(self.transport, TLSMemoryBIOProtocol)
        witness = self.witness = Witness(self.transport)
        if witness.wire is not None:
            witness.wire.drained = self._drained
            witness.wire.keep_unsent_below(self.factory.config.max_unsent_bytes)
        if witness.tls is not None:
            witness.tls.leaving = self.ending.in_doubt
        factory = self.factory
        self.deadline = factory.tick + factory.config.header_timeout_seconds
        factory.opened(self)
        if self._turned_away is not None:
            self._refuse(self._turned_away)

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None:
            self.other.dataReceived(data)
            return
        if self.ending.begun:
            return  # a lingering close: what still comes is dropped
        witness = self.witness
        if witness.watchers and self.exchange is None and not witness.backlog():
            witness.asked()
        parser = self._parser
        idle = self.exchange is None and (parser is None or parser.idle)
        if idle and self._came_before(data):
            return
        if parser is None:
            factory = self.factory
            parser = self._parser = RequestParser(factory.limits, factory.seconds, self.peer, self._secure)
        parser.feed(data)
        if idle and parser.ready and parser.between:
            request, keep_alive, upgrade, length = parser.ready[0]
            if keep_alive and not upgrade:
                self.factory.heads.keep(data, request, length)
        if self.exchange is None or parser.rest:
            self._advance()

    def _came_before(self, data: bytes) -> bool:
        """Handles a whole request whose head came before (``heads``), past the parser."""
        factory = self.factory
        found = factory.heads.find(data)
        if found is None or self._advancing or self._held is not None:
            # paused: TLS still delivers what it has decrypted of a read; it waits with the parser
            return False
        head, body = found
        limits = factory.limits
        if limits.held + head.length > limits.config.max_inflight_body_bytes:
            return False  # the parser says what is wrong
        limits.held += head.length
        request = Request(
            head.method,
            head.target,
            head.headers,
            body,
            http_1_1=head.http_1_1,
            peer=self.peer,
            secure=self._secure,
            id=new_request_id(),
            received=factory.seconds(),
            head=head,
        )
        self._advancing = True
        try:
            self._handle((request, True, False, head.length))
        finally:
            self._advancing = False
        if self.exchange is not None:
            self.deadline = inf
        elif not self.ending.begun:
            self.deadline = factory.tick + factory.config.keepalive_idle_seconds
        return True

    def readConnectionLost(self) -> None:
        self.ending.client_ends()

    def writeConnectionLost(self) -> None:
        self.ending.we_ended()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.gone = True
        self.deadline = inf
        if self._held is not None:
            self._held.cancel()
            self._held = None
        parser, self._parser = self._parser, None
        exchange, self.exchange = self.exchange, None
        other, self.other = self.other, None
        if parser is not None:
            parser.abandon()
        if exchange is not None:
            self.factory.limits.held -= exchange.body_bytes
        try:
            self.witness.over(reason, self.sent)
            if exchange is not None:
                exchange.client_gone()
            if other is not None:
                other.connectionLost(reason)
        finally:
            # whatever those make of it, the connection is counted no longer
            self.witness.forget()
            self.factory.closed(self)

    # --- Connection -------------------------------------------------------------------------------------------------

    def confirmed(self) -> int | None:
        return self.witness.confirmed()

    def stalled(self) -> bool:
        return self.witness.stalled()

    def watch(self, watcher: Watcher) -> None:
        self.witness.watch(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        self.witness.unwatch(watcher)

    def told_to_wait(self, seconds: float) -> None:
        factory = self.factory
        now = factory.seconds()
        pause = factory.config.refused_pause_seconds
        if now < self._wait_until and pause and self._held is None and not self.ending.begun:
            self._held = factory.later(pause, self._read_on)
            self.transport.pauseProducing()
        self._wait_until = now + seconds

    def _read_on(self) -> None:
        self._held = None
        if not self._paused:
            self.transport.resumeProducing()
        self._advance()

    # --- the exchange's side ----------------------------------------------------------------------------------------

    @property
    def subject(self) -> str:
        """Of the client's certificate; asked of TLS once a connection, when the handshake is done."""
        if self._subject is None:
            self._subject = subject_of(self.transport) if self._secure else ""
        return self._subject

    @property
    def secure(self) -> bool:
        return self._secure

    def send(self, data: bytes) -> None:
        self.sent += len(data)
        if not self.gone:
            self.transport.write(data)

    def writable(self) -> bool:
        """Whether the client has room for more, and has not said goodbye."""
        witness = self.witness
        return not witness.backlog() and witness.parting is None

    def must_close(self) -> bool:
        """Whether the connection ends with the response that is given now, whatever the client wishes."""
        if self.ending.fin:
            return self._parser is None or not self._parser.ready
        return self.factory.draining

    def answered(self, exchange: WireExchange) -> None:
        """The response was written whole."""
        if exchange.body_bytes:
            self.factory.limits.held -= exchange.body_bytes
        self.exchange = None
        if not exchange.keep_alive or self.factory.draining:  # a stream's head was sent before the draining began
            self.ending.after_response()
        elif not self._advancing:
            self._advance()

    def cut(self) -> None:
        """Resets the connection."""
        self.ending.by_force()

    def end(self) -> None:
        """Ends a connection that was taken over, once what was sent has arrived."""
        self.ending.after_response()

    def take_no_more(self) -> None:
        """Lets what still arrives come, and be dropped."""
        if self._parser is not None:
            self._parser.abandon()
        if self._held is not None:
            self._held.cancel()
            self._held = None
            self._paused = True
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()

    def hand_over(self, protocol: Any) -> bytes:
        """See ``WireExchange.take_over``."""
        self.other = protocol
        self.deadline = inf
        parser, self._parser = self._parser, None
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()
        if parser is None:
            return b""
        rest = parser.rest
        parser.close()
        return rest

    # --- one after the other ----------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Handles what is ready, one at a time; never from inside a handler or the parser."""
        if self._advancing or self._held is not None:
            return
        parser = self._parser
        if parser is None:
            return
        self._advancing = True
        try:
            while self.exchange is None and not self.ending.begun and self.other is None and self._held is None:
                if parser.ready:
                    self._handle(parser.ready.pop(0))
                elif parser.rest:
                    parser.feed(b"")
                elif parser.refusal is not None:
                    self._refuse(parser.refusal)
                else:
                    break
        finally:
            self._advancing = False
        if self.other is not None or self.ending.begun or self.gone or self._held is not None:
            return
        if (parser.rest != b"") is not self._paused:
            self._paused = not self._paused
            if self._paused:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()
        self.deadline = self._due()
        if parser.wants_continue and self.exchange is None:
            parser.wants_continue = False
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _due(self) -> float:
        """When the client must have sent something, as things are now."""
        factory, parser = self.factory, self._parser
        config = factory.config
        if self.exchange is not None or self.other is not None:
            return inf
        if parser is None or not parser.arriving:
            return factory.tick + config.keepalive_idle_seconds
        if parser.in_body:
            return factory.tick + config.body_idle_timeout_seconds
        return parser.received + config.header_timeout_seconds

    def _handle(self, parsed: Parsed) -> None:
        exchange = self.exchange = WireExchange(self, *parsed)
        try:
            handler = self.factory.router(parsed[0])
            if handler is not None:
                handler(exchange)
            else:
                drive(exchange, self.factory.site)
        except CancelledError:
            exchange.abort()
        except Exception as error:
            exchange.fail(error)

    def _refuse(self, error: KatewayError) -> None:
        """Answers what cannot be followed, and closes."""
        now = self.factory.seconds()
        parser = self._parser
        given = None if parser is None else parser.refused_id
        request = Request(
            b"",
            b"",
            [],
            b"",
            http_1_1=True,
            peer=self.peer,
            secure=self._secure,
            id=given or new_request_id(),
            received=now,
        )
        exchange = self.exchange = WireExchange(self, request, False)
        exchange.respond(problem(error, request.id))

    # --- ending -----------------------------------------------------------------------------------------------------

    def expired(self) -> None:
        """The deadline has passed: the sweep calls."""
        parser = self._parser
        if self.ending.begun:
            self.ending.go_on(waited=True)
        elif parser is not None and parser.arriving:
            parser.close()
            part = "body" if parser.in_body else "head"
            self._refuse(RequestTimeout(f"The request's {part} did not arrive in time."))
        else:
            self.ending.at_once()

    def configured(self) -> None:
        """Other limits are in force: an earlier deadline holds at once, a later one after the next request."""
        if not self.ending.begun:
            self.deadline = min(self.deadline, self._due())
        if self.witness.wire is not None:
            self.witness.wire.keep_unsent_below(self.factory.config.max_unsent_bytes)

    def close_if_idle(self) -> None:
        """Closes between requests (draining)."""
        parser = self._parser
        idle = self.exchange is None and not self.ending.begun and self.other is None
        if idle and (parser is None or not parser.arriving):
            self.ending.at_once()

    def _drained(self) -> None:
        if self.exchange is not None:
            self.exchange.drained()
        elif self.other is not None:
            self.other.drained()
