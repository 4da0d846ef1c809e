"""Sign-in, roles and portal links on a whole gateway, over its admin listener, as a browser and as curl."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from administered import Administered, events, guarded, prepared
from gateways import LOOPBACK, Answer, Client, eventually
from test_tls_listener import issue, save
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from kateway import __version__
from kateway.cli.main import main
from kateway.config.schema import AdminConfig, AdminTokenConfig, LogConfig
from kateway.daemon.service import GatewayService
from kateway.web.admin.api import ROUTES

here = pytest_twisted.ensureDeferred
ROLES = ("operator", "viewer")


def token_of(name: str) -> str:
    return f"{name}-token-of-enough-length"


class Told:
    """An answer as ``http.client`` has it."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Manager(Administered):
    """A gateway with a token of each role. ``admin`` calls have the administrators'."""

    def __init__(self, folder: Path, endpoint: str = LOOPBACK, **options: Any) -> None:
        self.folder = folder
        self.scheme = "https" if endpoint.startswith("ssl:") else "http"
        for name in ("admin", *ROLES):
            self.write_token(name, token_of(name))
        tokens = {f"{role}-1": AdminTokenConfig(file=str(folder / role), role=role) for role in ROLES}  # type: ignore[arg-type]
        given: dict[str, Any] = {"token_file": str(folder / "admin"), "tokens": tokens, **options}
        settings = guarded(folder / "data", admin=AdminConfig(**given))
        self.reread = attrs.evolve(settings, http=attrs.evolve(settings.http, admin=(endpoint,)))
        """What a reload finds."""
        super().__init__(self.reread)
        self.service = GatewayService(self.reread, reactor, lambda: self.reread)

    def write_token(self, name: str, token: str) -> None:
        (self.folder / name).write_text(token + "\n")

    async def ask_admin(self, method: str, path: str, **kwargs: Any) -> Answer:
        kwargs.setdefault("headers", {"Authorization": f"Bearer {token_of('admin')}"})
        return await super().ask_admin(method, path, **kwargs)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Told:
        """One call on a connection of its own, with these headers and no other credentials."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await deferToThread(self._ask, method, path, body, given)

    def _ask(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Told:
        if self.scheme == "https":
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            client: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", self.admin_port, timeout=20, context=context
            )
        else:
            client = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=20)
        target = path if path.startswith("/metrics") else f"/admin/v1{path}"
        try:
            client.request(method, target, None if body is None else json.dumps(body), dict(headers))
            return Told(client.getresponse())
        finally:
            client.close()

    async def bearer(self, role: str, method: str, path: str, body: Any = None) -> Told:
        return await self.ask(method, path, body, Authorization=f"Bearer {token_of(role)}")

    async def signed_in(self, role: str = "admin") -> Browser:
        return Browser(self, await self.ask("POST", "/session", {"token": token_of(role)}))

    async def tenant(self, application: str) -> Browser:
        made = await self.bearer("admin", "POST", f"/applications/{application}/portal-links")
        assert made.status == 201
        return Browser(self, await self.ask("POST", "/session", {"link": made.json["link"]}))


class Browser:
    """One that has signed in: its cookie, and the half that its page keeps."""

    def __init__(self, manager: Manager, told: Told) -> None:
        assert told.status == 201, told.body
        self.manager = manager
        self.answer = told
        self.set_cookie = told.headers["Set-Cookie"]
        self.cookie = self.set_cookie.partition(";")[0]
        self.half = told.json["session"]

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Told:
        return await self.manager.ask(
            method, path, body, Cookie=f"other=1; {self.cookie}", Kateway_Session=self.half, **headers
        )


async def audited(manager: Manager, action: str, count: int) -> list[dict[str, Any]]:
    """The events of an action, once there are so many: they are written a moment behind it."""
    await eventually(lambda: len(events(manager, action)) >= count)
    return events(manager, action)


@pytest_twisted.async_yield_fixture
async def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    made = Manager(tmp_path)
    yield await prepared(made)  # type: ignore[misc]
    await made.stop()


# --- sessions --------------------------------------------------------------------------------------------------


@here
async def test_session_needs_both_halves_and_ends_at_sign_out(manager: Manager) -> None:
    browser = await manager.signed_in()
    assert re.fullmatch(
        rf"kateway-session-{manager.admin_port}=[A-Za-z0-9_-]{{43}}; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict",
        browser.set_cookie,
    )
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", browser.half)
    assert (await browser("GET", "/topics")).status == 200
    assert (await browser("PUT", "/applications/app3", {})).status == 201
    assert (await manager.ask("GET", "/topics", Cookie=browser.cookie)).status == 401
    assert (await manager.ask("GET", "/session", Cookie=browser.cookie)).status == 401
    assert (await manager.ask("GET", "/topics", Kateway_Session=browser.half)).status == 401
    other = await manager.signed_in()
    assert (await manager.ask("GET", "/topics", Cookie=other.cookie, Kateway_Session=browser.half)).status == 401
    gone = await browser("DELETE", "/session")
    assert gone.status == 204
    assert gone.headers["Set-Cookie"].startswith(f"kateway-session-{manager.admin_port}=; Path=/; Max-Age=0; HttpOnly")
    refused = await browser("GET", "/topics")
    assert refused.status == 401
    assert "Max-Age=0" in refused.headers["Set-Cookie"]
    assert (await other("GET", "/topics")).status == 200
    (event,) = await audited(manager, "session.end", 1)
    assert (event["actor"], event["outcome"]) == ("admin", "ok")


@here
async def test_session_says_the_callers_role_and_calls(manager: Manager) -> None:
    nobody = (await manager.ask("GET", "/session")).json
    assert nobody == {
        "role": None,
        "name": None,
        "application": None,
        "may": ["session", "sign_in"],
        "token_needed": True,
        "until": None,
        "idle_seconds": None,
        "gateway": manager.service.parts.name,
        "version": __version__,
    }
    browser = await manager.signed_in("operator")
    found = (await browser("GET", "/session")).json
    assert (found["role"], found["name"], found["idle_seconds"]) == ("operator", "operator-1", 1800)
    assert found["until"]
    assert browser.answer.json == {"session": browser.half, **found}
    assert "put_topic" in found["may"]
    assert "peek" not in found["may"]
    as_bearer = (await manager.bearer("viewer", "GET", "/session")).json
    assert (as_bearer["role"], as_bearer["until"]) == ("viewer", None)


@here
async def test_twenty_wrong_tokens_lock_the_address_out_of_signing_in(manager: Manager) -> None:
    for _ in range(20):
        assert (await manager.ask("POST", "/session", {"token": "wrong"})).status == 401
    locked = await manager.ask("POST", "/session", {"token": "wrong"})
    assert locked.status == 429
    assert int(locked.headers["Retry-After"]) >= 1
    assert (await manager.ask("POST", "/session", {"link": "wrong"})).status == 429
    refused = [event["outcome"] for event in await audited(manager, "session.open", 20)]
    assert refused == ["unauthorized"] * 20


@pytest.mark.parametrize("body", [{}, {"token": "a", "link": "b"}, {"token": 7}, {"name": "x"}, []])
@here
async def test_malformed_sign_in_is_400(manager: Manager, body: Any) -> None:
    assert (await manager.ask("POST", "/session", body)).status == 400


@here
async def test_loopback_without_a_token_needs_no_sign_in(tmp_path: Path) -> None:
    manager = Manager(tmp_path, token_file="", tokens={})
    await prepared(manager)
    try:
        found = (await manager.ask("GET", "/session")).json
        assert (found["role"], found["token_needed"], "put_topic" in found["may"]) == ("admin", False, True)
        # a cookie of another gateway on this host is no business of this one
        assert (await manager.ask("GET", "/topics", Cookie="kateway-session=x")).status == 200
        assert (await manager.ask("POST", "/session", {"token": "any"})).status == 409
        assert (await manager.ask("DELETE", "/session")).status == 204
        tenant = await manager.tenant("app1")
        assert (await tenant("GET", "/status")).status == 403
    finally:
        await manager.stop()


@here
async def test_changed_token_and_hangup_end_session_and_stream_within_a_second(manager: Manager) -> None:
    browser, viewer = await manager.signed_in(), await manager.signed_in("viewer")
    tenant = await manager.tenant("app1")
    link = (await browser("POST", "/applications/app1/portal-links")).json["link"]
    sessions = manager.service.http.sign_in.sessions
    assert len(sessions) == 3
    ended: list[float] = []
    for actor in [session.actor for session in sessions._sessions.values()]:
        sessions.on_end(actor, lambda: ended.append(time.monotonic()))
    manager.write_token("admin", "another-token-of-enough-length")
    began = time.monotonic()
    os.kill(os.getpid(), signal.SIGHUP)
    await eventually(lambda: len(ended) == 2, 1)
    assert ended[-1] - began < 1
    assert (await browser("GET", "/topics")).status == 401
    # a link is no better than the token that made it
    assert (await tenant("GET", "/topics")).status == 401
    assert (await manager.ask("POST", "/session", {"link": link})).status == 401
    assert (await viewer("GET", "/topics")).status == 200
    assert (await manager.bearer("admin", "GET", "/topics")).status == 401


@here
async def test_idle_and_old_sessions_end_though_their_page_is_shut(tmp_path: Path) -> None:
    manager = Manager(tmp_path, session_idle_seconds=1.0)
    await manager.start()
    try:
        await manager.signed_in()
        sessions = manager.service.http.sign_in.sessions
        found = (await manager.bearer("admin", "GET", "/metrics")).body
        assert b"\nkateway_ui_sessions 1\n" in found
        await eventually(lambda: len(sessions) == 0, 3)
    finally:
        await manager.stop()


# --- pages of others -------------------------------------------------------------------------------------------


@here
async def test_form_of_another_site_or_port_is_403_and_changes_nothing(manager: Manager) -> None:
    browser = await manager.signed_in()
    for origin in ("http://evil.example", f"http://127.0.0.1:{manager.admin_port + 1}", "null"):
        for method, path in (("PUT", "/applications/app9"), ("POST", "/applications/app1/portal-links")):
            assert (await browser(method, path, {}, Origin=origin)).status == 403
        # nor is a person signed in to what another page chose
        assert (await manager.ask("POST", "/session", {"token": token_of("admin")}, Origin=origin)).status == 403
    assert (await browser("GET", "/applications/app9")).status == 404
    own = f"http://127.0.0.1:{manager.admin_port}"
    assert (await browser("PUT", "/applications/app9", {}, Origin=own)).status == 201


@here
async def test_foreign_host_is_421_with_a_session_too(manager: Manager) -> None:
    browser = await manager.signed_in()
    assert (await browser("GET", "/topics", Host="evil.example")).status == 421
    assert (await manager.ask("GET", "/session", Host="evil.example")).status == 421


@here
async def test_every_response_of_the_listener_keeps_to_itself(manager: Manager) -> None:
    browser = await manager.signed_in()
    asked = [
        ("GET", "/topics", 200),
        ("GET", "/session", 200),
        ("GET", "/topics/app1/none/v1", 404),
        ("POST", "/reload", 200),
        ("DELETE", "/applications/app1", 409),
        ("GET", "/nothing", 404),
        ("PATCH", "/topics", 405),
        ("GET", "/stacks", 200),
        ("GET", "/records/app1/foo/v1", 200),
    ]
    for method, path, status in asked:
        told = await browser(method, path)
        assert told.status == status, path
        assert told.headers.get_all("X-Content-Type-Options") == ["nosniff"], path
        assert told.headers["Referrer-Policy"] == "no-referrer", path
        assert told.headers.get_all("Cache-Control") == ["no-store"], path
    scraped = await manager.bearer("viewer", "GET", "/metrics")
    assert scraped.headers["X-Content-Type-Options"] == "nosniff"


@here
async def test_cookie_is_secure_on_tls(tmp_path: Path) -> None:
    certificate, key = save(tmp_path, "server", issue("CN=server"))
    manager = Manager(tmp_path, f"ssl:0:interface=127.0.0.1:certKey={certificate}:privateKey={key}")
    await manager.start()
    try:
        browser = await manager.signed_in()
        assert browser.set_cookie.endswith("; HttpOnly; SameSite=Strict; Secure")
        assert (await browser("GET", "/topics")).status == 200
    finally:
        await manager.stop()


# --- roles -----------------------------------------------------------------------------------------------------

ALLOWED = [
    ("viewer", "GET", "/topics/app1/foo/v1", None, 200),
    ("viewer", "GET", "/groups", None, 200),
    ("viewer", "GET", "/metrics", None, 200),
    ("viewer", "PUT", "/applications/app1", {}, 403),
    ("viewer", "POST", "/reload", None, 403),
    ("viewer", "GET", "/records/app1/foo/v1", None, 403),
    ("operator", "PUT", "/applications/app1", {"description": "d"}, 200),
    ("operator", "PUT", "/groups/app1/app1/foo/v1/g/offsets", {"to": "latest"}, 200),
    ("operator", "GET", "/records/app1/foo/v1", None, 403),
    ("operator", "GET", "/records/app1/foo/v1/0/0", None, 403),
    ("operator", "POST", "/records/app1/foo/v1", {}, 403),
    ("operator", "POST", "/transforms/app1/foo/v1/try", {"last": 1}, 403),
    ("operator", "DELETE", "/applications/app2/keys/app2-pub", None, 403),
    ("operator", "POST", "/applications/app1/keys", {"kind": "sub"}, 403),
    ("operator", "POST", "/applications/app1/keys/app1-sub/rotate", {}, 403),
    ("operator", "POST", "/applications/app1/portal-links", None, 403),
    ("operator", "DELETE", "/topics/app1/foo/v1", None, 403),
]


@pytest.mark.parametrize(("role", "method", "path", "body", "status"), ALLOWED)
@here
async def test_role_may_what_is_its_own_and_is_refused_the_rest(
    manager: Manager, role: str, method: str, path: str, body: Any, status: int
) -> None:
    assert (await manager.bearer(role, method, path, body)).status == status
    browser = await manager.signed_in(role)
    assert (await browser(method, path, body)).status == status
    assert (await manager.admin("GET", "/topics/app1/foo/v1")).status == 200


@here
async def test_audit_names_the_tokens_name(manager: Manager) -> None:
    await manager.bearer("operator", "PUT", "/applications/app7", {})
    await (await manager.signed_in("operator"))("PUT", "/applications/app8", {})
    await manager.bearer("viewer", "PUT", "/applications/app9", {})
    # the first two are the applications that there were
    put = (await audited(manager, "application.put", 5))[2:]
    found = [(event["actor"], event["object"], event["outcome"]) for event in put]
    assert found == [("operator-1", "app7", "ok"), ("operator-1", "app8", "ok"), ("viewer-1", "app9", "denied")]


@here
async def test_access_log_names_the_caller_and_no_secret_of_its(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    manager = Manager(tmp_path)
    manager.reread = attrs.evolve(manager.reread, log=LogConfig(access_file=str(log)))
    manager.service = GatewayService(manager.reread, reactor)
    await prepared(manager)
    try:
        browser = await manager.signed_in("operator")
        await browser("GET", "/topics")
        await eventually(lambda: "operator-1 GET /admin/v1/topics" in log.read_text())
        assert not re.search(f"{browser.half}|{browser.cookie.partition('=')[2]}|token-of", log.read_text())
    finally:
        await manager.stop()


# --- tenants ---------------------------------------------------------------------------------------------------


@here
async def test_portal_link_lets_one_person_in_once(manager: Manager) -> None:
    made = await manager.bearer("admin", "POST", "/applications/app1/portal-links")
    assert made.json.keys() == {"link", "application", "until"}
    tenant = Browser(manager, await manager.ask("POST", "/session", {"link": made.json["link"]}))
    assert (await manager.ask("POST", "/session", {"link": made.json["link"]})).status == 401
    shown = (await tenant("GET", "/session")).json
    assert (shown["role"], shown["name"], shown["application"]) == ("tenant", "portal:app1", "app1")
    assert (await manager.bearer("admin", "POST", "/applications/none/portal-links")).status == 404
    assert [event["object"] for event in await audited(manager, "portal-link.make", 2)] == ["app1", "none"]


@here
async def test_command_line_makes_a_portal_link(manager: Manager, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{manager.admin_port}"
    arguments = ["--url", url, "--token-file", str(manager.folder / "admin"), "--json", "portal-link", "make", "app1"]
    assert await deferToThread(main, arguments) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["application"] == "app1"
    assert (await manager.ask("POST", "/session", {"link": made["link"]})).json["application"] == "app1"


@here
async def test_tenants_session_ends_with_its_application(manager: Manager) -> None:
    await manager.change("PUT", "/applications/app3", {})
    tenant = await manager.tenant("app3")
    assert (await tenant("GET", "/applications/app3")).status == 200
    await manager.change("DELETE", "/applications/app3")
    assert (await tenant("GET", "/applications/app3")).status == 401


@here
async def test_tenant_makes_rotates_and_revokes_its_own_keys(manager: Manager) -> None:
    tenant = await manager.tenant("app1")
    made = await tenant("POST", "/applications/app1/keys", {"kind": "pub"})
    assert made.status == 201
    key = made.json["key"]
    assert (await tenant("POST", f"/applications/app1/keys/{key}/rotate", {})).status == 200
    assert (await tenant("DELETE", f"/applications/app1/keys/{key}")).status == 204
    # a name that is taken is another's perhaps, and a key's quota would go before that of its application
    for more in ({"key": "app2-pub"}, {"quota": None}, {"quota": {"readers": 9}}):
        assert (await tenant("POST", "/applications/app1/keys", {"kind": "pub", **more})).status == 403
    assert (await tenant("PUT", "/applications/app1/keys/app1-pub", {"quota": None})).status == 403
    assert [event["actor"] for event in await audited(manager, "key.rotate", 1)] == ["portal:app1"]


@here
async def test_tenant_publishes_and_peeks_its_own_topics_within_its_quota(manager: Manager) -> None:
    await manager.quota("app1", publish_records_per_second=0.2)
    tenant = await manager.tenant("app1")
    statuses = [(await tenant("POST", "/records/app1/foo/v1", {"n": n})).status for n in range(3)]
    assert (statuses[0], statuses[-1]) == (201, 429)
    assert (await manager.admin("POST", "/records/app1/foo/v1", {"n": "admin"})).status == 201
    peeked = await tenant("GET", "/records/app1/foo/v1?last=10")
    shown = [json.loads(record["value"])["n"] for record in peeked.json["records"]]
    assert (shown[0], shown[-1]) == (0, "admin")
    assert (await tenant("GET", "/records/app1/foo/v1/0/0?group=app1/g")).status == 200
    for path in ("/records/app1/foo/v1/0/0?group=app2/g1", "/records/app1/foo/v1?queue=dead&group=app2/g1"):
        assert (await tenant("GET", path)).status == 403


@here
async def test_tenant_makes_no_more_keys_than_it_may(tmp_path: Path) -> None:
    manager = Manager(tmp_path, max_tenant_keys=3)
    await prepared(manager)
    try:
        tenant = await manager.tenant("app1")
        statuses = [(await tenant("POST", "/applications/app1/keys", {"kind": "sub"})).status for _ in range(2)]
        assert statuses == [201, 409]
        assert (await manager.admin("POST", "/applications/app1/keys", {"kind": "sub"})).status == 201
    finally:
        await manager.stop()


@here
async def test_tenants_session_ends_when_its_links_maker_is_no_administrator_any_more(manager: Manager) -> None:
    tenant, viewer = await manager.tenant("app1"), await manager.signed_in("viewer")
    settings = manager.reread
    as_viewer = {"was-admin": AdminTokenConfig(file=str(manager.folder / "admin"), role="viewer")}
    admin = attrs.evolve(settings.admin, token_file="", tokens={**settings.admin.tokens, **as_viewer})
    manager.reread = attrs.evolve(settings, admin=admin)
    await manager.service.reload()
    assert (await tenant("GET", "/topics")).status == 401
    assert (await viewer("GET", "/topics")).status == 200
    assert (await manager.bearer("admin", "GET", "/session")).json["name"] == "was-admin"


OF_ANOTHER = {"app": "app2", "reader": "app2", "subscriber": "app2", "topic": "theirs", "version": "v1"}
OWN = {"app": "app1", "reader": "app1", "subscriber": "app1", "topic": "foo", "version": "v1"}
REST = {"key": "app2-pub", "group": "g1", "cluster": "default", "gateway": "gateway-1", "partition": "0", "offset": "0"}
CHANGES_OF_ITS_OWN = {"make_key", "rotate_key", "delete_key", "publish_records"}


def filled(path: str, names: Mapping[str, str]) -> str:
    return path.format(**{**REST, **names})


@here
async def test_tenant_sees_nothing_of_another_application_in_any_response(manager: Manager) -> None:
    await manager.topic("app2/theirs/v1")
    await manager.binding("app1/app1/foo/v1", "own")
    await manager.binding("app2/app2/theirs/v1", "g1")
    tenant = await manager.tenant("app1")
    assert [one["name"] for one in (await tenant("GET", "/topics")).json["items"]] == ["app1/foo/v1"]
    assert [one["name"] for one in (await tenant("GET", "/applications")).json["items"]] == ["app1"]
    assert [one["name"] for one in (await tenant("GET", "/bindings")).json["items"]] == ["app1/app1/foo/v1"]
    for route in ROUTES:
        if route.handler in {"sign_in", "sign_out", "session", "openapi"}:
            continue
        theirs = await tenant(route.method, filled(route.path, OF_ANOTHER), {} if route.method != "GET" else None)
        if "{" in route.path:
            assert theirs.status == 403, (route, theirs.body)
        # a tail has no end
        method = "HEAD" if route.handler == "tail" else route.method
        own = await tenant(method, filled(route.path, OWN), {} if route.method != "GET" else None)
        if route.method != "GET" and route.handler not in CHANGES_OF_ITS_OWN:
            assert own.status == 403, (route, own.body)
        for told in (theirs, own):
            # but for the key's name, which was the caller's own in the path
            shown = told.body.replace(b"app2-pub", b"")
            assert not re.search(rb"app2|theirs", shown), (route, told.body)
    assert (await tenant("GET", "/metrics")).status == 403


@here
async def test_tenant_learns_of_no_topic_that_it_may_not_read(manager: Manager) -> None:
    await manager.topic("app1/bar/v1")
    tenant = await manager.tenant("app2")
    known = await tenant("GET", "/groups/app2/app1/bar/v1/g")
    unknown = await tenant("GET", "/groups/app2/app1/none/v1/g")
    assert (known.status, unknown.status) == (403, 403)
    assert known.json["detail"] == unknown.json["detail"]
    # of one that it may read it is told that nothing was committed yet
    assert (await tenant("GET", "/groups/app2/app1/foo/v1/g1")).status == 404


@here
async def test_tenant_sees_the_groups_that_it_reads_and_no_other(manager: Manager) -> None:
    await manager.publish("app1", "foo", b"a")
    readers = []
    for key, group in (("app1-sub", "foo/own"), ("app2-sub", "app1.foo/g1")):
        client = await Client.connect(manager.port)
        client.send(f"GET /v1/topics/{group}?follow=1 HTTP/1.1\r\nHost: x\r\n{manager.head(key)}\r\n")
        await client.until(b"a\n")
        readers.append(client)
    tenant = await manager.tenant("app1")
    everything = {row["name"] for row in (await manager.admin("GET", "/groups")).json()["items"]}
    assert everything == {"app1/app1/foo/v1/own", "app2/app1/foo/v1/g1"}
    assert {row["name"] for row in (await tenant("GET", "/groups")).json["items"]} == {"app1/app1/foo/v1/own"}
    assert (await tenant("GET", "/groups/app1/app1/foo/v1/own")).status == 200
    assert (await tenant("GET", "/groups/app2/app1/foo/v1/g1")).status == 403
    for client in readers:
        client.close()


@here
async def test_without_the_right_to_contents_no_call_unmasks_them_or_tells_them(manager: Manager) -> None:
    masked = {"groups": ["*"], "transforms": {"out": [{"mask": ["/card"]}]}}
    await manager.change("PUT", "/bindings/app2/app1/foo/v1", masked)
    operator = {"Authorization": f"Bearer {token_of('operator')}"}
    for body in ({"transforms": None}, {"transforms": {"out": []}}, {"filter": "true"}):
        refused = await manager.ask("PUT", "/bindings/app2/app1/foo/v1", body, **operator)
        assert (refused.status, refused.json["type"].rpartition(":")[2]) == (403, "denied")
    changed = await manager.ask("PUT", "/bindings/app2/app1/foo/v1", {"groups": ["g1"]}, **operator)
    assert (changed.status, changed.json["transforms"]["out"]) == (200, masked["transforms"]["out"])  # type: ignore[index]

    integer = {"schema": {"properties": {"card": {"type": "integer"}}}}
    await manager.change("PUT", "/transforms/app1/foo/v1", {"in": [integer]})
    refused_publish = await manager.publish("app1", "foo", b'{"card":"4111-1111"}')
    assert refused_publish.status == 422
    assert b"4111-1111" in refused_publish.body
    for role in ROLES:
        told = await manager.ask("GET", "/errors", Authorization=f"Bearer {token_of(role)}")
        assert b"invalid-against-schema" in told.body
        assert b"4111-1111" not in told.body
