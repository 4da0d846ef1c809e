"""Questions about a topic, and reading it without a group: ``GET /{version}/topics/{topic}``."""

from __future__ import annotations

from typing import Any

import orjson
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from kateway.core.access.control import AuthorizedRequest, Place
from kateway.core.gateway import Gateway, Start
from kateway.errors import KatewayError
from kateway.model import Record
from kateway.storage.interface import Fetched
from kateway.web import params
from kateway.web.coroutine_handler import serve
from kateway.web.exchange import JSON, Exchange, Response
from kateway.web.formats import Form
from kateway.web.formats.raw import RawForm, single
from kateway.web.messages.admission import Admission
from kateway.web.messages.negotiate import form
from kateway.web.messages.response_body import FormBody

ONE_READ_BYTES = 1 << 20

_log = Logger()


class TopicEdge:
    """Answers what a topic holds, or the records themselves."""

    def __init__(self, gateway: Gateway, admission: Admission) -> None:
        self._gateway = gateway
        self._admission = admission
        self._queries = params.Cache(params.read_query)
        self._waiting: set[Deferred[Fetched]] = set()
        """Reads that wait at the end of a partition."""
        self._draining = False

    def handle(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._answer(exchange, path, raw_query))

    async def _answer(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> Response | None:
        query = self._queries(raw_query)
        admission = self._admission
        if query.partition is None or query.start is None:
            authorized = admission.enter(exchange, "describe", path)
            admission.count_request(exchange, authorized)
            return await self._info(authorized.place, path)
        with admission.recorded(exchange, "read", path, wanted=admission.audit.subscribes) as event:
            authorized = event.authorized = admission.enter(exchange, "subscribe", path)
            admission.count_request(exchange, authorized)
            return await self._permitted(exchange, authorized, query.partition, query.start, query)

    async def _permitted(
        self, exchange: Exchange, authorized: AuthorizedRequest, partition: int, start: Start, query: params.ReadQuery
    ) -> Response | None:
        """Reads for as long as it is allowed: a permission that goes ends the wait, and cuts a response that began."""
        reading = Deferred.fromCoroutine(self._read(exchange, authorized, partition, start, query))
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

    async def _info(self, place: Place, path: params.TopicPath) -> Response:
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
        self, exchange: Exchange, authorized: AuthorizedRequest, partition: int, start: Start, query: params.ReadQuery
    ) -> Response | None:
        """Waits for the first record, then gives what is there, up to ``limit`` records and ``max_bytes``."""
        wanted = form(exchange.request.listed(b"accept"))
        place = authorized.place
        pause = self._admission.pause(authorized)
        if pause is not None:
            # reading is slowed, not refused
            await self._paused(pause(0))
        offset = await self._gateway.start(place, partition, start)
        fetched = await self._first(place, partition, offset, query)
        if fetched is None or not fetched.records:
            return Response(204, (), b"")
        if query.limit == 1 and isinstance(wanted, RawForm):
            headers, body = single(partition, fetched.records[0], None, None, wanted.content_type)
            if pause is not None:
                pause(len(body))
            return Response(200, headers, body)
        stream = _Stream(exchange, wanted, query)
        try:
            while await stream.give(partition, fetched.records) and fetched.next_offset < fetched.end:
                if pause is not None:
                    await self._paused(pause(stream.take_given()))
                fetched = await self._gateway.read(
                    place,
                    partition,
                    fetched.next_offset,
                    max_bytes=min(stream.bytes_left, ONE_READ_BYTES),
                    wait_seconds=0,
                )
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

    async def _first(self, place: Place, partition: int, offset: int, query: params.ReadQuery) -> Fetched | None:
        """What is there, waited for; ``None`` when the gateway shuts down meanwhile."""
        most = min(query.max_bytes, ONE_READ_BYTES)
        wait_seconds = 0 if self._draining else query.timeout
        reading = self._gateway.read(place, partition, offset, max_bytes=most, wait_seconds=wait_seconds)
        waiting = Deferred.fromCoroutine(reading)
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

    def __init__(self, exchange: Exchange, wanted: Form, query: params.ReadQuery) -> None:
        self._exchange = exchange
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
