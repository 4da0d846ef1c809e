"""Smoke cases of the ways in that a daemon's own clients do not take: Klein behind the wire, and the bare resource tree
under a stock ``twisted.web`` site, beside the hot route, which the other tests of this folder take.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from administered import Administered, guarded, prepared
from gateways import Client, RunningGateway, eventually
from wsclient import SocketClient

here = pytest_twisted.ensureDeferred
T = "/v1/topics/foobar"
JSON, NDJSON = "application/json", "application/x-ndjson"

pytestmark = pytest.mark.parametrize("gateway", ["hot", "klein", "stock"], indirect=True)

# method, target, body, headers; status, headers, part of the body
CASES: list[tuple[str, str, bytes | None, dict[str, str], int, dict[str, str], bytes]] = [
    ("POST", f"{T}?partition=0&key=k", b"a", {"Kateway-Header-N": "v"}, 201, {"x-offset": "0"}, b'"offset":0'),
    ("POST", f"{T}?batch=1", b'[{"value":"b","partition":0}]', {"Content-Type": JSON}, 201, {}, b'"offset":1'),
    ("POST", f"{T}?batch=1&partition=0", b"c\nd\n", {"Content-Type": NDJSON}, 201, {}, b'"offset":3'),
    ("POST", f"{T}?partition=99", b"x", {}, 404, {}, b"partition-not-found"),
    ("POST", f"{T}?ack=no", b"x", {}, 400, {}, b'"instance"'),
    ("POST", f"{T}?batch=1", b"[{", {"Content-Type": JSON}, 400, {}, b'"instance"'),
    ("POST", "/v1/topics/no%20topic", b"x", {}, 400, {}, b'"instance"'),
    ("PUT", T, b"x", {}, 405, {"allow": "GET, HEAD, OPTIONS, POST"}, b""),
    ("OPTIONS", T, None, {}, 204, {"allow": "GET, HEAD, OPTIONS, POST"}, b""),
    ("GET", T, None, {}, 200, {}, b'"partitions"'),
    ("GET", f"{T}/g", None, {}, 200, {"x-offset": "0", "x-key": "k", "kateway-header-n": "v"}, b"a"),
    ("GET", f"{T}/g?limit=2", None, {}, 200, {}, b"b\nc\n"),
    ("GET", f"{T}/g/offsets", None, {}, 200, {}, b'"committed"'),
    ("GET", f"{T}/g/lag", None, {}, 200, {}, b'"lag":'),
    ("GET", f"{T}/empty?offset=latest&timeout=0.1", None, {}, 204, {}, b""),
    ("GET", f"{T}/lines?limit=4", None, {"Accept": NDJSON}, 200, {"content-type": NDJSON}, b'"value":"d"'),
    ("GET", f"{T}/array?limit=4", None, {"Accept": JSON}, 200, {"content-type": JSON}, b'"value":"d"'),
    ("GET", f"{T}/events?limit=4", None, {"Accept": "text/event-stream"}, 200, {}, b"data:"),
    ("GET", f"{T}/html", None, {"Accept": "text/html"}, 406, {}, b"not-acceptable"),
    ("GET", f"{T}?partition=0&offset=2", None, {}, 200, {"x-offset": "2"}, b"c"),
    ("GET", f"{T}/leases?limit=1", None, {"Accept": NDJSON, "Kateway-Ack": "explicit"}, 200, {}, b'"offset":0'),
    ("GET", f"{T}/acked?ack=explicit&limit=1", None, {"Accept": NDJSON}, 200, {}, b'"offset":0'),
    ("POST", f"{T}/acked/acks?sync=1", b'[{"partition":0,"offset":0}]', {}, 200, {}, b""),
    ("GET", "/live", None, {}, 200, {}, b""),
    ("GET", "/ready", None, {}, 200, {}, b'"ready":true'),
    ("GET", "/nowhere", None, {}, 404, {}, b""),
]


@here
async def test_every_kind_of_request_is_answered_as_on_the_hot_route(gateway: RunningGateway) -> None:
    for method, target, body, headers, status, expected, part in CASES:
        answer = await gateway.request(method, target, body, headers=headers)
        assert answer.status == status, (method, target, answer.status, answer.body)
        assert {name: answer.header(name) for name in expected} == expected, (method, target)
        assert part in answer.body, (method, target, answer.body)


@here
async def test_stream_gives_records_as_they_come(gateway: RunningGateway) -> None:
    client = await Client.connect(gateway.port)
    client.send(f"GET {T}/follows?follow=1 HTTP/1.1\r\nHost: a\r\n\r\n")
    await eventually(lambda: b"\r\n\r\n" in client.received)
    for value in (b"first", b"second"):
        await gateway.request("POST", f"{T}?partition=0", value)
        await client.until(value)
    client.close()


@here
async def test_socket_gives_each_record_as_a_message_where_the_way_has_sockets(gateway: RunningGateway) -> None:
    await gateway.request("POST", f"{T}?partition=0", b"a")
    if gateway.way == "stock":
        answer = await gateway.request("GET", f"{T}/sockets", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
        assert answer.status != 101
        return
    socket = await SocketClient.open(gateway, f"{T}/sockets")
    await eventually(lambda: len(socket.messages()) == 1)
    assert json.loads(socket.messages()[0])["value"] == "a"
    socket.client.close()


@here
async def test_key_is_asked_for_and_its_secret_is_right_or_it_is_401(gateway: RunningGateway, tmp_path: Path) -> None:
    shop = await prepared(Administered(guarded(tmp_path / "guarded"), gateway.way))
    try:
        right: dict[str, Any] = {"headers": shop.key("app1-pub")}
        wrong = {"headers": {**shop.key("app1-pub"), "Secret": "wrong"}}
        assert (await shop.request("POST", "/v1/topics/foo", b"x")).status == 401
        assert (await shop.request("POST", "/v1/topics/foo", b"x", **wrong)).status == 401
        assert (await shop.request("POST", "/v1/topics/foo", b"x", **right)).status == 201
        assert (await shop.read("app2", "foo/g1")).body == b"x"
        assert (await shop.read("app2", "foo/g3")).status == 403
    finally:
        await shop.stop()
