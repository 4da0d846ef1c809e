"""A whole gateway in the test's own process, by three ways: the wire's hot route, Klein behind the wire, and the
bare resource tree under a stock ``twisted.web`` site.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import attrs
import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.server import Site

from kateway.config.schema import Config, DeliveryConfig, EmbeddedStorageConfig, HttpConfig
from kateway.daemon.service import GatewayService
from kateway.web.http1.factory import HttpFactory
from kateway.web.tcp.listener import listen

LOOPBACK = "tcp:0:interface=127.0.0.1"


def config(data: Path, **http: Any) -> Config:
    return Config(
        http=HttpConfig(public=(LOOPBACK,), admin=(LOOPBACK,), drain_seconds=3, **http),
        storage={"default": EmbeddedStorageConfig(path=str(data))},
        # else a gateway before Kafka keeps its history where the tests are run, and the next one begins with it
        data_directory=str(data),
        delivery=DeliveryConfig(settle_seconds=0.3, commit_interval_seconds=0.1, linger_seconds=0.2),
    )


class RunningGateway:
    """Started by ``start``; ``url`` is of the way that was asked for: "hot", "klein" or "stock"."""

    def __init__(self, settings: Config, way: str) -> None:
        self.service = GatewayService(settings, reactor)
        self.way = way
        self.port = 0
        self.pool = HTTPConnectionPool(reactor, persistent=True)
        self.client = treq.client.HTTPClient(Agent(reactor, pool=self.pool))
        self._own: Any = None
        self._stopped = False

    async def start(self) -> None:
        self.service.startService()
        assert self.service.started is not None
        await self.service.started
        self.port = self.service.ports[0].getHost().port
        if self.way == "klein":
            factory: Any = HttpFactory(
                lambda _request: None, Site(self.service.http.public_tree), self.service.settings.http, reactor
            )
            self._own = await listen(reactor, LOOPBACK, factory)
        elif self.way == "stock":
            self._own = reactor.listenTCP(0, Site(self.service.http.public_tree), interface="127.0.0.1")
        if self._own is not None:
            self.port = self._own.getHost().port

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        await self.pool.closeCachedConnections()
        if self._own is not None:
            await self._own.stopListening()
        await self.service.stopService()
        await settled()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def spawn(self, request: Coroutine[Any, Any, Answer]) -> Deferred[Answer]:
        """Lets a request run beside the test."""
        return Deferred.fromCoroutine(request)

    async def request(self, method: str, path: str, data: bytes | None = None, **kwargs: Any) -> Answer:
        """One request; the answer is read whole. An empty body is sent as one of length 0."""
        if data is not None:
            kwargs["data"] = data
        response = await self.client.request(method, self.url(path), unbuffered=False, timeout=20, **kwargs)
        return Answer(response.code, response.headers, await response.content())


@attrs.frozen
class Answer:
    status: int
    headers: Any
    body: bytes

    def header(self, name: str) -> str | None:
        values = self.headers.getRawHeaders(name)
        return values[0] if values else None

    def json(self) -> Any:
        import json

        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The last part of a problem's type."""
        assert self.header("content-type") == "application/problem+json", (self.status, self.body)
        problem = self.json()
        assert problem["status"] == self.status
        assert problem["instance"] == self.header("x-request-id")
        return str(problem["type"].rpartition(":")[2])


class Client(Protocol):
    """A client that sends given bytes and keeps the received ones."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    @classmethod
    async def connect(cls, port: int) -> Client:
        client: Client = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), cls())
        return client

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True

    def send(self, request: str) -> None:
        assert self.transport is not None
        self.transport.write(request.encode())

    async def until(self, expected: bytes) -> None:
        await eventually(lambda: expected in self.received)

    def reset(self) -> None:
        """Ends the connection as the kernel ends a crashed program's."""
        assert self.transport is not None
        self.transport.abortConnection()

    def close(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


async def plain(port: int, request: str) -> bytes:
    """Sends a request as it stands and returns the answer, up to the end of a JSON body."""
    client = await Client.connect(port)
    client.send(request)
    await eventually(lambda: client.received.endswith(b"}"))
    client.close()
    return client.received


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Waits until something holds."""
    deadline = reactor.seconds() + seconds
    while not condition():
        assert reactor.seconds() < deadline, "it did not come to hold in time"
        await deferLater(reactor, 0.01)


def settled() -> Deferred[None]:
    """Lets the reactor make its due calls."""
    return deferLater(reactor, 0.02)
