"""Clients that keep their connections: publishers, streams and idle ones, which note each fault that they meet."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter

PAUSE_SECONDS = 0.1


class KeepAliveLoad:
    """Runs in a thread of its own from ``start`` to ``stop``. Every stream is a group of its own."""

    def __init__(self, port: int, topic: str, *, publishers: int, streams: int, idle: int) -> None:
        self._port = port
        self._topic = topic
        self._counts = publishers, streams, idle
        self.faults: Counter[str] = Counter()
        self.written: set[str] = set()
        self.got: list[Counter[str]] = [Counter() for _ in range(streams)]
        self.streams_begun = 0
        self._publishing = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._published = asyncio.Event()
        self._read = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> KeepAliveLoad:
        self._thread.start()
        return self

    def stop(self, timeout_seconds: float = 60.0) -> None:
        """Ends the publishers, then waits until every stream has had everything."""
        assert self._loop is not None
        self._publishing = False
        self._loop.call_soon_threadsafe(self._published.set)
        end = time.monotonic() + timeout_seconds
        while self.lost() and time.monotonic() < end:
            time.sleep(0.1)
        self._loop.call_soon_threadsafe(self._read.set)
        self._thread.join(timeout_seconds)

    def lost(self) -> int:
        """How many records some stream has not had."""
        return sum(len(self.written - set(each)) for each in self.got)

    def repeated(self) -> int:
        """How many records came to a stream again."""
        return sum(count - 1 for each in self.got for count in each.values())

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        publishers, streams, idle = self._counts
        reading = [asyncio.create_task(self._stream(number)) for number in range(streams)]
        await asyncio.gather(
            *(self._publisher(number) for number in range(publishers)), *(self._idle() for _ in range(idle))
        )
        await self._read.wait()
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(writer)
        return reader, writer

    async def _publisher(self, number: int) -> None:
        writer: asyncio.StreamWriter | None = None
        count = 0
        while self._publishing:
            value = f"{number}-{count}"
            try:
                if writer is None:
                    reader, writer = await self._connect()
                head = f"POST /v1/topics/{self._topic} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(value)}\r\n\r\n"
                writer.write(head.encode() + value.encode())
                status, closes = await _response(reader)
                if status == 201:
                    self.written.add(value)
                else:
                    self.faults[f"status {status}"] += 1
                if closes:
                    self.faults["closed"] += 1
                    writer.close()
                    writer = None
                count += 1
            except (OSError, asyncio.IncompleteReadError) as error:
                self.faults[type(error).__name__] += 1
                writer = None
                count += 1
                await asyncio.sleep(PAUSE_SECONDS)
            await asyncio.sleep(PAUSE_SECONDS)
        if writer is not None:
            writer.close()

    async def _stream(self, number: int) -> None:
        while True:
            try:
                reader, writer = await self._connect()
                while True:
                    path = f"/v1/topics/{self._topic}/g{number}?follow=1&limit=1000000"
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    head = await reader.readuntil(b"\r\n\r\n")
                    if head.split()[1] != b"200":
                        self.faults[f"stream's status {head.split()[1].decode()}"] += 1
                        break
                    self.streams_begun += 1
                    await self._records(reader, self.got[number])
            except (OSError, asyncio.IncompleteReadError) as error:
                self.faults[f"stream's {type(error).__name__}"] += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def _records(self, reader: asyncio.StreamReader, got: Counter[str]) -> None:
        """Reads a chunked response to its last chunk."""
        rest = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            *lines, rest = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n")
            got.update(line.decode() for line in lines if line)
        await reader.readexactly(2)

    async def _idle(self) -> None:
        reader, writer = await self._connect()
        for _ in range(2):
            writer.write(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
            try:
                status, _closes = await _response(reader)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.faults[f"idle {type(error).__name__}"] += 1
                return
            if status != 200:
                self.faults[f"idle {status}"] += 1
            await self._published.wait()
        writer.close()


async def _response(reader: asyncio.StreamReader) -> tuple[int, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    lengths = [line.partition(b":")[2] for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
    if lengths:
        await reader.readexactly(int(lengths[0]))
    return int(head.split()[1]), b"\r\nconnection: close" in head
