"""A group's own affairs over HTTP: lag, offsets, acknowledgements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from kateway.core.delivery import Ack
from kateway.core.gateway import Gateway
from kateway.core.names import Place
from kateway.errors import BadRequest, InvalidParameter, KatewayError
from kateway.storage.interface import At
from kateway.web import params
from kateway.web.exchange import Exchange, Response
from kateway.web.problems import problem_object
from kateway.web.serve import serve

JSON = (b"Content-Type", b"application/json")
MAX_ACKS = 100000
MAX_DELAY_SECONDS = 3600.0
_SYNC = frozenset({b"sync"})
_NONE: frozenset[bytes] = frozenset()
_ACK_MEMBERS = {"partition", "offset", "upto", "outcome", "delay", "lease"}
_OUTCOMES = {"ack", "retry", "dead"}


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
        to = _destination(_parsed(body))
        place, group = self._place(path)
        await self._gateway.reset(place, group, to)
        return await self._committed(place, group)

    async def _acknowledge(self, path: params.TopicPath, raw_query: bytes, body: bytes, request_id: str) -> Response:
        sync = params.flag(params.query(raw_query, _SYNC), b"sync")
        items = _parsed(body)
        if not isinstance(items, list) or len(items) > MAX_ACKS:
            raise BadRequest(f"acknowledgements are a JSON array of at most {MAX_ACKS} objects")
        acks = [_ack(item, f"item {index}") for index, item in enumerate(items)]
        place, group = self._place(path)
        outcomes = await self._gateway.acknowledge(place, group, acks, sync=sync)
        return _json({"results": _results(acks, outcomes, request_id)})


def _results(acks: Sequence[Ack], outcomes: Sequence[KatewayError | None], request_id: str) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    for ack, error in zip(acks, outcomes, strict=True):
        result: dict[str, Any] = {"partition": ack.partition, "upto" if ack.upto else "offset": ack.offset}
        if error is None:
            result["status"] = 200
        else:
            result.update(problem_object(error, request_id))
        results.append(result)
    return results


def _json(found: Any) -> Response:
    return Response(200, (JSON,), orjson.dumps(found))


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


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


def _ack(item: Any, where: str) -> Ack:
    """One acknowledgement: ``offset`` or ``upto`` of a partition, an outcome, perhaps the lease it answers."""
    if not isinstance(item, dict) or item.keys() - _ACK_MEMBERS:
        raise BadRequest(f"{where} is not an object of {', '.join(sorted(_ACK_MEMBERS))}")
    if ("offset" in item) == ("upto" in item):
        raise BadRequest(f"{where} needs exactly one of offset and upto")
    upto = "upto" in item
    partition, offset = item.get("partition"), item["upto" if upto else "offset"]
    if type(partition) is not int or not 0 <= partition <= params.INT32_MAX:
        raise BadRequest(f"{where} has no partition")
    if type(offset) is not int or not 0 <= offset <= params.INT64_MAX:
        raise BadRequest(f"{where} has an offset that is not a whole number from 0 on")
    outcome = item.get("outcome", "ack")
    if outcome not in _OUTCOMES or (upto and outcome != "ack"):
        raise BadRequest(f"{where}: outcome is ack, retry or dead, and with upto ack alone")
    delay = item.get("delay", 0)
    if isinstance(delay, bool) or not isinstance(delay, int | float) or not 0 <= delay <= MAX_DELAY_SECONDS:
        raise BadRequest(f"{where}: delay is seconds, from 0 to {MAX_DELAY_SECONDS:g}")
    lease = item.get("lease")
    if lease is not None and not isinstance(lease, str):
        raise BadRequest(f"{where}: lease is not a text")
    return Ack(partition, offset, upto=upto, outcome=outcome, delay_seconds=float(delay), lease=lease)
