"""Serves the registry over HTTP: applications with their keys, topics, bindings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from kateway.config.schema import AdminConfig
from kateway.core.administration import MAX_GRACE_SECONDS, Administration, NewSecret, current
from kateway.core.transforms.in_force import TransformsInForce
from kateway.errors import Conflict, Denied, InvalidName, InvalidParameter
from kateway.registry import validators as grammar
from kateway.registry.documents import from_table, time_text, to_table
from kateway.registry.interface import Application, Binding, Entry, Key, KeyKind, Quota, Topic, Written
from kateway.web.admin.requests import AdminCall, answer, by, merged, only
from kateway.web.admin.rights import check
from kateway.web.admin.rows import Pages, check_choice
from kateway.web.exchange import NO_STORE, Response

DEFAULT_GRACE_SECONDS = 3600
_TOPIC_COLUMNS = ("application", "topic", "version", "cluster", "partitions", "state")
_BINDING_COLUMNS = ("subscriber", "application", "topic", "version")


def show_key(key: Key, used: int | None) -> dict[str, Any]:
    """A key as it is shown to people: never a secret, never a hash."""
    shown: dict[str, Any] = {
        "key": key.key,
        "kind": key.kind,
        # a registry file need not say
        "made": time_text(key.made) if key.made else None,
        "last_used": None if used is None else time_text(used),
        "quota": to_table(key)["quota"],
    }
    if key.rotated_hash is not None:
        shown["old_secret_until"] = time_text(key.rotated_until)
    return shown


class Resources:
    """Handlers: each takes a call and answers a response, or raises."""

    def __init__(
        self,
        administration: Administration,
        in_force: TransformsInForce,
        config: Callable[[], AdminConfig] = AdminConfig,
    ) -> None:
        """``config`` gives the bounds of now."""
        self._config = config
        self._do = administration
        self._in_force = in_force
        self._registry = administration.registry
        self._applications = Pages(to_table)
        self._topics = Pages(to_table, _TOPIC_COLUMNS)
        self._bindings = Pages(to_table, _BINDING_COLUMNS)

    # --- applications ------------------------------------------------------------------------------------------

    async def applications(self, call: AdminCall) -> Response:
        own = call.actor.application
        if own:
            entries = self._do.snapshot.applications
            return answer(200, Pages(to_table).page({own: entries[own]} if own in entries else {}, call.query))
        return answer(200, self._applications.page(self._do.snapshot.applications, call.query))

    async def application(self, call: AdminCall) -> Response:
        return _entry(current(self._do.snapshot.applications, call.names["app"], "application"))

    async def put_application(self, call: AdminCall) -> Response:
        name = call.names["app"]
        wanted = cast(Application, from_table("applications", name, call.table()))
        expected = call.expected(_etag(self._do.snapshot.applications, name))
        return _written(await self._do.put_application(wanted, expected, by(call)))

    async def delete_application(self, call: AdminCall) -> Response:
        name = call.names["app"]
        current(self._do.snapshot.applications, name, "application")
        expected = call.expected(_etag(self._do.snapshot.applications, name))
        await self._do.delete_application(name, expected, by(call))
        return _gone()

    # --- keys --------------------------------------------------------------------------------------------------

    async def keys(self, call: AdminCall) -> Response:
        snapshot = self._do.snapshot
        current(snapshot.applications, call.names["app"], "application")
        keys = {key.key: key for key in snapshot.keys_of(call.names["app"])}
        page = Pages(lambda key: {"entry": key}, ("kind", "made")).page(keys, call.query)
        used = await self._do.last_used([item["name"] for item in page["items"]])
        page["items"] = [
            {"name": item["name"], **show_key(item["entry"], used.get(item["name"]))} for item in page["items"]
        ]
        return answer(200, page)

    async def key(self, call: AdminCall) -> Response:
        key = self._do.key(call.names["app"], call.names["key"])
        used = await self._do.last_used([key.key])
        return answer(200, show_key(key, used.get(key.key)), etag=key.etag)

    async def make_key(self, call: AdminCall) -> Response:
        application, table = call.names["app"], call.table()
        only(table, "kind", "key", "quota")
        if call.actor.application and not table.keys() <= {"kind"}:
            # a name that is taken would tell of another's key; a key's own quota goes before its application's
            raise Denied("an application's own session chooses no key's name or quota")
        most = self._config().max_tenant_keys
        if call.actor.application and len(self._do.snapshot.keys_of(application)) >= most:
            raise Conflict(f"{application} has {most} keys or more (admin.max_tenant_keys): revoke one first")
        current(self._do.snapshot.applications, application, "application")
        kind, name = table.get("kind"), table.get("key")
        if kind not in {"pub", "sub"}:
            raise InvalidParameter("kind must be pub or sub")
        if name is not None and not grammar.is_name(name):
            raise InvalidName("key must be 1 to 64 of A-Z a-z 0-9 _ -")
        quota = _key_quota(table)
        made = await self._do.make_key(application, name, cast(KeyKind, kind), quota, by(call))
        location = f"/admin/v1/applications/{application}/keys/{made.key.key}"
        return _secret(201, made, ((b"Location", location.encode()),))

    async def set_key_quota(self, call: AdminCall) -> Response:
        application, name, table = call.names["app"], call.names["key"], call.table()
        only(table, "quota")
        old = self._do.key(application, name)
        written = await self._do.set_key_quota(application, name, _key_quota(table), call.expected(old.etag), by(call))
        used = await self._do.last_used([name])
        return answer(200, show_key(written.entry, used.get(name)), etag=written.entry.etag)

    async def rotate_key(self, call: AdminCall) -> Response:
        table = call.table()
        only(table, "grace_seconds")
        grace = table.get("grace_seconds", DEFAULT_GRACE_SECONDS)
        if isinstance(grace, bool) or not isinstance(grace, (int, float)) or not 0 <= grace <= MAX_GRACE_SECONDS:
            raise InvalidParameter(f"grace_seconds must be from 0 to {MAX_GRACE_SECONDS}")
        return _secret(200, await self._do.rotate_key(call.names["app"], call.names["key"], grace, by(call)))

    async def delete_key(self, call: AdminCall) -> Response:
        application, name = call.names["app"], call.names["key"]
        expected = call.expected(self._do.key(application, name).etag)
        await self._do.delete_key(application, name, expected, by(call))
        return _gone()

    # --- topics ------------------------------------------------------------------------------------------------

    async def topics(self, call: AdminCall) -> Response:
        check_choice(call.query, "state", grammar.TOPIC_STATES)
        actor, topics = call.actor, self._do.snapshot.topics
        if actor.application:
            own = {name: topic for name, topic in topics.items() if actor.sees(topic.application)}
            return answer(200, Pages(to_table, _TOPIC_COLUMNS).page(own, call.query))
        return answer(200, self._topics.page(topics, call.query))

    async def topic(self, call: AdminCall) -> Response:
        return _entry(current(self._do.snapshot.topics, _path(call, "app", "topic", "version"), "topic"))

    async def put_topic(self, call: AdminCall) -> Response:
        name = _path(call, "app", "topic", "version")
        old = self._do.snapshot.topics.get((name[0], name[1], name[2]))
        wanted = cast(Topic, from_table("topics", "/".join(name), {**_where_it_lies(old), **call.table()}))
        expected = call.expected(_etag(self._do.snapshot.topics, name))
        return _written(await self._do.put_topic(wanted, expected, by(call)))

    async def delete_topic(self, call: AdminCall) -> Response:
        name = _path(call, "app", "topic", "version")
        delete_records = call.flag("delete_records")
        current(self._do.snapshot.topics, name, "topic")
        expected = call.expected(_etag(self._do.snapshot.topics, name))
        await self._do.delete_topic((name[0], name[1], name[2]), delete_records, expected, by(call))
        return _gone()

    # --- bindings ----------------------------------------------------------------------------------------------

    async def bindings(self, call: AdminCall) -> Response:
        actor, bindings = call.actor, self._do.snapshot.bindings
        if actor.application:
            own = {name: binding for name, binding in bindings.items() if actor.sees(binding.subscriber)}
            return answer(200, Pages(to_table, _BINDING_COLUMNS).page(own, call.query))
        return answer(200, self._bindings.page(bindings, call.query))

    async def binding(self, call: AdminCall) -> Response:
        name = _path(call, "subscriber", "app", "topic", "version")
        return _entry(current(self._do.snapshot.bindings, name, "binding"))

    async def put_binding(self, call: AdminCall) -> Response:
        name = _path(call, "subscriber", "app", "topic", "version")
        old = self._do.snapshot.bindings.get((name[0], name[1], name[2], name[3]))
        wanted = cast(Binding, from_table("bindings", "/".join(name), merged(old, call)))
        before = (None, None) if old is None else (old.filter, old.transforms)
        if (wanted.filter, wanted.transforms) != before:
            # they can mask contents: without them a subscriber would see all
            check(call.actor, "put_transforms", {}, {}, self._do.snapshot)
        self._in_force.compile_binding(wanted)
        expected = call.expected(_etag(self._do.snapshot.bindings, name))
        return _written(await self._do.put_binding(wanted, expected, by(call)))

    async def delete_binding(self, call: AdminCall) -> Response:
        name = _path(call, "subscriber", "app", "topic", "version")
        current(self._do.snapshot.bindings, name, "binding")
        expected = call.expected(_etag(self._do.snapshot.bindings, name))
        await self._do.delete_binding((name[0], name[1], name[2], name[3]), expected, by(call))
        return _gone()


def _path(call: AdminCall, *names: str) -> tuple[str, ...]:
    return tuple(call.names[name] for name in names)


def _etag(entries: Mapping[Any, Entry], name: Any) -> str | None:
    entry = entries.get(name)
    return None if entry is None else entry.etag


def _key_quota(table: Mapping[str, Any]) -> Quota | None:
    """A key's own quota. Read as an application's is, so that the two have the same members and faults."""
    if table.get("quota") is None:
        return None
    return cast(Application, from_table("applications", "any", {"quota": table["quota"]})).quota


def _entry(entry: Entry) -> Response:
    return answer(200, to_table(entry), etag=entry.etag)


def _written(written: Written[Any]) -> Response:
    return answer(201 if written.made else 200, to_table(written.entry), etag=written.entry.etag)


def _secret(status: int, made: NewSecret, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Response:
    body: dict[str, Any] = {"key": made.key.key, "kind": made.key.kind, "secret": made.secret}
    if made.key.rotated_hash is not None:
        body["old_secret_until"] = time_text(made.key.rotated_until)
    return answer(status, body, etag=made.key.etag, headers=headers)


def _gone() -> Response:
    return Response(204, (NO_STORE,), b"")


def _where_it_lies(topic: Topic | None) -> dict[str, Any]:
    """What a change of a registered topic keeps unless it says otherwise: another store, or fewer hours, would be a
    loss of records that was not asked for.
    """
    if topic is None:
        return {}
    kept = {name: getattr(topic, name) for name in ("cluster", "replicas", "retention_hours", "storage_name")}
    return {**kept, **{name: member for name, member in to_table(topic).items() if name == "elastic"}}
