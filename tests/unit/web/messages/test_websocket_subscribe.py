"""Acknowledgements on a WebSocket: one message at a time, in their order, while the connection is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from kateway.core.delivery.ledger import Ack
from kateway.errors import KatewayError
from kateway.web.messages.websocket_subscribe import MAX_UNREAD_BYTES, MAX_WAITING_MESSAGES, SocketOutlet

ACK = '[{"partition":0,"offset":%d}]'


class FakeSocket:
    subprotocol = None

    def __init__(self) -> None:
        self.paused = False
        self.open = True
        self.sent: list[bytes] = []
        self.drained: Callable[[], None] | None = None
        self.message: Callable[[str | bytes], None] = lambda message: None

    def listen(self, message: Callable[[str | bytes], None], pong: Callable[[bytes], None]) -> None:
        self.message = message

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def writable(self) -> bool:
        return self.open

    def on_writable(self, callback: Callable[[], None] | None) -> None:
        self.drained = callback

    def close(self, code: int, reason: str = "") -> None:
        self.closed = code

    def send(self, kind: int, payloads: Sequence[bytes]) -> None:
        self.sent += payloads


class Acknowledging:
    def __init__(self) -> None:
        self.socket = FakeSocket()
        self.offsets: list[int] = []
        self.waiting: list[Deferred[None]] = []
        self.wait = True
        self.outlet: Any = SocketOutlet(self.socket, None, self.acknowledge, "id")  # type: ignore[arg-type]

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


def test_client_that_reads_no_answers_is_read_no_further_until_it_does() -> None:
    client = Acknowledging()
    client.wait = False
    client.socket.open = False
    sent = 0
    while not client.socket.paused:
        client.socket.message("no")
        sent += 1
        assert sum(map(len, client.socket.sent)) < 2 * MAX_UNREAD_BYTES
    client.socket.message(ACK % 1)
    assert client.offsets == []
    client.socket.open = True
    assert client.socket.drained is not None
    client.socket.drained()
    assert client.offsets == [1]
    assert not client.socket.paused
    assert len(client.socket.sent) == sent


def test_acknowledgements_of_a_client_that_reads_no_records_are_applied() -> None:
    client = Acknowledging()
    client.wait = False
    client.socket.open = False
    for offset in range(2 * MAX_WAITING_MESSAGES):
        client.socket.message(ACK % offset)
    assert len(client.offsets) == 2 * MAX_WAITING_MESSAGES


def test_acknowledgements_that_came_before_the_client_went_are_applied() -> None:
    client = Acknowledging()
    client.wait = False
    client.socket.open = False
    while not client.socket.paused:
        client.socket.message("no")
    client.socket.message(ACK % 1)
    client.outlet.end(None, leaving=False)
    assert client.offsets == [1]


def test_room_for_more_is_told_to_the_feed() -> None:
    client = Acknowledging()
    told: list[str] = []
    client.outlet.on_writable(lambda: told.append("room"))
    assert client.socket.drained is not None
    client.socket.drained()
    assert told == ["room"]
