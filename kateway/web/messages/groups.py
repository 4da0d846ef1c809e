"""A group's own affairs over HTTP: lag, offsets, acknowledgements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from kateway.core.access.authentication import Purpose
from kateway.core.access.control import AuthorizedRequest, Place
from kateway.core.delivery.batch import Ack
from kateway.core.gateway import Gateway, source_topic
from kateway.errors import BadRequest, InvalidParameter
from kateway.storage.interface import At
from kateway.web import params
from kateway.web.coroutine_handler import serve
from kateway.web.exchange import JSON, Exchange, Response
from kateway.web.messages.acks import parse_acks, parsed, results
from kateway.web.messages.admission import Admission
from kateway.web.problems import problem

_QUEUE = frozenset({b"queue"})
_ACKS = _QUEUE | {b"sync"}


class GroupEdge:
    """Answers about one group of one topic, or (``queue=dead``) of its dead letters."""

    def __init__(self, gateway: Gateway, admission: Admission) -> None:
        self._gateway = gateway
        self._admission = admission
        self._acks = params.Cache(_acks_query)

    def lag(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._lag(exchange, path, raw_query))

    def offsets(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._offsets(exchange, path, raw_query))

    def reset(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._reset(exchange, path, raw_query))

    def acknowledge(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> None:
        """Answers at once where nothing has to be waited for. Callbacks: a client that acknowledges one by one
        comes here for every record.
        """
        admission = self._admission
        request = exchange.request
        wanted = admission.audit.acknowledgements
        authorized: AuthorizedRequest | None = None
        try:
            authorized = admission.enter(exchange, "subscribe", path)
            admission.count_request(exchange, authorized)
            sync, dead = self._acks(raw_query)
            place = source_topic(authorized, dead)
            acks = parse_acks(request.body)
            outcomes = None if sync else self._gateway.acknowledge_at_once(place, authorized.group, acks)
        except Exception as error:
            if wanted:
                admission.record_failed(exchange, "acknowledge", path, authorized, error)
            exchange.respond(problem(error, request.id))
            return
        if outcomes is None:
            serve(exchange, self._acknowledge(exchange, path, authorized, place, acks, sync))
            return
        if wanted:
            admission.record(exchange, authorized, "acknowledge")
        exchange.respond(_json({"results": results(acks, outcomes, request.id)}))

    def _enter(self, exchange: Exchange, purpose: Purpose, path: params.TopicPath) -> AuthorizedRequest:
        authorized = self._admission.enter(exchange, purpose, path)
        self._admission.count_request(exchange, authorized)
        return authorized

    async def _lag(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> Response:
        dead = _dead(raw_query)
        authorized = self._enter(exchange, "describe", path)
        lags = await self._gateway.lag(source_topic(authorized, dead), authorized.group)
        return _json({"lag": sum(lag.lag for lag in lags), "partitions": [lag._asdict() for lag in lags]})

    async def _offsets(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> Response:
        dead = _dead(raw_query)
        authorized = self._enter(exchange, "describe", path)
        return await self._committed(source_topic(authorized, dead), authorized.group)

    async def _committed(self, place: Place, group: str) -> Response:
        committed = await self._gateway.committed(place, group)
        return _json(
            {
                "partitions": [
                    {"partition": partition, "committed": None if found is None else found.offset}
                    for partition, found in sorted(committed.items())
                ]
            }
        )

    async def _reset(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> Response:
        dead = _dead(raw_query)
        authorized = self._enter(exchange, "subscribe", path)
        place = source_topic(authorized, dead)
        await self._gateway.reset(place, authorized.group, _destination(parsed(exchange.request.body)))
        return await self._committed(place, authorized.group)

    async def _acknowledge(
        self,
        exchange: Exchange,
        path: params.TopicPath,
        authorized: AuthorizedRequest,
        place: Place,
        acks: Sequence[Ack],
        sync: bool,
    ) -> Response:
        admission = self._admission
        with admission.recorded(exchange, "acknowledge", path, wanted=admission.audit.acknowledgements) as event:
            event.authorized = authorized
            outcomes = await self._gateway.acknowledge(place, authorized.group, acks, sync=sync)
        return _json({"results": results(acks, outcomes, exchange.request.id)})


def _acks_query(raw_query: bytes) -> tuple[bool, bool]:
    """``sync`` and ``queue=dead``."""
    values = params.query(raw_query, _ACKS)
    return params.flag(values, b"sync"), params.dead(values)


def _dead(raw_query: bytes) -> bool:
    return params.dead(params.query(raw_query, _QUEUE))


def _json(found: Any) -> Response:
    return Response(200, (JSON,), orjson.dumps(found))


def _destination(given: Any) -> At | Mapping[int, int]:
    """``{"to":"earliest"}``, ``{"to":"latest"}``, ``{"timestamp":…}`` or ``{"offsets":{"0":7}}``."""
    match given:
        case {"to": ("earliest" | "latest") as to, **rest} if not rest:
            return "earliest" if to == "earliest" else "latest"
        case {"timestamp": int(timestamp), **rest} if not rest and type(timestamp) is int:
            return _whole(timestamp, "timestamp")
        case {"offsets": dict(offsets), **rest} if not rest and offsets:
            return {_partition(name): _whole(offset, "offsets") for name, offset in offsets.items()}
    raise BadRequest('give {"to":"earliest"}, {"to":"latest"}, {"timestamp":milliseconds} or {"offsets":{"0":7}}')


def _partition(name: str) -> int:
    if not name.isascii() or not name.isdigit() or int(name) > params.INT32_MAX:
        raise InvalidParameter(f"offsets: {name[:32]!r} is not a partition")
    return int(name)


def _whole(number: Any, where: str) -> int:
    if type(number) is not int or not 0 <= number <= params.INT64_MAX:
        raise InvalidParameter(f"{where}: {number!r} is not a whole number from 0 to {params.INT64_MAX}")
    return number
