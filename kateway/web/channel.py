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

from kateway.errors import KatewayError, RequestTimeout
from kateway.web.bridge import drive
from kateway.web.exchange import Request, Watcher
from kateway.web.parsing import Parsed, RequestParser, new_request_id
from kateway.web.problems import problem
from kateway.web.tls import subject_of
from kateway.web.wire_exchange import WireExchange
from kateway.web.witness import Witness

if TYPE_CHECKING:
    from kateway.web.factory import HttpFactory


@implementer(IHalfCloseableProtocol)
class HttpChannel(Protocol):
    """One client's connection; implements ``exchange.Connection``."""

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
        self._parser: RequestParser | None = None
        self._other: Any = None
        self._subject: str | None = None
        self.remembered: Any = None
        self._advancing = self._closing = self._fin = self._paused = self._secure = False

    # --- the transport's side ---------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._secure = isinstance(self.transport, TLSMemoryBIOProtocol)
        witness = self._witness = Witness(self.transport)
        if witness.wire is not None:
            witness.wire.drained = self._drained
        if witness.tls is not None:
            witness.tls.leaving = self._in_doubt
        factory = self.factory
        self.deadline = factory.tick + factory.config.header_timeout_seconds
        factory.opened(self)
        if self._turned_away is not None:
            self._refuse(self._turned_away)

    def dataReceived(self, data: bytes) -> None:
        if self._other is not None:
            self._other.dataReceived(data)
            return
        if self._closing:
            return  # a lingering close: what still comes is dropped
        witness = self._witness
        if witness.watchers and self.exchange is None and not witness.backlog():
            witness.asked()
        parser = self._parser
        idle = self.exchange is None and (parser is None or parser.idle)
        if idle and self._came_before(data):
            return
        if parser is None:
            factory = self.factory
            parser = self._parser = RequestParser(
                factory.config, factory.budget, factory.seconds, self.peer, self._secure
            )
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
        if found is None or self._advancing:
            return False
        head, body = found
        budget = factory.budget
        if budget.held + head.length > budget.most:
            return False  # the parser says what is wrong
        budget.held += head.length
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
        self.deadline = inf if self.exchange is not None else factory.tick + factory.config.keepalive_idle_seconds
        return True

    def readConnectionLost(self) -> None:
        """The client's FIN. One that comes with its request is a half-close and still gets the answer; one that comes
        later, or in the middle of a response, means that it has left, or that it merely sends no more.
        """
        self._fin = True
        exchange = self.exchange
        if self._closing and self._witness.parting is None:
            self._close_if_confirmed()
        elif exchange is not None and self._other is None and exchange.fresh:
            age = self.factory.seconds() - exchange.request.received
            if age > self.factory.config.half_close_seconds and not self._in_doubt():
                self._leave()
        elif not self._in_doubt():
            self._leave()

    def writeConnectionLost(self) -> None:
        if self._closing:
            self.deadline = self.factory.tick + self.factory.config.lingering_close_seconds
            if self._fin:
                self._close_if_confirmed()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.gone = True
        self.deadline = inf
        if self._held is not None:
            self._held.cancel()
            self._held = None
        parser, self._parser = self._parser, None
        exchange, self.exchange = self.exchange, None
        other, self._other = self._other, None
        budget = self.factory.budget
        if parser is not None:
            parser.close()
            budget.held -= sum(body_bytes for *_, body_bytes in parser.ready)
        if exchange is not None:
            budget.held -= exchange.body_bytes
        try:
            self._witness.over(reason, self.sent)
            if exchange is not None:
                exchange.client_gone()
            if other is not None:
                other.connectionLost(reason)
        finally:
            # whatever those make of it, the connection is counted no longer
            self._witness.forget()
            self.factory.closed(self)

    # --- Connection -------------------------------------------------------------------------------------------------

    def confirmed(self) -> int | None:
        return self._witness.confirmed()

    def stalled(self) -> bool:
        return self._witness.stalled()

    def watch(self, watcher: Watcher) -> None:
        self._witness.watch(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        self._witness.unwatch(watcher)

    def told_to_wait(self, seconds: float) -> None:
        factory = self.factory
        now = factory.seconds()
        pause = factory.config.refused_pause_seconds
        if now < self._wait_until and pause and self._held is None and not self._closing:
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
        witness = self._witness
        return not witness.backlog() and witness.parting is None

    def must_close(self) -> bool:
        """Whether the connection ends with the response that is given now, whatever the client wishes."""
        if self._fin:
            return self._parser is None or not self._parser.ready
        return self.factory.draining

    def answered(self, exchange: WireExchange) -> None:
        """The response was written whole."""
        if exchange.body_bytes:
            self.factory.budget.held -= exchange.body_bytes
        self.exchange = None
        if not exchange.keep_alive or self.factory.draining:  # a stream's head was sent before the draining began
            self._close()
        elif not self._advancing:
            self._advance()

    def cut(self) -> None:
        """Resets the connection."""
        if not self.gone:
            self._closing = self._witness.cut = True
            self.transport.abortConnection()

    def end(self) -> None:
        """Ends a connection that was taken over, once what was sent has arrived."""
        self._close()

    def hand_over(self, protocol: Any) -> bytes:
        """See ``WireExchange.take_over``."""
        self._other = protocol
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
            while self.exchange is None and not self._closing and self._other is None and self._held is None:
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
        if self._other is not None or self._closing or self.gone or self._held is not None:
            return
        if (parser.rest != b"") is not self._paused:
            self._paused = not self._paused
            if self._paused:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()
        config = self.factory.config
        if self.exchange is not None:
            self.deadline = inf
        elif not parser.arriving:
            self.deadline = self.factory.tick + config.keepalive_idle_seconds
        elif parser.in_body:
            self.deadline = self.factory.tick + config.body_idle_timeout_seconds
            if parser.wants_continue:
                parser.wants_continue = False
                self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        else:
            self.deadline = parser.received + config.header_timeout_seconds

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
        request = Request(
            b"", b"", [], b"", http_1_1=True, peer=self.peer, secure=self._secure, id=new_request_id(), received=now
        )
        exchange = self.exchange = WireExchange(self, request, False)
        exchange.respond(problem(error, request.id))

    # --- ending -----------------------------------------------------------------------------------------------------

    def expired(self) -> None:
        """The deadline has passed: the sweep calls."""
        parser = self._parser
        if self._closing:
            self._close_if_confirmed(waited=True)
        elif parser is not None and parser.arriving:
            parser.close()
            part = "body" if parser.in_body else "head"
            self._refuse(RequestTimeout(f"The request's {part} did not arrive in time."))
        else:
            self._leave()

    def check_stall(self, now: float) -> None:
        """Cuts a client that has taken nothing for ``write_stall_timeout_seconds`` while bytes wait for it."""
        if self._witness.stuck(now, self.factory.config.write_stall_timeout_seconds):
            self.cut()

    def close_if_idle(self) -> None:
        """Closes between requests (draining)."""
        parser = self._parser
        idle = self.exchange is None and not self._closing and self._other is None
        if idle and (parser is None or not parser.arriving):
            self._leave()

    def _close(self) -> None:
        """Ends after the last response: our FIN first, then the client's, so that it reads
        the answer and not a reset.
        """
        if self._closing or self.gone:
            return
        self._closing = True
        parser = self._parser
        if parser is not None:
            parser.close()
        self.deadline = self.factory.tick + self.factory.config.lingering_close_seconds
        if self._held is not None:
            self._held.cancel()
            self._held = None
            self._paused = True
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()
        if self._fin and self._witness.part(self.factory, None, self._parted):
            self.deadline = inf  # our FIN would be the last that is heard of it
        elif self._witness.wire is None or self._secure:
            self.transport.loseConnection()
        else:
            self.transport.loseWriteConnection()

    def _close_if_confirmed(self, waited: bool = False) -> None:
        """Goes on with a lingering close; bytes that are still on their way to the client hold it up."""
        if self.gone:
            return
        witness = self._witness
        if (waited or witness.watchers) and witness.under_way():
            # bounded by the write stall timeout
            self.deadline = self.factory.tick + self.factory.interval
            return
        if waited and (self._secure or witness.backlog()):
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def _leave(self) -> None:
        """Ends now: the client has left, or is idle."""
        if self.gone:
            return
        self._closing = True
        self.deadline = self.factory.tick + self.factory.config.lingering_close_seconds
        if self._witness.backlog():
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def _in_doubt(self) -> bool:
        """The client has said that it sends no more: whether anything depends on what it means by that."""
        if not self._witness.part(self.factory, self._say_goodbye, self._parted):
            return False
        self.deadline = inf
        self._closing = self._closing or (self.exchange is None and self._other is None)
        return True

    def _say_goodbye(self) -> None:
        """Ends the response, or sends what a client that has had its response may ignore."""
        tls = self._witness.tls
        if self.exchange is not None:
            self.exchange.keep_alive = False
            self.exchange.leave()
        elif self._other is not None:
            self._other.leave()
        elif tls is None:
            self.send(b"\r\n")  # RFC 9112 9.2
        if tls is not None:
            tls.say_goodbye()

    def _parted(self) -> None:
        """What a goodbye meant has become clear."""
        wire, parting = self._witness.wire, self._witness.parting
        if wire is None or parting is None:
            return
        if wire.reset:
            wire.abortConnection()  # type: ignore[no-untyped-call]
        elif parting.settled and self.exchange is not None and self.exchange.fresh:
            self._witness.parting = None  # it still gets its answer
        elif parting.settled or parting.closed:
            wire.loseConnection()  # type: ignore[no-untyped-call]
        else:
            self.cut()

    def _drained(self) -> None:
        if self.exchange is not None:
            self.exchange.drained()
        elif self._other is not None:
            self._other.drained()
