"""Acknowledgements as clients write them: a JSON array of items, and the array of what became of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from kateway.core.delivery.ledger import Ack
from kateway.errors import BadRequest, KatewayError
from kateway.web import params
from kateway.web.problems import problem_object

MAX_ACKS = 100000
MAX_DELAY_SECONDS = 3600.0
_MEMBERS = {"partition", "offset", "upto", "outcome", "delay", "lease"}
_OUTCOMES = {"ack", "retry", "dead"}


def parsed(body: bytes) -> Any:
    """A JSON body."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


def parse_acks(body: bytes) -> list[Ack]:
    """The items of an array; ``BadRequest`` names the one that is wrong."""
    items = parsed(body)
    if not isinstance(items, list) or len(items) > MAX_ACKS:
        raise BadRequest(f"acknowledgements are a JSON array of at most {MAX_ACKS} objects")
    return [_ack(item, f"item {index}") for index, item in enumerate(items)]


def results(acks: Sequence[Ack], outcomes: Sequence[KatewayError | None], request_id: str) -> list[dict[str, Any]]:
    """Status 200 or a problem for each, in order."""
    found: list[dict[str, Any]] = []
    for ack, error in zip(acks, outcomes, strict=True):
        result: dict[str, Any] = {"partition": ack.partition, "upto" if ack.upto else "offset": ack.offset}
        if error is None:
            result["status"] = 200
        else:
            result.update(problem_object(error, request_id))
        found.append(result)
    return found


def _ack(item: Any, where: str) -> Ack:
    """One acknowledgement: ``offset`` or ``upto`` of a partition, an outcome, perhaps the lease it answers."""
    if not isinstance(item, dict) or item.keys() - _MEMBERS:
        raise BadRequest(f"{where} is not an object of {', '.join(sorted(_MEMBERS))}")
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
