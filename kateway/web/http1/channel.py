"""Answers the requests of one HTTP/1.1 connection, one at a time and in order; never trusts a client.

Hot routes get the request straight from here; every other is driven through the ``twisted.web`` tree by
``twisted_request``. Plain callbacks throughout: a coroutine a request would cost more than the request.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Protocol as Interface

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.server import Site
from zope.interface import implementer

from kateway.errors import KatewayError, Overloaded, RequestTimeout
from kateway.web.exchange import Exchange, Request
from kateway.web.http1.connection import HttpConnection
from kateway.web.http1.exchange import WireExchange
from kateway.web.http1.head_cache import Heads
from kateway.web.http1.parser import Parsed, RequestParser
from kateway.web.http1.request_id import new_request_id
from kateway.web.http1.server_state import ServerState
from kateway.web.http1.twisted_request import drive
from kateway.web.problems import problem
from kateway.web.tcp.proxies import TrustedProxies

_TOO_LARGE = frozenset((413, 414, 431))
Handler = Callable[[Exchange], None]
Router = Callable[[Request], Handler | None]


class Server(Interface):
    """What a channel needs of its factory: where requests go, and notice of its beginning and its end."""

    state: ServerState
    heads: Heads
    router: Router
    site: Site

    def opened(self, channel: HttpChannel) -> None: ...
    def closed(self, channel: HttpChannel) -> None: ...


@implementer(IHalfCloseableProtocol)
class HttpChannel(Protocol):
    """One client's. ``connection`` is there from the beginning of the connection on."""

    connection: HttpConnection

    def __init__(
        self, server: Server, address: str, turned_away: KatewayError | None, proxies: TrustedProxies | None = None
    ) -> None:
        """``proxies`` where ``address`` is one of them: each request may then be another client's."""
        self.address = address
        self._proxies = proxies
        self._forwarded_for = address
        self._server = server
        self._state = server.state
        self._turned_away = turned_away
        self._advancing = False

    # --- the transport's side ---------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        state = self._state
        self.connection = HttpConnection(state, self.transport, self.address, self._answered, self._advance)
        self._server.opened(self)
        self.connection.deadline = state.tick + state.config.header_timeout_seconds
        if self._turned_away is not None:
            self._refuse(self._turned_away, "")  # counted by the factory

    def taken_over(self) -> None:
        """Goes on with a connection that another process had, between two requests: it is idle, not new."""
        if self._turned_away is None:
            self.connection.deadline = self._due()

    def dataReceived(self, data: bytes) -> None:
        connection = self.connection
        if connection.other is not None:
            connection.other.dataReceived(data)
            return
        if connection.closing:
            return  # a lingering close: what still comes is dropped
        peer = connection.peer
        if peer.watchers and connection.exchange is None and not peer.backlog():
            peer.asked()
        parser = connection.parser
        idle = connection.exchange is None and (parser is None or parser.idle)
        if idle and self._came_before(data):
            return
        if parser is None:
            parser = connection.parser = RequestParser(self._state, self.address, connection.secure)
        parser.feed(data)
        if idle and parser.ready and parser.between:
            request, keep_alive, upgrade, length = parser.ready[0]
            if keep_alive and not upgrade:
                self._server.heads.keep(data, request, length)
        if connection.exchange is None or parser.rest:
            self._advance()

    def _came_before(self, data: bytes) -> bool:
        """Handles a whole request whose head came before (``heads``), past the parser."""
        connection = self.connection
        found = self._server.heads.find(data)
        if found is None or self._advancing or connection.reading.held is not None or connection.peer.backlog():
            # held: what TLS has decrypted behind the pause waits with the parser
            return False
        head, body = found
        state = self._state
        if state.held_bytes + head.length > state.config.max_inflight_body_bytes:
            return False  # the parser names the fault
        state.held_bytes += head.length
        request = Request(
            head.method,
            head.target,
            head.headers,
            body,
            http_1_1=head.http_1_1,
            peer=self.address,
            secure=connection.secure,
            id=new_request_id(),
            received=state.seconds(),
            head=head,
        )
        self._advancing = True
        try:
            self._handle((request, True, False, head.length))
        finally:
            self._advancing = False
        if connection.exchange is not None:
            connection.deadline = inf
        elif not connection.closing:
            connection.deadline = state.tick + state.config.keepalive_idle_seconds
        return True

    def readConnectionLost(self) -> None:
        self.connection.client_ends()

    def writeConnectionLost(self) -> None:
        self.connection.we_ended()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        connection = self.connection
        connection.gone = True
        connection.deadline = inf
        connection.reading.stop()
        parser, connection.parser = connection.parser, None
        exchange, connection.exchange = connection.exchange, None
        other, connection.other = connection.other, None
        if parser is not None:
            parser.abandon()
        if exchange is not None:
            self._state.held_bytes -= exchange.body_bytes
        try:
            connection.peer.over(reason, connection.sent)
            if exchange is not None:
                exchange.client_gone()
            if other is not None:
                other.connectionLost(reason)
        finally:
            # whatever those make of it, the connection is counted no longer
            connection.peer.forget()
            self._server.closed(self)

    # --- one after the other ----------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Handles the requests that are ready, one at a time; never from inside a handler or the parser. Requests wait
        while bytes of earlier responses do: a client that does not read is not answered more and more.
        """
        connection = self.connection
        reading = connection.reading
        parser = connection.parser
        if self._advancing or reading.held is not None or parser is None:
            return
        self._advancing = True
        try:
            while (
                connection.exchange is None
                and not connection.closing
                and connection.other is None
                and reading.held is None
                and not connection.peer.backlog()
            ):
                if parser.ready:
                    self._handle(parser.ready.pop(0))
                elif parser.rest:
                    parser.feed(b"")
                elif parser.refusal is not None:
                    self._refuse(parser.refusal, _reason(parser.refusal))
                else:
                    break
        finally:
            self._advancing = False
        if connection.other is not None or connection.closing or connection.gone or reading.held is not None:
            return
        reading.set_full(parser.rest != b"")
        connection.deadline = self._due()
        if parser.wants_continue and connection.exchange is None and not connection.requests_wait:
            parser.wants_continue = False
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _due(self) -> float:
        """When the client must have sent something, as things are now."""
        connection, state = self.connection, self._state
        parser, config = connection.parser, state.config
        if connection.exchange is not None or connection.other is not None:
            return inf
        if parser is None or not parser.arriving:
            return state.tick + config.keepalive_idle_seconds
        if parser.in_body:
            return state.tick + config.body_idle_timeout_seconds
        return parser.received + config.header_timeout_seconds

    def _handle(self, parsed: Parsed) -> None:
        if self._proxies is not None:
            self._attribute(parsed[0], self._proxies)
        exchange = self.connection.exchange = WireExchange(self.connection, *parsed)
        server = self._server
        try:
            handler = server.router(parsed[0])
            if handler is not None:
                handler(exchange)
            else:
                drive(exchange, server.site)
        except CancelledError:
            exchange.abort()
        except Exception as error:
            exchange.fail(error)

    def _attribute(self, request: Request, proxies: TrustedProxies) -> None:
        """Gives a request that a trusted proxy passes on to the client that it names."""
        forwarded = request.listed(b"x-forwarded-for")
        if forwarded is not None:
            request.peer = proxies.client(self.address, forwarded)
        if request.peer != self._forwarded_for:
            self._forwarded_for = request.peer
            self.connection.remembered = None  # what was found out about another client

    def _answered(self, exchange: WireExchange) -> None:
        """The response was written whole."""
        if exchange.body_bytes:
            self._state.held_bytes -= exchange.body_bytes
        self.connection.exchange = None
        state, connection = self._state, self.connection
        # a stream's head was sent before the draining began
        if not exchange.keep_alive or (state.draining and not connection.can_be_passed_on):
            connection.end()
            return
        if state.draining:
            state.later(0, self.close_if_idle)
        if not self._advancing:
            self._advance()

    def _refuse(self, error: KatewayError, reason: str) -> None:
        """Answers a request that cannot be parsed, and closes; counts it where there is a ``reason``."""
        if reason:
            self._state.rejected(reason)
        connection = self.connection
        parser = connection.parser
        given = None if parser is None else parser.refused_id
        request = Request(
            b"",
            b"",
            [],
            b"",
            http_1_1=True,
            peer=self.address,
            secure=connection.secure,
            id=given or new_request_id(),
            received=self._state.seconds(),
        )
        exchange = connection.exchange = WireExchange(connection, request, False)
        exchange.respond(problem(error, request.id))

    # --- the factory's side -----------------------------------------------------------------------------------------

    def expired(self) -> None:
        """The deadline has passed: the sweep calls."""
        connection = self.connection
        parser = connection.parser
        if connection.closing:
            connection.go_on_ending(waited=True)
        elif connection.peer.backlog() or connection.reading.held is not None:
            # it still takes a response, which the write stall timeout bounds, or may not send yet
            connection.deadline = self._state.tick + self._state.interval
        elif parser is not None and parser.arriving:
            parser.close()
            part = "body" if parser.in_body else "head"
            reason = "body_timeout" if parser.in_body else "header_timeout"
            self._refuse(RequestTimeout(f"The request's {part} did not arrive in time."), reason)
        else:
            connection.end_at_once()

    def configured(self) -> None:
        """Other limits are in force: an earlier deadline holds at once, a later one after the next request."""
        connection = self.connection
        if self._proxies is not None:
            proxies = self._state.proxies
            self._proxies = proxies if proxies.trusts(self.address) else None
        if not connection.closing:
            connection.deadline = min(connection.deadline, self._due())
        if connection.peer.wire is not None:
            connection.peer.wire.keep_unsent_below(self._state.config.max_unsent_bytes)

    def close_if_idle(self) -> None:
        """Closes between requests (draining), or passes on to another process; behind its last response a client that
        still takes it.
        """
        connection = self.connection
        if connection.gone:
            return
        parser = connection.parser
        idle = connection.exchange is None and not connection.closing and connection.other is None
        if not idle or connection.requests_wait or (parser is not None and parser.arriving):
            return
        if connection.can_be_passed_on and not connection.fin and connection.peer.half_close is None:
            connection.pass_on()  # the factory tries again where it cannot be yet
            return
        if self._state.pass_on is not None:
            # its next response is the last and says so; the sweep ends it where none is asked for
            connection.deadline = min(connection.deadline, self._state.lead_away_until)
            return
        if parser is None and connection.sent == 0 and self._turned_away is None:
            # just accepted: its request is on its way, and a proxy may not send it again
            connection.deadline = min(connection.deadline, self._state.tick + self._state.config.half_close_seconds)
            return
        if connection.peer.backlog():
            connection.end()
        else:
            connection.end_at_once()


def _reason(refusal: KatewayError) -> str:
    """Names why a request could not be parsed, for the count of them."""
    if refusal.status in _TOO_LARGE:
        return "too_large"
    return "overload" if isinstance(refusal, Overloaded) else "parse"
