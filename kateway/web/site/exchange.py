"""A plain ``twisted.web`` request as an exchange: the same handlers, in memory or under any ``Site``.

The stock channel knows nothing of what the client's TCP has acknowledged, so ``confirmed`` is ``None`` and delivery
rests on settling alone. Behind our own channel the native exchange is used instead (``site.exchange_of``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.web.server import Request as TwistedRequest
from zope.interface import implementer

from kateway.core.delivery.confirmation import Span, Watcher
from kateway.errors import NotImplementedHere
from kateway.web.exchange import Header, Request, Response
from kateway.web.http1.request_id import given_request_id, new_request_id


@implementer(IPushProducer)
class _Flow:
    """Hears from the transport when to pause: what ``writable`` tells."""

    def __init__(self) -> None:
        self.open = True
        self.resumed: Callable[[], None] | None = None

    def pauseProducing(self) -> None:
        self.open = False

    def resumeProducing(self) -> None:
        self.open = True
        if self.resumed is not None:
            self.resumed()

    def stopProducing(self) -> None:
        self.open = False


class StockConnection:
    """A connection under a stock channel: known only to have ended before the response did."""

    def __init__(self) -> None:
        self._watchers: list[Watcher] = []
        self.remembered: Any = None
        self.gone = False

    def confirmed(self) -> int | None:
        return None

    @property
    def subject(self) -> str:
        return ""

    def told_to_wait(self, seconds: float) -> None:
        """Does nothing: reading is the stock channel's affair."""

    def stalled(self) -> bool:
        return False

    def watch(self, watcher: Watcher) -> None:
        self._watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    def lost(self) -> None:
        self.gone = True
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher.closed(0, False)


class StockExchange:
    """An ``Exchange`` over ``twisted.web``'s own request."""

    def __init__(self, request: TwistedRequest, received: float) -> None:
        self._twisted = request
        self._position = 0
        self._over = False
        self._gone: Callable[[], None] | None = None
        self._flow = _Flow()
        self.caller = ""
        self.upgrade = False
        self.operation = "other"
        self.waited_seconds = 0.0
        self.extra_headers: Sequence[Header] = ()
        self._stock = self.connection = StockConnection()
        self.request = Request(
            request.method,
            request.uri,
            [
                (name.lower(), value.strip())
                for name, values in request.requestHeaders.getAllRawHeaders()
                for value in values
            ],
            request.content.read() if request.content is not None else b"",
            http_1_1=request.clientproto == b"HTTP/1.1",
            peer=getattr(request.getClientAddress(), "host", ""),
            secure=request.isSecure(),
            id=given_request_id(request.getHeader(b"x-request-id") or b"") or new_request_id(),
            received=received,
        )
        request.notifyFinish().addErrback(self._lost)

    def _lost(self, _failure: Any) -> None:
        self._over = True
        self._stock.lost()
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()

    def _head(self, status: int, headers: Sequence[Header]) -> None:
        request = self._twisted
        request.setResponseCode(status)
        request.defaultContentType = None
        for name, value in (*headers, *self.extra_headers):
            request.responseHeaders.addRawHeader(name, value)
        request.responseHeaders.setRawHeaders(b"X-Request-Id", [self.request.id.encode("ascii")])

    def asks_store(self) -> None:
        """Nothing is told of slow requests here."""

    def respond(self, response: Response) -> None:
        if self._over:
            return
        self._over = True
        self._gone = None
        self._head(response.status, response.headers)
        if response.status not in {204, 304}:
            self._twisted.setHeader(b"Content-Length", b"%d" % len(response.body))
            self._twisted.write(response.body if self.request.method != b"HEAD" else b"")
        self._twisted.finish()

    def respond_with(self, status: int, block: bytes, body: bytes) -> None:
        headers = [(name, value) for name, _, value in (line.partition(b": ") for line in block.splitlines())]
        self.respond(Response(status, headers, body))

    def begin(self, status: int, headers: Sequence[Header], length: int | None = None) -> None:
        if not self._over:
            self._head(status, headers)
            if length is not None:
                self._twisted.setHeader(b"Content-Length", b"%d" % length)
            self._twisted.registerProducer(self._flow, True)
            self._twisted.write(b"")

    def write(self, pieces: Sequence[bytes], one_chunk: bool = False) -> Span:
        start = self._position
        lengths = [len(piece) for piece in pieces]
        self._position = start + sum(lengths)
        if not self._over:
            for piece in [b"".join(pieces)] if one_chunk else pieces:
                if piece:
                    self._twisted.write(piece)
        return Span(start, lengths, self._position)

    def writable(self) -> bool:
        return self._over or self._flow.open

    def on_writable(self, callback: Callable[[], None] | None) -> None:
        self._flow.resumed = callback

    def heed_end(self) -> None:
        """A stock channel does not tell of a FIN alone."""

    def on_gone(self, callback: Callable[[], None] | None) -> None:
        self._gone = callback

    def take_over(self, protocol: Any, head: bytes) -> bytes:
        raise NotImplementedHere("this connection cannot change its protocol")

    def finish(self) -> None:
        if not self._over:
            self._over = True
            self._gone = None
            self._twisted.unregisterProducer()
            self._twisted.finish()

    def abort(self) -> None:
        if not self._over:
            self._over = True
            self._gone = None
            self._twisted.loseConnection()
