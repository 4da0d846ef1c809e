"""A group's own affairs over HTTP: lag, offsets, acknowledgements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from kateway.core.gateway import Gateway
from kateway.core.names import Place
from kateway.errors import BadRequest, InvalidParameter
from kateway.storage.interface import At
from kateway.web import params
from kateway.web.acks import parse_acks, parsed, results
from kateway.web.exchange import Exchange, Response
from kateway.web.serve import serve

JSON = (b"Content-Type", b"application/json")
_SYNC = frozenset({b"sync"})
_NONE: frozenset[bytes] = frozenset()


class GroupEdge:
    """Answers about one group of one topic."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def lag(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._lag(path, raw_query))

    def offsets(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._offsets(path, raw_query))

    def reset(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._reset(path, raw_query, exchange.request.body))

    def acknowledge(self, exchange: Exchange, path: params.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._acknowledge(path, raw_query, exchange.request.body, exchange.request.id))

    def _place(self, path: params.TopicPath) -> tuple[Place, str]:
        assert path.group is not None
        return self._gateway.names.place(path.version, path.topic), path.group

    async def _lag(self, path: params.TopicPath, raw_query: bytes) -> Response:
        params.query(raw_query, _NONE)
        place, group = self._place(path)
        lags = await self._gateway.lag(place, group)
        return _json(
            {
                "lag": sum(lag.lag for lag in lags),
                "partitions": [lag._asdict() for lag in lags],
            }
        )

    async def _offsets(self, path: params.TopicPath, raw_query: bytes) -> Response:
        params.query(raw_query, _NONE)
        return await self._committed(*self._place(path))

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

    async def _reset(self, path: params.TopicPath, raw_query: bytes, body: bytes) -> Response:
        params.query(raw_query, _NONE)
        to = _destination(parsed(body))
        place, group = self._place(path)
        await self._gateway.reset(place, group, to)
        return await self._committed(place, group)

    async def _acknowledge(self, path: params.TopicPath, raw_query: bytes, body: bytes, request_id: str) -> Response:
        sync = params.flag(params.query(raw_query, _SYNC), b"sync")
        acks = parse_acks(body)
        place, group = self._place(path)
        outcomes = await self._gateway.acknowledge(place, group, acks, sync=sync)
        return _json({"results": results(acks, outcomes, request_id)})


def _json(found: Any) -> Response:
    return Response(200, (JSON,), orjson.dumps(found))


def _destination(given: Any) -> At | Mapping[int, int]:
    """``{"to":"earliest"}``, ``{"to":"latest"}``, ``{"timestamp":…}`` or ``{"offsets":{"0":7}}``."""
    match given:
        case {"to": ("earliest" | "latest") as to, **rest} if not rest:
            return "earliest" if to == "earliest" else "latest"
        case {"timestamp": int(timestamp), **rest} if not rest and type(timestamp) is int and timestamp >= 0:
            return timestamp
        case {"offsets": dict(offsets), **rest} if not rest and offsets:
            return {_partition(name): _offset(offset) for name, offset in offsets.items()}
    raise BadRequest('give {"to":"earliest"}, {"to":"latest"}, {"timestamp":milliseconds} or {"offsets":{"0":7}}')


def _partition(name: str) -> int:
    if not name.isascii() or not name.isdigit() or int(name) > params.INT32_MAX:
        raise InvalidParameter(f"offsets: {name[:32]!r} is not a partition")
    return int(name)


def _offset(offset: Any) -> int:
    if type(offset) is not int or not 0 <= offset <= params.INT64_MAX:
        raise InvalidParameter(f"offsets: {offset!r} is not an offset")
    return offset
