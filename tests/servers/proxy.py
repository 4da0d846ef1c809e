"""A TCP proxy that breaks connections on demand, in a thread of its own.

It knows nothing of the protocol it carries. What it does is set at any time and holds for open connections too::

    proxy = Proxy(upstream_port)
    proxy.drop_responses()              # requests arrive and are acted on, answers are lost
    proxy.cut_after_response_bytes(100) # each connection ends once it has carried so many bytes back
    proxy.refuse() / proxy.blackhole() / proxy.delay(0.2) / proxy.pass_through()
    proxy.cut()                         # resets the open connections now
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from typing import Any


class Proxy:
    """Listens on ``port`` of loopback and carries bytes to ``upstream_port`` there and back."""

    def __init__(self, upstream_port: int, *, upstream_host: str = "127.0.0.1") -> None:
        self._upstream = (upstream_host, upstream_port)
        self._cut_after: int | None = None
        self._drop_responses = False
        self._refuse = False
        self._delay_seconds = 0.0
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections_made = 0
        self.response_bytes = 0
        self.lost_response_bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._through = asyncio.Event()
        self._through.set()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="proxy", daemon=True)
        self._thread.start()
        ready.wait()

    # --- what it does; each call returns when it holds ---

    def pass_through(self) -> None:
        """Undoes everything below."""

        def undo() -> None:
            self._cut_after, self._drop_responses, self._refuse, self._delay_seconds = None, False, False, 0.0
            self._through.set()

        self._call(undo)

    def drop_responses(self) -> None:
        """Requests get through, answers do not: the work is done and its client gets no answer."""
        self._set("_drop_responses", True)

    def cut_after_response_bytes(self, count: int) -> None:
        """Every connection made from now on is reset when ``count`` bytes have come back; those beyond are lost."""
        self._set("_cut_after", count)

    def refuse(self) -> None:
        """New connections are reset at once."""
        self._set("_refuse", True)

    def delay(self, seconds: float) -> None:
        """Each piece that is read waits so long before it goes on, both ways."""
        self._set("_delay_seconds", seconds)

    def blackhole(self) -> None:
        """Connections are accepted and stay open; no byte gets through either way until ``pass_through``."""
        self._call(self._through.clear)

    def cut(self) -> None:
        """Resets every open connection, on both sides."""
        self._call(self._cut_all)

    @property
    def open_connections(self) -> int:
        return len(self._pairs)

    def close(self) -> None:
        """Ends every connection and the thread."""
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    # --- how ---

    def _set(self, name: str, value: Any) -> None:
        self._call(lambda: setattr(self, name, value))

    def _call(self, function: Callable[[], None]) -> None:
        async def call() -> None:
            function()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accepted, sock=self._listener))
        ready.set()
        self._loop.run_forever()
        server.close()
        self._cut_all()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(task := asyncio.current_task())  # type: ignore[arg-type]
        try:
            self.connections_made += 1
            if self._refuse:
                _reset(writer)
                return
            try:
                up_reader, up_writer = await asyncio.open_connection(*self._upstream)
            except OSError:
                _reset(writer)
                return
            pair = (writer, up_writer)
            self._pairs.add(pair)
            try:
                await self._carry(reader, writer, up_reader, up_writer)
            finally:
                self._pairs.discard(pair)
                _reset(writer)
                _reset(up_writer)
        except asyncio.CancelledError:
            pass  # the proxy stops; asyncio's streams log a connection's task that ends cancelled as an error
        finally:
            self._tasks.discard(task)  # type: ignore[arg-type]

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        left = self._cut_after

        async def back(data: bytes) -> bool:
            nonlocal left
            if self._drop_responses:
                self.lost_response_bytes += len(data)
                return True
            if left is not None:
                self.lost_response_bytes += max(len(data) - left, 0)
                data, left = data[:left], max(left - len(data), 0)
            self.response_bytes += len(data)
            writer.write(data)
            await writer.drain()
            return left != 0

        async def forth(data: bytes) -> bool:
            up_writer.write(data)
            await up_writer.drain()
            return True

        directions = [
            asyncio.ensure_future(self._pump(reader, up_writer, forth)),
            asyncio.ensure_future(self._pump(up_reader, writer, back)),
        ]
        try:
            # an orderly end of one direction is passed on and the other goes on; a cut ends both
            done, _ = await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            if all(task.result() for task in done):
                await asyncio.wait(directions)
        finally:
            for task in directions:
                task.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, forward: Callable[[bytes], Awaitable[bool]]
    ) -> bool:
        """Carries one direction until it ends; True after an orderly end, False after a cut or a failure."""
        try:
            while data := await source.read(65536):
                if self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                await self._through.wait()
                if not await forward(data):
                    return False
            sink.write_eof()
        except OSError:
            return False
        return True

    def _cut_all(self) -> None:
        for pair in self._pairs:
            for writer in pair:
                _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes with a reset, so that the peer sees a broken connection and not an end."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
