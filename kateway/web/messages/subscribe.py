"""Subscribing over HTTP: ``GET /{version}/topics/{topic}/{group}``, a reader's records as a response or a WebSocket."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IReactorTime

from kateway.core.access.control import AuthorizedRequest
from kateway.core.delivery.confirmation import Span
from kateway.core.delivery.ledger import Ack, Batch
from kateway.core.gateway import Gateway, source_topic
from kateway.core.groups.reader import Reader
from kateway.errors import KatewayError
from kateway.web import params
from kateway.web.coroutine_handler import serve
from kateway.web.exchange import Exchange, Request, Response
from kateway.web.formats import Form
from kateway.web.formats.raw import RawForm, single
from kateway.web.formats.sse import SseForm, last_event_id
from kateway.web.http1.websocket import accept, wants_websocket
from kateway.web.messages.admission import Admission
from kateway.web.messages.negotiate import form
from kateway.web.messages.response_body import FormBody
from kateway.web.messages.stream import LEAST_LOOK_SECONDS, Bounds, Feed, Outlet
from kateway.web.messages.websocket_subscribe import FRAMES, SocketOutlet
from kateway.web.problems import problem


class SubscribeEdge:
    """Turns subscribe requests into readers and feeds them to their clients."""

    def __init__(
        self,
        gateway: Gateway,
        admission: Admission,
        clock: IReactorTime,
        max_message_bytes: int,
        heartbeat_seconds: float,
    ) -> None:
        self._gateway = gateway
        self._admission = admission
        self._clock = clock
        self.max_message_bytes = max_message_bytes
        """Of a WebSocket message that a client sends; a reload may change it."""
        self.heartbeat_seconds = heartbeat_seconds
        self.least_look_seconds = LEAST_LOOK_SECONDS
        """Between signs of life on streams without records; a reload may change it for those to come."""
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
        wanted = form(request.listed(b"accept"))
        read = _read_up_to(request) if isinstance(wanted, SseForm) else None
        admission = self._admission
        with admission.recorded(exchange, "subscribe", path, wanted=admission.audit.subscribes) as event:
            authorized = event.authorized = admission.enter(exchange, "subscribe", path)
            admission.count_request(exchange, authorized)
            leave = admission.enter_reader(authorized)
            try:
                reader = await self._reader(exchange, authorized, query)
            except BaseException:
                leave()
                raise
            try:
                if read is not None:
                    reader.settled(read)
                outlet = (
                    self._socket(exchange, path, reader, authorized, query.dead)
                    if as_socket
                    else ResponseOutlet(exchange, wanted, alone=query.limit == 1, follow=query.follow)
                )
            except BaseException:
                leave()
                reader.finish()
                raise
            self._feed(authorized, query, reader, outlet, leave)
        return None

    async def _reader(self, exchange: Exchange, authorized: AuthorizedRequest, query: params.SubscribeQuery) -> Reader:
        reader = await self._gateway.reader(
            authorized,
            mode="explicit" if query.explicit else "auto",
            reset=query.reset,
            short=not query.follow and query.limit <= params.SMALL_LIMIT,
            ack_timeout=query.ack_timeout,
            dead=query.dead,
            connection=exchange.connection,
        )
        try:
            # the permission may have been withdrawn while the request waited for its turn
            self._admission.control.review(authorized)
        except BaseException:
            reader.finish()
            raise
        return reader

    def _feed(
        self,
        authorized: AuthorizedRequest,
        query: params.SubscribeQuery,
        reader: Reader,
        outlet: Outlet,
        leave: Callable[[], None],
    ) -> None:
        max_bytes = math.inf if query.max_bytes is None else query.max_bytes
        bounds = Bounds(query.limit, max_bytes, query.timeout, query.idle, self.least_look_seconds)
        feed = Feed(reader, outlet, bounds, self._clock, self.heartbeat_seconds, self._admission.pause(authorized))
        release = self._admission.open_streams.hold(authorized, feed.fail)

        def ended() -> None:
            self._feeds.discard(feed)
            release()
            leave()

        self._feeds.add(feed)
        feed.start(ended)

    def _socket(
        self, exchange: Exchange, path: params.TopicPath, reader: Reader, authorized: AuthorizedRequest, dead: bool
    ) -> Outlet:
        admission = self._admission
        place = source_topic(authorized, dead)

        async def acknowledge(acks: Sequence[Ack]) -> list[KatewayError | None]:
            with admission.recorded(exchange, "acknowledge", path, wanted=admission.audit.acknowledgements) as event:
                event.authorized = authorized
                return await self._gateway.acknowledge(place, authorized.group, acks, sync=False)

        socket = accept(exchange, (FRAMES,), self.max_message_bytes)
        return SocketOutlet(socket, reader, acknowledge, exchange.request.id)

    def drain(self) -> None:
        """Ends everything with what it has."""
        for feed in list(self._feeds):
            feed.end(leaving=True)


def _read_up_to(request: Request) -> dict[int, int] | None:
    raw = request.header(b"last-event-id")
    return last_event_id(raw) if raw else None


class ResponseOutlet:
    """A subscription's HTTP response: one record alone, or a stream in some form."""

    def __init__(self, exchange: Exchange, wanted: Form, *, alone: bool, follow: bool) -> None:
        self._exchange = exchange
        self._form = wanted
        self._alone = alone and isinstance(wanted, RawForm)
        self._body = FormBody(exchange, wanted)
        if follow:
            self._body.begin()

    def send(self, batch: Batch) -> tuple[int, Span]:
        if self._alone:
            attempt = batch.attempts[0] if batch.attempts else 1
            lease = batch.leases[0] if batch.leases else None
            headers, body = single(batch.partition, batch.records[0], attempt, lease, self._form.content_type)
            self._body.begun = True
            self._exchange.begin(200, headers, len(body))
            return len(body), self._exchange.write([body])
        return self._body.send(self._form.encode(batch.partition, batch.records, batch.attempts, batch.leases))

    def writable(self) -> bool:
        return not self._body.begun or self._exchange.writable()

    def on_writable(self, callback: Callable[[], None] | None) -> None:
        self._exchange.on_writable(callback)

    def on_gone(self, callback: Callable[[], None] | None) -> None:
        self._exchange.on_gone(callback)

    def beat(self) -> None:
        if self._form.heartbeat is not None:
            self._body.write(self._form.heartbeat)

    def end(self, last_error: KatewayError | None, *, leaving: bool) -> None:
        if not self._body.begun:
            self._exchange.respond(
                Response(204, (), b"") if last_error is None else problem(last_error, self._exchange.request.id)
            )
            return
        if self._alone:
            self._exchange.finish()
        else:
            self._body.end()

    def fail(self, error: KatewayError) -> None:
        if self._body.begun:
            self._exchange.abort()
        else:
            self._exchange.respond(problem(error, self._exchange.request.id))
