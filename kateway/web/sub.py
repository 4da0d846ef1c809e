"""Subscribing over HTTP: ``GET /{version}/topics/{topic}/{group}``, a reader's records as a response or a WebSocket."""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from kateway.core.delivery import Taken
from kateway.core.gateway import Gateway
from kateway.core.names import Place
from kateway.core.reader import Reader
from kateway.errors import KatewayError
from kateway.web import params
from kateway.web.compression import Compressor, compressor
from kateway.web.exchange import Exchange, Request, Response, Span
from kateway.web.feed import Bounds, Feed, Outlet
from kateway.web.formats import Form
from kateway.web.formats.raw import RawForm, single
from kateway.web.formats.sse import SseForm, last_event_id
from kateway.web.negotiate import form
from kateway.web.problems import problem
from kateway.web.serve import serve
from kateway.web.socketfeed import FRAMES, SocketOutlet
from kateway.web.websocket import accept, wants_websocket

NO_STORE = (b"Cache-Control", b"no-store")


class SubscribeEdge:
    """Turns subscribe requests into readers and feeds them to their clients."""

    def __init__(self, gateway: Gateway, clock: IReactorTime, max_message_bytes: int) -> None:
        self._gateway = gateway
        self._clock = clock
        self._max_message_bytes = max_message_bytes
        """Of a WebSocket message that a client sends."""
        self._feeds: set[Feed] = set()
        """Those under way."""
        self._queries = params.Cache(params.subscribe_query)
        self._socket_queries = params.Cache(params.socket_query)

    def handle(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._subscribe(exchange, path, raw_query))

    async def _subscribe(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> Response | None:
        request = exchange.request
        as_socket = wants_websocket(exchange)
        query = (self._socket_queries if as_socket else self._queries)(raw_query)
        wanted = form(request.header(b"accept"))
        read = _read_up_to(request) if isinstance(wanted, SseForm) else None
        place = self._gateway.names.place(path.version, path.topic)
        assert path.group is not None
        reader = await self._gateway.reader(
            place,
            path.group,
            mode="explicit" if query.explicit else "auto",
            reset=query.reset,
            short=not query.follow and query.limit <= params.SMALL_LIMIT,
            ack_timeout=query.ack_timeout,
            dead=query.dead,
            connection=exchange.connection,
        )
        if read is not None:
            reader.settled(read)
        try:
            outlet = (
                self._socket(exchange, reader, place, path.group)
                if as_socket
                else ResponseOutlet(exchange, wanted, alone=query.limit == 1, follow=query.follow)
            )
        except KatewayError:
            reader.finish()
            raise
        max_bytes = math.inf if query.max_bytes is None else query.max_bytes
        feed = Feed(reader, outlet, Bounds(query.limit, max_bytes, query.timeout, query.idle), self._clock)
        self._feeds.add(feed)
        feed.start(lambda: self._feeds.discard(feed))
        return None

    def _socket(self, exchange: Exchange, reader: Reader, place: Place, group: str) -> Outlet:
        socket = accept(exchange, (FRAMES,), self._max_message_bytes)
        return SocketOutlet(
            socket,
            reader,
            lambda acks: self._gateway.acknowledge(place, group, acks, sync=False),
            exchange.request.id,
        )

    def drain(self) -> None:
        """Ends everything with what it has."""
        for feed in list(self._feeds):
            feed.end(leaving=True)


def _read_up_to(request: Request) -> dict[int, int] | None:
    raw = request.header(b"last-event-id")
    return None if raw is None else last_event_id(raw)


class ResponseOutlet:
    """A subscription's HTTP response: one record alone, or a stream in some form."""

    def __init__(self, exchange: Exchange, wanted: Form, *, alone: bool, follow: bool) -> None:
        self._exchange = exchange
        self._form = wanted
        self._alone = alone and isinstance(wanted, RawForm)
        self._compressor: Compressor | None = None
        self._begun = False
        if follow:
            self._begin(math.inf)

    def _begin(self, size: float) -> None:
        """Sends the head, for a body of at least ``size`` bytes."""
        self._begun = True
        headers = [(b"Content-Type", self._form.content_type), NO_STORE]
        self._compressor = compressor(self._exchange.request.header(b"accept-encoding"), self._form.content_type, size)
        if self._compressor is not None:
            headers += [(b"Content-Encoding", self._compressor.encoding), (b"Vary", b"Accept-Encoding")]
        self._exchange.begin(200, headers)
        self._write(self._form.opening)

    def send(self, taken: Taken) -> tuple[int, Span]:
        if self._alone:
            attempt = taken.attempts[0] if taken.attempts else 1
            lease = taken.leases[0] if taken.leases else None
            headers, body = single(taken.partition, taken.records[0], attempt, lease, self._form.content_type)
            self._begun = True
            self._exchange.begin(200, headers, len(body))
            return len(body), self._exchange.write([body])
        pieces = self._form.encode(taken.partition, taken.records, taken.attempts, taken.leases)
        size = sum(map(len, pieces))
        if not self._begun:
            self._begin(size)
        if self._compressor is not None:
            pieces = [self._compressor.piece(b"".join(pieces))]
        return size, self._exchange.write(pieces, one_chunk=self._form.one_chunk)

    def writable(self) -> bool:
        return not self._begun or self._exchange.writable()

    def on_writable(self, callback: Callable[[], None] | None) -> None:
        self._exchange.on_writable(callback)

    def on_gone(self, callback: Callable[[], None] | None) -> None:
        self._exchange.on_gone(callback)

    def beat(self) -> None:
        if self._form.heartbeat is not None:
            self._write(self._form.heartbeat)

    def end(self, trouble: KatewayError | None, *, leaving: bool) -> None:
        if not self._begun:
            self._exchange.respond(
                Response(204, (), b"") if trouble is None else problem(trouble, self._exchange.request.id)
            )
            return
        if not self._alone:
            self._write(self._form.closing)
            if self._compressor is not None:
                self._exchange.write([self._compressor.end()])
        self._exchange.finish()

    def fail(self, error: KatewayError) -> None:
        if self._begun:
            self._exchange.abort()
        else:
            self._exchange.respond(problem(error, self._exchange.request.id))

    def _write(self, piece: bytes) -> None:
        """Sends what is no record: an opening, a heartbeat."""
        if piece:
            self._exchange.write([piece if self._compressor is None else self._compressor.piece(piece)])
