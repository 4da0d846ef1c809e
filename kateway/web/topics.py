"""Questions about a topic, and reading it without a group: ``GET /{version}/topics/{topic}``."""

from __future__ import annotations

from typing import Any

import orjson
from twisted.internet.defer import CancelledError, Deferred

from kateway.core.entrance import Place, Visit
from kateway.core.gateway import Gateway
from kateway.model import Record
from kateway.web import params
from kateway.web.exchange import Exchange, Response
from kateway.web.formats import Form
from kateway.web.formats.raw import RawForm, single
from kateway.web.front import Front
from kateway.web.negotiate import form
from kateway.web.serve import serve

JSON = (b"Content-Type", b"application/json")
ONE_READ_BYTES = 1 << 20


class TopicEdge:
    """Answers what a topic holds, or the records themselves."""

    def __init__(self, gateway: Gateway, front: Front) -> None:
        self._gateway = gateway
        self._front = front
        self._queries = params.Cache(params.read_query)

    def handle(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._answer(exchange, path, raw_query))

    async def _answer(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> Response | None:
        query = self._queries(raw_query)
        visit = self._front.enter(exchange, "describe" if query.offset is None else "subscribe", path)
        self._front.count_request(exchange, visit)
        if query.partition is None or query.offset is None:
            return await self._info(visit.place, path)
        return await self._read(exchange, visit, query.partition, query.offset, query)

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
        self, exchange: Exchange, visit: Visit, partition: int, offset: int, query: params.ReadQuery
    ) -> Response | None:
        """Waits for the first record, then gives what is there, up to ``limit`` records and ``max_bytes``."""
        wanted = form(exchange.request.header(b"accept"))
        place = visit.place
        fetched = await self._gateway.read(
            place, partition, offset, max_bytes=min(query.max_bytes, ONE_READ_BYTES), wait_seconds=query.timeout
        )
        if not fetched.records:
            return Response(204, (), b"")
        if query.limit == 1 and isinstance(wanted, RawForm):
            return Response(200, *single(partition, fetched.records[0], None, None, wanted.content_type))
        stream = _Stream(exchange, wanted, query)
        stream.begin()
        try:
            while await stream.give(partition, fetched.records) and fetched.next_offset < fetched.end:
                fetched = await self._gateway.read(
                    place,
                    partition,
                    fetched.next_offset,
                    max_bytes=min(stream.bytes_left, ONE_READ_BYTES),
                    wait_seconds=0,
                )
        except CancelledError:
            raise
        except Exception:
            # what has begun and cannot go on is cut, so that it is not taken for whole
            exchange.abort()
            return None
        stream.end()
        return None


class _Stream:
    """A response of records with its limits: so many records, so many bytes."""

    def __init__(self, exchange: Exchange, wanted: Form, query: params.ReadQuery) -> None:
        self._exchange = exchange
        self._form = wanted
        self._records_left = query.limit
        self.bytes_left = query.max_bytes

    def begin(self) -> None:
        self._exchange.begin(200, ((b"Content-Type", self._form.content_type),))
        if self._form.opening:
            self._exchange.write([self._form.opening])

    async def give(self, partition: int, records: list[Record]) -> bool:
        """Writes records and waits until the socket has them; tells whether more are wanted."""
        records = records[: self._records_left]
        if records:
            self._records_left -= len(records)
            pieces = self._form.encode(partition, records, None, None)
            self.bytes_left -= sum(map(len, pieces))
            self._exchange.write(pieces, one_chunk=self._form.one_chunk)
        if not self._exchange.writable():
            drained: Deferred[Any] = Deferred()
            self._exchange.on_writable(lambda: None if drained.called else drained.callback(None))
            try:
                await drained
            finally:
                self._exchange.on_writable(None)
        return self._records_left > 0 and self.bytes_left > 0

    def end(self) -> None:
        if self._form.closing:
            self._exchange.write([self._form.closing])
        self._exchange.finish()
