"""A group's own affairs over HTTP: lag, offsets, acknowledgements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from kateway.core.access.authentication import Purpose
from kateway.core.access.control import AuthorizedRequest, Place
from kateway.core.delivery.batch import Ack
from kateway.core.gateway import Gateway, Lag, source_topic
from kateway.errors import BadRequest, InvalidParameter
from kateway.model import Committed
from kateway.observe.tracing import Trace, Tracing
from kateway.storage.interface import At
from kateway.web import params
from kateway.web.coroutine_handler import serve
from kateway.web.exchange import JSON, Exchange, Response
from kateway.web.messages import paths, queries
from kateway.web.messages.acks import parse_acks, parsed, results
from kateway.web.messages.admission import Admission, answered_by
from kateway.web.messages.traces import Ended, acknowledged, began, code_of, entered
from kateway.web.problems import problem

_QUEUE = frozenset({b"queue"})
_ACKS = _QUEUE | {b"sync"}


class GroupEdge:
    """Answers about one group of one topic, or (``queue=dead``) of its dead letters."""

    def __init__(self, gateway: Gateway, admission: Admission, tracing: Tracing | None = None) -> None:
        self._tracing = tracing or Tracing()
        self._gateway = gateway
        self._admission = admission
        self._acks = params.Cache(_acks_query)

    def lag(self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._lag(exchange, path, raw_query))

    def offsets(self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._offsets(exchange, path, raw_query))

    def reset(self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._reset(exchange, path, raw_query))

    def acknowledge(self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes) -> None:
        """Answers at once where nothing has to be waited for. Callbacks: a client that acknowledges one by one
        comes here for every record.
        """
        admission = self._admission
        request = exchange.request
        wanted = admission.audit.acknowledgements
        authorized: AuthorizedRequest | None = None
        tracer = self._tracing.tracer
        trace = None if tracer is None else began(tracer, "acknowledge", request)
        try:
            authorized = admission.enter(exchange, "subscribe", path)
            if trace is not None:
                entered(trace, authorized, request)
            admission.count_request(exchange, authorized)
            sync, dead = self._acks(raw_query)
            place = source_topic(authorized, dead)
            acks = parse_acks(request.body)
            outcomes = None if sync else self._gateway.acknowledge_at_once(place, authorized.group, acks)
        except Exception as error:
            if wanted:
                admission.record_failed(exchange, "acknowledge", path, authorized, error)
            if trace is not None:
                trace.end(code_of(error))
            exchange.respond(problem(error, request.id))
            return
        if outcomes is None:
            serve(exchange, self._acknowledge(exchange, path, authorized, place, acks, sync, trace))
            return
        if wanted:
            admission.record(exchange, authorized, "acknowledge")
        if trace is not None:
            acknowledged(trace, outcomes)
        answered_by(exchange, self._gateway.name, ())
        exchange.respond(_json({"results": results(acks, outcomes, request.id)}))

    def _enter(self, exchange: Exchange, purpose: Purpose, path: paths.TopicPath) -> AuthorizedRequest:
        authorized = self._admission.enter(exchange, purpose, path)
        self._admission.count_request(exchange, authorized)
        return authorized

    async def _lag(self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes) -> Response:
        dead = _dead(raw_query)
        authorized = self._enter(exchange, "describe", path)
        answered: set[str] = set()
        exchange.asks_store()
        lags = await self._gateway.lag(source_topic(authorized, dead), authorized.group, answered)
        answered_by(exchange, self._gateway.name, answered)
        return _json({"lag": sum(lag.lag for lag in lags), "partitions": [_lag_object(lag) for lag in lags]})

    async def _offsets(self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes) -> Response:
        dead = _dead(raw_query)
        authorized = self._enter(exchange, "describe", path)
        answered_by(exchange, self._gateway.name, ())
        exchange.asks_store()
        return await self._committed(source_topic(authorized, dead), authorized.group)

    async def _committed(self, place: Place, group: str) -> Response:
        return _json(offsets_object(await self._gateway.committed(place, group)))

    async def _reset(self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes) -> Response:
        dead = _dead(raw_query)
        authorized = self._enter(exchange, "subscribe", path)
        place = source_topic(authorized, dead)
        answered_by(exchange, self._gateway.name, ())
        exchange.asks_store()
        await self._gateway.reset(place, authorized.group, destination(parsed(exchange.request.body)))
        return await self._committed(place, authorized.group)

    async def _acknowledge(
        self,
        exchange: Exchange,
        path: paths.TopicPath,
        authorized: AuthorizedRequest,
        place: Place,
        acks: Sequence[Ack],
        sync: bool,
        trace: Trace | None,
    ) -> Response:
        admission = self._admission
        with (
            Ended(trace) as ended,
            admission.recorded(exchange, "acknowledge", path, wanted=admission.audit.acknowledgements) as event,
        ):
            event.authorized = authorized
            answered: set[str] = set()
            exchange.asks_store()
            outcomes = await self._gateway.acknowledge(place, authorized.group, acks, sync=sync, answered=answered)
            ended.outcomes = outcomes
            event.gateway = answered_by(exchange, self._gateway.name, answered)
        return _json({"results": results(acks, outcomes, exchange.request.id)})


def offsets_object(committed: Mapping[int, Committed | None]) -> dict[str, Any]:
    """The JSON object of a group's committed offsets."""
    partitions = [
        {"partition": partition, "committed": None if found is None else found.offset}
        for partition, found in sorted(committed.items())
    ]
    return {"partitions": partitions}


def _acks_query(raw_query: bytes) -> tuple[bool, bool]:
    """``sync`` and ``queue=dead``."""
    values = params.query(raw_query, _ACKS)
    return params.flag(values, b"sync"), queries.dead(values)


def _dead(raw_query: bytes) -> bool:
    return queries.dead(params.query(raw_query, _QUEUE))


def _json(found: Any) -> Response:
    return Response(200, (JSON,), orjson.dumps(found))


def _lag_object(lag: Lag) -> dict[str, Any]:
    return {
        "partition": lag.partition,
        "end": lag.end,
        "committed": lag.committed,
        "lag": lag.lag,
        "unacked": lag.unacked,
        "oldest_unacked_seconds": lag.oldest_unacked_seconds,
    }


def destination(given: Any) -> At | Mapping[int, int]:
    """Reads where a group is to go: ``{"to":"earliest"}``, ``{"to":"latest"}``, ``{"timestamp":…}`` or
    ``{"offsets":{"0":7}}``. ``BadRequest``.
    """
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
