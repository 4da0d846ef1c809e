"""Cheap HTTP clients on asyncio: thousands in the bench's own process, so that the daemon has its core for itself."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import time
from collections.abc import Sequence

from reading import LAST_CHUNK, ReadFailed

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: (\d+)\r\n")
_STAMP = re.compile(rb'"value":"sent ([0-9.]+)')
_POSITION = re.compile(rb'"partition":(\d+),"offset":(\d+)')
NDJSON = "application/x-ndjson"


def get(path: str, accept: str = NDJSON) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept: {accept}\r\n\r\n".encode()


def post(path: str, body: bytes, content_type: str = "application/octet-stream") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def positions(body: bytes) -> list[tuple[int, int]]:
    """Partition and offset of each record of an NDJSON body, chunked or not."""
    return [(int(partition), int(offset)) for partition, offset in _POSITION.findall(body)]


class Client(asyncio.Protocol):
    """One connection that asks, waits for the whole answer, and asks again."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._wanted = 0
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        """The body of the answer, with its chunks' framing; ``ReadFailed`` for a status that is not 2xx."""
        assert self._transport is not None
        self._parts, self._size, self._wanted = [], 0, 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if not self._wanted:
            data = b"".join(self._parts)
            self._parts = [data]
            head, end, _ = data.partition(b"\r\n\r\n")
            if not end:
                return
            length = _LENGTH.search(head + b"\r\n")
            if length is not None:
                self._wanted = len(head) + 4 + int(length[1])
            else:
                self._wanted = len(head) + 4 if b" 204 " in head[:14] else -1
        if self._wanted < 0:
            if data[-5:] != LAST_CHUNK[-5:]:
                return
        elif self._size < self._wanted:
            return
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            whole = b"".join(self._parts)
            if whole.startswith(b"HTTP/1.1 2"):
                answer.set_result(whole.partition(b"\r\n\r\n")[2])
            else:
                answer.set_exception(ReadFailed(whole.decode("latin-1")))

    def connection_lost(self, _error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ReadFailed("the connection ended in an answer"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def client(port: int) -> Client:
    _transport, made = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
    return made


class Follower(asyncio.Protocol):
    """A ``follow=1`` that notes how long each stamped record was on its way."""

    def __init__(self, path: str, delays: list[float]) -> None:
        self.begun = False
        self.lost = False
        self._path = path
        self._delays = delays
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(get(self._path))

    def data_received(self, data: bytes) -> None:
        if not self.begun:
            self.begun = data.startswith(b"HTTP/1.1 200 ")
        for stamp in _STAMP.findall(data):
            self._delays.append(time.monotonic() - float(stamp))

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost = True

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def followers(port: int, paths: Sequence[str], delays: list[float]) -> list[Follower]:
    """All connected, a hundred at a time; their heads may still be to come."""
    loop = asyncio.get_running_loop()
    made: list[Follower] = []

    def another(path: str) -> Follower:
        made.append(Follower(path, delays))
        return made[-1]

    for start in range(0, len(paths), 100):
        await asyncio.gather(
            *(
                loop.create_connection(lambda path=path: another(path), "127.0.0.1", port)
                for path in paths[start : start + 100]
            )
        )
    return made


async def begun(all_of_them: Sequence[Follower], seconds: float) -> int:
    """How many have their head and are connected, at the latest after ``seconds``."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not all(each.begun for each in all_of_them):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return sum(each.begun and not each.lost for each in all_of_them)


def stamp() -> bytes:
    """A record's value that says when it was sent."""
    return b"sent %.6f" % time.monotonic()


class SlowReader:
    """A follower that takes so many bytes a second, and whose kernel buffers little for it."""

    def __init__(self, port: int, path: str) -> None:
        self.read = 0
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", port))
        self._socket.sendall(get(path))
        self._socket.setblocking(False)

    def take(self, size: int) -> None:
        try:
            data = self._socket.recv(size)
        except BlockingIOError:
            return
        if not data:
            raise ReadFailed("a slow reader was cut off")
        self.read += len(data)

    def close(self) -> None:
        self._socket.close()


async def take_slowly(readers: Sequence[SlowReader], bytes_a_second: int) -> None:
    """Each reader takes its share every second, one after the other spread over it; until cancelled."""
    pause = 1 / len(readers)
    due = time.monotonic()
    while True:
        for reader in readers:
            reader.take(bytes_a_second)
            due += pause
            await asyncio.sleep(max(due - time.monotonic(), 0))


def allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    if not ordered:
        raise ReadFailed("nothing was received")
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]
