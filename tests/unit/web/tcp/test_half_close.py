"""What a goodbye in doubt is held to mean, on a clock of the test and a wire that says what it is told to."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from kateway.web.tcp.half_close import GRACE_SECONDS, HalfClose


class Wire:
    """What the kernel would tell of a connection of which 100 bytes were sent."""

    def __init__(self, acknowledged: int | None = 100, round_trip: float = 0.05) -> None:
        self.offered = 100
        self.acknowledged = acknowledged
        self.reset = self.resetting = False
        self.fin = True
        self.round_trip = round_trip
        self.shut = False
        self.aborted = False

    def confirmed(self) -> int | None:
        return self.acknowledged

    def unsent(self) -> bool:
        return self.shut

    def look_for_error(self) -> None:
        self.reset = self.resetting

    def round_trip_seconds(self) -> float:
        return self.round_trip

    def abortConnection(self) -> None:
        self.aborted = True


class World:
    def __init__(
        self, wire: Wire, limit_seconds: float = 2.0, came_first: bool = False, speechless: bool = False
    ) -> None:
        self.clock = Clock()
        self.wire = wire
        self.unsettled = True
        self.said: list[float] = []
        self.speechless = speechless
        self.over: list[float] = []
        self.half_close = HalfClose(wire, self.clock.seconds, self.clock.callLater, lambda: self.unsettled)  # type: ignore[arg-type]
        if came_first:
            self.half_close.wait(self._over)
        else:
            self.half_close.ask(self._say, self._over, limit_seconds)

    def _say(self) -> None:
        self.said.append(self.clock.seconds())
        if not self.speechless:
            self.wire.offered += 5

    def _over(self) -> None:
        self.over.append(self.clock.seconds())

    def passes(self, seconds: float) -> None:
        self.clock.pump([0.001] * round(seconds * 1000))

    @property
    def ended(self) -> bool:
        return len(self.over) == 1 and not self.clock.getDelayedCalls()


def test_a_reset_that_answers_what_is_sent_is_a_closed_client_s() -> None:
    world = World(Wire())
    world.passes(GRACE_SECONDS + 0.001)
    assert len(world.said) == 1
    world.passes(0.04)
    world.wire.resetting = True
    world.passes(0.06)
    assert world.ended
    assert world.half_close.closed


def test_a_reset_behind_a_goodbye_of_tls_without_a_fin_is_that_of_something_unread() -> None:
    world = World(Wire())
    world.wire.fin = False
    world.passes(GRACE_SECONDS + 0.001)
    world.wire.resetting = True
    world.passes(0.06)
    assert world.ended
    assert not world.half_close.closed


def test_a_reset_before_anything_was_sent_is_that_of_something_unread() -> None:
    world = World(Wire())
    world.wire.resetting = True
    world.passes(GRACE_SECONDS + 0.001)
    assert world.ended
    assert world.said == []
    assert not world.half_close.closed


def test_a_reset_that_is_too_late_for_an_answer_is_that_of_something_unread() -> None:
    world = World(Wire())
    world.passes(GRACE_SECONDS + 0.2)
    world.wire.resetting = True
    world.passes(0.2)
    assert world.ended
    assert not world.half_close.closed


@pytest.mark.parametrize("what", ["send", "settled", "over"])
def test_doubt_in_which_something_fails_ends_the_connection(what: str, logged_errors: list[dict[str, Any]]) -> None:
    def fail() -> bool:
        raise ZeroDivisionError

    clock, wire = Clock(), Wire()
    settled = fail if what == "settled" else lambda: what != "over"
    half_close = HalfClose(wire, clock.seconds, clock.callLater, settled)  # type: ignore[arg-type]
    half_close.ask(fail if what == "send" else lambda: None, fail, 2.0)  # type: ignore[arg-type]
    clock.pump([0.01] * 10)
    assert wire.aborted
    assert not clock.getDelayedCalls()
    assert [event["log_failure"].type for event in logged_errors] == [ZeroDivisionError]
    logged_errors.clear()


def test_a_client_that_acknowledges_what_is_sent_lives_and_is_waited_for() -> None:
    world = World(Wire())
    world.passes(GRACE_SECONDS + 0.001)
    world.wire.acknowledged = 105
    world.passes(30)
    assert world.over == []
    assert world.half_close.alive
    world.unsettled = False
    world.passes(0.2)
    assert world.ended
    assert not world.half_close.closed


def test_a_client_that_lived_and_is_reset_has_not_read() -> None:
    world = World(Wire())
    world.passes(GRACE_SECONDS + 0.001)
    world.wire.acknowledged = 105
    world.passes(1)
    world.wire.resetting = True
    world.passes(0.2)
    assert world.ended
    assert not world.half_close.closed


def test_nothing_is_told_by_the_reset_of_one_to_whom_something_was_under_way() -> None:
    world = World(Wire(acknowledged=60))
    world.passes(GRACE_SECONDS + 0.001)
    world.wire.resetting = True
    world.passes(0.1)
    assert world.ended
    assert not world.half_close.closed


def test_peer_that_answers_nothing_at_all_is_taken_at_its_word_in_the_end() -> None:
    world = World(Wire(), limit_seconds=2.0)
    world.passes(1.9)
    assert world.over == []
    world.passes(0.3)
    assert world.ended
    assert world.half_close.closed


def test_peer_that_answers_nothing_and_had_not_acknowledged_everything_is_not() -> None:
    world = World(Wire(acknowledged=60), limit_seconds=2.0)
    world.passes(2.3)
    assert world.ended
    assert not world.half_close.closed


def test_peer_that_could_not_be_asked_is_held_to_nothing() -> None:
    world = World(Wire(), limit_seconds=2.0, speechless=True)
    world.passes(2.3)
    assert world.ended
    assert not world.half_close.closed


def test_client_without_room_for_the_response_has_not_closed() -> None:
    wire = Wire()
    wire.shut = True
    world = World(wire, limit_seconds=2.0)
    world.passes(2.3)
    assert world.ended
    assert not world.half_close.closed


def test_bytes_that_the_socket_takes_show_an_open_other_end_without_counts() -> None:
    world = World(Wire(acknowledged=None))
    world.passes(GRACE_SECONDS + 0.005)
    assert world.half_close.alive
    world.half_close.end()


def test_a_goodbye_that_came_with_the_request_is_waited_on_without_asking() -> None:
    world = World(Wire(), came_first=True)
    world.passes(5)
    assert (world.said, world.over) == ([], [])
    world.unsettled = False
    world.passes(0.2)
    assert world.ended
    assert not world.half_close.closed


def test_a_fin_behind_an_answered_goodbye_is_the_end_unless_a_reset_follows() -> None:
    for resetting in (False, True):
        world = World(Wire())
        world.passes(GRACE_SECONDS + 0.001)
        world.wire.acknowledged = 105
        world.passes(0.1)
        world.half_close.again()
        world.wire.resetting = resetting
        world.passes(GRACE_SECONDS + 0.001)
        assert world.ended
        assert world.half_close.closed is not resetting


def test_a_fin_behind_a_goodbye_that_is_not_answered_yet_changes_nothing() -> None:
    world = World(Wire())
    world.half_close.again()
    world.passes(GRACE_SECONDS + 0.001)
    assert len(world.said) == 1
    world.half_close.end()
    world.half_close.end()
    assert world.clock.getDelayedCalls() == []
