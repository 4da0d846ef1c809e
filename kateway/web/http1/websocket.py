"""WebSockets (RFC 6455) on a connection that began as HTTP: the handshake, messages, pings, closing.

Incoming frames are parsed by wsproto. Outgoing ones are made here: a server's frames are not masked, so many messages
are one list comprehension and one write, and each message's place in the connection's stream is known.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from wsproto.connection import Connection as Parser
from wsproto.connection import ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.utilities import ProtocolError, RemoteProtocolError

from kateway.core.delivery.confirmation import Span
from kateway.errors import BadRequest, UpgradeRequired
from kateway.web.exchange import Exchange
from kateway.web.http1.connection import HttpConnection
from kateway.web.http1.deflate import WORTH_IT_BYTES, Deflate, negotiate

# RFC 6455 1.3
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# RFC 6455 5.2: FIN with the opcode
TEXT, BINARY, _CLOSE, _PING, _PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
# RFC 7692 6: the same with RSV1
_DEFLATED_TEXT = 0xC1
# RFC 6455 7.4.1
NORMAL, GOING_AWAY, POLICY, TOO_BIG, INTERNAL = 1000, 1001, 1008, 1009, 1011
_MAX_REASON_BYTES = 123


def wants_websocket(exchange: Exchange) -> bool:
    """Whether a request asks to become a WebSocket, on a connection that can (RFC 6455 4.1: a GET of HTTP/1.1)."""
    request = exchange.request
    return (
        exchange.upgrade
        and request.method == b"GET"
        and request.http_1_1
        and (request.header(b"upgrade") or b"").strip().lower() == b"websocket"
    )


def accept(exchange: Exchange, subprotocols: Sequence[bytes], max_message_bytes: int) -> Socket:
    """Answers 101 and gives the socket. ``BadRequest`` and ``UpgradeRequired`` where the handshake is not sound.

    Of the client's subprotocols the first that is in ``subprotocols`` is chosen.
    """
    request = exchange.request
    if request.header(b"sec-websocket-version") != b"13":
        raise UpgradeRequired("only WebSocket version 13 is spoken", headers=(("Sec-WebSocket-Version", "13"),))
    key = request.header(b"sec-websocket-key") or b""
    try:
        sound = len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        sound = False
    if not sound:
        raise BadRequest("Sec-WebSocket-Key is not 16 bytes in base64")
    offered = [part.strip() for part in (request.header(b"sec-websocket-protocol") or b"").split(b",")]
    chosen = next((name for name in offered if name in subprotocols), None)
    answer = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    head = [
        b"HTTP/1.1 101 Switching Protocols",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + answer,
        b"X-Request-Id: " + request.id.encode("ascii"),
    ]
    # that a topic is deprecated, that a page of another origin may read the answer
    head.extend(b": ".join(header) for header in exchange.extra_headers)
    if chosen is not None:
        head.append(b"Sec-WebSocket-Protocol: " + chosen)
    agreed = negotiate(request.listed(b"sec-websocket-extensions"), max_message_bytes)
    if agreed is not None:
        head.append(b"Sec-WebSocket-Extensions: " + agreed[1])
    socket = Socket(exchange.connection, chosen, max_message_bytes, None if agreed is None else agreed[0])
    rest = exchange.take_over(socket, b"\r\n".join(head) + b"\r\n\r\n")
    if rest:
        socket.early = rest
    return socket


def frame(kind: int, payload: bytes) -> bytes:
    """One unmasked frame (RFC 6455 5.2)."""
    size = len(payload)
    if size < 126:
        return b"%c%c%b" % (kind, size, payload)
    if size < 65536:
        return b"%c\x7e%b%b" % (kind, size.to_bytes(2, "big"), payload)
    return b"%c\x7f%b%b" % (kind, size.to_bytes(8, "big"), payload)


@dataclass(frozen=True)
class _Fault(Event):
    """The client broke the protocol."""

    code: int
    reason: str


class Socket:
    """An open WebSocket. ``listen`` once; callbacks come from then on, never after ``gone``."""

    def __init__(
        self, channel: Any, subprotocol: bytes | None, max_message_bytes: int, deflate: Deflate | None = None
    ) -> None:
        self.subprotocol = subprotocol
        self.early = b""
        """Bytes that arrived behind the handshake."""
        self._channel: HttpConnection = channel
        self._max_message_bytes = max_message_bytes
        self._deflate = deflate
        self._parser = Parser(ConnectionType.SERVER, [] if deflate is None else [deflate])
        self._events: deque[Event] = deque()
        # bytes that were read and wait for the end of a pause
        self._paused = False
        self._parts: list[Any] = []
        self._size = 0
        self._closed = False
        self._unanswered: bytes | None = None
        # the last ping of a client that has no room for the answer
        self._message: Callable[[str | bytes], None] | None = None
        self._pong: Callable[[bytes], None] | None = None
        self._on_gone: Callable[[], None] | None = None
        self._on_writable: Callable[[], None] | None = None

    def listen(self, message: Callable[[str | bytes], None], pong: Callable[[bytes], None]) -> None:
        """Sets the callbacks for messages and pongs, and hands over those that have arrived already."""
        self._message, self._pong = message, pong
        early, self.early = self.early, b""
        if early:
            self.dataReceived(early)

    # --- sending ---------------------------------------------------------------------------------------------

    def send(self, kind: int, payloads: Sequence[bytes]) -> Span:
        """Sends messages (``TEXT`` or ``BINARY``), each a frame, in one write."""
        if self._deflate is not None and kind == TEXT:
            frames = [self._text(payload, self._deflate) for payload in payloads]
        else:
            frames = [frame(kind, payload) for payload in payloads]
        start = self._channel.sent
        data = b"".join(frames)
        if not self._closed:
            self._channel.send(data)
        return Span(start, list(map(len, frames)), start + len(data))

    def ping(self, payload: bytes) -> None:
        if not self._closed:
            self._channel.send(frame(_PING, payload))

    def writable(self) -> bool:
        """False while bytes of ours wait for the network."""
        return self._channel.writable()

    def on_writable(self, callback: Callable[[], None] | None) -> None:
        self._on_writable = callback

    def on_gone(self, callback: Callable[[], None] | None) -> None:
        self._on_gone = callback

    @staticmethod
    def _text(payload: bytes, deflate: Deflate) -> bytes:
        if len(payload) < WORTH_IT_BYTES:
            return frame(TEXT, payload)
        return frame(_DEFLATED_TEXT, deflate.compress(payload))

    def pause(self) -> None:
        """Reads no more for now: the client's window fills. Messages that have been read already wait."""
        if not self._closed and not self._paused:
            self._paused = True
            self._channel.transport.pauseProducing()

    def resume(self) -> None:
        """Hands over the messages that wait, and reads on."""
        if self._paused and not self._closed:
            self._paused = False
            self._channel.transport.resumeProducing()
            self._handle_events()

    def close(self, code: int, reason: str = "") -> None:
        """Sends a Close frame and waits, for a bounded time, until the client has closed as well."""
        if not self._closed:
            self._closed = True
            if self._paused:
                # its answer and its FIN end the wait
                self._paused = False
                self._channel.transport.resumeProducing()
            text = reason.encode("utf-8")[:_MAX_REASON_BYTES].decode("utf-8", "ignore").encode("utf-8")
            self._channel.send(frame(_CLOSE, code.to_bytes(2, "big") + text))
            self._channel.end()
            if any(isinstance(event, CloseConnection) for event in self._events):
                self._channel.close_answered()  # it had come before, and waited behind a pause

    def cut(self) -> None:
        """Ends without a Close frame."""
        self._closed = True
        self._channel.cut()

    # --- what the channel tells ------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._closed:
            self._await_close(data)
            return
        if self._message is None:
            self.early += data  # a few turns at most, until ``listen``
            return
        try:
            self._parser.receive_data(data)
            self._events.extend(self._parser.events())
        except RemoteProtocolError as error:
            # behind the messages that came before it
            hint = error.event_hint
            self._events.append(_Fault(int(hint.code) if isinstance(hint, CloseConnection) else 1002, str(error)))
        self._handle_events()

    def _await_close(self, data: bytes) -> None:
        """Our Close frame was sent: nothing but the client's answer matters now."""
        with suppress(ProtocolError):
            self._parser.receive_data(data)
            if any(isinstance(event, CloseConnection) for event in self._parser.events()):
                self._channel.close_answered()

    def drained(self) -> None:
        """Everything that waited was handed to the socket."""
        unanswered, self._unanswered = self._unanswered, None
        if unanswered is not None and not self._closed:
            self._channel.send(frame(_PONG, unanswered))
        if self._on_writable is not None and not self._closed:
            self._on_writable()

    def leave(self) -> None:
        """The client says that it sends no more, without a Close frame: the sender is called, and may close."""
        callback, self._on_gone = self._on_gone, None
        if callback is not None:
            callback()

    def connectionLost(self, _reason: object = None) -> None:
        events, self._events = self._events, deque()
        if self._message is not None and not self._closed:
            for event in events:  # the client sent them all the same: acknowledgements hold
                if isinstance(event, TextMessage | BytesMessage):
                    self._gather(event)
        self._closed = True
        callback, self._on_gone = self._on_gone, None
        self._message = self._pong = self._on_writable = None
        if callback is not None:
            callback()

    def _handle_events(self) -> None:
        while self._events and not self._closed and not self._paused:
            self._handle(self._events.popleft())

    def _handle(self, event: Event) -> None:
        match event:
            case TextMessage() | BytesMessage():
                self._gather(event)
            case Ping(payload=payload) if self._channel.writable():
                self._channel.send(frame(_PONG, bytes(payload)))
            case Ping(payload=payload):
                # RFC 6455 5.5.3: the last one alone may be answered. A client that pings and does not read would else
                # fill our memory
                self._unanswered = bytes(payload)
            case Pong(payload=payload) if self._pong is not None:
                self._pong(bytes(payload))
            case _Fault(code=code, reason=reason):
                self.close(code, reason)
            case CloseConnection(code=code):
                self.close(int(code) if int(code) not in {1005, 1006} else NORMAL)
                self._channel.close_answered()
                self.connectionLost()

    def _gather(self, event: TextMessage | BytesMessage) -> None:
        self._size += len(event.data)
        if self._size > self._max_message_bytes:
            self.close(TOO_BIG, f"a message has at most {self._max_message_bytes} bytes")
            return
        self._parts.append(event.data)
        if event.message_finished:
            parts, self._parts, self._size = self._parts, [], 0
            whole = "".join(parts) if isinstance(event, TextMessage) else b"".join(parts)
            if self._message is not None:
                self._message(whole)
