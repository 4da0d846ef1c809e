"""Sending at once on a real socket: all arrives in order, and no call sends more than its share of the loop's time."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactor

from kateway.web.tcp.transport import AT_ONCE_BYTES, PromptServer


class Pair:
    """A server's transport, and the client's end of its connection."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            # a window that takes whatever is sent here
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            self.client = socket.create_connection(listening.getsockname())
            accepted, peer = listening.accept()
        accepted.setblocking(False)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        nothing: Any = None
        self.reactor: Any = MemoryReactor()
        self.server = PromptServer(accepted, Protocol(), peer, nothing, 0, self.reactor)

    def received(self, count: int) -> bytes:
        """Runs the loop and reads until so many bytes are there."""
        found = b""
        self.client.settimeout(10)
        while len(found) < count:
            if self.server in self.reactor.writers:
                self.server.doWrite()
            found += self.client.recv(1 << 20)
        return found


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.client.close()
    pair.server.socket.close()


def test_small_response_is_sent_at_once_and_leaves_nothing_to_the_loop(pair: Pair) -> None:
    pair.server.write(b"x" * 1000)
    assert pair.server.handed == pair.server.offered == 1000
    assert pair.server not in pair.reactor.writers
    assert pair.received(1000) == b"x" * 1000


def test_large_response_is_sent_in_several_turns_of_the_loop_and_whole(pair: Pair) -> None:
    body = bytes(range(256)) * (3 * AT_ONCE_BYTES // 256)
    pair.server.write(body)
    assert pair.server.handed <= AT_ONCE_BYTES
    assert pair.server.offered == len(body)
    pair.server.write(b"behind")
    assert pair.received(len(body) + 6) == body + b"behind"
    assert pair.server.handed == pair.server.offered
