"""An HTTP client of few lines on a plain socket, that shares no code with the gateway and stops at any byte."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
from typing import Any, NamedTuple

from history.record import Ident, Place, ident


class Answer(NamedTuple):
    status: int
    body: bytes


class Read(NamedTuple):
    """A record that a program has whole; raw streams do not say where it comes from."""

    ident: Ident
    place: Place | None


ACCEPT = {
    "raw": "*/*",
    "ndjson": "application/x-ndjson",
    "frames": "application/vnd.kateway.frames",
    "sse": "text/event-stream",
}


class Incoming:
    """A response, as far as its bytes were fed: its head, and its records as they become whole."""

    def __init__(self, form: str = "") -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        """What is no whole record yet (``form`` empty: everything)."""
        self.complete = False
        """All of it came: the last chunk, or as many bytes as its head said."""
        self.last_id = ""
        """Of the last event, in a stream of such."""
        self._form = form
        self._id = ""
        self._data: dict[str, Any] = {}
        self._raw = bytearray()
        self._expects = "size"
        self._left = 0
        """Bytes of the chunk, or of the body, that are to come."""
        self._chunked = False

    def feed(self, data: bytes) -> list[Read]:
        self._raw += data
        if self.complete:
            return []
        if not self.status and not self._head():
            return []
        self._take()
        return self._records()

    def _head(self) -> bool:
        end = self._raw.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = self._raw[:end].decode("latin-1").split("\r\n")
        del self._raw[: end + 4]
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self._chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        if not self._chunked:
            self._expects = "body"
            self._left = int(self.headers.get("content-length", "0"))
        return True

    def _take(self) -> None:
        raw = self._raw
        while not self.complete:
            if self._expects == "size":
                end = raw.find(b"\r\n")
                if end < 0:
                    return
                self._left = int(raw[:end], 16)
                del raw[: end + 2]
                self._expects = "chunk" if self._left else "end"
            elif self._expects in ("chunk", "body"):
                taken = min(self._left, len(raw))
                self.body += raw[:taken]
                del raw[:taken]
                self._left -= taken
                if self._left:
                    return
                self.complete = self._expects == "body"
                self._expects = "gap"
            else:
                # the line's end after a chunk, or the empty line after the last
                if len(raw) < 2:
                    return
                del raw[:2]
                self.complete = self._expects == "end"
                self._expects = "size"

    def _records(self) -> list[Read]:
        if not self._form or self.status != 200:
            return []
        if self._form == "frames":
            return self._frames()
        if self._form == "raw" and not self._chunked:
            if not self.complete:
                return []
            place = Place(int(self.headers["x-partition"]), int(self.headers["x-offset"]))
            read = [Read(ident(bytes(self.body)), place)]
            self.body.clear()
            return read
        found = []
        while (end := self.body.find(b"\n")) >= 0:
            line = bytes(self.body[:end])
            del self.body[: end + 1]
            if self._form == "raw":
                found.append(Read(ident(line), None))
            elif self._form == "sse":
                found += self._event(line)
            elif line.strip():
                record = json.loads(line)
                found.append(Read(ident(record["value"].encode()), Place(record["partition"], record["offset"])))
        return found

    def _event(self, line: bytes) -> list[Read]:
        """One line of an event, which has its id before its data and is whole with the empty line behind them."""
        name, _, value = line.decode().partition(": ")
        if name == "id":
            self._id = value
        elif name == "data":
            self._data = json.loads(value)
        elif not line and self._data:
            record, self._data, self.last_id = self._data, {}, self._id
            return [Read(ident(record["value"].encode()), Place(record["partition"], record["offset"]))]
        return []

    def _frames(self) -> list[Read]:
        found = []
        while (frame := _frame(self.body)) is not None:
            size, partition, offset, value = frame
            del self.body[:size]
            if partition >= 0 and value is not None:
                found.append(Read(ident(value), Place(partition, offset)))
        return found


def _frame(body: bytearray) -> tuple[int, int, int, bytes | None] | None:
    """The first frame's size, partition, offset and value; ``None`` when it is not whole."""
    try:
        partition, offset, _ = struct.unpack_from(">iqq", body)
        _, at = _bytes(body, 20)
        value, at = _bytes(body, at)
        (headers,) = struct.unpack_from(">i", body, at)
        at += 4
        for _ in range(2 * headers):
            _, at = _bytes(body, at)
    except struct.error:
        return None
    return at, partition, offset, value


def _bytes(body: bytearray, at: int) -> tuple[bytes | None, int]:
    (size,) = struct.unpack_from(">i", body, at)
    if size < 0:
        return None, at + 4
    if at + 4 + size > len(body):
        raise struct.error("not whole")
    return bytes(body[at + 4 : at + 4 + size]), at + 4 + size


class Client:
    """A connection to a gateway, over TLS where ``secure``."""

    def __init__(
        self, port: int, timeout_seconds: float = 30.0, receive_buffer_bytes: int = 0, *, secure: bool = False
    ) -> None:
        self.socket = socket.socket()
        if receive_buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.settimeout(timeout_seconds)
        try:
            self.socket.connect(("127.0.0.1", port))
            self._tls = Tls(self.socket) if secure else None
        except OSError:
            self.socket.close()
            raise

    def send(self, method: str, target: str, body: bytes | None = None, **headers: str) -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: gateway"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.put("\r\n".join([*lines, "", ""]).encode() + (body or b""))

    def put(self, data: bytes) -> None:
        self.socket.sendall(data if self._tls is None else self._tls.sealed(data))

    def take(self, size: int) -> bytes | None:
        """Takes at most so many bytes from the kernel, and gives what they say: over TLS perhaps nothing yet.
        ``None`` at the end.
        """
        data = self.socket.recv(size)
        if not data:
            return None
        return data if self._tls is None else self._tls.opened(data)

    def say_goodbye(self) -> None:
        """TLS's close alert; without TLS nothing."""
        if self._tls is not None:
            self.socket.sendall(self._tls.goodbye())

    def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        """Sends a request and reads its whole answer; ``ConnectionError`` when it was cut off."""
        self.send(method, target, body, **headers)
        incoming = Incoming()
        while not incoming.complete:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("the answer was cut off")
            incoming.feed(data)
        return Answer(incoming.status, bytes(incoming.body))

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """In order, if all was read; else the kernel makes it a reset."""
        self.socket.close()


class Tls:
    """TLS over bytes that are fed to it, so that it never takes more from the kernel than its program does."""

    def __init__(self, connected: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                connected.sendall(self._out.read())
                data = connected.recv(65536)
                if not data:
                    raise ConnectionError("the handshake was cut off") from None
                self._in.write(data)
        connected.sendall(self._out.read())

    def sealed(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self._out.read()

    def opened(self, data: bytes) -> bytes | None:
        """``None`` when the gateway has said goodbye."""
        self._in.write(data)
        plain = bytearray()
        try:
            while piece := self._tls.read(65536):
                plain += piece
        except ssl.SSLWantReadError:
            return bytes(plain)
        return bytes(plain) or None

    def goodbye(self) -> bytes:
        with contextlib.suppress(ssl.SSLError):  # its answer is not waited for
            self._tls.unwrap()
        return self._out.read()


def ask(port: int, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
    """One request on a connection of its own."""
    client = Client(port)
    try:
        return client.ask(method, target, body, **headers)
    finally:
        client.close()
