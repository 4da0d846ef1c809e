"""A gateway's wire on a real socket, whose handler, watcher and clock are the test's, and clients of it."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import Site

from kateway.config.schema import HttpConfig
from kateway.web.exchange import Exchange, Response
from kateway.web.http1.factory import HttpFactory
from kateway.web.tcp.listener import listen

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
MEGABYTE = b"x" * 1048576


@attrs.define(slots=False)
class Ending:
    """A watcher whose ``over`` fires with what ``closed`` heard."""

    over: Deferred[tuple[int, bool]] = attrs.field(factory=Deferred)
    asks: int = 0
    waits: bool = True
    """For what was sent to be settled."""

    def unsettled(self) -> bool:
        return self.waits

    def asked(self) -> None:
        self.asks += 1

    def closed(self, confirmed: int, orderly: bool) -> None:
        self.over.callback((confirmed, orderly))


class Gateway:
    """A factory listening on an endpoint, whose handler is the test's. The sweep's clock stands still till advanced."""

    def __init__(self, handler: Callable[[Exchange], None] | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.exchange: Deferred[Exchange] = Deferred()
        self.handler = handler or self.caught
        self.factory = HttpFactory(lambda _: self.handler, Site(Resource()), HttpConfig(**options), self.clock)
        self.port: Any = None

    def caught(self, exchange: Exchange) -> None:
        caught, self.exchange = self.exchange, Deferred()
        caught.callback(exchange)

    def connect(self, receive_bytes: int = 0) -> socket.socket:
        if self.port.getHost().__class__.__name__ == "UNIXAddress":
            client = socket.socket(socket.AF_UNIX)
            client.connect(self.port.getHost().name)
        else:
            client = socket.socket()
            if receive_bytes:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            client.connect(("127.0.0.1", self.port.getHost().port))
        client.settimeout(20)
        return client


@asynccontextmanager
async def listening(
    handler: Callable[[Exchange], None] | None = None, endpoint: str = "tcp:0:interface=127.0.0.1", **options: Any
) -> AsyncIterator[Gateway]:
    gateway = Gateway(handler, **options)
    gateway.port = await listen(reactor, endpoint, gateway.factory)
    try:
        yield gateway
    finally:
        await maybeDeferred(gateway.port.stopListening)
        gateway.factory.cut_all()
        await gateway.factory.empty()


def answer(exchange: Exchange) -> None:
    exchange.respond(Response(200, [], b"hello"))


def everything(client: Any) -> bytes:
    data = b""
    while piece := client.recv(65536):
        data += piece
    return data


async def turn(condition: Callable[[], bool]) -> None:
    """Lets the reactor run until something that only it can bring about has come about."""
    while not condition():
        await deferLater(reactor, 0.001)


async def sweep(gateway: Gateway) -> None:
    """Lets the gateway's time pass until its last connection has ended."""
    while gateway.factory.connections:
        gateway.clock.advance(0.5)
        await deferLater(reactor, 0.001)


async def asked(gateway: Gateway, client: socket.socket) -> tuple[Exchange, Ending]:
    """A request under way, whose connection is watched."""
    caught = gateway.exchange
    await deferToThread(client.sendall, GET)
    exchange = await caught
    ending = Ending()
    exchange.connection.watch(ending)
    exchange.on_gone(exchange.finish)
    return exchange, ending


async def streamed(gateway: Gateway, client: socket.socket, piece: bytes) -> tuple[Exchange, Ending, int]:
    """A response begun, and the stream position of its end so far."""
    exchange, ending = await asked(gateway, client)
    exchange.begin(200, [])
    return exchange, ending, exchange.write([piece]).end


async def acknowledged(exchange: Exchange, end: int) -> None:
    """Waits until the client's TCP has that much, or, on a UNIX socket, for nothing."""
    await turn(lambda: exchange.connection.confirmed() in (None, end))


async def verdict(gateway: Gateway, ending: Ending, seconds: float = 60.0) -> tuple[int, bool]:
    """What the watcher hears, while the gateway's time passes."""
    await passes(gateway, seconds, lambda: bool(ending.over.called))
    return await ending.over


async def passes(gateway: Gateway, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
    """Lets so much of the gateway's time pass, or less."""
    end = gateway.clock.seconds() + seconds
    step = 0.005
    while gateway.clock.seconds() < end and not until():
        gateway.clock.advance(step)
        step = min(step * 1.2, 0.1)
        await deferLater(reactor, 0.0005)


def reset(client: socket.socket) -> None:
    """Ends as a program does that wants no more of it."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


async def tls_client(gateway: Gateway, certificate: Path) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    plain = gateway.connect()
    return await deferToThread(lambda: context.wrap_socket(plain, server_hostname="localhost"))


def drain_until_quiet(client: socket.socket) -> None:
    try:
        while client.recv(1048576):
            pass
    except TimeoutError:
        pass
