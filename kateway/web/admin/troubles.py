"""Serves troubles over the admin API: what failed, what was slow, what changed, what was done."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import orjson

from kateway.core.audit.events import Event
from kateway.core.audit.sinks import line
from kateway.core.operator.naming import Names
from kateway.errors import InvalidParameter, codes
from kateway.observe.parts import ALONE, OtherProcesses, Parts
from kateway.observe.troubles import CHANGES, Changes, ErrorLog, Slowest
from kateway.observe.troubles_together import error_group, error_groups, newest, slowest
from kateway.registry.documents import time_text
from kateway.web.admin.requests import AdminCall, answer, page_limit
from kateway.web.admin.rows import LIST_QUERY, Row, check_choice, page_of
from kateway.web.exchange import NO_STORE, Response
from kateway.web.messages.negotiate import choose
from kateway.web.troubles import NO_PROBLEM

ERRORS_QUERY = LIST_QUERY | {"application", "topic", "reason"}
EVENTS_QUERY = frozenset({"limit", "kind"})
FILTERS = ("actor", "action", "object", "outcome")
AUDIT_QUERY = frozenset({"after", "limit", *FILTERS})
SORTABLE = ("count", "first", "last", "reason", "application", "topic")
TOPIC_AND_VERSION = re.compile(r"[A-Za-z0-9._-]{1,249}/v[0-9]{1,9}")
NDJSON = b"application/x-ndjson"
JSON_TYPE = b"application/json"
_FORMS = {JSON_TYPE: JSON_TYPE, NDJSON: NDJSON}
_WILD = {b"*/*": JSON_TYPE, b"application/*": JSON_TYPE}


class TroubleCalls:
    """Handlers. ``events`` gives the audit's newest events, the newest last."""

    def __init__(
        self,
        names: Names,
        errors: ErrorLog,
        slowest: Slowest,
        changes: Changes,
        events: Callable[[], Iterable[Event]],
        others: OtherProcesses = ALONE,
    ) -> None:
        self._names = names
        self._errors = errors
        self._slowest = slowest
        self._changes = changes
        self._events = events
        self._others = others
        self.parts: Mapping[str, Callable[[Any], Coroutine[Any, Any, list[Any]]]] = {
            "errors": self._errors_here,
            "slow": self._slow_here,
            "events": self._events_here,
            "audit": self._audit_here,
        }
        """This process's parts of the answers, by what the processes ask each other for."""

    async def errors(self, call: AdminCall) -> Response:
        """Lists the groups of failed requests."""
        query = dict(call.query)
        if "sort" not in query:
            query |= {"sort": "last", "desc": "1"}
        wanted: dict[str, str] = {name: query.pop(name) for name in ("application", "topic", "reason") if name in query}
        found, parts = await self._of_all("errors")
        rows: list[Row] = [
            row
            for row in map(_error_row, error_groups(found))
            if all(row[name] == text for name, text in wanted.items())
        ]
        if not rows:
            self._check_wanted(wanted)
        return answer(200, {**page_of(rows, query, SORTABLE), **parts.named})

    def _check_wanted(self, wanted: Mapping[str, str]) -> None:
        """Refuses what no request can have failed with: an empty list would say that all is well."""
        reason, application = wanted.get("reason", ""), wanted.get("application", "")
        if reason and reason not in codes() and not reason.startswith(NO_PROBLEM):
            raise InvalidParameter(f"reason must be the code of an error, such as topic-not-found; is {reason[:64]!r}")
        if application:
            self._names.application(application)
        if (topic := wanted.get("topic")) and not TOPIC_AND_VERSION.fullmatch(topic):
            raise InvalidParameter(f"topic must be TOPIC/VERSION or APPLICATION.TOPIC/VERSION; is {topic[:64]!r}")

    async def rows(self, names: Sequence[str] | None, most: int) -> dict[str, Row]:
        """Returns groups of failed requests by their names: those that are asked for, or the newest ones."""
        found, _parts = await self._of_all("errors")
        rows = {str(row["name"]): row for row in map(_error_row, error_groups(found))}
        return {name: rows[name] for name in (list(rows)[:most] if names is None else names) if name in rows}

    async def summary(self, most: int) -> dict[str, Row]:
        """Returns rows of the slowest requests, of the most frequent errors and of the newest changes, so many of each;
        ``part`` says which a row is of.
        """
        failed, slow, changes = [(await self._of_all(what))[0] for what in ("errors", "slow", "events")]
        errors = sorted(error_groups(failed), key=lambda group: -group["count"])[:most]
        parts: list[tuple[str, str, Row]] = [
            *(("slow", each["request_id"], _slow_row(each)) for each in slowest(slow)[:most]),
            *(("error", str(row["name"]), row) for row in map(_error_row, errors)),
            *(("change", f"{each['at']} {each['object']}", _change_row(each)) for each in newest(changes)[:most]),
        ]
        return {f"{part} {name}": {**row, "name": f"{part} {name}", "part": part} for part, name, row in parts}

    async def slow(self, call: AdminCall) -> Response:
        """Lists the slowest requests of the last hour."""
        found, parts = await self._of_all("slow")
        items = [_slow_row(row) for row in slowest(found)[: page_limit(call.query)]]
        return answer(200, {"items": items, **parts.named})

    async def events(self, call: AdminCall) -> Response:
        """Lists what changed in the gateway, the newest first."""
        kind = call.query.get("kind")
        check_choice(call.query, "kind", CHANGES)
        changes, parts = await self._of_all("events")
        found = [change for change in newest(changes) if kind is None or change["kind"] == kind]
        items = [_change_row(change) for change in found[: page_limit(call.query)]]
        return answer(200, {"items": items, **parts.named})

    async def audit(self, call: AdminCall) -> Response:
        """Lists the audit's newest events, the newest first; ``after`` is the number of the last one seen."""
        limit, before = page_limit(call.query), _before(call.query.get("after"))
        asked = {**{name: call.query[name] for name in FILTERS if name in call.query}, "before": before, "limit": limit}
        of_all, parts = await self._of_all("audit", asked)
        found = sorted(((number, line) for rows in of_all.values() for number, line in rows), reverse=True)
        numbers, lines = [number for number, _ in found[:limit]], [line.encode() for _, line in found[:limit]]
        accept = call.request.listed(b"accept")
        if accept and choose(accept, _FORMS, _WILD) == NDJSON:
            content = b"".join(each + b"\n" for each in lines)
            etag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'.encode()
            return Response(200, ((b"Content-Type", NDJSON), NO_STORE, (b"ETag", etag), *parts.headers), content)
        items = [{"name": number, **orjson.loads(each)} for number, each in zip(numbers, lines, strict=True)]
        following = numbers[-1] if len(found) > limit else None
        return answer(200, {"items": items, "next": following, **parts.named})

    # --- of this process --------------------------------------------------------------------------------------------

    async def _of_all(self, what: str, arguments: Any = None) -> tuple[dict[int | None, list[Any]], Parts]:
        """What is asked for of every process by its index."""
        parts = await self._others.ask(what, arguments)
        found: dict[int | None, list[Any]] = {self._others.index: await self.parts[what](arguments)}
        for process, rows in parts.by_process.items():
            found[process] = rows
        return found, parts

    async def _errors_here(self, _arguments: Any) -> list[Any]:
        return [error_group(group) for group in self._errors.groups()]

    async def _slow_here(self, _arguments: Any) -> list[Any]:
        return [slow._asdict() for slow in self._slowest.slowest()]

    async def _events_here(self, _arguments: Any) -> list[Any]:
        return [change._asdict() for change in self._changes.newest()]

    async def _audit_here(self, arguments: Any) -> list[Any]:
        found = islice(_matching(self._events(), arguments, self._others.index or 0), arguments["limit"] + 1)
        return [[number, line(event).decode()] for number, event in found]


class _Numbered(NamedTuple):
    number: str
    event: Event


def _matching(events: Iterable[Event], asked: Mapping[str, Any], process: int) -> Iterator[_Numbered]:
    """The newest first. An event's number is its time in microseconds, and the process: it stays, while the oldest ones
    go.
    """
    wanted, before = {name: asked[name] for name in FILTERS if name in asked}, asked["before"]
    for event in reversed(list(events)):
        number = f"{round(event.time * 1e6):017d}{process:03d}"
        if before is not None and number >= before:
            continue
        if all(text in getattr(event, name) for name, text in wanted.items()):
            yield _Numbered(number, event)


def _before(after: str | None) -> str | None:
    if after is not None and not (after.isascii() and after.isdigit() and len(after) == 20):
        raise InvalidParameter("after must be the next of a page before")
    return after


def _error_row(group: Mapping[str, Any]) -> Row:
    return {
        "name": " ".join((group["reason"], group["application"] or "-", group["topic"] or "-")),
        **group,
        "first": _time(group["first"]),
        "last": _time(group["last"]),
        "samples": [{**failed, "at": _time(failed["at"])} for failed in group["samples"]],
    }


def _slow_row(slow: Mapping[str, Any]) -> dict[str, Any]:
    row = dict(slow)
    waited, store = row.pop("waited_seconds"), row.pop("store_seconds")
    phases = {"turn": round(waited, 4), "work": round(slow["seconds"] - waited - (store or 0.0), 4)}
    if store is not None:
        phases["store"] = round(store, 4)
    return {**row, "seconds": round(slow["seconds"], 4), "at": _time(slow["at"]), "phases": phases}


def _change_row(change: Mapping[str, Any]) -> dict[str, Any]:
    return {**change, "at": _time(change["at"])}


def _time(seconds: float) -> str:
    return time_text(round(seconds * 1000))
