"""Requests that are no hot route, driven through a ``twisted.web`` site the way Twisted's own HTTP/2 streams are.

A ``Bridge`` is what such a request takes for its channel. ``request.channel.exchange`` is the native exchange: a
handler may answer through it (to stream, or to take the connection over); the bridge then ignores what the request
writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.server import Site

from kateway.errors import BadRequest
from kateway.web.exchange import Header
from kateway.web.http1.exchange import WireExchange


class _Quiet:
    """The factory that a request logs itself to: the exchange has done so already."""

    def log(self, request: object) -> None:
        pass


class Bridge:
    """The channel of one ``twisted.web.server.Request``."""

    factory = _Quiet()

    def __init__(self, exchange: WireExchange, site: Site) -> None:
        self.exchange = exchange
        self.site = site
        self.transport: Any = exchange.connection.transport
        self._began = False
        self._head = b""
        self._producer: Any = None
        self._pull = False
        self.request: Any = site.requestFactory(self)

    # --- called by the request --------------------------------------------------------------------------------------

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        if self.exchange.fresh:
            self._began = True
            pairs: list[Header] = [(name, value) for name, values in headers.getAllRawHeaders() for value in values]
            # sent with the first of the body in one write
            self._head = self.exchange.begin_framed(int(code), pairs)

    def write(self, data: bytes) -> None:
        if self._began and self.exchange.streaming:
            head, self._head = self._head, b""
            self.exchange.connection.send(head + data if head else data)

    def writeSequence(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def requestDone(self, request: object) -> None:
        self.exchange.on_gone(None)
        if self._began and self.exchange.streaming:
            if self._head:
                self.write(b"")
            self.exchange.finish()

    def loseConnection(self) -> None:
        self.exchange.abort()

    abortConnection = forceAbortClient = loseConnection

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.exchange.keep_alive = False
        self.exchange.fail(BadRequest("The form cannot be read."))

    def getPeer(self) -> IAddress:
        peer: IAddress = self.transport.getPeer()
        return peer

    def getHost(self) -> IAddress:
        host: IAddress = self.transport.getHost()
        return host

    def isSecure(self) -> bool:
        return self.exchange.connection.secure

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer
        self._pull = not streaming
        self.exchange.on_writable(self._resume)
        if not streaming:
            self._resume()

    def unregisterProducer(self) -> None:
        self._producer = None
        self.exchange.on_writable(None)

    def _resume(self) -> None:
        producer = self._producer
        if producer is None:
            return
        producer.resumeProducing()
        # a pull producer gives one piece a call: on while the socket takes them
        while self._pull and self._producer is producer and self.exchange.writable():
            producer.resumeProducing()

    # --- called by the exchange -------------------------------------------------------------------------------------

    def gone(self) -> None:
        """The client has gone: the request's ``notifyFinish`` fails, Klein cancels its handler."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        self.request.connectionLost(Failure(ConnectionLost("the client has gone")))


def drive(exchange: WireExchange, site: Site) -> None:
    """Answers an exchange through a site's resource tree."""
    bridge = Bridge(exchange, site)
    exchange.on_gone(bridge.gone)
    request = exchange.request
    web = bridge.request
    headers = Headers()
    for name, value in request.headers:
        headers.addRawHeader(name, value)
    web.requestHeaders = headers
    web.parseCookies()
    web.content = BytesIO(request.body)
    web.content.seek(0, 2)
    web.requestReceived(request.method, request.target, b"HTTP/1.1" if request.http_1_1 else b"HTTP/1.0")
