"""Clients that read slowly or not at all, on real sockets: memory held for them is bounded, nothing is cut off."""

from __future__ import annotations

import socket

import pytest
import pytest_twisted
from socket_gateway import GET, MEGABYTE, listening, sweep, turn
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from kateway.web.exchange import Exchange, Response

here = pytest_twisted.ensureDeferred
NAMED = b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: a\r\n\r\n"


def sizes(client: socket.socket) -> tuple[int, int]:
    """How many responses came, and how many bytes, up to the end."""
    pieces = []
    while piece := client.recv(1 << 20):
        pieces.append(piece)
    received = b"".join(pieces)
    return received.count(b"HTTP/1.1 200 OK"), len(received)


@pytest.mark.parametrize("request_bytes", [GET, NAMED], ids=["known head", "parsed head"])
@pytest.mark.parametrize("apart", [False, True], ids=["in one segment", "in segments"])
@here
async def test_requests_pipelined_by_a_client_that_does_not_read_wait_for_it(request_bytes: bytes, apart: bool) -> None:
    answered = 0

    def big(exchange: Exchange) -> None:
        nonlocal answered
        answered += 1
        exchange.respond(Response(200, [], MEGABYTE * 8))

    async with listening(big) as gateway:
        client = gateway.connect(receive_bytes=65536)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(4):
            client.sendall(request_bytes)
            if apart:
                await deferLater(reactor, 0.005)  # type: ignore[arg-type]
        client.shutdown(socket.SHUT_WR)
        await turn(lambda: answered > 0)
        await deferLater(reactor, 0.05)  # type: ignore[arg-type]
        assert answered <= 2
        responses, size = await deferToThread(sizes, client)
        assert responses == 4
        assert size > 32 * len(MEGABYTE)
        client.close()


@pytest.mark.parametrize("ending", ["idle", "draining"])
@here
async def test_response_that_is_read_slowly_arrives_whole_whatever_ends_its_idle_connection(ending: str) -> None:
    def big(exchange: Exchange) -> None:
        exchange.respond(Response(200, [], MEGABYTE * 8))

    async with listening(big, keepalive_idle_seconds=5) as gateway:
        client = gateway.connect(receive_bytes=65536)
        client.sendall(GET)
        size = len(await deferToThread(client.recv, 1000))
        if ending == "draining":
            gateway.factory.drain()
        gateway.clock.pump([0.5] * 30)
        while size < 8 * len(MEGABYTE):
            piece = await deferToThread(client.recv, 1 << 16)
            assert piece
            size += len(piece)
            gateway.clock.advance(0.5)
        client.close()
        await sweep(gateway)
