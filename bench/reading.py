"""The cheapest reader of a response that Python allows: it counts bytes and looks at nothing but the end."""

from __future__ import annotations

import socket
import time
from typing import NamedTuple

BUFFER_BYTES = 1 << 20
LAST_CHUNK = b"\r\n0\r\n\r\n"


class ReadFailed(Exception):
    """The response was not what a figure can be made of."""


class Response(NamedTuple):
    """A response read to its end."""

    bytes: int
    first_byte_seconds: float
    """From the request to the first byte of body: joining the group and the first fetch."""
    seconds: float
    """From the first byte of body to the last."""


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def ask(connection: socket.socket, path: str, accept: str) -> bytes:
    """Sends a GET and gives what follows the head in the first reads (perhaps nothing)."""
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: {accept}\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        more = connection.recv(65536)
        if not more:
            raise ReadFailed(f"the connection ended in the response's head: {head!r}")
        head += more
    head, _, body = head.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ReadFailed(head.decode("latin-1"))
    return body


def read_all(port: int, path: str, accept: str) -> Response:
    """One chunked response, from the request to the last chunk."""
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    with connect(port) as connection:
        asked = time.perf_counter()
        body = ask(connection, path, accept)
        if not body:
            body = connection.recv(65536)
        began = time.perf_counter()
        count = len(body)
        tail = body[-len(LAST_CHUNK) :]
        while tail != LAST_CHUNK:
            size = connection.recv_into(view)
            if not size:
                raise ReadFailed(f"the response was cut off after {count} bytes")
            count += size
            tail = (tail + buffer[max(size - len(LAST_CHUNK), 0) : size])[-len(LAST_CHUNK) :]
        return Response(count, began - asked, time.perf_counter() - began)
