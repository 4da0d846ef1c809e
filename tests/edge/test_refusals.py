"""Behind a refusal nothing is a request: each refusal of the wire, however its bytes arrive, alone and behind a poll.

What follows the refused head always holds a whole, valid request. It may be the body that the client was going to send
anyway; executed, it would be a request that no client made.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from administered import Administered
from gateways import Client, RunningGateway, eventually
from test_http_wire import CHUNKED, HOST, POST, REFUSED
from test_tls_listener import issue, save
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import SSL4ClientEndpoint, connectProtocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource
from twisted.web.server import Site

from kateway.config.schema import HttpConfig
from kateway.web.exchange import Exchange, Response
from kateway.web.http1.factory import HttpFactory
from kateway.web.tcp.listener import listen

MARKER = b"POST /marker HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nmarker"
POLL = b"GET /poll HTTP/1.1\r\nHost: a\r\n\r\n"


class Conversation:
    """A connection to a server on which a request for ``/poll`` waits until ``answer_poll``."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.executed: list[bytes] = []
        self.polls: list[Exchange] = []
        self.factory = HttpFactory(lambda _request: self.handle, Site(Resource()), HttpConfig(**options), self.clock)
        self.channel, self.transport = self.connect()

    def connect(self) -> tuple[Any, StringTransport]:
        channel = self.factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        assert channel is not None
        transport = StringTransport()
        channel.makeConnection(transport)
        return channel, transport

    def handle(self, exchange: Exchange) -> None:
        target = exchange.request.target
        if target == b"/poll":
            self.polls.append(exchange)
            return
        self.executed.append(target)
        exchange.respond(Response(200, [], b""))

    def send(self, data: bytes) -> None:
        self.channel.dataReceived(data)

    def answer_poll(self) -> None:
        self.polls.pop().respond(Response(204, [], b""))

    def wait(self, seconds: float) -> None:
        self.clock.pump([0.25] * int(seconds * 4))

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.transport.value())]

    def ends(self, *statuses: int) -> None:
        """Nothing but these statuses, nothing executed, and the connection is on its way to its end."""
        self.send(MARKER)
        if statuses[-1] == 405 and self.statuses[-1:] == [400]:
            # what is malformed is known to be a method only where it is the first of its read
            statuses = (*statuses[:-1], 400)
        assert self.statuses == list(statuses)
        assert self.executed == []
        assert self.transport.disconnecting or self.transport.disconnected
        self.wait(5)
        self.send(MARKER)
        assert self.executed == []
        assert self.statuses == list(statuses)
        assert self.factory.bytes_in_flight == 0


@attrs.frozen
class Refusal:
    head: bytes
    """Up to where the refusal is certain."""
    status: int
    options: dict[str, int] = attrs.field(factory=dict)


LIMITED = {
    "a declared length beyond the limit": Refusal(POST + b"Content-Length: 999999999\r\n\r\n", 413),
    "a declared length just beyond the limit": Refusal(
        POST + b"Content-Length: 11\r\n\r\n", 413, {"max_body_bytes": 10}
    ),
    "an expected body beyond the limit": Refusal(
        POST + b"Expect: 100-continue\r\nContent-Length: 999999999\r\n\r\n", 413
    ),
    "a chunk beyond the limit": Refusal(CHUNKED + b"b\r\n01234567890", 413, {"max_body_bytes": 10}),
    "chunks beyond the limit": Refusal(CHUNKED + b"6\r\n012345\r\n6\r\n01234", 413, {"max_body_bytes": 10}),
    "a chunk without an end": Refusal(CHUNKED + b"1000\r\n" + MARKER, 413, {"max_body_bytes": 10}),
    "another expectation": Refusal(POST + b"Expect: 200-ok\r\nContent-Length: 63\r\n\r\n", 417),
    "too long a line": Refusal(b"POST /" + b"a" * 64 + b" HTTP/1.1\r\n", 414, {"max_request_line_bytes": 64}),
    "too many headers": Refusal(POST + b"X: y\r\n" * 4 + b"\r\n", 431, {"max_header_count": 4}),
    "too large headers": Refusal(POST + b"X: " + b"y" * 300 + b"\r\n\r\n", 431, {"max_header_bytes": 256}),
    "a head without an end": Refusal(
        b"GET / HTTP/1.1\r\n" + b"X: yyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 20 + b"X: ", 431,
        {"max_header_bytes": 256, "max_request_line_bytes": 64},
    ),
    "a coding that is not known, with a length": Refusal(POST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    "a tunnel": Refusal(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501),
    "framing without data": Refusal(
        CHUNKED + b"1;" + b"x" * 400 + b"\r\na\r\n", 400, {"max_header_bytes": 256},
    ),
}  # fmt: skip
MALFORMED = {what: Refusal(data, status) for what, (data, status) in REFUSED.items()}
ALL = {**MALFORMED, **LIMITED}

Way = Callable[[bytes], Iterator[bytes]]


def in_one_segment(head: bytes) -> Iterator[bytes]:
    yield head + MARKER


def body_apart(head: bytes) -> Iterator[bytes]:
    yield head
    yield MARKER


def body_apart_twice(head: bytes) -> Iterator[bytes]:
    yield head
    yield MARKER
    yield MARKER + MARKER


def byte_by_byte(head: bytes) -> Iterator[bytes]:
    for byte in head + MARKER:
        yield bytes([byte])


WAYS = [in_one_segment, body_apart, body_apart_twice, byte_by_byte]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ALL)
def test_refusal_alone_executes_nothing_behind_it(what: str, way: Way) -> None:
    refusal = ALL[what]
    conversation = Conversation(**refusal.options)
    for segment in way(refusal.head):
        conversation.send(segment)
    conversation.ends(refusal.status)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ALL)
def test_refusal_behind_a_running_poll_executes_nothing_and_is_answered_in_order(what: str, way: Way) -> None:
    refusal = ALL[what]
    conversation = Conversation(**refusal.options)
    conversation.send(POLL)
    for segment in way(refusal.head):
        conversation.send(segment)
        assert conversation.statuses == []
    conversation.send(MARKER)
    conversation.answer_poll()
    conversation.ends(204, refusal.status)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ALL)
def test_refusal_pipelined_with_a_poll_executes_nothing(what: str, way: Way) -> None:
    refusal = ALL[what]
    conversation = Conversation(**refusal.options)
    segments = way(refusal.head)
    conversation.send(POLL + next(segments))
    for segment in segments:
        conversation.send(segment)
    conversation.answer_poll()
    conversation.ends(204, refusal.status)


@pytest.mark.parametrize("what", ALL)
def test_refusal_whose_poll_is_answered_before_its_body_comes_executes_nothing(what: str) -> None:
    refusal = ALL[what]
    conversation = Conversation(**refusal.options)
    conversation.send(POLL)
    conversation.send(refusal.head)
    conversation.answer_poll()
    conversation.send(MARKER)
    conversation.ends(204, refusal.status)


@pytest.mark.parametrize("what", ALL)
def test_refusal_split_at_each_boundary_behind_a_poll_executes_nothing(what: str) -> None:
    refusal = ALL[what]
    stream = refusal.head + MARKER
    for cut in range(1, len(stream)):
        conversation = Conversation(**refusal.options)
        conversation.send(POLL)
        conversation.send(stream[:cut])
        conversation.send(stream[cut:])
        conversation.answer_poll()
        conversation.ends(204, refusal.status)


@pytest.mark.parametrize("what", ALL)
def test_refusal_after_requests_whose_heads_are_known_executes_nothing(what: str) -> None:
    refusal = ALL[what]
    conversation = Conversation(**refusal.options)
    other, _ = conversation.connect()
    other.dataReceived(MARKER)
    assert conversation.executed == [b"/marker"]
    conversation.executed.clear()
    conversation.send(POLL)
    conversation.send(refusal.head)
    conversation.send(MARKER)
    conversation.answer_poll()
    conversation.send(MARKER)
    conversation.ends(204, refusal.status)


def test_refusal_keeps_nothing_of_a_body_that_goes_on_while_the_poll_runs() -> None:
    conversation = Conversation()
    conversation.send(POLL)
    conversation.send(LIMITED["a declared length beyond the limit"].head)
    for _ in range(100):
        conversation.send(MARKER * 1000)
    assert conversation.transport.producerState == "producing"
    assert conversation.factory.bytes_in_flight == 0
    conversation.answer_poll()
    conversation.ends(204, 413)


@pytest.mark.parametrize("behind_poll", [False, True])
@pytest.mark.parametrize(
    "begun", [b"POST / HTTP/1.1\r\nHost", POST, POST + b"Content-Length: 63\r\n\r\n", CHUNKED, CHUNKED + b"40\r\nabc"]
)
def test_request_that_came_too_late_executes_nothing_behind_its_408(begun: bytes, behind_poll: bool) -> None:
    conversation = Conversation()
    if behind_poll:
        conversation.send(POLL)
    conversation.send(begun)
    if behind_poll:
        conversation.answer_poll()
    while not conversation.transport.disconnecting:
        conversation.wait(0.5)
    statuses = [204, 408] if behind_poll else [408]
    assert conversation.statuses == statuses
    conversation.send(MARKER)
    conversation.ends(*statuses)


@pytest.mark.parametrize(
    "options", [{"max_connections": 1}, {"max_connections_per_address": 1}], ids=["in all", "of an address"]
)
@pytest.mark.parametrize("way", [in_one_segment, body_apart, byte_by_byte])
def test_connection_beyond_the_limit_executes_nothing(options: dict[str, int], way: Way) -> None:
    conversation = Conversation(**options)
    conversation.channel, conversation.transport = conversation.connect()
    for segment in way(POST + b"\r\n"):
        conversation.send(segment)
    conversation.ends(503 if "max_connections" in options else 429)


@pytest.mark.parametrize("way", [in_one_segment, body_apart, byte_by_byte])
def test_draining_connection_executes_nothing_behind_its_last_response(way: Way) -> None:
    conversation = Conversation()
    conversation.send(POLL)
    conversation.factory.drain()
    for segment in way(b"POST /other HTTP/1.1\r\n" + HOST + b"\r\n"):
        conversation.send(segment)
    conversation.answer_poll()
    conversation.ends(204)


@pytest.mark.parametrize("way", [in_one_segment, body_apart, byte_by_byte])
def test_last_request_of_a_connection_executes_nothing_behind_it(way: Way) -> None:
    conversation = Conversation()
    head = b"GET /poll HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    for segment in way(head):
        conversation.send(segment)
    conversation.answer_poll()
    conversation.ends(204)


# --- on sockets, with a store behind --------------------------------------------------------------------------------

T = "/v1/topics/foobar"
STORED = f"POST {T} HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nmarker"
WAITING = f"GET {T}/waits?timeout=1 HTTP/1.1\r\nHost: a\r\n\r\n"
here = pytest_twisted.ensureDeferred
wire_only = pytest.mark.parametrize("gateway", ["hot", "klein"], indirect=True)


async def stored(gateway: RunningGateway) -> list[bytes]:
    """What the topic holds, up to a record that is published now."""
    for partition in range(4):
        path = f"{T}?partition={partition}"
        assert (await gateway.request("POST", path, b"last")).status == 201
    answer = await gateway.request("GET", f"{T}/all?offset=earliest&limit=99&idle=0.2")
    return sorted(set(answer.body.split()))


def statuses_of(client: Client) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", client.received)]


@pytest_twisted.async_yield_fixture
async def tls_port(gateway: RunningGateway, tmp_path: Path) -> AsyncIterator[int]:
    """A listener of the gateway's that speaks TLS."""
    save(tmp_path, "server", issue("CN=server"))
    endpoint = f"ssl:0:interface=127.0.0.1:privateKey={tmp_path}/server.key:certKey={tmp_path}/server.pem"
    port: Any = await listen(reactor, endpoint, gateway.service.http.listening.public)
    yield port.getHost().port
    await port.stopListening()


SEGMENTS = {
    "a length beyond the limit": [f"POST {T} HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n", STORED, STORED],
    "a chunk beyond the limit": [
        f"POST {T} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n7ffffff\r\n",
        "x" * 1048577,
        STORED,
        STORED,
    ],
    "an expectation": [
        f"POST {T} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 999999999\r\n\r\n",
        STORED,
    ],
    "a malformed head": [f"POST {T} HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", STORED],
    "one byte at a time": list(f"POST {T} HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n{STORED}"),
}


async def converse(gateway: RunningGateway, client: Client, segments: list[str]) -> None:
    client.send(WAITING)
    for segment in segments:
        await deferLater(reactor, 0.02 if len(segments) < 9 else 0.002)  # a read of its own
        client.send(segment)
    assert statuses_of(client) == []
    await eventually(lambda: client.lost)
    assert statuses_of(client) in ([204, 413], [204, 400])
    assert await stored(gateway) == [b"last"]


@pytest.mark.parametrize("what", SEGMENTS)
@wire_only
@here
async def test_body_of_a_refused_request_behind_a_poll_is_not_stored(gateway: RunningGateway, what: str) -> None:
    await converse(gateway, await Client.connect(gateway.port), SEGMENTS[what])


@pytest.mark.parametrize("what", SEGMENTS)
@pytest.mark.parametrize("gateway", ["hot"], indirect=True)
@here
async def test_body_of_a_refused_request_behind_a_poll_over_tls_is_not_stored(
    gateway: RunningGateway, tls_port: int, what: str
) -> None:
    endpoint = SSL4ClientEndpoint(reactor, "127.0.0.1", tls_port, CertificateOptions(verify=False))
    await converse(gateway, await connectProtocol(endpoint, Client()), SEGMENTS[what])


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        ("POST /v1/topics/foobar/bad/acks/x", "", 404),
        ("POST /nowhere", "", 404),
        ("PATCH /v1/topics/foobar", "", 405),
        ("PUT /v1/topics/foobar", "", 405),
        ("POST /v1/topics/foobar?nonsense=1", "", 400),
        ("POST /v1/topics/foobar?batch=1", "Content-Type: text/plain\r\n", 415),
        ("POST /v1/topics/foobar?batch=1", "Content-Type: application/json\r\n", 400),
        ("POST /v1/topics/foobar", "Upgrade: websocket\r\nConnection: Upgrade\r\n", 201),
    ],
)
@here
async def test_body_of_a_request_that_its_edge_refuses_is_body(
    gateway: RunningGateway, line: str, headers: str, status: int
) -> None:
    client = await Client.connect(gateway.port)
    head = f"{line} HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {len(STORED)}\r\n\r\n"
    for segment in (head, STORED[:20], STORED[20:], head + STORED):
        client.send(segment)
        await deferLater(reactor, 0.02)  # type: ignore[arg-type]
    await eventually(lambda: len(statuses_of(client)) == 2 or client.lost)
    assert set(statuses_of(client)) == {status}
    client.close()
    if status != 201:
        assert await stored(gateway) == [b"last"]


@pytest.mark.parametrize(
    ("target", "key", "status"),
    [
        ("foo", "", 401),
        ("foo", "Pubkey: app1-pub\r\nSecret: wrong\r\n", 401),
        ("foo", "app2", 403),
        ("bar", "app1", 404),
    ],
)
@here
async def test_body_of_a_request_that_is_not_let_in_is_body(
    hot: Administered, target: str, key: str, status: int
) -> None:
    marker = f"POST /v1/topics/foo HTTP/1.1\r\nHost: a\r\n{hot.head('app1-pub')}Content-Length: 6\r\n\r\nmarker"
    credentials = hot.head(f"{key}-pub") if key.startswith("app") else key
    path = "app1.foo" if key == "app2" else target
    head = f"POST /v1/topics/{path} HTTP/1.1\r\nHost: a\r\n{credentials}Content-Length: {len(marker)}\r\n\r\n"
    client = await Client.connect(hot.port)
    for segment in (head, marker[:20], marker[20:], head + marker):
        client.send(segment)
        await deferLater(reactor, 0.02)  # type: ignore[arg-type]
    await eventually(lambda: len(statuses_of(client)) == 2)
    assert set(statuses_of(client)) == {status}
    client.close()
    assert (await hot.publish("app1", "foo")).json()["offset"] == 0
