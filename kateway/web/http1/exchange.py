"""A request and its response on the HTTP/1.1 wire: ``Exchange`` as bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kateway.core.delivery.confirmation import Span
from kateway.web.exchange import Header, Request, Response
from kateway.web.http1.connection import HttpConnection, Successor
from kateway.web.problems import problem

_NEW, _STREAMING, _DONE = range(3)
# RFC 9110 6.6.1, 7.8 and RFC 9112 6, 9.6: what only the connection can say
_OURS = frozenset((b"connection", b"date", b"keep-alive", b"server", b"transfer-encoding", b"x-request-id"))


class WireExchange:
    """Implements ``Exchange``. Made by the channel for each request, when its turn has come."""

    __slots__ = (
        "_asked_store", "_chunked", "_on_gone", "_on_writable", "_silent", "_started_at", "_state", "body_bytes",
        "caller", "connection", "extra_headers", "keep_alive", "operation", "request", "status", "upgrade",
        "waited_seconds",
    )  # fmt: skip

    def __init__(
        self, connection: HttpConnection, request: Request, keep_alive: bool, upgrade: bool = False, body_bytes: int = 0
    ) -> None:
        self.connection = connection
        self.request = request
        self.keep_alive = keep_alive
        self.upgrade = upgrade
        """The client asks to change the protocol: ``take_over`` is possible."""
        self.body_bytes = body_bytes
        self.caller = ""
        self.extra_headers: Sequence[Header] = ()
        self.operation = "other"
        self.waited_seconds = 0.0
        self.status = 0
        self._state = _NEW
        self._asked_store = 0.0
        self._chunked = False
        self._silent = request.method == b"HEAD"
        self._started_at = connection.sent
        self._on_writable: Callable[[], None] | None = None
        self._on_gone: Callable[[], None] | None = None

    # --- Exchange ---------------------------------------------------------------------------------------------------

    def asks_store(self) -> None:
        state = self.connection.state
        if state.troubles is not None:
            self._asked_store = state.seconds()

    def respond(self, response: Response) -> None:
        if self._state:
            if self._state == _DONE:
                return
            raise RuntimeError("this exchange's response has begun")
        status, headers, body = response
        if status >= 400:
            self._refused(status, body)
        parts = self._head(status, headers)
        if self._silent or status == 304:
            # RFC 9110 8.6: the length that the body would have had
            if status not in (204, 304):
                parts.append(b"Content-Length: %d\r\n\r\n" % len(body))
            else:
                parts.append(b"\r\n")
        elif status == 204:
            parts.append(b"\r\n")
        else:
            parts.append(b"Content-Length: %d\r\n\r\n" % len(body))
            parts.append(body)
        self.connection.send(b"".join(parts))
        self._done()

    def respond_with(self, status: int, block: bytes, body: bytes) -> None:
        if self._state:
            if self._state == _DONE:
                return
            raise RuntimeError("this exchange's response has begun")
        if status >= 400:
            self._refused(status, body)
        parts = self._head(status, ())
        parts.append(b"%bContent-Length: %d\r\n\r\n" % (block, len(body)))
        if not self._silent:
            parts.append(body)
        self.connection.send(b"".join(parts))
        self._done()

    def begin(self, status: int, headers: Sequence[Header], length: int | None = None) -> None:
        if self._state:
            if self._state == _DONE:
                return
            raise RuntimeError("this exchange's response has begun")
        self._chunked = self.request.http_1_1 and length is None
        if not self._chunked and length is None:
            self.keep_alive = False
        if status in (204, 304):
            self._silent = True
        parts = self._head(status, headers)
        if length is not None and status not in (204, 304):
            parts.append(b"Content-Length: %d\r\n\r\n" % length)
        else:
            parts.append(b"Transfer-Encoding: chunked\r\n\r\n" if self._chunked and not self._silent else b"\r\n")
        self._state = _STREAMING
        self._count_first_byte()
        self.connection.send(b"".join(parts))

    def write(self, pieces: Sequence[bytes], one_chunk: bool = False) -> Span:
        # hot: several hundred thousand pieces a second
        connection = self.connection
        start = connection.sent
        if self._silent:
            return Span(start, [0] * len(pieces), start)
        lengths: list[int]
        if not self._chunked:
            data = b"".join(pieces)
            lengths = list(map(len, pieces))
        elif one_chunk:
            data = b"".join(pieces)
            lengths = list(map(len, pieces))
            if data:
                size = b"%x\r\n" % len(data)
                data = b"%b%b\r\n" % (size, data)
                # the framing belongs to the first and the last of the pieces
                lengths[0] += len(size)
                lengths[-1] += 2
        else:
            framed = [b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b"" for piece in pieces]
            data = b"".join(framed)
            lengths = list(map(len, framed))
        if data:
            connection.send(data)
        return Span(start, lengths, start + len(data))

    def writable(self) -> bool:
        return self.connection.writable()

    def on_writable(self, callback: Callable[[], None] | None) -> None:
        self._on_writable = callback

    def on_gone(self, callback: Callable[[], None] | None) -> None:
        if callback is not None and self.connection.gone and self._state != _DONE:
            callback()
            return
        self._on_gone = callback

    def heed_end(self) -> None:
        if self.connection.fin and not self.connection.gone and self._state != _NEW:
            self.connection.client_ends()

    def finish(self) -> None:
        if self._state != _STREAMING:
            return
        if self._chunked and not self._silent:
            self.connection.send(b"0\r\n\r\n")
        self._done()

    def abort(self) -> None:
        if self._state != _DONE:
            self.keep_alive = False
            self._note()
            self._state = _DONE
            self._on_gone = self._on_writable = None
            self.connection.cut()

    # --- beyond it --------------------------------------------------------------------------------------------------

    def fail(self, error: Exception) -> None:
        """Answers with a problem, or cuts off a response that has begun."""
        if self._state == _NEW:
            self.respond(problem(error, self.request.id))
        else:
            problem(error, self.request.id)
            self.abort()

    def take_over(self, protocol: Successor, head: bytes) -> bytes:
        """Hands the connection to another protocol after ``head`` (the whole 101 response) was sent.

        ``protocol`` gets ``dataReceived`` and ``connectionLost`` from now on and writes to
        ``connection.transport``. Returns the bytes that had already arrived after the request;
        they are the protocol's to read first.
        """
        self.status = 101
        self._count_first_byte()
        self.connection.send(head)
        self._note()
        self._state = _DONE
        return self.connection.hand_over(protocol)

    @property
    def fresh(self) -> bool:
        """Nothing of the response was sent."""
        return self._state == _NEW

    @property
    def streaming(self) -> bool:
        return self._state == _STREAMING

    def begin_framed(self, status: int, headers: Sequence[Header]) -> bytes:
        """Begins a response whose sender frames the body itself (the bridge); returns the head to send."""
        self._state = _STREAMING
        self._count_first_byte()
        self._chunked = False
        names = {name.lower() for name, _ in headers}
        own = [header for header in headers if header[0].lower() not in _OURS]
        chunked = b"transfer-encoding" in names
        if not chunked and b"content-length" not in names and not self._silent and status not in (204, 304):
            self.keep_alive = False
        parts = self._head(status, own)
        parts.append(b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")
        return b"".join(parts)

    def drained(self) -> None:
        if self._on_writable is not None and self._state != _DONE:
            self._on_writable()

    def leave(self) -> None:
        """The client sends no more: notifies the handler, which may still end its response."""
        callback, self._on_gone = self._on_gone, None
        if callback is not None and self._state != _DONE:
            callback()

    def client_gone(self) -> None:
        """The connection is over before the response was: notes it and tells the handler."""
        if self._state == _DONE:
            return
        if not self.status:
            # no response was sent: nginx's number for it, in the access log only
            self.status = 499
        self._note()
        self._state = _DONE
        callback, self._on_gone, self._on_writable = self._on_gone, None, None
        if callback is not None:
            callback()

    def _head(self, status: int, headers: Sequence[Header]) -> list[bytes]:
        self.status = status
        connection = self.connection
        state = connection.state
        parts = [state.starts.get(status) or state.head_start(status), self.request.id.encode("ascii"), b"\r\n"]
        if not self.keep_alive or connection.must_close():
            self.keep_alive = False
            parts.append(b"Connection: close\r\n")
        elif not self.request.http_1_1:
            parts.append(b"Connection: keep-alive\r\n")
        if self.extra_headers:
            headers = (*headers, *self.extra_headers)
        if headers:
            block = b"\r\n".join(map(b": ".join, headers))
            ends = len(headers) - 1
            if block.count(b"\n") != ends or block.count(b"\r") != ends or b"\0" in block:
                # a record's header may hold anything: it must not end ours
                block = b"\r\n".join([b": ".join(header).translate(None, b"\r\n\0") for header in headers])
            parts.append(block)
            parts.append(b"\r\n")
        return parts

    def _count_first_byte(self) -> None:
        """Counts the beginning of a response that goes on."""
        state = self.connection.state
        if state.cells is not None:
            seconds = state.seconds() - self.request.received
            state.cells.began(self.operation, seconds)
            self._note_slow(seconds)

    def _note_slow(self, seconds: float) -> None:
        """Keeps a request that is among the slowest."""
        troubles = self.connection.state.troubles
        if troubles is not None and seconds > troubles.slowest.floor:
            asked = self._asked_store
            store = seconds - (asked - self.request.received) if asked else None
            troubles.slow(self.request, self.operation, self.caller, self.status, seconds, self.waited_seconds, store)

    def _refused(self, status: int, body: bytes) -> None:
        troubles = self.connection.state.troubles
        if troubles is not None:
            troubles.refused(self.request, self.operation, self.caller, status, body)

    def _note(self) -> None:
        """Counts and logs a request whose response has gone on, or that got none."""
        connection = self.connection
        state = connection.state
        if state.cells is not None:
            state.cells.ended(self.operation, self.status)
        if state.access is not None:
            state.access.note(self.request, self.status, connection.sent - self._started_at, self.caller)

    def _done(self) -> None:
        connection = self.connection
        state = connection.state
        cells, access = state.cells, state.access
        if cells is not None or access is not None:
            now = state.seconds()
            if cells is not None:
                if self._state == _NEW:
                    seconds = now - self.request.received
                    cells.answered(self.operation, self.status, seconds)
                    self._note_slow(seconds)
                else:
                    cells.ended(self.operation, self.status)
            if access is not None:
                access.note(self.request, self.status, connection.sent - self._started_at, self.caller, now)
        self._state = _DONE
        self._on_gone = self._on_writable = None
        connection.answered(self)
