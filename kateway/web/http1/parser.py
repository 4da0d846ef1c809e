"""HTTP/1.1 requests out of a connection's bytes: llhttp's strict parser, our limits, and what it leaves lenient.

llhttp refuses bare LF, folded headers, control characters, a space before the colon, Content-Length with
Transfer-Encoding, repeated or malformed lengths and chunk sizes. Refused here: every transfer coding but ``chunked``,
a coding in HTTP/1.0, no Host or two, versions other than 1.0 and 1.1, targets that are not one of a path, an absolute
URI or ``*``, chunk framing out of proportion to its data, and everything beyond a limit of ``HttpConfig``.
Nothing is handled from inside a parser callback: finished requests wait in ``ready``.
"""

from __future__ import annotations

import re
from typing import Any

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

from kateway.errors import (
    BadRequest,
    ExpectationFailed,
    HeadersTooLarge,
    HttpVersionNotSupported,
    KatewayError,
    MethodNotAllowed,
    NotImplementedHere,
    Overloaded,
    TooLarge,
    UriTooLong,
)
from kateway.web.exchange import Header, Request
from kateway.web.http1.request_id import new_request_id, sane_id
from kateway.web.http1.server_state import ServerState
from kateway.web.http1.target import is_host, origin_form

_LOOKED_INTO = frozenset((b"host", b"content-length", b"transfer-encoding", b"expect", b"x-request-id"))
# what an unknown method looks like, rather than TLS or noise, in the bytes that llhttp stopped at
_UNKNOWN_METHOD = re.compile(rb"[A-Za-z-]+(?: [/*]|\Z)").match
_KNOWN_METHODS = "DELETE, GET, HEAD, OPTIONS, POST, PUT"
_SLICE = 4096
_SMALL_PIECE = 512

Parsed = tuple[Request, bool, bool, int]
"""A whole request; whether its connection may go on after it; whether it asks to upgrade; its body's bytes.
A plain tuple, as one is made for every request."""


def _without_upgrade(request: Request) -> bytes:
    """A request's head again, as one that does not ask to upgrade (RFC 9110 7.8: a server need not grant it)."""
    lines = [b"%b %b HTTP/1.%d" % (request.method, request.target, request.http_1_1)]
    lines += [b"%b: %b" % header for header in request.headers if header[0] != b"upgrade"]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class RequestParser:
    """Feeds one connection's bytes to llhttp. ``refusal`` is set once the bytes cannot be followed any further.

    A request is held to the limits that are in force when it begins.
    """

    __slots__ = (
        "_body", "_body_bytes", "_config", "_expect", "_fed", "_head_fed", "_headers", "_host_seen", "_http_1_1", "_id",
        "_length", "_llhttp", "_peer", "_secure", "_state", "_target", "_whole_headers", "arriving",
        "ended", "in_body", "ready", "received", "refusal", "refused_id", "rest", "wants_continue",
    )  # fmt: skip

    def __init__(self, state: ServerState, peer: str, secure: bool) -> None:
        self._state = state
        self._config = state.config
        self._peer = peer
        self._secure = secure
        self._llhttp: Any = None
        self.ready: list[Parsed] = []
        self.refusal: KatewayError | None = None
        self.refused_id: str | None = None
        """The caller's id of a request that was refused or cut short, if it had come by then."""
        self.ended = False
        """Nothing that still comes is parsed: the last request said that it is the last, or was refused."""
        self.rest = b""
        """What followed a request to upgrade, or more requests than may wait."""
        self.received = 0.0
        """When the latest request began to arrive."""
        self.arriving = False
        """A request has begun and is not whole."""
        self.in_body = False
        self.wants_continue = False
        """The client waits for ``100 Continue``."""
        self._fed = self._head_fed = 0
        self._body_bytes = 0
        self._body: list[bytes | bytearray] = []
        self._headers: list[Header] = []
        self._whole_headers = self._headers
        self._target = self._expect = self._id = b""
        self._host_seen = self._http_1_1 = False
        self._length = -1

    @property
    def idle(self) -> bool:
        """Nothing has begun to arrive and nothing waits: the next bytes begin a request."""
        return not (self.ready or self.arriving or self.ended or self.rest)

    @property
    def between(self) -> bool:
        """The same, whether or not whole requests wait."""
        return not (self.arriving or self.ended or self.rest)

    def feed(self, data: bytes) -> None:
        """Takes bytes as they come. ``rest`` holds the bytes left over when requests enough were waiting."""
        if self.rest:
            data = self.rest + data
            self.rest = b""
        elif len(data) <= _SLICE and not self.ready and not self.ended:
            self._feed(data, b"")  # nearly always
            return
        while data and not self.ended and self.refusal is None:
            if len(self.ready) >= self._config.max_pipelined_requests or (self.ready and self.ready[-1][2]):
                self.rest = data
                return
            # small steps among heads, so that one read does not become thousands of requests; bytes known to be body
            # goes in one
            size = max(_SLICE, self._length - self._body_bytes) if self.in_body else _SLICE
            part, data = data[:size], data[size:]
            self._feed(part, data)
            if self.rest:
                return

    def _feed(self, data: bytes, later: bytes) -> None:
        llhttp = self._llhttp
        if llhttp is None:
            llhttp = self._llhttp = HttpRequestParser(self)
        self._fed += len(data)
        try:
            llhttp.feed_data(data)
        except HttpParserUpgrade as stop:
            # answered as if it had not asked, unless its handler takes the connection over
            self._llhttp = None
            self.rest = data[stop.args[0] :] + later
            if self.refusal is None and self._body_was_skipped():
                self.ended = False
                self.rest = _without_upgrade(self.ready.pop()[0]) + self.rest
            elif self.ended or self.refusal is not None:
                self.rest = b""
            return
        except HttpParserError as error:
            if self.refusal is None and not self.ended:
                self.refusal = self._translate(error, data)
        if self.arriving and self.refusal is None:
            self._check_arriving()
        if self.refusal is not None:
            self.close()

    def _body_was_skipped(self) -> bool:
        """Whether a request that asks to upgrade has a body: httptools takes what follows for the other protocol."""
        chunked = any(name == b"transfer-encoding" for name, _ in self.ready[-1][0].headers)
        return chunked or self._length > 0

    def _translate(self, error: HttpParserError, data: bytes) -> KatewayError:
        text = str(error)
        strange = isinstance(error, HttpParserInvalidMethodError) and not self.ready and _UNKNOWN_METHOD(data)
        if strange or text == "Invalid method for HTTP/x.x request":
            # llhttp stops before the path: the answer lists the methods of all paths
            return MethodNotAllowed(f"The methods known here: {_KNOWN_METHODS}.", headers=(("Allow", _KNOWN_METHODS),))
        if text == "Invalid HTTP version" or "PRI" in text:
            return HttpVersionNotSupported()
        if text == "Request has invalid `Transfer-Encoding`":
            return NotImplementedHere("The only transfer coding understood here is chunked.")
        return BadRequest(f"{text}.")

    def _check_arriving(self) -> None:
        """Bounds the bytes kept, by llhttp or here, of a request that has not arrived whole."""
        config = self._config
        if len(self._headers) > config.max_header_count:
            self.refusal = self._too_many_headers()
        elif self.in_body:
            framing = self._fed - self._head_fed - self._body_bytes
            if self._length < 0 and framing > config.max_header_bytes + 8 * self._body_bytes:
                self.refusal = BadRequest("The chunk framing is out of proportion to its data.")
        elif self._fed > config.max_request_line_bytes + config.max_header_bytes:
            self.refusal = self._headers_too_large()

    def close(self) -> None:
        """Parses nothing any more: drops llhttp and an incomplete body. Whole requests stay ``ready``."""
        self.ended = True
        if self.arriving and self._id:
            self.refused_id = self._id.decode("ascii")
        self._llhttp = None
        self._state.held_bytes -= self._body_bytes
        self._body_bytes = 0
        self._body = []
        self.arriving = False

    def abandon(self) -> None:
        """Closes, and drops the requests that are ready and the rest: nothing of it is handled any more."""
        self.close()
        self._state.held_bytes -= sum(body_bytes for *_, body_bytes in self.ready)
        self.ready = []
        self.rest = b""

    # --- called by llhttp; an exception ends its work, ``refusal`` says why -----------------------------------------

    def on_message_begin(self) -> None:
        self.arriving = True
        state = self._state
        self.received = state.seconds()
        self._config = state.config
        self._target = self._id = self._expect = b""
        self._headers = []
        self._host_seen = False
        self._length = -1

    def on_url(self, url: bytes) -> None:
        self._target = self._target + url if self._target else url
        if len(self._target) > self._config.max_request_line_bytes:
            self._refuse(self._line_too_long())

    def on_header(self, name: bytes, value: bytes) -> None:
        # hot: several times a request; their number is looked at when the head is whole, their bytes bound it till then
        name = name.lower()
        value = value.rstrip()
        if name in _LOOKED_INTO:
            self._look_into(name, value)
        self._headers.append((name, value))

    def _look_into(self, name: bytes, value: bytes) -> None:
        if self.in_body and name != b"host":
            return  # a trailer says nothing here
        if name == b"host":
            if self._host_seen:
                self._refuse(BadRequest("There is more than one Host header."))
            if is_host(value) is None:
                self._refuse(BadRequest("The Host header is not a host and a port."))
            self._host_seen = True
        elif name == b"content-length":
            self._length = int(value) if value.isdigit() and len(value) < 19 else 1 << 62
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                self._refuse(NotImplementedHere("The only transfer coding understood here is chunked."))
        elif name == b"expect":
            self._expect = value.lower()
        elif sane_id(value) is not None:
            self._id = value

    def on_headers_complete(self) -> None:
        llhttp = self._llhttp
        config = self._config
        headers = self._headers
        version = llhttp.get_http_version()
        self._http_1_1 = version == "1.1"
        if self._http_1_1:
            if not self._host_seen:
                self._refuse(BadRequest("A request of HTTP/1.1 needs a Host header."))
        elif version != "1.0":
            self._refuse(HttpVersionNotSupported())
        elif any(name == b"transfer-encoding" for name, _ in headers):
            self._refuse(BadRequest("HTTP/1.0 has no transfer codings."))
        if len(headers) > config.max_header_count:
            self._refuse(self._too_many_headers())
        if (
            self._fed + _SLICE > config.max_header_bytes
        ):  # bytes that came with the end of the request before are not in it
            size = sum(len(name) + len(value) + 4 for name, value in headers)
            if size > config.max_header_bytes:
                self._refuse(self._headers_too_large())
        if self._target[:1] != b"/" or b"#" in self._target:
            try:
                self._target = origin_form(llhttp.get_method(), self._target)
            except KatewayError as error:
                self._refuse(error)
        if self._length > config.max_body_bytes:
            self._refuse(self._body_too_large())
        if self._expect:
            expect, self._expect = self._expect, b""
            if self._http_1_1:
                if expect != b"100-continue":
                    self._refuse(ExpectationFailed("The only expectation known here is 100-continue."))
                self.wants_continue = self._length != 0
        # what else is called a header is a trailer: nothing here asks for one
        self._whole_headers = headers
        self._headers = []
        self.in_body = True
        # the bytes fed so far are head, but for the start of a body in the same read
        self._head_fed = self._fed

    def on_body(self, data: bytes) -> None:
        size = len(data)
        body = self._body
        if size < _SMALL_PIECE and body:
            # an object for each would cost many times what the pieces hold
            if type(body[-1]) is bytearray:
                body[-1] += data
            else:
                body.append(bytearray(data))
        else:
            body.append(data)
        self._body_bytes += size
        state = self._state
        state.held_bytes += size
        if self._body_bytes > self._config.max_body_bytes:
            self._refuse(self._body_too_large())
        if state.held_bytes > state.config.max_inflight_body_bytes:
            self._refuse(Overloaded("Too many bodies are under way at once (http.max_inflight_body_bytes)."))
        self.wants_continue = False

    def on_message_complete(self) -> None:
        llhttp = self._llhttp
        pieces = self._body
        if pieces:
            body = bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)
            self._body = []
        else:
            body = b""
        keep_alive = llhttp.should_keep_alive()
        request = Request(
            llhttp.get_method(),
            self._target,
            self._whole_headers,
            body,
            http_1_1=self._http_1_1,
            peer=self._peer,
            secure=self._secure,
            id=self._id.decode("ascii") if self._id else new_request_id(),
            received=self.received,
        )
        self.ready.append((request, keep_alive, llhttp.should_upgrade(), self._body_bytes))
        self._body_bytes = 0
        self._fed = 0
        self.in_body = self.arriving = self.wants_continue = False
        if not keep_alive:
            self.ended = True

    # --- refusals ---------------------------------------------------------------------------------------------------

    def _refuse(self, error: KatewayError) -> None:
        self.refusal = error
        raise error

    def _line_too_long(self) -> KatewayError:
        most = self._config.max_request_line_bytes
        return UriTooLong(f"A request line may have {most} bytes (http.max_request_line_bytes).")

    def _too_many_headers(self) -> KatewayError:
        return HeadersTooLarge(f"A request may have {self._config.max_header_count} headers (http.max_header_count).")

    def _headers_too_large(self) -> KatewayError:
        most = self._config.max_header_bytes
        return HeadersTooLarge(f"The request headers may have {most} bytes (http.max_header_bytes).")

    def _body_too_large(self) -> KatewayError:
        return TooLarge(f"A body may have {self._config.max_body_bytes} bytes (http.max_body_bytes).")
