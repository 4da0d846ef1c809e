"""The admin API against a real registry and a real store: every call, every refusal, every event."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from kateway.config.schema import AdminConfig, AuthConfig, EmbeddedStorageConfig
from kateway.core.access.failures import build_failures
from kateway.core.administration import Administration
from kateway.core.audit.events import Audit, Event
from kateway.core.breaker import BreakerConfig, Breakers
from kateway.core.transforms.in_force import TransformsInForce
from kateway.errors import ConfigError
from kateway.registry.file import FileRegistry
from kateway.registry.interface import GatewayEntry
from kateway.registry.read_only import OpenRegistry
from kateway.registry.secrets import matches
from kateway.registry.sqlite import EmbeddedRegistry
from kateway.storage.embedded import EmbeddedStore
from kateway.web.admin.access import Guard
from kateway.web.admin.actors import Actor, digest
from kateway.web.admin.api import ROUTES, AdminEdge
from kateway.web.admin.breakers import BreakerCalls
from kateway.web.admin.resources import Resources
from kateway.web.admin.sessions import Sessions
from kateway.web.exchange import Request, Response

TOKEN = b"a-long-enough-token"
NOW = 1_767_225_600.0


class Answered:
    """An exchange that keeps its response."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.response: Deferred[Response] = Deferred()
        self.gone: Callable[[], None] | None = None

    def respond(self, response: Response) -> None:
        self.response.callback(response)

    def on_gone(self, callback: Callable[[], None] | None) -> None:
        self.gone = callback

    def abort(self) -> None:
        """The client has gone already."""


class Running:
    """A gateway that reloads as it is told."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.reloads = 0

    def status(self) -> Mapping[str, Any]:
        return {"version": "0", "configuration": {"generation": self.reloads}}

    async def reload(self) -> None:
        if self.problems:
            raise ConfigError(self.problems)
        self.reloads += 1


class Events:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.seen: list[Event] = []

    async def write(self, events: Any) -> None:
        self.seen.extend(events)

    async def close(self) -> None: ...


class Admin:
    """The API in memory: ``await admin("PUT", "/applications/app1", {...})``."""

    def __init__(self, registry: Any, store: Any, token: bytes = b"") -> None:
        self.running = Running()
        self.events = Events()
        self.registry = registry
        self.store = store
        audit = Audit({"kept": self.events}, now=lambda: NOW)
        self.sessions = Sessions(lambda: NOW, AdminConfig)
        guard = Guard(
            {digest(token): Actor("admin", "admin", proof=digest(token))} if token else {},
            self.sessions,
            endpoints=["tcp:9093:interface=127.0.0.1"],
            hosts=["admin.example"],
            failures=build_failures(AuthConfig(), lambda: NOW),
        )
        breakers = Breakers({"default": BreakerConfig(), "other": BreakerConfig()}, lambda: NOW)
        self.administration = Administration(
            registry, {"default": store}, audit, lambda: NOW, own={"default"}, breakers=breakers
        )
        resources = Resources(self.administration, TransformsInForce(lambda: registry.snapshot, lambda: 0.0))
        self.edge = AdminEdge(
            self.running,
            self.administration,
            guard,
            [resources, BreakerCalls(self.administration)],
        )

    def begin(self, method: str, target: str, body: Any, headers: Mapping[str, str]) -> Answered:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        exchange = Answered(
            Request(
                method.encode(),
                b"/admin/v1" + target.encode(),
                [(name.lower().encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()],
                content,
                http_1_1=True,
                peer="127.0.0.1",
                secure=False,
                id="r1",
                received=0.0,
            )
        )
        self.edge.handle(exchange)  # type: ignore[arg-type]
        return exchange

    async def __call__(self, method: str, target: str, body: Any = None, *, expect: int = 200, **headers: str) -> Any:
        answered = await self.begin(
            method, target, body, {name.replace("_", "-"): value for name, value in headers.items()}
        ).response
        assert answered.status == expect, answered.body
        kind = dict(answered.headers).get(b"Content-Type", dict(answered.headers).get(b"content-type"))
        if answered.status >= 400:
            assert kind == b"application/problem+json"
            assert json.loads(answered.body)["status"] == answered.status
        self.headers = {name.decode().lower(): value.decode() for name, value in answered.headers}
        return json.loads(answered.body) if answered.body else None

    def event(self) -> tuple[str, str, str]:
        last = self.events.seen[-1]
        assert last[:2] == (NOW, "admin")
        assert last[5:7] == ("r1", "127.0.0.1")
        return last.action, last.object, last.outcome


@pytest_twisted.async_yield_fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    registry = EmbeddedRegistry(reactor, tmp_path)
    store = EmbeddedStore(EmbeddedStorageConfig(path=str(tmp_path)), reactor)  # type: ignore[arg-type]
    await registry.start()
    await store.start()
    yield Admin(registry, store)
    await store.stop(0)
    await registry.stop()


async def prepared(admin: Admin) -> None:
    """Two applications, a topic of the first, a binding of the second to it."""
    await admin("PUT", "/applications/app1", {}, expect=201)
    await admin("PUT", "/applications/app2", {}, expect=201)
    await admin("PUT", "/topics/app1/foo/v1", {}, expect=201)
    await admin("PUT", "/bindings/app2/app1/foo/v1", {"groups": ["g"]}, expect=201)


def contents(folder: Path) -> list[bytes]:
    """Every file below a folder."""
    return [file.read_bytes() for file in folder.rglob("*") if file.is_file()]


# --- applications ----------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_an_application_is_made_changed_read_listed_and_deleted(admin: Admin) -> None:
    wanted = {"description": "the shop", "quota": {"publish_records_per_second": 1000, "readers": 100}}
    made = await admin("PUT", "/applications/app1", wanted, expect=201)
    assert made == wanted
    assert admin.event() == ("application.put", "app1", "ok")
    etag = admin.headers["etag"]
    assert await admin("PUT", "/applications/app1", wanted) == wanted
    assert admin.headers["etag"] == etag
    assert await admin("GET", "/applications/app1") == wanted
    assert admin.headers["etag"] == etag
    await admin("PUT", "/applications/app1", {"description": "other"})
    assert admin.headers["etag"] != etag
    listed = await admin("GET", "/applications")
    assert listed == {"items": [{"name": "app1", "description": "other", "quota": {}}], "next": None}
    assert await admin("DELETE", "/applications/app1", expect=204) is None
    assert admin.event() == ("application.delete", "app1", "ok")
    await admin("GET", "/applications/app1", expect=404)
    await admin("DELETE", "/applications/app1", expect=404)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"x"',
        {"name": "app1"},
        {"description": 7},
        {"quota": {"records": 1}},
        {"quota": {"publish_records_per_second": 0}},
        {"quota": {"publish_records_per_second": "many"}},
        {"quota": {"readers": -1}},
        {"description": "x" * 1025},
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_malformed_application_is_refused(admin: Admin, body: Any) -> None:
    await admin("PUT", "/applications/app1", body, expect=400)
    assert admin.registry.snapshot.applications == {}
    assert admin.events.seen == []


@pytest.mark.parametrize("name", ["a.b", "a%2Fb", "a%00", "%C3%BC", "%FF", "..", "a" * 65, "a b"])
@pytest_twisted.ensureDeferred
async def test_a_name_that_tries_to_escape_is_refused(admin: Admin, name: str) -> None:
    await admin("PUT", f"/applications/{name.replace(' ', '%20')}", {}, expect=400)
    assert admin.registry.snapshot.applications == {}


@pytest_twisted.ensureDeferred
async def test_lists_come_in_pages(admin: Admin) -> None:
    for number in range(7):
        await admin("PUT", f"/applications/app{number}", {}, expect=201)
    names: list[str] = []
    page = {"next": ""}
    while page["next"] is not None:
        page = await admin("GET", f"/applications?limit=3&after={page['next']}")
        names += [item["name"] for item in page["items"]]  # type: ignore[attr-defined, index]
    assert names == [f"app{number}" for number in range(7)]
    for wrong in ("limit=0", "limit=1001", "limit=x", "limit=", "other=1", "limit=1&limit=2"):
        await admin("GET", f"/applications?{wrong}", expect=400)


@pytest_twisted.ensureDeferred
async def test_entry_that_others_refer_to_is_not_deleted(admin: Admin) -> None:
    await prepared(admin)
    problem = await admin("DELETE", "/applications/app1", expect=409)
    assert "app1/foo/v1" in problem["detail"]
    assert admin.event() == ("application.delete", "app1", problem["type"].rpartition(":")[2])
    problem = await admin("DELETE", "/topics/app1/foo/v1?delete_records=true", expect=409)
    assert "app2/app1/foo/v1" in problem["detail"]
    assert await admin.store.topic("app1.foo.v1")


# --- conditions ------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_if_match_refuses_what_is_no_longer_there(admin: Admin) -> None:
    await admin("PUT", "/applications/app1", {}, expect=201)
    etag = admin.headers["etag"]
    await admin("PUT", "/applications/app1", {"description": "b"}, if_match=f'"other", {etag}')
    await admin("PUT", "/applications/app1", {"description": "c"}, if_match=etag, expect=412)
    await admin("DELETE", "/applications/app1", if_match=etag, expect=412)
    await admin("PUT", "/applications/app1", {"description": "d"}, if_match="*")
    await admin("PUT", "/applications/app2", {}, if_match="*", expect=412)
    await admin("PUT", "/applications/app1", {}, if_none_match="*", expect=412)
    await admin("PUT", "/applications/app3", {}, if_none_match="*", expect=201)
    assert (await admin("GET", "/applications/app1"))["description"] == "d"


@pytest_twisted.ensureDeferred
async def test_every_get_has_an_etag_and_is_304_for_a_client_that_has_it(admin: Admin) -> None:
    await prepared(admin)
    await admin("POST", "/applications/app1/keys", {"kind": "pub", "key": "k"}, expect=201)
    for target in (
        "/status",
        "/gateways",
        "/applications",
        "/applications/app1",
        "/applications/app1/keys",
        "/applications/app1/keys/k",
        "/topics",
        "/topics/app1/foo/v1",
        "/bindings",
        "/bindings/app2/app1/foo/v1",
    ):
        await admin("GET", target)
        etag = admin.headers["etag"]
        await admin("GET", target, if_none_match=etag, expect=304)
        assert admin.headers["etag"] == etag
        await admin("GET", target, if_none_match='"other"')


# --- keys ------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_key_comes_with_its_secret_once_and_only_a_hash_is_kept(admin: Admin, tmp_path: Path) -> None:
    await prepared(admin)
    made = await admin("POST", "/applications/app1/keys", {"kind": "pub", "key": "mypubkey"}, expect=201)
    assert admin.headers["location"] == "/admin/v1/applications/app1/keys/mypubkey"
    assert admin.event() == ("key.make", "app1/mypubkey", "ok")
    assert (made["key"], made["kind"]) == ("mypubkey", "pub")
    assert matches(made["secret"], admin.registry.snapshot.keys["mypubkey"].secret_hash)
    await admin.registry.note_used({"mypubkey": 1_767_225_600_000})
    listed = await admin("GET", "/applications/app1/keys")
    shown = {
        "key": "mypubkey",
        "kind": "pub",
        "made": "2026-01-01T00:00:00Z",
        "last_used": "2026-01-01T00:00:00Z",
        "quota": None,
    }
    assert listed == {"items": [{"name": "mypubkey", **shown}], "next": None}
    assert await admin("GET", "/applications/app1/keys/mypubkey") == shown
    assert all(made["secret"].encode() not in content for content in contents(tmp_path))
    assert made["secret"] not in repr(admin.events.seen)


@pytest_twisted.ensureDeferred
async def test_a_key_has_a_name_of_its_own_unless_one_is_given(admin: Admin) -> None:
    await prepared(admin)
    first = await admin("POST", "/applications/app1/keys", {"kind": "sub"}, expect=201)
    second = await admin("POST", "/applications/app1/keys", {"kind": "sub"}, expect=201)
    assert first["key"] != second["key"]
    assert first["secret"] != second["secret"]


@pytest_twisted.ensureDeferred
async def test_a_key_that_exists_or_is_malformed_is_refused(admin: Admin) -> None:
    await prepared(admin)
    await admin("POST", "/applications/app1/keys", {"kind": "pub", "key": "k"}, expect=201)
    secret_hash = admin.registry.snapshot.keys["k"].secret_hash
    await admin("POST", "/applications/app1/keys", {"kind": "pub", "key": "k"}, expect=409)
    await admin("POST", "/applications/app2/keys", {"kind": "pub", "key": "k"}, expect=409)
    assert admin.registry.snapshot.keys["k"].secret_hash == secret_hash
    for body in (
        {},
        {"kind": "both"},
        {"kind": "pub", "key": "a/b"},
        {"kind": "pub", "key": ""},
        {"kind": "pub", "secret": "mine"},
        {"kind": "pub", "quota": {"x": 1}},
    ):
        await admin("POST", "/applications/app1/keys", body, expect=400)
    await admin("POST", "/applications/nobody/keys", {"kind": "pub"}, expect=404)
    await admin("GET", "/applications/nobody/keys", expect=404)


@pytest_twisted.ensureDeferred
async def test_a_rotated_keys_old_secret_has_its_grace(admin: Admin) -> None:
    await prepared(admin)
    made = await admin("POST", "/applications/app1/keys", {"kind": "pub", "key": "k"}, expect=201)
    rotated = await admin("POST", "/applications/app1/keys/k/rotate", {"grace_seconds": 3600})
    assert admin.event() == ("key.rotate", "app1/k", "ok")
    assert rotated["secret"] != made["secret"]
    assert rotated["old_secret_until"] == "2026-01-01T01:00:00Z"
    key = admin.registry.snapshot.keys["k"]
    now = int(NOW * 1000)
    assert any(matches(made["secret"], hashed) for hashed in key.hashes(now))
    assert not any(matches(made["secret"], hashed) for hashed in key.hashes(now + 3_600_000))
    at_once = await admin("POST", "/applications/app1/keys/k/rotate", {"grace_seconds": 0})
    assert [matches(at_once["secret"], hashed) for hashed in admin.registry.snapshot.keys["k"].hashes(now)] == [True]
    for grace in (-1, "x", True, 1e12):
        await admin("POST", "/applications/app1/keys/k/rotate", {"grace_seconds": grace}, expect=400)
    await admin("POST", "/applications/app2/keys/k/rotate", {}, expect=404)


@pytest_twisted.ensureDeferred
async def test_a_key_may_have_a_quota_of_its_own(admin: Admin) -> None:
    await prepared(admin)
    await admin("POST", "/applications/app1/keys", {"kind": "pub", "key": "k", "quota": {"readers": 1}}, expect=201)
    assert (await admin("GET", "/applications/app1/keys/k"))["quota"] == {"readers": 1}
    etag = admin.headers["etag"]
    changed = await admin("PUT", "/applications/app1/keys/k", {"quota": {"requests_per_second": 5}}, if_match=etag)
    assert changed["quota"] == {"requests_per_second": 5}
    assert admin.registry.snapshot.quota("app1", "k").requests_per_second == 5
    await admin("PUT", "/applications/app1/keys/k", {"quota": None}, if_match=etag, expect=412)
    assert (await admin("PUT", "/applications/app1/keys/k", {"quota": None}))["quota"] is None


@pytest_twisted.ensureDeferred
async def test_a_revoked_key_is_gone_and_only_its_owners_path_revokes_it(admin: Admin) -> None:
    await prepared(admin)
    await admin("POST", "/applications/app1/keys", {"kind": "pub", "key": "k"}, expect=201)
    await admin("DELETE", "/applications/app2/keys/k", expect=404)
    await admin("DELETE", "/applications/app1/keys/k", expect=204)
    assert admin.event() == ("key.delete", "app1/k", "ok")
    assert admin.registry.snapshot.keys == {}
    await admin("DELETE", "/applications/app1/keys/k", expect=404)


# --- topics ----------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_topic_is_made_in_the_store_with_four_partitions_unless_told(admin: Admin) -> None:
    await admin("PUT", "/applications/app1", {}, expect=201)
    made = await admin("PUT", "/topics/app1/foo/v1", {}, expect=201)
    assert made == {
        "cluster": "default",
        "partitions": 4,
        "replicas": 1,
        "retention_hours": 168,
        "storage_name": None,
        "state": "active",
    }
    etag = admin.headers["etag"]
    assert (await admin.store.topic("app1.foo.v1")).partitions == 4
    await admin("PUT", "/topics/app1/foo/v1", {})
    assert admin.headers["etag"] == etag
    assert (await admin("PUT", "/topics/app1/foo/v2", {"partitions": 2}, expect=201))["partitions"] == 2


@pytest_twisted.ensureDeferred
async def test_a_topic_that_the_store_has_is_taken_over_and_can_grow_but_not_shrink(admin: Admin) -> None:
    await admin("PUT", "/applications/app1", {}, expect=201)
    await admin.store.create_topic("legacy.orders", partitions=3)
    wanted = {"storage_name": "legacy.orders"}
    assert (await admin("PUT", "/topics/app1/orders/v1", wanted, expect=201))["partitions"] == 3
    await admin("PUT", "/topics/app1/other/v1", wanted, expect=409)
    await admin("PUT", "/topics/app1/orders/v1", {**wanted, "partitions": 5})
    assert (await admin.store.topic("legacy.orders")).partitions == 5
    await admin("PUT", "/topics/app1/orders/v1", {**wanted, "partitions": 2}, expect=409)
    assert admin.event() == ("topic.put", "app1/orders/v1", "conflict")
    assert (await admin("GET", "/topics/app1/orders/v1"))["partitions"] == 5


def retention_ms(folder: Path, topic: str) -> int:
    """What the store's file says."""
    with closing(sqlite3.connect(folder / "kateway.sqlite3")) as file:
        (found,) = file.execute("SELECT retention_ms FROM topics WHERE name = ?", (topic,)).fetchone()
    return int(found)


@pytest_twisted.ensureDeferred
async def test_a_change_of_a_topic_keeps_where_its_records_are_and_for_how_long(admin: Admin, tmp_path: Path) -> None:
    await admin("PUT", "/applications/app1", {}, expect=201)
    wanted = {"storage_name": "legacy.orders", "retention_hours": 720, "partitions": 2}
    made = await admin("PUT", "/topics/app1/orders/v1", wanted, expect=201)
    assert retention_ms(tmp_path, "legacy.orders") == 720 * 3_600_000
    changed = await admin("PUT", "/topics/app1/orders/v1", {"state": "deprecated"})
    assert {name: changed[name] for name in made} == {**made, "state": "deprecated"}
    assert set(await admin.store.topics()) == {"legacy.orders"}
    assert (await admin("PUT", "/topics/app1/orders/v1", {}))["state"] == "active"


@pytest_twisted.ensureDeferred
async def test_another_retention_reaches_the_store_and_a_topic_taken_over_keeps_its_own(
    admin: Admin, tmp_path: Path
) -> None:
    await admin("PUT", "/applications/app1", {}, expect=201)
    await admin.store.create_topic("legacy.orders", partitions=1, retention_ms=5)
    await admin("PUT", "/topics/app1/orders/v1", {"storage_name": "legacy.orders"}, expect=201)
    assert retention_ms(tmp_path, "legacy.orders") == 5
    for hours, kept in ((24, 24 * 3_600_000), (None, -1)):
        shown = await admin("PUT", "/topics/app1/orders/v1", {"retention_hours": hours})
        assert shown["retention_hours"] == hours
        assert retention_ms(tmp_path, "legacy.orders") == kept


@pytest.mark.parametrize(
    ("target", "body", "status"),
    [
        ("/topics/app1/foo/v1", {"cluster": "other"}, 400),
        ("/topics/app1/foo/v1", {"partitions": 0}, 400),
        ("/topics/app1/foo/v1", {"partitions": "4"}, 400),
        ("/topics/app1/foo/v1", {"state": "gone"}, 400),
        ("/topics/app1/foo/v1", {"storage_name": "a/b"}, 400),
        ("/topics/app1/foo/v1", {"storage_name": "__consumer_offsets"}, 400),
        ("/topics/app1/foo/v1", {"other": 1}, 400),
        ("/topics/app1/foo/v1", b"{", 400),
        ("/topics/app1/foo/v1", b"{}" + b" " * 262_144, 413),
        ("/topics/app1/foo/1", {}, 400),
        ("/topics/app1/f.oo/v1", {}, 400),
        ("/topics/nobody/foo/v1", {}, 404),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_topic_that_is_refused_leaves_no_trace_in_the_store(
    admin: Admin, target: str, body: Any, status: int
) -> None:
    await admin("PUT", "/applications/app1", {}, expect=201)
    await admin("PUT", target, body, expect=status)
    await admin("PUT", "/topics/app1/foo/v1", {}, if_match='"1"', expect=412)
    assert await admin.store.topics() == {}
    assert admin.registry.snapshot.topics == {}


@pytest_twisted.ensureDeferred
async def test_a_deprecated_topic_knows_since_when(admin: Admin) -> None:
    await prepared(admin)
    wanted = {"state": "deprecated", "sunset": "2027-01-01T00:00:00Z"}
    first = await admin("PUT", "/topics/app1/foo/v1", wanted)
    assert (first["deprecated"], first["sunset"]) == ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")
    assert await admin("PUT", "/topics/app1/foo/v1", wanted) == first
    assert await admin("PUT", "/topics/app1/foo/v1", {"state": "deprecated"}) == first
    again = await admin("PUT", "/topics/app1/foo/v1", {"state": "active"})
    assert not {"deprecated", "sunset"} & again.keys()


@pytest_twisted.ensureDeferred
async def test_a_deprecated_topic_is_promised_for_half_a_year_unless_told(admin: Admin) -> None:
    await prepared(admin)
    topic = await admin("PUT", "/topics/app1/foo/v1", {"state": "deprecated"})
    assert (topic["deprecated"], topic["sunset"]) == ("2026-01-01T00:00:00Z", "2026-06-30T00:00:00Z")


@pytest_twisted.ensureDeferred
async def test_a_deleted_topic_keeps_its_records_unless_they_are_to_go(admin: Admin) -> None:
    await admin("PUT", "/applications/app1", {}, expect=201)
    await admin("PUT", "/topics/app1/foo/v1", {}, expect=201)
    await admin("DELETE", "/topics/app1/foo/v1", expect=204)
    assert (await admin.store.topic("app1.foo.v1")).partitions == 4
    await admin("PUT", "/topics/app1/foo/v1", {}, expect=201)
    etag = admin.headers["etag"]
    await admin("DELETE", "/topics/app1/foo/v1?delete_records=true", if_match='"0"', expect=412)
    await admin("DELETE", "/topics/app1/foo/v1?delete_records=perhaps", expect=400)
    assert await admin.store.topics()
    await admin("DELETE", "/topics/app1/foo/v1?delete_records=true", if_match=etag, expect=204)
    assert admin.event() == ("topic.delete-records", "app1/foo/v1", "ok")
    assert await admin.store.topics() == {}


@pytest_twisted.ensureDeferred
async def test_topic_that_goes_from_the_store_behind_the_gateways_back_is_not_made_again(admin: Admin) -> None:
    await admin("PUT", "/applications/app1", {}, expect=201)
    await admin("PUT", "/topics/app1/foo/v1", {}, expect=201)
    await admin.store.delete_topic("app1.foo.v1")
    await admin.administration.make_topics()
    assert await admin.store.topics() == {}


# --- bindings --------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_binding_is_made_read_listed_and_deleted(admin: Admin) -> None:
    await prepared(admin)
    shown = {"groups": ["g"], "dead_letter": True, "max_deliveries": 5}
    assert await admin("GET", "/bindings/app2/app1/foo/v1") == shown
    assert (await admin("GET", "/bindings"))["items"] == [{"name": "app2/app1/foo/v1", **shown}]
    changed = {"groups": ["*"], "dead_letter": False, "max_deliveries": 0}
    assert await admin("PUT", "/bindings/app2/app1/foo/v1", changed) == changed
    assert admin.event() == ("binding.put", "app2/app1/foo/v1", "ok")
    await admin("DELETE", "/bindings/app2/app1/foo/v1", expect=204)
    await admin("GET", "/bindings/app2/app1/foo/v1", expect=404)
    await admin("DELETE", "/topics/app1/foo/v1", expect=204)


@pytest.mark.parametrize(
    ("target", "body", "status"),
    [
        ("/bindings/app1/app1/foo/v1", {}, 400),
        ("/bindings/app2/app1/foo/v1", {"groups": []}, 400),
        ("/bindings/app2/app1/foo/v1", {"groups": ["a.b"]}, 400),
        ("/bindings/app2/app1/foo/v1", {"groups": "g"}, 400),
        ("/bindings/app2/app1/foo/v1", {"groups": ["g"], "max_deliveries": -1}, 400),
        ("/bindings/app2/app1/foo/v1", {"groups": ["g"], "dead_letter": "yes"}, 400),
        ("/bindings/app2/app1/nothing/v1", {"groups": ["g"]}, 404),
        ("/bindings/nobody/app1/foo/v1", {"groups": ["g"]}, 404),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_malformed_binding_is_refused(admin: Admin, target: str, body: Any, status: int) -> None:
    await prepared(admin)
    await admin("PUT", target, body, expect=status)
    assert admin.registry.snapshot.bindings["app2", "app1", "foo", "v1"].groups == {"g"}


# --- the gateway -----------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_status_and_reload(admin: Admin) -> None:
    assert await admin("GET", "/status") == {"version": "0", "configuration": {"generation": 0}}
    assert await admin("POST", "/reload") == {"generation": 1}
    assert admin.event() == ("reload", "configuration", "ok")
    admin.running.problems = ["http.max_body_bytes: must be at least 1", "registry.path: no such file"]
    problem = await admin("POST", "/reload", expect=422)
    assert problem["problems"] == admin.running.problems
    assert admin.event() == ("reload", "configuration", "bad-configuration")


@pytest_twisted.ensureDeferred
async def test_the_live_gateways_are_listed(admin: Admin) -> None:
    await admin.registry.register_gateway(
        GatewayEntry(name="gw1", public=("127.0.0.1:9090",), version="1.0", load={"readers": 3})
    )
    listed = await admin("GET", "/gateways")
    assert listed["items"][0]["name"] == "gw1"
    assert listed["items"][0]["public"] == ["127.0.0.1:9090"]
    assert listed["items"][0]["load"] == {"readers": 3}


@pytest_twisted.ensureDeferred
async def test_a_change_goes_on_when_its_caller_goes_away(admin: Admin) -> None:
    exchange = admin.begin("PUT", "/applications/app1", {}, {})
    assert exchange.gone is not None
    exchange.gone()
    assert not exchange.response.called
    await admin("PUT", "/applications/app2", {}, expect=201)
    assert set(admin.registry.snapshot.applications) == {"app1", "app2"}
    assert [event.object for event in admin.events.seen] == ["app1", "app2"]


@pytest_twisted.ensureDeferred
async def test_missing_paths_and_methods_that_are_not_allowed(admin: Admin) -> None:
    for target in ("", "/", "/nothing", "/applications/", "/applications/a/b", "/topics/a/b", "/bindings/a/b/c"):
        await admin("GET", target, expect=404)
    await admin("POST", "/status", expect=405)
    assert admin.headers["allow"] == "GET, HEAD, OPTIONS"
    await admin("PATCH", "/applications/app1", expect=405)
    await admin("OPTIONS", "/applications/app1", expect=204)
    assert admin.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PUT"
    await admin("HEAD", "/status")
    await admin("GET", "/status?x=1", expect=400)


@pytest_twisted.ensureDeferred
async def test_of_two_changes_on_the_same_condition_one_is_refused(admin: Admin) -> None:
    await admin("PUT", "/applications/app1", {}, expect=201)
    condition = {"if-match": admin.headers["etag"]}
    begun = [admin.begin("PUT", "/applications/app1", {"description": name}, condition) for name in "ab"]
    answers = [await exchange.response for exchange in begun]
    assert [answer.status for answer in answers] == [200, 412]
    assert (await admin("GET", "/applications/app1"))["description"] == "a"
    assert sorted(event.outcome for event in admin.events.seen) == ["ok", "ok", "precondition-failed"]


@pytest_twisted.ensureDeferred
async def test_a_registry_that_is_away_is_503_and_what_is_known_is_still_told(admin: Admin) -> None:
    await prepared(admin)
    await admin.registry.stop()
    problem = await admin("PUT", "/applications/app3", {}, expect=503)
    assert problem["type"] == "urn:kateway:error:registry-unavailable"
    assert problem["retriable"] is True
    assert "retry-after" in admin.headers
    assert admin.event() == ("application.put", "app3", "registry-unavailable")
    assert len((await admin("GET", "/applications"))["items"]) == 2


@pytest_twisted.ensureDeferred
async def test_a_registry_file_is_read_and_not_written(tmp_path: Path) -> None:
    (tmp_path / "registry.toml").write_text('[applications.app1]\ndescription = "the shop"\n')
    registry = FileRegistry(reactor, tmp_path / "registry.toml")
    await registry.start()
    admin = Admin(registry, None)
    assert (await admin("GET", "/applications/app1"))["description"] == "the shop"
    problem = await admin("PUT", "/topics/app1/foo/v1", {}, expect=409)
    assert problem["type"] == "urn:kateway:error:registry-read-only"
    await registry.stop()


@pytest_twisted.ensureDeferred
async def test_in_open_mode_every_write_says_what_to_set() -> None:
    admin = Admin(OpenRegistry(), None)
    for method, target, body in (
        ("PUT", "/applications/app1", {}),
        ("DELETE", "/applications/app1", None),
        ("POST", "/applications/app1/keys", {"kind": "pub"}),
        ("PUT", "/topics/app1/foo/v1", {}),
        ("DELETE", "/topics/app1/foo/v1?delete_records=true", None),
        ("PUT", "/bindings/app2/app1/foo/v1", {"groups": ["*"]}),
    ):
        problem = await admin(method, target, body, expect=409)
        assert problem["type"] == "urn:kateway:error:registry-open"
        assert "[registry] driver" in problem["detail"]
    assert (await admin("GET", "/applications"))["items"] == []


# --- access -------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_with_a_token_nothing_answers_without_it() -> None:
    admin = Admin(OpenRegistry(), None, TOKEN)
    for wrong in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN.decode()}"}):
        await admin("GET", "/status", expect=401, **wrong)
        assert admin.headers["www-authenticate"] == 'Bearer realm="kateway admin"'
        await admin("GET", "/nothing", expect=401, **wrong)
    await admin("GET", "/status", authorization=f"bearer {TOKEN.decode()}")


@pytest_twisted.ensureDeferred
async def test_a_token_guessed_too_often_is_refused_for_a_time() -> None:
    admin = Admin(OpenRegistry(), None, TOKEN)
    for _ in range(20):
        await admin("GET", "/status", expect=401, authorization="Bearer wrong")
    await admin("GET", "/status", expect=429, authorization=f"Bearer {TOKEN.decode()}")
    assert admin.headers["retry-after"] == "10"


@pytest_twisted.ensureDeferred
async def test_the_admin_token_in_use_goes_on_while_a_neighbour_guesses() -> None:
    admin = Admin(OpenRegistry(), None, TOKEN)
    good = f"Bearer {TOKEN.decode()}"
    await admin("GET", "/status", authorization=good)
    for _ in range(20):
        await admin("GET", "/status", expect=401, authorization="Bearer wrong")
    await admin("GET", "/status", expect=429, authorization="Bearer wrong")
    await admin("GET", "/status", authorization=good)


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.1", "[::2]", "", "127.0.0.1.nip.io"]
)
@pytest_twisted.ensureDeferred
async def test_a_host_that_is_not_ours_is_misdirected(host: str) -> None:
    await Admin(OpenRegistry(), None)("GET", "/status", expect=421, host=host)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9093", "127.0.0.1:80", "[::1]:9093", "admin.example"])
@pytest_twisted.ensureDeferred
async def test_our_own_names_are_let_in(host: str) -> None:
    await Admin(OpenRegistry(), None)("GET", "/status", host=host)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:8080", "file://", "http://[", "chrome-extension://x"]
)
@pytest_twisted.ensureDeferred
async def test_another_origins_page_changes_nothing_token_or_not(origin: str) -> None:
    admin = Admin(OpenRegistry(), None, TOKEN)
    token = f"Bearer {TOKEN.decode()}"
    await admin("POST", "/reload", expect=403, origin=origin, host="localhost:9093", authorization=token)
    assert admin.running.reloads == 0
    await admin("GET", "/status", origin=origin, host="localhost:9093", authorization=token)
    await admin("POST", "/reload", origin="http://localhost:9093", host="localhost:9093", authorization=token)
    assert admin.running.reloads == 1


# --- changes refused before they are tried ------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_change_without_the_token_is_in_the_audit_and_a_question_is_not() -> None:
    admin = Admin(OpenRegistry(), None, TOKEN)
    await admin("PUT", "/applications/app1", {}, expect=401)
    await admin("POST", "/applications/app1/keys", {}, expect=401, authorization="Bearer wrong")
    await admin("POST", "/reload", expect=401, authorization="Bearer wrong")
    await admin("GET", "/status", expect=401, authorization="Bearer wrong")
    await admin("PUT", "/nothing/here", {}, expect=401)
    assert [(e.actor, e.action, e.object, e.outcome, e.address) for e in admin.events.seen] == [
        ("", "application.put", "app1", "unauthorized", "127.0.0.1"),
        ("", "key.make", "app1", "unauthorized", "127.0.0.1"),
        ("", "reload", "configuration", "unauthorized", "127.0.0.1"),
    ]


@pytest_twisted.ensureDeferred
async def test_change_by_another_origins_page_is_in_the_audit() -> None:
    admin = Admin(OpenRegistry(), None)
    await admin("POST", "/reload", expect=403, origin="http://evil.example")
    await admin("DELETE", "/topics/app1/foo/v1", expect=421, host="evil.example")
    assert [(e.actor, e.action, e.object, e.outcome) for e in admin.events.seen] == [
        ("", "reload", "configuration", "denied"),
        ("", "topic.delete", "app1/foo/v1", "misdirected"),
    ]


@pytest_twisted.ensureDeferred
async def test_change_that_the_registry_cannot_take_is_in_the_audit() -> None:
    admin = Admin(OpenRegistry(), None)
    await admin("PUT", "/bindings/app2/app1/foo/v1", {"groups": ["*"]}, expect=409)
    assert [(e.actor, e.action, e.object, e.outcome) for e in admin.events.seen] == [
        ("admin", "binding.put", "app2/app1/foo/v1", "registry-open")
    ]


@pytest_twisted.ensureDeferred
async def test_flood_with_wrong_tokens_does_not_fill_the_audit() -> None:
    admin = Admin(OpenRegistry(), None, TOKEN)
    for _ in range(100):
        answered = admin.begin("POST", "/reload", None, {"authorization": "Bearer wrong"})
        await answered.response
    assert len(admin.events.seen) == 20


def test_every_change_has_an_action_for_the_audit() -> None:
    assert [route for route in ROUTES if bool(route.action) != (route.method != "GET")] == []


# --- breakers --------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_breakers_are_listed_and_set_by_hand_without_a_registry() -> None:
    admin = Admin(OpenRegistry(), None)
    listed = (await admin("GET", "/breakers"))["items"]
    assert [(each["name"], each["state"]) for each in listed] == [("default", "closed"), ("other", "closed")]
    opened = await admin("POST", "/breakers/default", {"state": "open"})
    assert (opened["name"], opened["state"], opened["by_hand"]) == ("default", "open", True)
    assert opened["since"].endswith("Z")
    assert set(opened) == {"name", "state", "by_hand", "since", "failures", "last_error", "next_probe_seconds"}
    assert [each["state"] for each in (await admin("GET", "/breakers"))["items"]] == ["open", "closed"]
    assert (await admin("POST", "/breakers/default", {"state": "closed"}))["state"] == "closed"
    assert [(e.actor, e.action, e.object, e.outcome) for e in admin.events.seen] == [
        ("admin", "breaker.open", "default", "ok"),
        ("admin", "breaker.closed", "default", "ok"),
    ]


@pytest_twisted.ensureDeferred
async def test_breaker_of_no_cluster_is_404_and_a_body_that_is_none_400() -> None:
    admin = Admin(OpenRegistry(), None)
    await admin("POST", "/breakers/nowhere", {"state": "open"}, expect=404)
    for body in ({}, {"state": "half_open"}, {"state": "open", "more": 1}, [1]):
        await admin("POST", "/breakers/default", body, expect=400)


@pytest_twisted.ensureDeferred
async def test_lists_are_filtered_and_sorted_before_they_are_paged(admin: Admin) -> None:
    await admin("PUT", "/applications/app1", {}, expect=201)
    for name, partitions in (("alpha", 3), ("beta", 1), ("gamma", 2), ("alphabet", 1)):
        await admin("PUT", f"/topics/app1/{name}/v1", {"partitions": partitions}, expect=201)
    await admin("PUT", "/topics/app1/beta/v1", {"partitions": 1, "state": "retired"})

    async def names(query: str) -> list[str]:
        return [item["name"].split("/")[1] for item in (await admin("GET", f"/topics?{query}"))["items"]]

    assert await names("contains=ALPHA") == ["alpha", "alphabet"]
    assert await names("desc=1") == ["gamma", "beta", "alphabet", "alpha"]
    assert await names("sort=partitions") == ["alphabet", "beta", "gamma", "alpha"]
    assert await names("state=retired") == ["beta"]
    assert await names("state=active&sort=partitions&desc=true&limit=2") == ["alpha", "gamma"]
    page = await admin("GET", "/topics?sort=partitions&limit=2")
    assert await names(f"sort=partitions&limit=2&after={page['next']}") == ["gamma", "alpha"]
    assert [item["name"] for item in (await admin("GET", "/breakers?desc=1"))["items"]] == ["other", "default"]
    assert (await admin("GET", "/applications?contains=zzz")) == {"items": [], "next": None}
    for wrong in ("sort=replicas", "sort=", "desc=x"):
        await admin("GET", f"/topics?{wrong}", expect=400)
    await admin("GET", "/bindings?state=active", expect=400)
