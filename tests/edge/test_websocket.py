"""WebSockets: records as messages, acknowledgements as messages, pongs that settle; publishing, answered in order."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from gateways import RunningGateway, eventually, plain
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater
from wsclient import SocketClient
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, TextMessage

from kateway.web.formats import frames

reactor: Any = _reactor
T = "/v1/topics/foobar"
G = f"{T}/group1"


async def committed(gateway: RunningGateway) -> int | None:
    answer = await gateway.request("GET", f"{G}/offsets")
    found: int | None = answer.json()["partitions"][0]["committed"]
    return found


async def until_committed(gateway: RunningGateway, offset: int, meanwhile: Callable[[], object] = list) -> None:
    end = reactor.seconds() + 10
    while (found := await committed(gateway)) != offset:
        assert reactor.seconds() < end, f"{found} is committed, not {offset}"
        meanwhile()
        await deferLater(reactor, 0.01)


async def publish(gateway: RunningGateway, *values: str) -> None:
    for value in values:
        assert (await gateway.request("POST", f"{T}?partition=0", value.encode())).status == 201


@pytest_twisted.ensureDeferred
async def test_each_record_is_a_message(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b")
    socket = await SocketClient.open(gateway, G)
    await eventually(lambda: len(socket.messages()) == 2)
    assert [json.loads(message)["value"] for message in socket.messages()] == ["a", "b"]
    await publish(gateway, "c")
    await eventually(lambda: len(socket.messages()) == 3)
    socket.client.close()


@pytest_twisted.ensureDeferred
async def test_frames_are_a_subprotocol(gateway: RunningGateway) -> None:
    await publish(gateway, "a")
    socket = await SocketClient.open(gateway, G, "other", "kateway.frames")
    accepted = socket.first(AcceptConnection)
    assert isinstance(accepted, AcceptConnection)
    assert accepted.subprotocol == "kateway.frames"
    await eventually(lambda: len(socket.messages()) == 1)
    (message,) = frames.parse(bytes(socket.messages()[0]), None, None, ())  # type: ignore[arg-type]
    assert (message.value, message.partition) == (b"a", 0)
    socket.client.close()


@pytest_twisted.ensureDeferred
async def test_a_pong_settles_what_was_sent_before_its_ping(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b")
    socket = await SocketClient.open(gateway, G)
    await eventually(lambda: len(socket.messages()) == 2)
    await until_committed(gateway, 2, meanwhile=socket.pump)
    socket.client.reset()
    answer = await gateway.request("GET", f"{G}?timeout=0.5")
    assert answer.status == 204


@pytest_twisted.ensureDeferred
async def test_without_a_pong_a_reset_gives_everything_back(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b")
    socket = await SocketClient.open(gateway, G)
    socket.answer_pings = False
    await eventually(lambda: len(socket.messages()) == 2)
    socket.client.reset()
    answer = await gateway.request("GET", f"{G}?limit=2&timeout=5", headers={"Accept": "application/json"})
    assert [(record["value"], record["attempt"]) for record in answer.json()] == [("a", 2), ("b", 2)]


@pytest_twisted.ensureDeferred
async def test_acknowledgements_are_messages(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b")
    socket = await SocketClient.open(gateway, f"{G}?ack=explicit")
    await eventually(lambda: len(socket.messages()) == 2)
    socket.send(TextMessage(data='[{"partition":0,"upto":1}]'))
    await until_committed(gateway, 2)
    assert len(socket.messages()) == 2  # an acknowledgement that holds is not answered
    socket.send(TextMessage(data='[{"partition":0,"offset":77}]'))
    await eventually(lambda: len(socket.messages()) == 3)
    assert json.loads(socket.messages()[2])["results"][0]["status"] == 404
    socket.send(TextMessage(data="nonsense"))
    await eventually(lambda: len(socket.messages()) == 4)
    assert json.loads(socket.messages()[3])["type"] == "urn:kateway:error:bad-request"
    socket.client.close()


@pytest_twisted.ensureDeferred
async def test_dead_letters_are_acknowledged_where_they_are_read(gateway: RunningGateway) -> None:
    await publish(gateway, "a")
    await gateway.request("GET", f"{G}?ack=explicit")
    await gateway.request("POST", f"{G}/acks?sync=1", b'[{"partition":0,"offset":0,"outcome":"dead"}]')
    socket = await SocketClient.open(gateway, f"{G}?ack=explicit&queue=dead")
    await eventually(lambda: len(socket.messages()) == 1)
    lease = json.loads(socket.messages()[0])["lease"]
    socket.send(TextMessage(data=json.dumps([{"partition": 0, "offset": 0, "lease": lease}])))
    socket.send(TextMessage(data='[{"partition":0,"offset":77}]'))
    await eventually(lambda: len(socket.messages()) == 2)
    assert json.loads(socket.messages()[1])["results"][0]["offset"] == 77
    socket.client.close()


@pytest_twisted.ensureDeferred
async def test_client_that_answers_the_close_frame_is_let_go_at_once_and_has_read_everything(
    gateway: RunningGateway,
) -> None:
    await publish(gateway, "a", "b", "c")
    socket = await SocketClient.open(gateway, f"{G}?limit=2")
    socket.answer_pings = False
    await eventually(lambda: socket.first(CloseConnection) is not None)
    assert not socket.client.lost
    closing = socket.first(CloseConnection)
    assert isinstance(closing, CloseConnection)
    socket.send(closing.response())
    await eventually(lambda: socket.client.lost, 1.5)
    assert (await gateway.request("GET", f"{G}?timeout=5")).body == b"c"


@pytest_twisted.ensureDeferred
async def test_client_that_is_reset_before_it_answered_the_close_frame_has_not_read(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b", "c")
    socket = await SocketClient.open(gateway, f"{G}?limit=2")
    socket.answer_pings = False
    await eventually(lambda: socket.first(CloseConnection) is not None)
    socket.client.reset()
    assert (await gateway.request("GET", f"{G}?timeout=5")).body == b"a"


@pytest_twisted.ensureDeferred
async def test_a_limit_ends_in_good_order(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b", "c")
    socket = await SocketClient.open(gateway, f"{G}?limit=2")
    await eventually(lambda: socket.first(CloseConnection) is not None)
    closing = socket.first(CloseConnection)
    assert isinstance(closing, CloseConnection)
    assert (int(closing.code), len(socket.messages())) == (1000, 2)
    socket.send(closing.response())
    socket.client.close()
    answer = await gateway.request("GET", f"{G}?timeout=5")
    assert answer.body == b"c"


@pytest_twisted.ensureDeferred
async def test_each_message_is_published_and_answered_in_order(gateway: RunningGateway) -> None:
    await publish(gateway, "first")
    socket = await SocketClient.open(gateway, f"{T}?partition=0")
    socket.send(BytesMessage(data=b"\x00\xff"))
    socket.send(TextMessage(data='{"value":"v","key":"k","partition":1}'))
    socket.send(TextMessage(data='{"valeu":"v"}'))
    socket.send(TextMessage(data='"text"'))
    await eventually(lambda: len(socket.messages()) == 4)
    first, second, third, fourth = map(json.loads, socket.messages())
    assert first == {"partition": 0, "offset": 1}
    assert second == {"partition": 1, "offset": 0}
    assert third["type"] == "urn:kateway:error:malformed-batch"
    assert fourth == {"partition": 0, "offset": 2}
    socket.client.close()


@pytest_twisted.ensureDeferred
async def test_a_message_too_large_closes_the_socket(gateway: RunningGateway) -> None:
    await publish(gateway, "first")
    socket = await SocketClient.open(gateway, T)
    socket.send(BytesMessage(data=b"x" * (gateway.service.settings.http.max_body_bytes + 1)))
    await eventually(lambda: socket.first(CloseConnection) is not None)
    closing = socket.first(CloseConnection)
    assert isinstance(closing, CloseConnection)
    assert int(closing.code) == 1009
    socket.client.close()


def handshake(**headers: str) -> str:
    """The headers of a sound one, with these instead or besides."""
    sound = {
        "Host": "x",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    return "".join(f"{name}: {value}\r\n" for name, value in {**sound, **headers}.items())


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (T, {"Sec-WebSocket-Version": "8"}, 426),
        (T, {"Sec-WebSocket-Key": "short"}, 400),
        (G, {"Sec-WebSocket-Version": "8"}, 426),
        (f"{T}?batch=1", {}, 400),
        (T, {"Idempotency-Key": "k"}, 400),
        (f"{G}?nonsense=1", {}, 400),
        ("/v1/topics/foo%2Fbar", {}, 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_handshake_that_is_not_sound_is_refused(
    gateway: RunningGateway, path: str, headers: dict[str, str], status: int
) -> None:
    await publish(gateway, "first")
    answer = await plain(gateway.port, f"GET {path} HTTP/1.1\r\n{handshake(**headers)}\r\n")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    await eventually(lambda: gateway.service.parts.groups.readers == 0)


@pytest_twisted.ensureDeferred
async def test_only_a_get_of_http_1_1_becomes_a_socket(gateway: RunningGateway) -> None:
    length = {"Content-Length": "0"}
    published = await plain(gateway.port, f"POST {T}?partition=0 HTTP/1.1\r\n{handshake(**length)}\r\n")
    assert published.startswith(b"HTTP/1.1 201 ")
    asked = await plain(gateway.port, f"GET {T} HTTP/1.0\r\n{handshake()}\r\n")
    assert asked.startswith(b"HTTP/1.1 200 ")


@pytest_twisted.ensureDeferred
async def test_messages_pipelined_to_a_topic_that_is_made_by_them_are_stored_in_their_order(
    gateway: RunningGateway,
) -> None:
    store = gateway.service.parts.storing.stores["default"]
    create = store.create_topic

    async def slowly(*arguments: Any, **options: Any) -> Any:
        # the topic is there, and the answer is still on its way
        info = await create(*arguments, **options)
        await deferLater(reactor, 0.1)
        return info

    store.create_topic = slowly  # type: ignore[method-assign]
    socket = await SocketClient.open(gateway, "/v1/topics/new")
    for number in range(1000):
        socket.send(TextMessage(json.dumps({"value": str(number), "partition": 0})))
        if number % 100 == 99:
            await deferLater(reactor, 0.02)
    await eventually(lambda: len(socket.messages()) == 1000)
    assert [json.loads(message)["offset"] for message in socket.messages()] == list(range(1000))
    found = await gateway.request(
        "GET", "/v1/topics/new?partition=0&offset=0&limit=1000", headers={"Accept": "application/json"}
    )
    assert [record["value"] for record in found.json()] == [str(number) for number in range(1000)]
    socket.client.close()
