"""Serves records over the admin API: looks at them that move no group, and publishes by an operator."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson
from twisted.internet.interfaces import IReactorTime

from kateway.config.schema import AdminConfig
from kateway.core.access.control import Place
from kateway.core.administration import Administration
from kateway.core.delivery.batch import NOT_KNOWN
from kateway.core.gateway import Gateway, Publish
from kateway.core.groups.memberships import Memberships
from kateway.core.idempotency import Use, fingerprint
from kateway.core.operator.naming import GroupName, Names
from kateway.core.operator.peek import Bounds, Peeked, peek
from kateway.core.operator.record_state import RecordState, from_table, record_state, state_of_member, to_table
from kateway.core.reads import MOST_LAST, Start
from kateway.core.transforms.in_force import TransformsInForce
from kateway.errors import BadRequest, InvalidParameter, KatewayError, NotFound
from kateway.model import HandedOff, Message, Receipt, Record
from kateway.observe.parts import ALONE, OtherProcesses
from kateway.registry.documents import time_text
from kateway.storage.interface import Outcome
from kateway.web import params
from kateway.web.admin.requests import DEFAULT_LIMIT, MAX_LIMIT, AdminCall, answer, by
from kateway.web.exchange import JSON, Header, Response
from kateway.web.formats.jsonrecord import record_object
from kateway.web.messages import queries
from kateway.web.messages.publish import HANDED_OFF, batch_response, messages_of, publish_query
from kateway.web.messages.publish_counts import PublishCounts
from kateway.web.messages.response_body import KEPT
from kateway.web.problems import problem

RECORD_QUERY = frozenset({"group", "full"})
PUBLISH_QUERY = frozenset(name.decode() for name in queries.PUBLISH)
PEEK_QUERY = frozenset({"partition", "offset", "timestamp", "last", "contains", "limit", "full", "queue", "group"})
ASKED = "record_state"
MOST_SPANS = 32
"""Partitions that an event of the audit names."""


Charge = Callable[[str, Sequence[Message]], None]
"""Counts messages against an application's quota. ``QuotaExceeded``."""


class RecordCalls:
    """Handlers. ``config`` and ``max_body_bytes`` (of a body that is decoded) give the bounds of now."""

    def __init__(
        self,
        names: Names,
        gateway: Gateway,
        groups: Memberships,
        administration: Administration,
        clock: IReactorTime,
        config: Callable[[], AdminConfig],
        max_body_bytes: Callable[[], int],
        in_force: TransformsInForce,
        charge: Charge,
        counts: PublishCounts | None,
        others: OtherProcesses = ALONE,
    ) -> None:
        """``charge`` is asked of what a tenant publishes."""
        self._others = others
        self._charge = charge
        self._counts = counts
        self._in_force = in_force
        self._names = names
        self._gateway = gateway
        self._groups = groups
        self._do = administration
        self._clock = clock
        self._config = config
        self._max_body_bytes = max_body_bytes

    async def peek(self, call: AdminCall) -> Response:
        config = self._config()
        place = self._place(call)
        values = params.query(call.request.target.partition(b"?")[2], frozenset(name.encode() for name in PEEK_QUERY))
        contains = values.get(b"contains", b"")
        start = queries.start_of(values)
        if start is None:
            start = Start("last", min(config.peek_max_records, MOST_LAST) if contains else DEFAULT_LIMIT)
        if start.kind == "last" and start.at > config.peek_max_records:
            raise InvalidParameter(f"last must be from 1 to {config.peek_max_records} (admin.peek_max_records)")
        default = min(start.at, MAX_LIMIT) if b"last" in values else DEFAULT_LIMIT
        limit = params.whole(values, b"limit", default, 1, MAX_LIMIT)
        partition = params.whole(values, b"partition", None, 0, params.INT32_MAX)
        whole = params.flag(values, b"full")

        looking = peek(
            self._gateway.read(place, partition, start),
            lambda record: _contains(record, contains),
            limit,
            Bounds(config.peek_max_records, config.peek_max_bytes, config.peek_max_seconds),
            self._clock,
        )
        name = "/".join(call.names.values())

        def told(peeked: Peeked) -> tuple[str, str]:
            shown = _offsets((partition, record.offset) for partition, record in peeked.found)
            return f"{name} {shown}".rstrip(), "ok"

        peeked = await self._do.audited.read(looking, by(call), "records.peek", name, told)
        cut = None if whole else config.peek_value_bytes
        return answer(
            200,
            {
                "records": [shown(partition, record, cut) for partition, record in peeked.found],
                "scanned": _scanned(peeked),
            },
        )

    async def record(self, call: AdminCall) -> Response:
        """Shows one record, and its state for a group."""
        config, names = self._config(), call.names
        place = self._names.topic(names["app"], names["topic"], names["version"])
        partition = params.whole({b"partition": names["partition"].encode()}, b"partition", 0, 0, params.INT32_MAX)
        offset = params.whole({b"offset": names["offset"].encode()}, b"offset", 0, 0, params.INT64_MAX)
        whole = call.flag("full")
        name = self._group(call) if "group" in call.query else None
        group = None if name is None else self._names.group(name)
        bounds = Bounds(config.peek_max_records, config.peek_max_bytes, config.peek_max_seconds)

        async def look() -> dict[str, Any]:
            reading = self._gateway.read(place, partition, Start("offset", offset))
            # a store gives one record at least
            peeked = await peek(reading, lambda _record: True, 1, bounds._replace(max_bytes=1), self._clock)
            if not peeked.found or peeked.found[0][1].offset != offset:
                raise NotFound("there is no record at that offset: not yet, or it is hidden, or was compacted away")
            found = {"record": shown(partition, peeked.found[0][1], None if whole else config.peek_value_bytes)}
            if name is None or group is None:
                return found
            member = self._groups.live.get((place.cluster, group.group, place.topic))
            unanswered: dict[str, Any] = {}

            async def elsewhere() -> RecordState | None:
                key = [place.cluster, group.group, place.topic]
                parts = await self._others.ask(ASKED, {"group": key, "partition": partition, "offset": offset})
                unanswered.update(parts.named)
                return next((from_table(table) for table in parts.all if table), None)

            state = await record_state(self._gateway, group, member, partition, offset, bounds, self._clock, elsewhere)
            shown_group = name.group if self._names.open else f"{name.reader}/{name.group}"
            return {**found, "group": shown_group, **self._state(state), **unanswered}

        topic = "/".join((names["app"], names["topic"], names["version"]))
        event = f"{topic} {partition}:{offset}"
        return answer(
            200, await self._do.audited.read(look(), by(call), "records.peek", event, lambda _found: (event, "ok"))
        )

    async def part(self, arguments: Any) -> dict[str, Any]:
        """What this process knows of a record that another process is asked for; empty where it is nothing."""
        member = self._groups.live.get(tuple(arguments["group"]))
        state = state_of_member(member, arguments["partition"], arguments["offset"], self._clock.seconds())
        return {} if state is None else to_table(state)

    def _state(self, state: RecordState) -> dict[str, Any]:
        until, since = state.until_seconds, state.since_seconds
        death = state.death
        return {
            "state": state.state,
            "reason": state.reason,
            "attempt": state.attempt,
            "client": None if state.client == NOT_KNOWN else state.client._asdict(),
            "lease": state.lease,
            "until": None if until is None else time_text(self._do.now_ms() + round(until * 1000)),
            "since_seconds": None if since is None else round(since, 1),
            "committed": state.committed,
            "read_here": state.here,
            "dead": None if death is None else death._asdict(),
            "unknown": ["dead"] if state.dead_unknown else [],
        }

    async def publish_records(self, call: AdminCall) -> Response:
        names, request = call.names, call.request
        place = self._names.publishable(names["app"], names["topic"], names["version"])
        path, _, raw_query = request.target.partition(b"?")
        asked = publish_query(request, queries.publish_query(raw_query))
        body = request.body if asked.decode is None else asked.decode(request.body, self._max_body_bytes())
        query = asked.query
        publish = Publish(
            place,
            messages_of(request, asked, body),
            asked.acks,
            request.received + query.timeout,
            query.retries,
            request.received,
            query.handoff,
            names["app"],
            self._in_force.incoming((names["app"], names["topic"], names["version"])),
        )
        name = "/".join(names.values())
        replayed: list[Header] = []

        def count(outcomes: list[Outcome]) -> None:
            if self._counts is not None:
                topic = names["app"], names["topic"], names["version"]
                self._counts.by_operator(topic, place.cluster, call.actor.application, publish.messages, outcomes)

        async def write() -> list[Outcome]:
            if call.actor.application:
                # an administrator's publish is no application's traffic; a tenant would get round its quota
                self._charge(call.actor.application, publish.messages)
            if asked.idempotency is None:
                outcomes = await (self._gateway.publish_batch if query.batch else self._gateway.publish)(publish)
                count(outcomes)
                return outcomes
            asks = fingerprint(publish.messages, publish.acks, query.batch)
            use = Use(names["app"], names["topic"], names["version"], asked.idempotency, asks)
            answered = await self._gateway.publish_once(use, publish, batch=query.batch)
            if answered.replayed:
                replayed.append((b"Idempotency-Replayed", b"true"))
                if self._counts is not None:
                    self._counts.replayed(place.cluster)
            else:
                count(answered.outcomes)
            return answered.outcomes

        outcomes = await self._do.audited(
            write(), by(call), "records.publish", name, lambda outcomes: _told(name, outcomes)
        )
        response = batch_response(outcomes, request.id)[0] if query.batch else _receipt(outcomes[0], path, request.id)
        return response._replace(headers=(*response.headers, *replayed))

    def _place(self, call: AdminCall) -> Place:
        """Finds the topic, or the dead letters of a group of it."""
        names, query = call.names, call.query
        dead = query.get("queue")
        if dead not in {None, "dead"}:
            raise InvalidParameter("queue must be dead, or left out")
        if ("group" in query) != (dead is not None):
            raise BadRequest("queue=dead needs group=READER/GROUP beside it, whose dead letters are meant")
        if dead is None:
            return self._names.topic(names["app"], names["topic"], names["version"])
        return self._names.group(self._group(call), dead=True).place

    def _group(self, call: AdminCall) -> GroupName:
        """The group that ``group=READER/GROUP`` names; in open mode the reader may be left out."""
        reader, slash, group = call.query["group"].rpartition("/")
        if not slash and self._names.open:
            reader = "default"
        if not reader or not group:
            raise InvalidParameter("group must be READER/GROUP: the application that reads, and its group")
        return GroupName(reader, call.names["app"], call.names["topic"], call.names["version"], group)


def shown(partition: int, record: Record, cut: int | None) -> dict[str, Any]:
    """A record's JSON object, its value cut to so many bytes: a text to whole characters."""
    value = record.value
    if cut is None or value is None or len(value) <= cut:
        return record_object(partition, record)
    found = record_object(partition, record._replace(value=None))
    try:
        value.decode()
        found["value"] = value[:cut].decode(errors="ignore")
    except UnicodeDecodeError:
        del found["value"]
        found["value_base64"] = b64encode(value[:cut]).decode()
    return {**found, "value_bytes": len(value), "truncated": True}


def _contains(record: Record, text: bytes) -> bool:
    return (
        text in (record.value or b"")
        or text in (record.key or b"")
        or any(text in (value or b"") for _name, value in record.headers)
    )


def _receipt(outcome: Outcome, path: bytes, request_id: str) -> Response:
    """Answers one message's publish, as the message plane does; its place is a call of this API."""
    if isinstance(outcome, KatewayError):
        return problem(outcome, request_id)
    if isinstance(outcome, HandedOff):
        return Response(202, (JSON, HANDED_OFF), KEPT)
    partition, offset = outcome
    headers: tuple[Header, ...] = (JSON, (b"X-Partition", b"%d" % partition))
    if offset is not None:
        headers = (*headers, (b"X-Offset", b"%d" % offset), (b"Location", b"%b/%d/%d" % (path, partition, offset)))
    return Response(201 if offset is not None else 202, headers, orjson.dumps(outcome._asdict()))


def _told(name: str, outcomes: Iterable[Outcome]) -> tuple[str, str]:
    """The audit's object and outcome of a publish: the offsets that were written, and the first error."""
    errors = [outcome.code for outcome in outcomes if isinstance(outcome, KatewayError)]
    written = [outcome for outcome in outcomes if isinstance(outcome, Receipt) and outcome.offset is not None]
    offsets = _offsets((receipt.partition, receipt.offset or 0) for receipt in written)
    return f"{name} {offsets}".rstrip(), errors[0] if errors else "ok"


def _scanned(peeked: Peeked) -> dict[str, Any]:
    return {
        "records": peeked.records,
        "bytes": peeked.bytes,
        "seconds": round(peeked.seconds, 3),
        "partitions": [
            {"partition": partition, "first": span.first, "last": span.last}
            for partition, span in sorted(peeked.spans.items())
        ],
        "stopped": peeked.stopped,
    }


def _offsets(found: Iterable[tuple[int, int]]) -> str:
    """Offsets for the audit: ``0:5-9 1:3``; the first and the last of each partition."""
    spans: dict[int, tuple[int, int]] = {}
    for partition, offset in found:
        first, last = spans.get(partition, (offset, offset))
        spans[partition] = min(first, offset), max(last, offset)
    texts = [
        f"{partition}:{first}" if first == last else f"{partition}:{first}-{last}"
        for partition, (first, last) in sorted(spans.items())
    ]
    return " ".join([*texts[:MOST_SPANS], *(["…"] if len(texts) > MOST_SPANS else [])])
