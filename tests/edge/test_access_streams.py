"""Open streams whose permission goes, quotas, browsers, audit, and where secrets are not."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from administered import ALL_AUDITED, Administered, Make, prepared
from gateways import Client, eventually
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import formatEvent, globalLogPublisher
from wsclient import SocketClient
from wsproto.events import CloseConnection, Message

from kateway.cli.main import main
from kateway.config.schema import HttpConfig

here = pytest_twisted.ensureDeferred
Change = Callable[[Administered], Awaitable[Any]]
REVOCATION_SECONDS = 1.0


async def follower(shop: Administered, group: str = "g1", accept: str = "application/x-ndjson") -> Client:
    client = await Client.connect(shop.port)
    client.send(
        f"GET /v1/topics/foo/{group}?follow=1 HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n{shop.head('app2-sub')}\r\n"
    )
    await client.until(b"\r\n\r\n")
    return client


async def websocket(shop: Administered, path: str, key: str) -> SocketClient:
    return await SocketClient.open(shop, path, headers=shop.key(key))


async def revoke_key(shop: Administered) -> None:
    await shop.change("DELETE", "/applications/app2/keys/app2-sub")


async def revoke_binding(shop: Administered) -> None:
    await shop.change("DELETE", "/bindings/app2/app1/foo/v1")


async def restrict_binding(shop: Administered) -> None:
    await shop.binding("app2/app1/foo/v1", "another")


async def retire_topic(shop: Administered) -> None:
    await shop.topic("app1/foo/v1", state="retired")


GOING = pytest.mark.parametrize("go", [revoke_key, revoke_binding, restrict_binding, retire_topic])


@GOING
@here
async def test_stream_ends_with_its_permission(hot: Administered, go: Change) -> None:
    await hot.binding("app2/app1/foo/v1", "g1", "g2", "g3")
    ndjson, sse = await follower(hot), await follower(hot, "g2", "text/event-stream")
    explicit = await websocket(hot, "/v1/topics/foo/g3?ack=explicit", "app2-sub")
    await hot.publish("app1", "foo")
    for client in (ndjson, sse):
        await client.until(b'"offset":0')
    await go(hot)
    await eventually(lambda: ndjson.lost and sse.lost, REVOCATION_SECONDS)
    # cut, so that it cannot be taken for whole
    assert not ndjson.received.endswith(b"0\r\n\r\n")
    await eventually(lambda: explicit.first(CloseConnection) is not None, REVOCATION_SECONDS)
    close = explicit.first(CloseConnection)
    assert isinstance(close, CloseConnection)
    assert (close.code, close.reason) in {
        (1008, "unauthorized"),
        (1008, "denied"),
        (1008, "topic-not-found"),
        (1008, "topic-retired"),
    }
    explicit.client.close()
    assert len(hot.service.parts.admitting.open_streams) == 0


@GOING
@here
async def test_waiting_request_ends_with_its_permission(hot: Administered, go: Change) -> None:
    poll = hot.spawn(hot.read("app2", "foo/g1?timeout=20"))
    read = hot.spawn(hot.read("app2", "foo?partition=0&offset=0&timeout=20"))
    await eventually(lambda: len(hot.service.parts.admitting.open_streams) == 2)
    await go(hot)
    # a read without a group needs none of a binding's groups
    for waiting in (poll,) if go is restrict_binding else (poll, read):
        await eventually(lambda waiting=waiting: waiting.called, REVOCATION_SECONDS)  # type: ignore[misc]
        assert (await waiting).status in {401, 403, 404, 410}
    read.addErrback(lambda _failure: None)
    read.cancel()


@here
async def test_a_revoked_key_ends_a_socket_that_publishes(hot: Administered) -> None:
    socket = await websocket(hot, "/v1/topics/foo", "app1-pub")
    socket.send(Message(b"one"))
    await eventually(lambda: len(socket.messages()) == 1)
    await hot.change("DELETE", "/applications/app1/keys/app1-pub")
    await eventually(lambda: socket.first(CloseConnection) is not None, REVOCATION_SECONDS)
    assert (await hot.publish("app1", "foo")).status == 401
    socket.client.close()


@here
async def test_other_changes_leave_a_stream_alone(hot: Administered) -> None:
    client = await follower(hot)
    await hot.topic("app1/foo/v1", state="deprecated")
    await hot.binding("app2/app1/foo/v1", "*")
    await hot.change("POST", "/applications/app2/keys/app2-sub/rotate", {"grace_seconds": 3600})
    await hot.change("DELETE", "/applications/app2/keys/app2-pub")
    await hot.publish("app1", "foo", b"still there")
    await client.until(b"still there")
    client.close()


@here
async def test_a_rotated_secret_works_on_for_its_grace(hot: Administered) -> None:
    old = hot.key("app1-pub")
    made = await hot.change("POST", "/applications/app1/keys/app1-pub/rotate", {"grace_seconds": 60})
    new = old | {"Secret": made["secret"]}
    for headers in (old, new):
        assert (await hot.request("POST", "/v1/topics/foo", b"x", headers=headers)).status == 201
    await hot.change("POST", "/applications/app1/keys/app1-pub/rotate", {"grace_seconds": 0})
    assert (await hot.request("POST", "/v1/topics/foo", b"x", headers=old)).status == 401


# --- quotas ----------------------------------------------------------------------------------------------------------


@here
async def test_beyond_a_quota_it_is_429_and_what_is_told_is_true(hot: Administered) -> None:
    await hot.quota("app1", publish_records_per_second=2)
    answers = [await hot.publish("app1", "foo") for _ in range(3)]
    assert [answer.status for answer in answers] == [201, 201, 429]
    assert answers[0].header("ratelimit-policy") == '"publish-records";q=2;w=1'
    assert answers[0].header("ratelimit") == '"publish-records";r=1;t=1'
    assert answers[2].code == "quota-exceeded"
    assert answers[2].json()["retriable"] is True
    wait = int(answers[2].header("retry-after") or 0)
    assert wait == 1
    await deferLater(reactor, wait)  # type: ignore[arg-type]
    assert (await hot.publish("app1", "foo")).status == 201
    batch = {**hot.key("app1-pub"), "Content-Type": "application/x-ndjson"}
    answer = await hot.request("POST", "/v1/topics/foo?batch=1", b"a\nb\nc\nd\n", headers=batch)
    assert answer.status in {201, 429}
    # another application feels nothing of it
    await hot.topic("app2/own/v1")
    assert (await hot.publish("app2", "own")).status == 201


@here
async def test_every_kind_of_request_counts(hot: Administered) -> None:
    await hot.quota("app1", requests_per_second=1)
    pub, sub = hot.key("app1-pub"), hot.key("app1-sub")
    assert (await hot.request("POST", "/v1/topics/foo", b"x", headers=pub)).status == 201
    for method, path, headers in (
        ("POST", "foo", pub),
        ("GET", "foo", sub),
        ("GET", "foo/g", sub),
        ("GET", "foo/g/lag", sub),
        ("POST", "foo/g/acks", sub),
    ):
        answer = await hot.request(method, f"/v1/topics/{path}", b"[]" if method == "POST" else None, headers=headers)
        assert (answer.status, answer.code) == (429, "quota-exceeded")
        assert answer.header("retry-after") == "1"


@here
async def test_a_message_on_a_socket_counts_and_costs_no_memory(hot: Administered) -> None:
    await hot.quota("app1", publish_records_per_second=2)
    socket = await websocket(hot, "/v1/topics/foo", "app1-pub")
    for _ in range(5):
        socket.send(Message(b"x"))
    await eventually(lambda: len(socket.messages()) == 5)
    told = [json.loads(message) for message in socket.messages()]
    assert [answer.get("offset", answer.get("status")) for answer in told] == [0, 1, 429, 429, 429]
    socket.client.close()


@here
async def test_reading_is_slowed_and_not_refused(hot: Administered) -> None:
    await hot.quota("app1", subscribe_bytes_per_second=1000)
    for _ in range(3):
        await hot.publish("app1", "foo", b"x" * 900)
    began = reactor.seconds()
    for path in ("foo/g", "foo/g", "foo?partition=0&offset=2&limit=1"):
        answer = await hot.read("app1", path)
        assert (answer.status, len(answer.body)) == (200, 900)
    # 2700 bytes of which a second's worth was there to begin with; the last is had on credit
    assert reactor.seconds() - began > 0.75


@here
async def test_one_reader_too_many_is_429_until_one_leaves(hot: Administered) -> None:
    await hot.quota("app2", readers=1)
    client = await follower(hot)
    answer = await hot.read("app2", "foo/g2")
    assert (answer.status, answer.code) == (429, "quota-exceeded")
    assert answer.header("retry-after") is not None
    client.close()
    await eventually(lambda: len(hot.service.parts.admitting.open_streams) == 0)
    assert (await hot.read("app2", "foo/g2?timeout=0.05")).status == 204
    assert (await hot.read("app2", "foo/g2?timeout=0.05")).status == 204


# --- browsers --------------------------------------------------------------------------------------------------------

SHOP_PAGE = {"Origin": "https://shop.example"}
EVIL_PAGE = {"Origin": "https://evil.example"}


@here
async def test_pages_of_listed_origins_alone_may_ask(tmp_path: Path, administered: Make) -> None:
    http = HttpConfig(
        public=("tcp:0:interface=127.0.0.1",),
        admin=("tcp:0:interface=127.0.0.1",),
        drain_seconds=3,
        cors_origins=("https://shop.example",),
    )
    shop = await prepared(administered(http=http))
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "pubkey, secret"}
    for path in ("/live", "/ready", "/v1/topics/foo", "/v1/topics/foo/g1", "/nothing", "/v1/topics/foo/g1/nothing"):
        for method in ("GET", "OPTIONS", "POST"):
            answer = await shop.request(method, path, headers=EVIL_PAGE | asking)
            assert (answer.status, answer.code) == (403, "denied"), (method, path)
            assert answer.header("access-control-allow-origin") is None
    answer = await shop.request("OPTIONS", "/v1/topics/foo", headers=SHOP_PAGE | asking)
    assert answer.status == 204
    assert answer.header("access-control-allow-origin") == "https://shop.example"
    assert "POST" in (answer.header("access-control-allow-methods") or "")
    assert answer.header("access-control-allow-headers") == "pubkey, secret"
    answer = await shop.request("POST", "/v1/topics/foo", b"x", headers=SHOP_PAGE | shop.key("app1-pub"))
    assert (answer.status, answer.header("access-control-allow-origin")) == (201, "https://shop.example")
    assert "X-Offset" in (answer.header("access-control-expose-headers") or "")
    answer = await shop.request("POST", "/v1/topics/foo", b"x", headers=SHOP_PAGE)
    assert (answer.status, answer.header("access-control-allow-origin")) == (401, "https://shop.example")
    own = {"Origin": f"http://127.0.0.1:{shop.port}"}
    assert (await shop.request("POST", "/v1/topics/foo", b"x", headers=own | shop.key("app1-pub"))).status == 201


@here
async def test_the_admin_listener_knows_its_names_everywhere(hot: Administered) -> None:
    for path in ("/live", "/ready", "/admin/v1/status", "/nothing"):
        answer = await hot.ask_admin("GET", path, headers={"Host": "rebound.example"})
        assert (answer.status, answer.code) == (421, "misdirected"), path
        answer = await hot.ask_admin("POST", path, headers=EVIL_PAGE)
        assert (answer.status, answer.code) == (403, "denied"), path
    assert (await hot.ask_admin("GET", "/live")).status == 200
    assert (await hot.ask_admin("GET", "/ready")).status == 200


@here
async def test_command_line_says_that_an_address_is_no_admin_listener(
    hot: Administered, capsys: pytest.CaptureFixture[str]
) -> None:
    for url in (f"http://127.0.0.1:{hot.port}", f"http://127.0.0.1:{hot.admin_port}/elsewhere"):
        assert await deferToThread(main, ["--url", url, "status"]) == 1
        assert f"{url} has no admin API" in capsys.readouterr().err


# --- audit -----------------------------------------------------------------------------------------------------------


async def events(folder: Path, count: int) -> list[tuple[str, str, str, str]]:
    """The traffic's events so far, once there are so many: actor, action, object, outcome."""
    file = folder / "data" / "audit.jsonl"

    def read() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [event for event in lines if event["actor"] != "admin"]

    await eventually(lambda: len(read()) >= count)
    assert all(event["address"] == "127.0.0.1" and event["request_id"] for event in read())
    return [(event["actor"], event["action"], event["object"], event["outcome"]) for event in read()]


@here
async def test_requests_are_audited_with_their_outcomes_refusals_included(tmp_path: Path, administered: Make) -> None:
    shop = await prepared(administered(audit=ALL_AUDITED))
    pub, sub = shop.key("app1-pub"), shop.key("app2-sub")
    expected = []

    async def ask(method: str, path: str, headers: dict[str, str], who: str, action: str, what: str, then: str) -> None:
        await shop.request(method, f"/v1/topics/{path}", b"[]" if method == "POST" else None, headers=headers)
        expected.append((who, action, what, then))

    await ask("POST", "foo", pub, "app1/app1-pub", "publish", "app1/foo/v1", "ok")
    await ask("POST", "app1.foo", pub, "app1/app1-pub", "publish", "app1/foo/v1", "ok")
    await ask("POST", "foo", {}, "", "publish", "foo/v1", "unauthorized")
    await ask("POST", "app1.foo", pub | {"Secret": "wrong"}, "", "publish", "app1/foo/v1", "unauthorized")
    await ask("POST", "bar", pub, "app1/app1-pub", "publish", "app1/bar/v1", "topic-not-found")
    await ask("POST", "foo?partition=x", pub, "app1/app1-pub", "publish", "app1/foo/v1", "invalid-parameter")
    await ask("GET", "foo/g1", sub, "app2/app2-sub", "subscribe", "app1/foo/v1/g1", "ok")
    await ask("GET", "app1.foo/g9", sub, "app2/app2-sub", "subscribe", "app1/foo/v1/g9", "denied")
    await ask("GET", "foo?partition=0&offset=0", sub, "app2/app2-sub", "read", "app1/foo/v1", "ok")
    await ask("POST", "foo/g1/acks", sub, "app2/app2-sub", "acknowledge", "app1/foo/v1/g1", "ok")
    await ask("POST", "foo/g1/acks", {}, "", "acknowledge", "foo/v1/g1", "unauthorized")
    assert await events(tmp_path, len(expected)) == expected
    await shop.quota("app1", publish_records_per_second=1)
    await ask("POST", "foo", pub, "app1/app1-pub", "publish", "app1/foo/v1", "ok")
    await ask("POST", "foo", pub, "app1/app1-pub", "publish", "app1/foo/v1", "quota-exceeded")
    for _ in range(19):
        await ask("POST", "foo", pub | {"Secret": "wrong"}, "", "publish", "foo/v1", "unauthorized")
    await ask("POST", "foo", pub | {"Secret": "wrong"}, "", "publish", "foo/v1", "too-many-failures")
    await ask("POST", "foo", pub, "app1/app1-pub", "publish", "app1/foo/v1", "quota-exceeded")
    assert await events(tmp_path, len(expected)) == expected


@here
async def test_messages_of_sockets_are_told_too(tmp_path: Path, administered: Make) -> None:
    shop = await prepared(administered(audit=ALL_AUDITED))
    socket = await websocket(shop, "/v1/topics/foo", "app1-pub")
    socket.send(Message(b"x"))
    socket.send(Message("not json"))
    assert sorted(await events(tmp_path, 2)) == [
        ("app1/app1-pub", "publish", "app1/foo/v1", "malformed-batch"),
        ("app1/app1-pub", "publish", "app1/foo/v1", "ok"),
    ]
    reader = await websocket(shop, "/v1/topics/foo/g1?ack=explicit", "app2-sub")
    reader.send(Message('[{"partition":0,"offset":0}]'))
    assert (await events(tmp_path, 4))[2:] == [
        ("app2/app2-sub", "subscribe", "app1/foo/v1/g1", "ok"),
        ("app2/app2-sub", "acknowledge", "app1/foo/v1/g1", "ok"),
    ]
    socket.client.close()
    reader.client.close()


@here
async def test_traffic_is_not_told_unless_it_is_asked_for(tmp_path: Path, hot: Administered) -> None:
    await hot.publish("app1", "foo")
    await hot.read("app2", "foo/g1")
    hot.service.reloading.reread = lambda: attrs.evolve(hot.service.settings, audit=ALL_AUDITED)
    assert (await hot.admin("POST", "/reload")).status == 200
    await hot.publish("app1", "foo")
    assert await events(tmp_path, 1) == [("app1/app1-pub", "publish", "app1/foo/v1", "ok")]


# --- secrets ---------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


@here
async def test_a_secret_is_in_no_log_no_answer_and_no_file(tmp_path: Path, administered: Make) -> None:
    lines: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        lines.append(f"{formatEvent(event)} {event!r}")

    globalLogPublisher.addObserver(observe)
    try:
        shop = await prepared(administered(audit=ALL_AUDITED))
        wrong = "a-wrong-secret-that-nobody-may-see"
        shop.secrets["app2-pub"] = wrong
        await shop.publish("app1", "foo")
        await shop.read("app2", "foo/g1")
        await shop.publish("app2", "foo")
        await shop.request("POST", "/v1/topics/foo", b"x", headers=shop.basic("app1-pub"))
        rotated = await shop.change("POST", "/applications/app1/keys/app1-pub/rotate", {"grace_seconds": 60})
        answers = [
            (await shop.admin("GET", path)).body
            for path in (
                "/applications",
                "/applications/app1",
                "/applications/app1/keys",
                "/applications/app1/keys/app1-pub",
                "/applications/app2/keys",
                "/topics",
                "/bindings",
                "/gateways",
                "/status",
            )
        ]
        await shop.stop()
    finally:
        globalLogPublisher.removeObserver(observe)
    files = contents(tmp_path)
    assert any(b"app1-pub" in content for content in files)
    places = [*answers, *files, "\n".join(lines).encode()]
    for secret in (*shop.secrets.values(), rotated["secret"]):
        assert not any(secret.encode() in place for place in places)
    assert not any(b"sha256$" in answer for answer in answers)
