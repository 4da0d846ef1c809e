"""Subscribing over HTTP: ``GET /{version}/topics/{topic}/{group}``, a reader's records as a response or a WebSocket."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from kateway.core.access.control import AuthorizedRequest
from kateway.core.audit.events import actor
from kateway.core.delivery.batch import Client
from kateway.core.delivery.confirmation import Span
from kateway.core.delivery.ledger import Ack, Batch
from kateway.core.gateway import Gateway, source_topic
from kateway.core.groups.group_reader import GroupReader
from kateway.core.groups.wanted import Wanted
from kateway.errors import Draining, KatewayError, TransformFailed
from kateway.observe import families
from kateway.observe.delivery import DeliveryCells
from kateway.observe.series import Series
from kateway.observe.tracing import BatchTraces, Tracing
from kateway.web import params
from kateway.web.coroutine_handler import serve
from kateway.web.exchange import Exchange, Request, Response
from kateway.web.formats import Form
from kateway.web.formats.raw import RawForm, single
from kateway.web.formats.sse import SseForm, last_event_id
from kateway.web.http1.websocket import accept, wants_websocket
from kateway.web.messages import paths, queries
from kateway.web.messages.admission import Admission, answered_by
from kateway.web.messages.negotiate import form
from kateway.web.messages.read_counts import ReadCounts
from kateway.web.messages.response_body import FormBody
from kateway.web.messages.stream import LEAST_LOOK_SECONDS, Bounds, Feed, Outlet
from kateway.web.messages.traces import Ended, Refused, batches, began, context, describe, entered
from kateway.web.messages.websocket_subscribe import FRAMES, SocketOutlet
from kateway.web.problems import problem

_goes_on = Logger().failureHandler("a response broke when it was to end; the others end")


class SubscribeEdge:
    """Turns subscribe requests into readers and feeds them to their clients."""

    def __init__(
        self,
        gateway: Gateway,
        admission: Admission,
        clock: IReactorTime,
        max_message_bytes: int,
        heartbeat_seconds: float,
        series: Series | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing or Tracing()
        self._series = series
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
        self._draining = False
        self._queries = params.Cache(queries.subscribe_query)
        self._socket_queries = params.Cache(queries.socket_query)

    def handle(self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._subscribe(exchange, path, raw_query))

    async def _subscribe(self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes) -> Response | None:
        request = exchange.request
        as_socket = wants_websocket(exchange)
        query = (self._socket_queries if as_socket else self._queries)(raw_query)
        wanted = form(request.listed(b"accept"))
        read = _read_up_to(request) if isinstance(wanted, SseForm) else None
        admission = self._admission
        tracer = self._tracing.tracer
        trace = None if tracer is None else began(tracer, "subscribe", request)
        with (
            Refused(trace),
            admission.recorded(exchange, "subscribe", path, wanted=admission.audit.subscribes) as event,
        ):
            authorized = event.authorized = admission.enter(exchange, "subscribe", path)
            if trace is not None:
                entered(trace, authorized, request)
            admission.count_request(exchange, authorized)
            leave = admission.enter_reader(authorized)
            cells = self._cells(authorized, query.dead)
            try:
                reader = await self._reader(exchange, authorized, query, cells)
            except BaseException as error:
                leave()
                if self._draining and isinstance(error, Draining) and not as_socket:
                    # the group was passed on before: as if the reader had come a moment sooner
                    ResponseOutlet(exchange, wanted, alone=False, follow=query.follow).end(None, leaving=True)
                    return None
                if self._series is not None and isinstance(error, Draining):
                    self._series.counter(families.HTTP_REJECTED, ("draining",)).value += 1
                raise
            event.gateway = answered_by(exchange, self._gateway.name, (reader.gateway,) if reader.gateway else ())
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
            if trace is not None and (as_socket or query.follow):
                trace.exemplary = False  # its response has begun long before a batch is sent
            traces = None if tracer is None else batches(self._tracing, request, authorized, trace)
            self._feed(authorized, query, reader, outlet, leave, cells, traces)
            if query.follow:
                # its FIN may have come while the group's home was asked: nothing else would end it
                exchange.heed_end()
        return None

    def _cells(self, authorized: AuthorizedRequest, dead: bool) -> DeliveryCells | None:
        """Where a reader's records are counted."""
        series = self._series
        if series is None:
            return None
        group, cluster = series.group(*authorized.group_names(dead)), series.cluster(authorized.place.cluster)
        return DeliveryCells(group, cluster, series.seconds, series.wall)

    def count_blocked(self) -> None:
        """Counts the time up to now in which clients have had no room."""
        for feed in self._feeds:
            if feed.counts is not None:
                feed.counts.count_blocked()

    async def _reader(
        self,
        exchange: Exchange,
        authorized: AuthorizedRequest,
        query: queries.SubscribeQuery,
        cells: DeliveryCells | None,
    ) -> GroupReader:
        wanted = Wanted(
            mode="explicit" if query.explicit else "auto",
            reset=query.reset,
            short=not query.follow and query.limit <= queries.SMALL_LIMIT,
            ack_timeout=query.ack_timeout,
            view=self._admission.view(authorized, query.filter, dead=query.dead),
            cells=cells,
            client=Client(actor(authorized.principal), exchange.request.peer),
        )
        reader = await self._gateway.reader(authorized, wanted, exchange.connection, dead=query.dead)
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
        query: queries.SubscribeQuery,
        reader: GroupReader,
        outlet: Outlet,
        leave: Callable[[], None],
        cells: DeliveryCells | None,
        traces: BatchTraces | None,
    ) -> None:
        max_bytes = math.inf if query.max_bytes is None else query.max_bytes
        bounds = Bounds(query.limit, max_bytes, query.timeout, query.idle, self.least_look_seconds)
        pause = self._admission.pause(authorized)
        counts = None if cells is None else ReadCounts(cells.group, reader, self._clock.seconds)
        feed = Feed(reader, outlet, bounds, self._clock, self.heartbeat_seconds, pause, counts, traces)
        release = self._admission.open_streams.hold(authorized, feed.fail)

        def ended() -> None:
            self._feeds.discard(feed)
            release()
            leave()

        self._feeds.add(feed)
        feed.start(ended)
        if self._draining:
            feed.end(leaving=True)  # its request had arrived before, behind another

    def _socket(
        self, exchange: Exchange, path: paths.TopicPath, reader: GroupReader, authorized: AuthorizedRequest, dead: bool
    ) -> Outlet:
        admission = self._admission
        place = source_topic(authorized, dead)
        caller = context(exchange.request) if self._tracing.tracer is not None else None

        async def acknowledge(acks: Sequence[Ack]) -> list[KatewayError | None]:
            tracer = self._tracing.tracer
            trace = None if tracer is None else tracer.begin("acknowledge", caller)
            if trace is not None:
                describe(trace, authorized, exchange.request.id)
            with (
                Ended(trace) as ended,
                admission.recorded(exchange, "acknowledge", path, wanted=admission.audit.acknowledgements) as event,
            ):
                event.authorized = authorized
                answered: set[str] = set()
                found = await self._gateway.acknowledge(place, authorized.group, acks, sync=False, answered=answered)
                ended.outcomes = found
                event.gateway = ", ".join(sorted(answered - {self._gateway.name}))
                return found

        socket = accept(exchange, (FRAMES,), self.max_message_bytes)
        return SocketOutlet(socket, reader, acknowledge, exchange.request.id)

    def drain(self) -> None:
        """Ends everything with what it has, also what begins later."""
        self._draining = True
        for feed in list(self._feeds):
            with _goes_on:
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
        if isinstance(error, TransformFailed) and self._body.begun:
            # what was sent is whole: cut off, it would come again and again, and nothing behind it ever
            self.end(None, leaving=False)
        elif self._body.begun:
            self._exchange.abort()
        else:
            self._exchange.respond(problem(error, self._exchange.request.id))
