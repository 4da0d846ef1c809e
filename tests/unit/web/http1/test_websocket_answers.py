"""A WebSocket whose client sends and does not read: what waits for it stays small."""

from __future__ import annotations

from typing import Any

from wsproto.connection import Connection, ConnectionType
from wsproto.events import Ping

from kateway.web.http1.websocket import Socket


class Channel:
    """A connection whose client takes nothing while it is not ``open``."""

    def __init__(self) -> None:
        self.open = True
        self.sent = 0
        self.wire: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.wire.append(data)

    def writable(self) -> bool:
        return self.open


def pings(count: int) -> bytes:
    client = Connection(ConnectionType.CLIENT)
    return b"".join(client.send(Ping(payload=b"%d" % number)) for number in range(count))


def listening(channel: Any) -> Socket:
    socket = Socket(channel, None, 1000)
    socket.listen(lambda _message: None, lambda _payload: None)
    return socket


def test_each_ping_is_answered_while_the_client_reads() -> None:
    channel = Channel()
    listening(channel).dataReceived(pings(3))
    assert channel.wire == [b"\x8a\x010", b"\x8a\x011", b"\x8a\x012"]


def test_pings_of_a_client_that_does_not_read_are_answered_once_it_does_and_then_the_last_one() -> None:
    channel = Channel()
    socket = listening(channel)
    channel.open = False
    socket.dataReceived(pings(1000))
    assert channel.wire == []
    channel.open = True
    socket.drained()
    assert channel.wire == [b"\x8a\x03999"]
    socket.drained()
    assert len(channel.wire) == 1
