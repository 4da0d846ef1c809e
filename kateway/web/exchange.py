"""One request, the way back to its client, and the connection they are on: what the HTTP edge's parts agree on.

``channel.py`` implements these for the HTTP/1.1 wire; ``site.py`` adapts a plain ``twisted.web`` request to them, so
that the same handlers run in memory, behind Klein, and on the hot route.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from kateway.core.delivery.confirmation import Connection, Span

Header = tuple[bytes, bytes]

JSON: Header = (b"Content-Type", b"application/json")
NO_STORE: Header = (b"Cache-Control", b"no-store")


class Head:
    """A request's head as it was parsed and found sound once: the same bytes mean the same when they come again.

    Programs send one head over and over, so what it means is remembered with it: ``memo`` is for handlers, each under
    itself, and holds only what follows from the head alone.
    """

    __slots__ = ("headers", "http_1_1", "length", "memo", "method", "target")

    def __init__(self, request: Request, length: int) -> None:
        self.method = request.method
        self.target = request.target
        self.headers = request.headers
        self.http_1_1 = request.http_1_1
        self.length = length
        """Bytes of body that follow."""
        self.memo: dict[object, Any] = {}


class Request:
    """A request as it arrived, whole. A plain class with slots: one is made for every request of the hot path."""

    __slots__ = ("body", "head", "headers", "http_1_1", "id", "method", "peer", "received", "secure", "target")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: list[Header],
        body: bytes,
        *,
        http_1_1: bool,
        peer: str,
        secure: bool,
        id: str,
        received: float,
        head: Head | None = None,
    ) -> None:
        self.head = head
        """Where the same head came before: its memo."""
        self.method = method
        """Upper case, as sent."""
        self.target = target
        """The request target in origin form, undecoded: path and query."""
        self.headers = headers
        """In order; names in lower case, values stripped."""
        self.body = body
        self.http_1_1 = http_1_1
        """False for HTTP/1.0: no chunked answer may be given."""
        self.peer = peer
        """The client's address, without port."""
        self.secure = secure
        self.id = id
        """The caller's ``X-Request-Id`` if it sent a sane one, else ours. The exchange adds it to the response."""
        self.received = received
        """When its first byte arrived, on the reactor's clock."""

    def header(self, name: bytes) -> bytes | None:
        """The first header of that (lower-case) name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def listed(self, name: bytes) -> bytes | None:
        """All headers of that name as the one list that they are (RFC 9110 5.3)."""
        values = [value for key, value in self.headers if key == name]
        return b", ".join(values) if values else None


class Response(NamedTuple):
    """A whole response. The exchange adds Content-Length, X-Request-Id and what the connection needs."""

    status: int
    headers: Sequence[Header]
    body: bytes


class ClientConnection(Connection, Protocol):
    """A client's connection, as far as the HTTP edge needs to know it."""

    remembered: Any
    """What the front remembers of the last request; ``None`` at first."""
    gone: bool
    """The connection has ended: nothing reaches the client any more."""

    @property
    def subject(self) -> str:
        """Of the client's certificate, where TLS has verified one; else empty."""

    def told_to_wait(self, seconds: float) -> None:
        """The client is refused and told to come back after ``seconds``. One that was told before and did not wait is
        read from more slowly: refusing a flood must not take the time of others.
        """


class Exchange(Protocol):
    """A request and its response, answered exactly once: ``respond``, or ``begin``, ``write``…, ``finish``."""

    request: Request
    caller: str
    """The caller, for the access log: a handler sets it once it is known; empty until then."""
    extra_headers: Sequence[Header]
    """What every response of this exchange carries besides its own headers; a handler may set it at any time."""
    operation: str
    """What is asked for, of ``observe.families.OPERATIONS``: ``other`` until its route is known."""
    waited_seconds: float
    """From its first byte until it had its turn; 0 where it had none to wait for."""
    upgrade: bool
    """Whether the client asks for another protocol, and the connection can change: ``take_over`` is possible."""

    @property
    def connection(self) -> ClientConnection: ...

    def asks_store(self) -> None:
        """From now on the request waits for its store: for what is told of slow ones."""

    def respond(self, response: Response) -> None:
        """Answers whole. After the client has gone: does nothing."""

    def respond_with(self, status: int, block: bytes, body: bytes) -> None:
        """``respond`` for the hot path: ``block`` is the headers as they go on the wire, each with its CRLF, made by us
        of nothing that a client or a record could break a line with.
        """

    def begin(self, status: int, headers: Sequence[Header], length: int | None = None) -> None:
        """Sends the head of a streamed response: of ``length`` bytes of body, which must then follow exactly, else
        chunked (HTTP/1.0: delimited by close).
        """

    def write(self, pieces: Sequence[bytes], one_chunk: bool = False) -> Span:
        """Sends pieces of body in one write; each becomes an HTTP chunk of its own, or all become one.
        Empty pieces are left out of the wire (an empty chunk would end the body) but keep their place in the span.
        """

    def writable(self) -> bool:
        """False while bytes of ours wait for the socket: write no more, ``on_writable`` is called."""

    def on_writable(self, callback: Callable[[], None] | None) -> None:
        """Calls back each time that the waiting bytes have all been handed to the socket."""

    def on_gone(self, callback: Callable[[], None] | None) -> None:
        """Calls back once if the client goes before the response is finished: after the watchers' ``closed``, or as
        soon as it says that it sends no more, when a response that has begun can still be ended.
        """

    def heed_end(self) -> None:
        """Ends a response without an end of its own where the client had said before it began that it sends no more:
        what ``on_gone`` says comes now. One that ends by itself is still given to such a client.
        """

    def finish(self) -> None:
        """Ends a streamed response with the last chunk."""

    def abort(self) -> None:
        """Cuts the connection, so that the part of the body that was sent cannot be taken for whole."""

    def take_over(self, protocol: Any, head: bytes) -> bytes:
        """Sends ``head``, the whole 101 response, and hands the connection to ``protocol``, which hears
        ``dataReceived``, ``drained``, ``leave`` and ``connectionLost`` from now on. Returns the bytes that had arrived
        already.
        """
