"""Acknowledgements on a WebSocket: one message at a time, in their order, while the connection is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from kateway.core.delivery.ledger import Ack
from kateway.errors import KatewayError
from kateway.web.messages.websocket_subscribe import MAX_WAITING_MESSAGES, SocketOutlet

ACK = '[{"partition":0,"offset":%d}]'


class FakeSocket:
    subprotocol = None

    def __init__(self) -> None:
        self.paused = False
        self.sent: list[bytes] = []
        self.message: Callable[[str | bytes], None] = lambda message: None

    def listen(self, message: Callable[[str | bytes], None], pong: Callable[[bytes], None]) -> None:
        self.message = message

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def send(self, kind: int, payloads: Sequence[bytes]) -> None:
        self.sent += payloads


class Acknowledging:
    def __init__(self) -> None:
        self.socket = FakeSocket()
        self.offsets: list[int] = []
        self.waiting: list[Deferred[None]] = []
        self.wait = True
        outlet: Any = SocketOutlet(self.socket, None, self.acknowledge, "id")  # type: ignore[arg-type]
        assert outlet is not None

    async def acknowledge(self, acks: Sequence[Ack]) -> list[KatewayError | None]:
        self.offsets += [ack.offset for ack in acks]
        if self.wait:
            waiter: Deferred[None] = Deferred()
            self.waiting.append(waiter)
            await waiter
        return [None] * len(acks)

    def go_on(self) -> None:
        self.waiting.pop().callback(None)


def test_acknowledgements_that_arrive_together_are_applied_one_at_a_time() -> None:
    client = Acknowledging()
    for offset in range(3):
        client.socket.message(ACK % offset)
    assert client.offsets == [0]
    client.go_on()
    assert client.offsets == [0, 1]
    client.go_on()
    client.go_on()
    assert client.offsets == [0, 1, 2]


def test_connection_is_read_while_an_acknowledgement_waits_until_too_many_do() -> None:
    client = Acknowledging()
    for offset in range(MAX_WAITING_MESSAGES + 1):
        client.socket.message(ACK % offset)
    assert not client.socket.paused, "its end would not be noticed"
    client.socket.message(ACK % 1000)
    assert client.socket.paused
    client.wait = False
    client.go_on()
    assert not client.socket.paused
    assert len(client.offsets) == MAX_WAITING_MESSAGES + 2


def test_acknowledgement_that_is_not_sound_is_answered_and_the_next_is_applied() -> None:
    client = Acknowledging()
    client.wait = False
    client.socket.message("no")
    client.socket.message(ACK % 1)
    assert client.offsets == [1]
    assert b"urn:kateway:error:" in client.socket.sent[0]
