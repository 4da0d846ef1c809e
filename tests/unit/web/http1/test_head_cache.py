"""A head that came before is not parsed again, and means what it meant."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource
from twisted.web.server import Site

from kateway.config.schema import HttpConfig
from kateway.web.exchange import Exchange, Request, Response
from kateway.web.http1.channel import HttpChannel
from kateway.web.http1.factory import HttpFactory

PEER = IPv4Address("TCP", "127.0.0.1", 1)


class Server:
    """A factory whose handler keeps what it was asked; ``connect`` gives a connection."""

    def __init__(self, **limits: int) -> None:
        self.asked: list[Request] = []
        self.factory = HttpFactory(
            lambda _request: self._handle,
            Site(Resource()),
            HttpConfig(**limits),
            Clock(),  # type: ignore[arg-type]
        )

    def _handle(self, exchange: Exchange) -> None:
        self.asked.append(exchange.request)
        exchange.respond(Response(200, (), b"ok"))

    def connect(self) -> tuple[Callable[[bytes], None], StringTransport]:
        channel = self.factory.buildProtocol(PEER)
        assert isinstance(channel, HttpChannel)
        transport = StringTransport(peerAddress=PEER)
        channel.makeConnection(transport)
        return channel.dataReceived, transport


def post(body: bytes, *lines: bytes) -> bytes:
    head = [b"POST /v1/topics/t?key=k HTTP/1.1", b"Host: x", *lines, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def test_the_second_request_with_a_head_has_its_own_body() -> None:
    server = Server()
    send, transport = server.connect()
    send(post(b"one"))
    send(post(b"two"))
    first, second = server.asked
    assert (first.body, second.body) == (b"one", b"two")
    assert (second.method, second.target, second.headers) == (first.method, first.target, first.headers)
    assert first.head is second.head is not None
    assert first.id != second.id
    assert transport.value().count(b"HTTP/1.1 200 OK") == 2


def test_another_connection_gains_from_it() -> None:
    server = Server()
    for _ in range(2):
        send, _transport = server.connect()
        send(post(b"one"))
    assert server.asked[0].head is server.asked[1].head


def test_a_head_of_one_request_alone_is_not_kept() -> None:
    for line in (b"X-Request-Id: mine", b"Expect: 100-continue"):
        server = Server()
        send, _transport = server.connect()
        send(post(b"one", line))
        assert len(server.factory.heads) == 0
    server = Server()
    send, _transport = server.connect()
    send(b"POST /t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n")
    send(b"GET /t HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert len(server.asked) == 2
    assert len(server.factory.heads) == 0


def test_other_limits_forget_what_was_found_sound_under_the_old_ones() -> None:
    server = Server()
    send, _transport = server.connect()
    send(post(b"x" * 100))
    server.factory.configure(attrs.evolve(server.factory.state.config, max_body_bytes=10))
    fresh, transport = server.connect()
    fresh(post(b"x" * 100))
    assert transport.value().startswith(b"HTTP/1.1 413 ")


@given(st.lists(st.binary(max_size=5), min_size=2, max_size=6), st.data())
def test_however_requests_are_cut_into_reads_they_are_the_same(bodies: list[bytes], data: st.DataObject) -> None:
    server = Server()
    send, _transport = server.connect()
    stream = b"".join(post(body) for body in bodies)
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        send(stream[:size])
        stream = stream[size:]
    assert [request.body for request in server.asked] == bodies
