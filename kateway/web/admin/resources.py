"""The registry over HTTP: applications with their keys, topics, bindings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from kateway.core.administration import MAX_GRACE_SECONDS, Administration, By, NewSecret, current
from kateway.errors import InvalidName, InvalidParameter, RegistryUnavailable
from kateway.registry import validators as grammar
from kateway.registry.documents import from_table, time_text, to_table
from kateway.registry.interface import Application, Binding, Entry, Key, KeyKind, Quota, Snapshot, Topic, Written
from kateway.web.admin.requests import AdminCall, Pages, answer, only
from kateway.web.exchange import NO_STORE, Response

DEFAULT_GRACE_SECONDS = 3600


def by(call: AdminCall) -> By:
    """The admin token names no person: the address tells more."""
    return By("admin", call.request.id, call.request.peer)


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

    def __init__(self, administration: Administration) -> None:
        self._do = administration
        self._registry = administration.registry
        self._applications = Pages(to_table)
        self._topics = Pages(to_table)
        self._bindings = Pages(to_table)

    @property
    def _snapshot(self) -> Snapshot:
        """The registry's entries. ``RegistryUnavailable`` while none are known yet: an empty list would be wrong."""
        snapshot = self._registry.snapshot
        if not snapshot.known:
            raise RegistryUnavailable(self._registry.health().reason or "the registry has not answered yet")
        return snapshot

    # --- applications ------------------------------------------------------------------------------------------

    async def applications(self, call: AdminCall) -> Response:
        return answer(200, self._applications.page(self._snapshot.applications, call.query))

    async def application(self, call: AdminCall) -> Response:
        return _entry(current(self._snapshot.applications, call.names["app"], "application"))

    async def put_application(self, call: AdminCall) -> Response:
        name = call.names["app"]
        wanted = cast(Application, from_table("applications", name, call.table()))
        expected = call.expected(_etag(self._snapshot.applications, name))
        return _written(await self._do.put_application(wanted, expected, by(call)))

    async def delete_application(self, call: AdminCall) -> Response:
        name = call.names["app"]
        current(self._snapshot.applications, name, "application")
        expected = call.expected(_etag(self._snapshot.applications, name))
        await self._do.delete_application(name, expected, by(call))
        return _gone()

    # --- keys --------------------------------------------------------------------------------------------------

    async def keys(self, call: AdminCall) -> Response:
        snapshot = self._snapshot
        current(snapshot.applications, call.names["app"], "application")
        keys = {key.key: key for key in snapshot.keys_of(call.names["app"])}
        page = Pages(lambda key: {"entry": key}).page(keys, call.query)
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
        current(self._snapshot.applications, application, "application")
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
        return answer(200, self._topics.page(self._snapshot.topics, call.query))

    async def topic(self, call: AdminCall) -> Response:
        return _entry(current(self._snapshot.topics, _path(call, "app", "topic", "version"), "topic"))

    async def put_topic(self, call: AdminCall) -> Response:
        name = _path(call, "app", "topic", "version")
        old = self._snapshot.topics.get((name[0], name[1], name[2]))
        wanted = cast(Topic, from_table("topics", "/".join(name), {**_where_it_lies(old), **call.table()}))
        expected = call.expected(_etag(self._snapshot.topics, name))
        return _written(await self._do.put_topic(wanted, expected, by(call)))

    async def delete_topic(self, call: AdminCall) -> Response:
        name = _path(call, "app", "topic", "version")
        delete_records = call.flag("delete_records")
        current(self._snapshot.topics, name, "topic")
        expected = call.expected(_etag(self._snapshot.topics, name))
        await self._do.delete_topic((name[0], name[1], name[2]), delete_records, expected, by(call))
        return _gone()

    # --- bindings ----------------------------------------------------------------------------------------------

    async def bindings(self, call: AdminCall) -> Response:
        return answer(200, self._bindings.page(self._snapshot.bindings, call.query))

    async def binding(self, call: AdminCall) -> Response:
        name = _path(call, "subscriber", "app", "topic", "version")
        return _entry(current(self._snapshot.bindings, name, "binding"))

    async def put_binding(self, call: AdminCall) -> Response:
        name = _path(call, "subscriber", "app", "topic", "version")
        wanted = cast(Binding, from_table("bindings", "/".join(name), call.table()))
        expected = call.expected(_etag(self._snapshot.bindings, name))
        return _written(await self._do.put_binding(wanted, expected, by(call)))

    async def delete_binding(self, call: AdminCall) -> Response:
        name = _path(call, "subscriber", "app", "topic", "version")
        current(self._snapshot.bindings, name, "binding")
        expected = call.expected(_etag(self._snapshot.bindings, name))
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
    return {name: getattr(topic, name) for name in ("cluster", "replicas", "retention_hours", "storage_name")}
