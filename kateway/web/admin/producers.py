"""Serves the producers of a topic over the admin API: which keys publish to it, how much, and when last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from kateway.core.operator.known import Known
from kateway.errors import InvalidParameter
from kateway.observe.parts import ALONE, OtherProcesses
from kateway.observe.series import Series
from kateway.registry.documents import time_text
from kateway.web.admin.requests import AdminCall, answer
from kateway.web.admin.rows import LIST_QUERY, Row, page_of
from kateway.web.exchange import Response

PRODUCERS_QUERY = LIST_QUERY | {"topic"}
ASKED = "producers"
SORTABLE = ("application", "key", "records", "records_per_second", "last_used")


class ProducerCalls:
    """Handlers. ``wall`` gives seconds since the epoch."""

    def __init__(self, series: Series, known: Known, wall: Callable[[], float], others: OtherProcesses = ALONE) -> None:
        self._series = series
        self._known = known
        self._wall = wall
        self._others = others

    async def producers(self, call: AdminCall) -> Response:
        """Lists the keys that have published to a topic here since the start, or within its last day of traffic."""
        query = dict(call.query)
        named = query.pop("topic", "").split("/")
        if len(named) != 3 or not all(named):
            raise InvalidParameter("topic must be application/topic/version")
        application, topic, version = asked = named
        parts = await self._others.ask(ASKED, asked)
        found: dict[tuple[str, str], _Used] = {}
        for used in (await self.part(asked), *parts.all):
            for by, key, *figures in used:
                before = found.get((by, key))
                found[by, key] = _Used(*figures) if before is None else _both(before, _Used(*figures))
        if not found and (application, topic, version) not in self._series.topics:
            await self._known.topic(application, topic, version)
        rows = [_row(*names, used) for names, used in found.items()]
        return answer(200, {**page_of(rows, query, SORTABLE), **parts.named})

    async def part(self, arguments: Any) -> list[list[Any]]:
        """This process's producers of a topic that another process asks for."""
        application, topic, version = arguments
        cells = self._series.topics.get((application, topic, version))
        producers = {} if cells is None else cells.producers
        return [
            [*names, int(one.value), one.rate, one.used_at if one.used_at is not None else self._wall()]
            for names, one in producers.items()
        ]


class _Used(NamedTuple):
    records: int
    rate: float | None
    at: float


def _both(one: _Used, other: _Used) -> _Used:
    rates = [rate for rate in (one.rate, other.rate) if rate is not None]
    return _Used(one.records + other.records, sum(rates) if rates else None, max(one.at, other.at))


def _row(application: str, key: str, used: _Used) -> Row:
    return {
        "name": f"{application}/{key}" if key else application,
        "application": application,
        "key": key or None,
        "records": used.records,
        "records_per_second": None if used.rate is None else round(used.rate, 3),
        "last_used": time_text(round(used.at * 1000)),
    }
