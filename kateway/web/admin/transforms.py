"""Serves a topic's transforms over the admin API: read, replaced, removed, and tried before they are trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from kateway.config.schema import AdminConfig
from kateway.core.access.control import Place
from kateway.core.administration import Administration, current
from kateway.core.gateway import Gateway
from kateway.core.operator.naming import Names
from kateway.core.operator.peek import Bounds, peek
from kateway.core.reads import Start
from kateway.core.transforms import trial
from kateway.core.transforms.in_force import TransformsInForce
from kateway.core.transforms.pipeline import Pipeline, TracedStep
from kateway.core.transforms.steps import Fields, SchemaStep
from kateway.core.transforms.trial import Tried
from kateway.errors import BadRequest, InvalidParameter, KatewayError, TopicNotFound
from kateway.model import Message, Record
from kateway.registry.documents import from_table, to_table
from kateway.registry.interface import Transforms
from kateway.web.admin.requests import AdminCall, answer, by, merged, only
from kateway.web.admin.rows import Pages
from kateway.web.exchange import NO_STORE, Response
from kateway.web.formats.jsonrecord import message as record_of
from kateway.web.formats.jsonrecord import record_object
from kateway.web.problems import problem_object

CHECKED_RECORDS = 100
"""Of the topic's last ones, against which a new schema is checked."""
MOST_FAILURES = 10
"""Of these, told one by one."""
MOST_TRIED = 100
MOST_TOLD_BYTES = 8 << 20
"""Of a try's answer: behind it records are left out."""


class TransformCalls:
    """Handlers. ``config`` gives the bounds of a look at a topic's records."""

    def __init__(
        self,
        names: Names,
        gateway: Gateway,
        administration: Administration,
        in_force: TransformsInForce,
        clock: IReactorTime,
        config: Callable[[], AdminConfig],
    ) -> None:
        self._names = names
        self._gateway = gateway
        self._do = administration
        self._in_force = in_force
        self._clock = clock
        self._config = config
        self._pages = Pages(to_table)

    async def transforms(self, call: AdminCall) -> Response:
        return answer(200, self._pages.page(self._do.snapshot.transforms, call.query))

    async def topic_transforms(self, call: AdminCall) -> Response:
        entry = current(self._do.snapshot.transforms, _name(call), "transforms of")
        return answer(200, to_table(entry), etag=entry.etag)

    async def put_transforms(self, call: AdminCall) -> Response:
        """Compiles them, puts them in force, and tells what a schema would have said of the last records."""
        name = _name(call)
        old = self._do.snapshot.transforms.get(name)
        # as of all entries, members that are left out stay: a change of what comes in must not unmask what goes out
        entry = cast(Transforms, from_table("transforms", "/".join(name), merged(old, call)))
        incoming, _ = self._in_force.compile(entry)
        expected = call.expected(None if old is None else old.etag)
        if call.flag("dry_run"):
            return answer(200, {**to_table(entry), "dry_run": await self._checked(call, incoming)})
        written = await self._do.put_transforms(entry, expected, by(call))
        told = to_table(written.entry)
        if any(isinstance(step, SchemaStep) for step in incoming.steps):
            told["dry_run"] = await self._checked(call, incoming)
        return answer(201 if written.made else 200, told, etag=written.entry.etag)

    async def delete_transforms(self, call: AdminCall) -> Response:
        name = _name(call)
        entry = current(self._do.snapshot.transforms, name, "transforms of")
        await self._do.delete_transforms(name, call.expected(entry.etag), by(call))
        return Response(204, (NO_STORE,), b"")

    async def try_transforms(self, call: AdminCall) -> Response:
        """Runs steps on records that are given, or on the topic's last ones."""
        table = call.table()
        only(table, "direction", "steps", "records", "last")
        direction = table.get("direction", "in")
        if direction not in {"in", "out"}:
            raise InvalidParameter("direction must be in or out")
        pipeline = self._pipeline(call, direction, table.get("steps"))
        sources = await self._sources(call, table)
        tried: list[dict[str, Any]] = []
        now = self._in_force.now()
        told_bytes = 0
        for partition, source in sources:
            if told_bytes > MOST_TOLD_BYTES:
                break
            await deferLater(self._clock, 0)
            if direction == "in" and isinstance(source, Record):
                found = trial.attempt(pipeline, trial.as_published(source), now, None)
                found = found._replace(partition=partition, offset=source.offset)
            else:
                found = trial.attempt(pipeline, source, now, partition)
            tried.append(_shown(source, found, call.request.id))
            told_bytes += sum(len(step.before.value or b"") + len(step.before.key or b"") for step in found.steps)
        shown = {"direction": direction, "records": tried, "left_out": len(sources) - len(tried)}
        event = "/".join((*_name(call), direction))

        async def tell() -> Response:
            return answer(200, shown)

        # records are shown: that is in the audit, as of every look at them
        return await self._do.audited.read(tell(), by(call), "transforms.try", event, lambda _: (event, "ok"))

    def _pipeline(self, call: AdminCall, direction: str, steps: object) -> Pipeline:
        name = _name(call)
        if steps is None:
            entry = current(self._do.snapshot.transforms, name, "transforms of")
        else:
            entry = from_table("transforms", "/".join(name), {direction: steps})
        incoming, outgoing = self._in_force.compile(cast(Transforms, entry))
        return incoming if direction == "in" else outgoing

    async def _sources(self, call: AdminCall, table: Mapping[str, Any]) -> list[tuple[int | None, Message | Record]]:
        given, last = table.get("records"), table.get("last")
        if (given is None) == (last is None):
            raise BadRequest('give "records", or "last" with a number of the topic\'s last records')
        if given is not None:
            if not isinstance(given, list) or not 1 <= len(given) <= MOST_TRIED:
                raise InvalidParameter(f"records must be a list of 1 to {MOST_TRIED} records")
            messages = [record_of(each, f"records[{number}]", None, None, ()) for number, each in enumerate(given)]
            return [(message.partition, message) for message in messages]
        if isinstance(last, bool) or not isinstance(last, int) or not 1 <= last <= MOST_TRIED:
            raise InvalidParameter(f"last must be a whole number from 1 to {MOST_TRIED}")
        return list(await self._last(self._place(call), last))

    async def _last(self, place: Place, count: int) -> list[tuple[int, Record]]:
        config = self._config()
        bounds = Bounds(config.peek_max_records, config.peek_max_bytes, config.peek_max_seconds)
        read = self._gateway.read(place, None, Start("last", count))
        return (await peek(read, lambda _record: True, count, bounds, self._clock)).found

    def _place(self, call: AdminCall) -> Place:
        names = call.names
        return self._names.topic(names["app"], names["topic"], names["version"])

    async def _checked(self, call: AdminCall, incoming: Pipeline) -> dict[str, Any] | None:
        """What the steps of the way in would have said of the topic's last records; ``None`` where these cannot be
        looked at just now.
        """
        try:
            records = await self._last(self._place(call), CHECKED_RECORDS)
        except KatewayError as error:
            if error.retriable or isinstance(error, TopicNotFound):
                return None
            raise
        now = self._in_force.now()
        refused = 0
        failures: list[dict[str, Any]] = []
        for partition, record in records:
            why = trial.check(incoming, record, now)
            if why is not None:
                refused += 1
                if len(failures) < MOST_FAILURES:
                    told = {"partition": partition, "offset": record.offset, "code": why.code, "detail": why.detail}
                    failures.append(told)
            # one record may take longer than a turn of the loop should
            await deferLater(self._clock, 0)
        return {"records": len(records), "refused": refused, "failures": failures}


def _name(call: AdminCall) -> tuple[str, str, str]:
    return call.names["app"], call.names["topic"], call.names["version"]


def _shown(source: Message | Record, tried: Tried, request_id: str) -> dict[str, Any]:
    steps = [_step(step, request_id) for step in tried.steps]
    after = tried.steps[-1].after if tried.steps else None
    return {
        "partition": tried.partition,
        "offset": tried.offset,
        "outcome": tried.outcome,
        "before": steps[0]["before"] if steps else _fields(source),
        "after": _of(after) if tried.steps else _fields(source),
        "seconds": sum(step.seconds for step in tried.steps),
        "steps": steps,
    }


def _step(step: TracedStep, request_id: str) -> dict[str, Any]:
    return {
        "step": step.kind,
        "before": _of(step.before),
        "after": _of(step.after),
        "dropped": step.dropped,
        "error": None if step.error is None else problem_object(step.error, request_id),
        "seconds": step.seconds,
    }


def _fields(source: Message | Record) -> dict[str, Any]:
    record = Record(0, source.timestamp or 0, source.key, source.value, source.headers)
    return _without_place(record_object(0, record))


def _of(fields: Fields | None) -> dict[str, Any] | None:
    if fields is None:
        return None
    shown = _without_place(record_object(0, Record(0, 0, fields.key, fields.value, fields.headers)))
    return shown if fields.partition is None else {"partition": fields.partition, **shown}


def _without_place(shown: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in shown.items() if name not in {"partition", "offset", "timestamp"}}
