"""Serves redrives and discards of dead letters over the admin API."""

from __future__ import annotations

import math
from typing import Any

from kateway.core.administration import Administration
from kateway.core.operator.naming import GroupName, Names
from kateway.core.operator.redrive import Letter, Redrive
from kateway.core.operator.redrives import Redrives
from kateway.errors import InvalidParameter
from kateway.registry.documents import time_text
from kateway.web.admin.groups import group_name
from kateway.web.admin.requests import AdminCall, answer, by, only
from kateway.web.exchange import Response
from kateway.web.params import INT32_MAX, INT64_MAX

MOST_LETTERS = 1000
"""In one call; ``all`` has no such bound."""
MOST_PER_SECOND = 1_000_000


class RedriveCalls:
    """Handlers."""

    def __init__(self, names: Names, redrives: Redrives, administration: Administration) -> None:
        self._names = names
        self._redrives = redrives
        self._do = administration

    async def redrive(self, call: AdminCall) -> Response:
        """Begins a redrive: 202."""
        name = group_name(call)
        # its topic has to take records
        self._names.publishable(name.application, name.topic, name.version)
        return await self._begin(call, name, discards=False)

    async def discard(self, call: AdminCall) -> Response:
        """Begins a discard: 202."""
        return await self._begin(call, group_name(call), discards=True)

    async def _begin(self, call: AdminCall, name: GroupName, *, discards: bool) -> Response:
        letters, per_second = _asked(call.table(), paced=not discards)
        group = self._names.group(name)
        actor, event = by(call), f"{self._names.shown(name)} {'all' if letters is None else _listed(letters)}"
        action, done = ("group.discard", "discarded") if discards else ("group.redrive", "redriven")

        def ended(redrive: Redrive) -> None:
            told = f"{event}: {redrive.state}, {redrive.done} {done}, {redrive.failed} failed"
            outcome = "ok" if redrive.error is None else redrive.error.code
            self._do.audited.record(actor, f"{action}-end", told, outcome)

        starting = self._redrives.start(name, group, letters, per_second, ended, discards=discards)
        redrive = await self._do.audited(starting, actor, action, event)
        location = call.request.target.partition(b"?")[0]
        return answer(202, _shown(redrive), headers=((b"Location", location),))

    async def redriving(self, call: AdminCall) -> Response:
        """How far the group's redrive is, or how the last one ended."""
        return answer(200, _shown(self._redrives.last(group_name(call))))

    async def discarding(self, call: AdminCall) -> Response:
        """How far the discard of the group's dead letters is, or how the last one ended."""
        return answer(200, _shown(self._redrives.last(group_name(call), discards=True)))


def _asked(table: dict[str, Any], *, paced: bool) -> tuple[list[Letter] | None, float | None]:
    """Which letters, and how many a second."""
    only(table, "records", "all", *(("per_second",) if paced else ()))
    if ("records" in table) == ("all" in table) or table.get("all", True) is not True:
        raise InvalidParameter('give {"records":[{"partition":0,"offset":7}]} or {"all":true}')
    per_second = table.get("per_second")
    if per_second is not None and (
        isinstance(per_second, bool)
        or not isinstance(per_second, int | float)
        or not math.isfinite(per_second)
        or not 0 < per_second <= MOST_PER_SECOND
    ):
        raise InvalidParameter(f"per_second must be more than 0, up to {MOST_PER_SECOND}")
    if "all" in table:
        return None, per_second
    records = table["records"]
    if not isinstance(records, list) or not 1 <= len(records) <= MOST_LETTERS:
        raise InvalidParameter(f"records must be a list of 1 to {MOST_LETTERS} objects")
    return [_letter(record) for record in records], per_second


def _letter(record: Any) -> Letter:
    if isinstance(record, dict) and record.keys() == {"partition", "offset"}:
        partition, offset = record["partition"], record["offset"]
        whole = type(partition) is int and type(offset) is int
        if whole and 0 <= partition <= INT32_MAX and 0 <= offset <= INT64_MAX:
            return Letter(partition, offset)
    raise InvalidParameter('records: each is {"partition":0,"offset":7}, a place in the dead-letter queue')


def _listed(letters: list[Letter]) -> str:
    named = [f"{letter.partition}:{letter.offset}" for letter in letters[:32]]
    return " ".join(named) + (" …" if len(letters) > 32 else "")


def _shown(redrive: Redrive) -> dict[str, Any]:
    error = redrive.error
    return {
        "state": redrive.state,
        "asked": "all" if redrive.asked is None else redrive.asked,
        "total": redrive.total,
        "discarded" if redrive.discards else "redriven": redrive.done,
        "failed": redrive.failed,
        "left": redrive.left,
        "per_second": redrive.per_second,
        "began": time_text(redrive.began_ms),
        "ended": None if redrive.ended_ms is None else time_text(redrive.ended_ms),
        "error": None if error is None else {"code": error.code, "detail": error.detail},
        "failures": [{**failure.letter._asdict(), "reason": failure.reason} for failure in redrive.failures],
        "missing": [letter._asdict() for letter in redrive.missing],
    }
