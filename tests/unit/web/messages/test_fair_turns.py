"""Who is handled when more requests arrive than can be: by application, early refused, nothing forgotten."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from kateway.web.exchange import Request, Response
from kateway.web.messages.fair_turns import SHARED_TURN_SECONDS, TURN_SECONDS, FairTurns

WORK_SECONDS = 0.001


class Connection:
    """As much of a client's connection as matters here."""

    def __init__(self, application: str | None) -> None:
        self.gone = False
        self.told: list[float] = []
        self.remembered: Any = application and SimpleNamespace(
            authorized=SimpleNamespace(principal=SimpleNamespace(application=application))
        )

    def told_to_wait(self, seconds: float) -> None:
        self.told.append(seconds)


class Asked:
    """An exchange whose request came just now."""

    def __init__(self, clock: Clock, application: str | None, patience: float, peer: str = "10.0.0.1") -> None:
        self.application = application or peer
        self.patience = patience
        self.connection = Connection(application)
        self.request = Request(
            b"POST", b"/v1/topics/t", [], b"", http_1_1=True, peer=peer, secure=False, id="id", received=clock.seconds()
        )
        self.answer: Response | None = None
        self.aborted = False
        self.handled_at: float | None = None

    def respond(self, response: Response) -> None:
        self.answer = response

    def abort(self) -> None:
        self.aborted = True


class World:
    """Each request takes ``WORK_SECONDS`` of the loop's time."""

    def __init__(self, max_wait_seconds: float = 5.0) -> None:
        self.clock = Clock()
        self.handled: list[str] = []
        self.work: dict[str, float] = {}
        """Of applications whose requests take longer."""
        self.asked: list[Asked] = []
        self.failing = False
        self.turns = FairTurns(self.clock, self._handle, self._patience, max_wait_seconds)

    def _handle(self, exchange: Any) -> None:
        exchange.handled_at = self.clock.seconds()
        self.handled.append(exchange.application)
        self.clock.rightNow += self.work.get(exchange.application, WORK_SECONDS)
        if self.failing:
            raise ZeroDivisionError("a fault")

    def _patience(self, request: Any) -> float:
        return next(each.patience for each in self.asked if each.request is request)

    def ask(self, application: str | None, count: int = 1, patience: float = inf, peer: str = "10.0.0.1") -> list[Any]:
        made = []
        for _ in range(count):
            made.append(Asked(self.clock, application, patience, peer))
            self.asked.append(made[-1])
            self.turns.handle(made[-1])  # type: ignore[arg-type]
        return made

    def turn(self) -> None:
        """Lets one turn of the loop go by: ``advance`` would also call what its calls have added."""
        if self.clock.calls:
            call = self.clock.calls.pop(0)
            call.called = 1
            call.func(*call.args, **call.kw)

    def all_turns(self) -> None:
        while self.turns.waiting:
            self.turn()


def test_requests_of_a_quiet_loop_are_handled_as_they_come() -> None:
    world = World()
    for _ in range(5):
        world.ask("app")
        world.turn()
        world.turn()
    assert len(world.handled) == 5
    assert world.turns.waiting == 0
    assert world.clock.getDelayedCalls() == []


def test_one_turn_handles_no_more_than_its_time() -> None:
    world = World()
    world.ask("app", 100)
    assert TURN_SECONDS / WORK_SECONDS <= len(world.handled) <= TURN_SECONDS / WORK_SECONDS + 1
    before = world.clock.seconds()
    world.turn()
    assert world.clock.seconds() - before <= TURN_SECONDS + WORK_SECONDS
    world.all_turns()
    assert len(world.handled) == 100


def test_calm_application_is_handled_in_the_next_turns_beside_a_flood() -> None:
    world = World()
    world.ask("flood", 500)
    calm = world.ask("calm", 2)
    world.turn()
    world.turn()
    assert all(each.handled_at is not None for each in calm)
    assert world.turns.waiting > 400


def test_two_floods_are_handled_in_turns() -> None:
    world = World()
    world.ask("first", 300)
    world.ask("second", 100)
    world.handled.clear()
    world.all_turns()
    assert abs(world.handled[:100].count("first") - 50) <= 1


def test_turns_are_short_while_they_are_shared() -> None:
    world = World()
    world.ask("first", 100)
    world.ask("second", 100)
    before = world.clock.seconds()
    world.turn()
    assert world.clock.seconds() - before <= SHARED_TURN_SECONDS + WORK_SECONDS


def test_application_that_begins_is_not_owed_the_time_before() -> None:
    world = World()
    world.ask("old", 300)
    for _ in range(10):
        world.turn()
    world.ask("new", 100)
    world.handled.clear()
    world.turn()
    world.turn()
    assert "old" in world.handled


def test_application_with_one_slow_request_at_a_time_has_no_more_than_its_share() -> None:
    world = World()
    world.work["slow"] = 0.1
    world.ask("flood", 3000)
    world.turn()
    before = len(world.handled)
    while world.turns.waiting > 100:
        slow = world.ask("slow")[0]
        while slow.handled_at is None and world.turns.waiting > 100:
            world.turn()
    handled = world.handled[before:]
    seconds_slow, seconds_flood = handled.count("slow") * 0.1, handled.count("flood") * WORK_SECONDS
    assert abs(seconds_slow - seconds_flood) <= 0.2


def test_request_whose_patience_cannot_be_read_is_answered_and_those_behind_it_are_handled(
    logged_errors: list[Any],
) -> None:
    world = World()
    world.ask("app", 30)
    odd = world.ask("other")[0]
    world.asked.remove(odd)
    world.all_turns()
    assert odd.answer.status == 500
    assert len(world.handled) == 30
    logged_errors.clear()


def test_requests_without_an_application_are_told_apart_by_address() -> None:
    world = World()
    world.ask(None, 300, peer="10.0.0.1")
    other = world.ask(None, 1, peer="10.0.0.2")
    world.turn()
    assert other[0].handled_at is not None


def test_request_that_would_wait_longer_than_its_client_is_refused_at_once() -> None:
    world = World()
    world.ask("app", 200)
    world.turn()
    world.turn()
    refused, kept = world.ask("app", 1, patience=0.05)[0], world.ask("app", 1, patience=5)[0]
    assert refused.answer.status == 503
    assert orjson.loads(refused.answer.body)["type"] == "urn:kateway:error:overloaded"
    assert (b"Retry-After", b"1") in refused.answer.headers
    assert refused.connection.told == [1]
    world.all_turns()
    assert refused.handled_at is None
    assert kept.handled_at is not None
    assert world.turns.refused == 1


def test_request_is_refused_where_it_would_wait_longer_than_any_may() -> None:
    world = World(max_wait_seconds=0.1)
    world.ask("app", 300)
    for _ in range(3):
        world.turn()
    assert world.ask("app")[0].answer.status == 503


def test_request_whose_time_is_over_when_its_turn_comes_is_refused_unhandled() -> None:
    world = World()
    world.ask("app", 50)
    late = world.ask("other", 1, patience=0.5)[0]
    world.clock.rightNow += 1
    world.all_turns()
    assert late.answer.status == 503
    assert late.handled_at is None


def test_request_of_a_client_that_has_gone_is_not_handled() -> None:
    world = World()
    world.ask("app", 50)
    gone = world.ask("app")[0]
    gone.connection.gone = True
    world.all_turns()
    assert gone.handled_at is None
    assert gone.answer is None


def test_handler_that_raises_is_answered_500_and_the_others_are_handled(logged_errors: list[Any]) -> None:
    world = World()
    waiting = world.ask("app", 20)
    done = len(world.handled)
    world.failing = True
    world.all_turns()
    assert len(world.handled) == 20
    assert [each.answer.status for each in waiting[done:]] == [500] * (20 - done)
    assert len(logged_errors) == 20 - done
    logged_errors.clear()


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(0, 40), st.integers(0, 3)),
        max_size=20,
    )
)
def test_every_request_is_handled_once_and_those_of_an_application_in_their_order(
    steps: list[tuple[str | None, int, int]],
) -> None:
    world = World(max_wait_seconds=60)
    for application, count, turns in steps:
        world.ask(application, count)
        for _ in range(turns):
            world.turn()
    world.all_turns()
    world.turn()
    assert len(world.handled) == len(world.asked)
    for name in {each.application for each in world.asked}:
        times = [each.handled_at for each in world.asked if each.application == name]
        assert times == sorted(times)
    assert world.clock.getDelayedCalls() == []
