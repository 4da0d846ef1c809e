"""Subscribing over HTTP: ``GET /{version}/topics/{topic}/{group}``, a reader's records as a response.

``SubscribeEdge.handle`` finds the reader; a ``Feed`` then moves records from it to the exchange: take what there is and
what the client has room for, encode it, one write, tell the reader where it lies in the connection's bytes. What
counts as delivered is the reader's business; the connection tells it what has arrived (``kateway.core.reader``).
"""

from __future__ import annotations

import math

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kateway.core.delivery import Taken
from kateway.core.gateway import Gateway
from kateway.core.reader import Reader
from kateway.errors import KatewayError
from kateway.web import params
from kateway.web.compression import Compressor, compressor
from kateway.web.exchange import Exchange, Response
from kateway.web.formats import Form
from kateway.web.formats.raw import RawForm, single
from kateway.web.formats.sse import SseForm, last_event_id
from kateway.web.negotiate import form
from kateway.web.problems import problem
from kateway.web.serve import serve

NO_STORE = (b"Cache-Control", b"no-store")
HEARTBEAT_SECONDS = 15.0
FIRST_BATCH_BYTES = 16384
LARGEST_BATCH_BYTES = 262144
BATCH_RECORDS = 4000
"""Of one turn of the loop, so that no client keeps the others waiting for long."""


class SubscribeEdge:
    """Turns subscribe requests into readers and their records into responses."""

    def __init__(self, gateway: Gateway, clock: IReactorTime) -> None:
        self._gateway = gateway
        self.clock = clock
        self.feeds: set[Feed] = set()
        """The responses under way."""
        self._queries = params.Cache(params.subscribe_query)

    def handle(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._subscribe(exchange, path, raw_query))

    async def _subscribe(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> Response | None:
        query = self._queries(raw_query)
        wanted = form(exchange.request.header(b"accept"))
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
        last_event = exchange.request.header(b"last-event-id")
        if last_event is not None and isinstance(wanted, SseForm):
            reader.settled(last_event_id(last_event))
        feed = Feed(self, exchange, reader, wanted, query)
        self.feeds.add(feed)
        feed.start()
        return None

    def drain(self) -> None:
        """Ends every response with what it has; new ones end at once the same way."""
        for feed in list(self.feeds):
            feed.end()


class Feed:
    """One subscription's response: waits for a first record, streams, and ends by limit, idleness or the client.

    Callbacks, not a coroutine: it runs once for each batch of every stream.
    """

    def __init__(
        self,
        edge: SubscribeEdge,
        exchange: Exchange,
        reader: Reader,
        wanted: Form,
        query: params.SubscribeQuery,
    ) -> None:
        self._exchange = exchange
        self._reader = reader
        self._form = wanted
        self._query = query
        self._feeds = edge.feeds
        self._clock = edge.clock
        self._records_left = query.limit
        self._bytes_left: float = math.inf if query.max_bytes is None else query.max_bytes
        self._batch_bytes = FIRST_BATCH_BYTES
        self._compressor: Compressor | None = None
        self._begun = False
        self._over = False
        self._next: IDelayedCall | None = None
        """The next turn of the loop, when there is more to send at once."""
        self._deadline: IDelayedCall | None = None
        """The timeout before the first record, the idle end or the heartbeat after it."""

    def start(self) -> None:
        """Begins to move records; everything later comes by callback."""
        self._exchange.on_gone(self._gone)
        self._exchange.on_writable(self._turn)
        self._reader.on_readable(self._turn)
        self._reader.on_failed(self._failed)
        if self._query.follow:
            self._begin(math.inf)
        else:
            self._wait(self._query.timeout)
        self._turn()

    # --- moving records --------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Sends one batch, if there is one and the client has room for it."""
        if self._over or (self._begun and not self._exchange.writable()):
            return
        try:
            taken = self._reader.take(
                min(self._records_left, BATCH_RECORDS), int(min(self._bytes_left, self._batch_bytes))
            )
        except KatewayError as error:
            self._failed(error)
            return
        if taken is None:
            return
        self._send(taken)
        if self._records_left <= 0 or self._bytes_left <= 0:
            self.end()
        elif not self._over and self._exchange.writable():
            # a client that takes what it is given at once is given more at a time; a slow one costs little memory
            self._batch_bytes = min(self._batch_bytes * 2, LARGEST_BATCH_BYTES)
            self._wait_idle()
            if self._next is None:
                self._next = self._clock.callLater(0, self._again)
        else:
            self._batch_bytes = max(self._batch_bytes // 2, FIRST_BATCH_BYTES)
            self._wait_idle()

    def _again(self) -> None:
        self._next = None
        self._turn()

    def _send(self, taken: Taken) -> None:
        if self._query.limit == 1 and isinstance(self._form, RawForm):
            record = taken.records[0]
            headers, body = single(
                taken.partition,
                record,
                taken.attempts[0] if taken.attempts else 1,
                taken.leases[0] if taken.leases else None,
                self._form.content_type,
            )
            self._begun = True
            self._exchange.begin(200, headers, len(body))
            pieces = [body]
        else:
            pieces = self._form.encode(taken.partition, taken.records, taken.attempts, taken.leases)
            if not self._begun:
                self._begin(sum(map(len, pieces)))
        self._records_left -= len(pieces)
        self._bytes_left -= sum(map(len, pieces))
        if self._compressor is not None:
            pieces = [self._compressor.piece(b"".join(pieces))]
        self._reader.sent(taken, self._exchange.write(pieces, one_chunk=self._form.one_chunk))

    def _begin(self, size: float) -> None:
        """Sends the head, for a body of at least ``size`` bytes."""
        self._begun = True
        headers = [(b"Content-Type", self._form.content_type), NO_STORE]
        self._compressor = compressor(self._exchange.request.header(b"accept-encoding"), self._form.content_type, size)
        if self._compressor is not None:
            headers += [(b"Content-Encoding", self._compressor.encoding), (b"Vary", b"Accept-Encoding")]
        self._exchange.begin(200, headers)
        self._write(self._form.opening)
        self._wait_idle()

    def _write(self, piece: bytes) -> None:
        """Sends what is no record: an opening, a heartbeat."""
        if piece:
            self._exchange.write([piece if self._compressor is None else self._compressor.piece(piece)])

    # --- waiting ---------------------------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.reset(seconds)
        else:
            self._deadline = self._clock.callLater(seconds, self._waited)

    def _wait_idle(self) -> None:
        if self._query.follow:
            if self._form.heartbeat is not None:
                self._wait(HEARTBEAT_SECONDS)
        else:
            self._wait(self._query.idle)

    def _waited(self) -> None:
        if not self._query.follow:
            self.end()
            return
        if self._form.heartbeat is not None:
            if self._exchange.writable():
                self._write(self._form.heartbeat)
            self._wait(HEARTBEAT_SECONDS)

    # --- ends ------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Ends the response as whole: with what it has, or as 204 (or what ails the group) where it has nothing."""
        if not self._close():
            return
        self._reader.finish()
        if self._begun:
            self._write(self._form.closing)
            if self._compressor is not None:
                self._exchange.write([self._compressor.end()])
            self._exchange.finish()
        elif self._reader.trouble is not None:
            self._exchange.respond(problem(self._reader.trouble, self._exchange.request.id))
        else:
            self._exchange.respond(Response(204, (), b""))

    def _failed(self, error: KatewayError) -> None:
        """The group cannot go on: a problem, or a cut where the response has begun."""
        if not self._close():
            return
        self._reader.finish()
        if self._begun:
            self._exchange.abort()
        else:
            self._exchange.respond(problem(error, self._exchange.request.id))

    def _gone(self) -> None:
        # what it was sent is judged by the reader, which heard of the close first
        if self._close():
            self._reader.finish()

    def _close(self) -> bool:
        if self._over:
            return False
        self._over = True
        self._feeds.discard(self)
        self._reader.on_readable(None)
        self._reader.on_failed(None)
        self._exchange.on_gone(None)
        self._exchange.on_writable(None)
        for call in (self._next, self._deadline):
            if call is not None and call.active():
                call.cancel()
        return True
