"""Questions about a topic, and reading it without a group: ``GET /{version}/topics/{topic}``."""

from __future__ import annotations

from typing import Any

import orjson
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from kateway.core.access.control import AuthorizedRequest, Place
from kateway.core.gateway import Gateway
from kateway.core.reads import Read, Run
from kateway.errors import KatewayError, NotFound
from kateway.model import Record
from kateway.observe.tracing import Tracing
from kateway.web import params
from kateway.web.coroutine_handler import serve
from kateway.web.exchange import JSON, Exchange, Response
from kateway.web.formats import Form
from kateway.web.formats.raw import RawForm, single
from kateway.web.messages import paths, queries
from kateway.web.messages.admission import Admission
from kateway.web.messages.negotiate import form
from kateway.web.messages.response_body import FormBody
from kateway.web.messages.traces import ReadEnded, began, entered

_log = Logger()


class TopicEdge:
    """Answers what a topic holds, or the records themselves."""

    def __init__(self, gateway: Gateway, admission: Admission, tracing: Tracing | None = None) -> None:
        self._tracing = tracing or Tracing()
        self._gateway = gateway
        self._admission = admission
        self._queries = params.Cache(queries.read_query)
        self._waiting: set[Deferred[Run | None]] = set()
        """Reads that wait for their first record."""
        self._draining = False

    def handle(self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._answer(exchange, path, raw_query))

    def schema(self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes) -> None:
        """Answers with the JSON Schema that a topic's records must satisfy."""
        serve(exchange, self._schema(exchange, path, raw_query))

    async def _schema(self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes) -> Response:
        params.query(raw_query, frozenset())
        admission = self._admission
        authorized = admission.enter(exchange, "describe", path._replace(group=None))
        admission.count_request(exchange, authorized)
        schema = admission.transforms.schema(authorized.registered)
        if schema is None:
            raise NotFound(
                f"{path.topic} {path.version} has no schema (and a group cannot be read under the name of schema)"
            )
        return Response(200, ((b"Content-Type", b"application/schema+json"),), orjson.dumps(schema))

    async def _answer(self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes) -> Response | None:
        query = self._queries(raw_query)
        admission = self._admission
        if query.start is None:
            authorized = admission.enter(exchange, "describe", path)
            admission.count_request(exchange, authorized)
            exchange.asks_store()
            return await self._info(authorized.place, path)
        exchange.operation = "read"
        tracer = self._tracing.tracer
        trace = None if tracer is None else began(tracer, "read", exchange.request)
        with (
            ReadEnded(trace) as given,
            admission.recorded(exchange, "read", path, wanted=admission.audit.subscribes) as event,
        ):
            authorized = event.authorized = admission.enter(exchange, "subscribe", path)
            if trace is not None:
                entered(trace, authorized, exchange.request)
            admission.count_request(exchange, authorized)
            view = admission.view(authorized, query.filter)
            read = self._gateway.read(authorized.place, query.partition, query.start, view)
            return await self._permitted(exchange, authorized, read, query, given)

    async def _permitted(
        self,
        exchange: Exchange,
        authorized: AuthorizedRequest,
        read: Read,
        query: queries.ReadQuery,
        given: ReadEnded,
    ) -> Response | None:
        """Reads for as long as it is allowed: a permission that goes ends the wait, and cuts a response that began."""
        reading = Deferred.fromCoroutine(self._read(exchange, authorized, read, query, given))
        refusals: list[KatewayError] = []

        def end(error: KatewayError) -> None:
            refusals.append(error)
            reading.cancel()

        release = self._admission.open_streams.hold(authorized, end)
        try:
            return await reading
        except CancelledError:
            if not refusals:
                raise
            raise refusals[0] from None
        finally:
            release()

    async def _info(self, place: Place, path: paths.TopicPath) -> Response:
        partitions = [
            {"partition": partition, "earliest": earliest, "end": end}
            for partition, earliest, end in await self._gateway.ends(place)
        ]
        return Response(
            200,
            (JSON,),
            orjson.dumps({"topic": path.topic, "version": path.version, "partitions": partitions}),
        )

    async def _read(
        self,
        exchange: Exchange,
        authorized: AuthorizedRequest,
        read: Read,
        query: queries.ReadQuery,
        given: ReadEnded,
    ) -> Response | None:
        """Waits for the first record, then gives what is there, up to ``limit`` records and ``max_bytes``."""
        wanted = form(exchange.request.listed(b"accept"))
        pause = self._admission.pause(authorized)
        if pause is not None:
            # reading is slowed, not refused
            await self._paused(pause(0))
        run = await self._first(read, query)
        given.came()
        if run is None:
            return Response(204, (), b"")
        if query.limit == 1 and isinstance(wanted, RawForm):
            partition, records = run
            given.took(records[:1])
            headers, body = single(partition, records[0], None, None, wanted.content_type)
            if pause is not None:
                pause(len(body))
            return Response(200, headers, body)
        stream = _Stream(exchange, wanted, query, given)
        try:
            while run is not None and await stream.give(*run):
                if pause is not None:
                    await self._paused(pause(stream.take_given()))
                run = await read.next(stream.bytes_left)
        except BaseException as error:
            # a response that has begun and cannot go on is cut, so that it is not taken for whole; the failure is
            # still one for the log and the audit
            exchange.abort()
            if isinstance(error, KatewayError):
                _log.warn("request {id} was cut: {why}", id=exchange.request.id, why=error)
            raise
        if pause is not None:
            pause(stream.take_given())
        stream.end()
        return None

    async def _first(self, read: Read, query: queries.ReadQuery) -> Run | None:
        """Waits for the first records; ``None`` where none come, or the gateway shuts down meanwhile."""
        waiting = Deferred.fromCoroutine(read.first(0 if self._draining else query.timeout, query.max_bytes))
        self._waiting.add(waiting)
        try:
            return await waiting
        except CancelledError:
            if not self._draining:
                raise
            return None
        finally:
            self._waiting.discard(waiting)

    def drain(self) -> None:
        """Ends those that wait, with nothing."""
        self._draining = True
        for waiting in list(self._waiting):
            waiting.cancel()

    async def _paused(self, seconds: float) -> None:
        if seconds:
            await deferLater(self._admission.open_streams.clock, seconds)


class _Stream:
    """A response of records with its limits: so many records, so many bytes."""

    def __init__(self, exchange: Exchange, wanted: Form, query: queries.ReadQuery, told: ReadEnded) -> None:
        self._exchange = exchange
        self._told = told
        self._form = wanted
        self._body = FormBody(exchange, wanted)
        self._max_bytes = query.max_bytes
        self._records_left = query.limit
        self.bytes_left = query.max_bytes
        self._given = 0

    def take_given(self) -> int:
        """Bytes written since the last call."""
        given, self._given = self._given, 0
        return given

    async def give(self, partition: int, records: list[Record]) -> bool:
        """Writes records and waits until the socket has them; tells whether more are wanted."""
        wanted = self._before_a_large_one(records[: self._records_left])
        if wanted:
            size, _ = self._body.send(self._form.encode(partition, wanted, None, None))
            self._records_left -= len(wanted)
            self.bytes_left -= size
            self._given += size
            self._told.took(wanted)
        if len(wanted) < len(records):
            self._records_left = 0
        if not self._exchange.writable():
            drained: Deferred[Any] = Deferred()
            self._exchange.on_writable(lambda: None if drained.called else drained.callback(None))
            try:
                await drained
            finally:
                self._exchange.on_writable(None)
        return self._records_left > 0 and self.bytes_left > 0

    def _before_a_large_one(self, records: list[Record]) -> list[Record]:
        """A record larger than a whole response is given alone."""
        for index, record in enumerate(records):
            if len(record.value or b"") > self._max_bytes and (index or self._body.begun):
                return records[:index]
        return records

    def end(self) -> None:
        self._body.end()
