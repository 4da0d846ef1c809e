"""A member's turns go on whatever they raise, its holder hears of what lasts, and a stop ends them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock

from kateway.errors import KatewayError, TopicNotFound, Unavailable
from kateway.storage.kafka.cluster.connection import NoAnswer
from kateway.storage.kafka.consumer.member_life import Expelled, MemberLife, Over
from kateway.storage.kafka.consumer.membership import LEAVE_SECONDS, RETRY_SECONDS, Joining


class Cluster:
    """Client and coordinators, as far as a member's life needs them."""

    def __init__(self) -> None:
        self.reactor = Clock()
        self.watchers = 0
        self.forgotten = 0

    def watch(self, _changed: Callable[[], None]) -> Callable[[], None]:
        self.watchers += 1

        def forget() -> None:
            self.watchers -= 1

        return forget

    def forget(self, _group: str) -> None:
        self.forgotten += 1

    async def find(self, _group: str) -> int:
        return 7


class World:
    """A member whose turns do what the test says; then they rest for an hour each."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.clock = self.cluster.reactor
        self.outcomes: list[Exception | float | None] = []
        self.turns = 0
        self.losses = 0
        self.told: list[KatewayError] = []
        self.unserved = True
        fake: Any = self.cluster
        self.life = MemberLife(
            Joining(fake, fake, fake, self, "g", "t", 10.0),  # type: ignore[arg-type]
            self.turn,
            self.lose,
            lambda: None,
            expelled="it was expelled",
            unserved=lambda: self.unserved,
        )

    def failed(self, error: KatewayError) -> None:
        self.told.append(error)

    def lose(self) -> None:
        self.losses += 1

    async def turn(self) -> float | None:
        self.turns += 1
        outcome = self.outcomes.pop(0) if self.outcomes else 3600.0
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def run(self, *outcomes: Exception | float | None) -> None:
        self.outcomes += outcomes
        self.life.start()
        self.clock.pump([RETRY_SECONDS[-1]] * len(outcomes))


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.life.stop()
    assert world.cluster.watchers == 0
    assert not world.clock.getDelayedCalls()


def test_failures_that_go_on_are_told_once_and_the_turns_go_on(world: World) -> None:
    world.run(*(NoAnswer("it is away") for _ in range(5)))
    assert [str(error) for error in world.told] == ["it is away"]
    assert (world.turns, world.losses, world.cluster.forgotten) == (6, 0, 5)


def test_failures_while_partitions_are_served_are_not_told(world: World) -> None:
    world.unserved = False
    world.run(*(Unavailable("it moves") for _ in range(5)))
    assert (world.told, world.turns) == ([], 6)


def test_success_between_two_failures_counts_them_anew(world: World) -> None:
    async def turn() -> float | None:
        world.life.succeeded()
        return await world.turn()

    world.life._turn = turn
    world.run(*(NoAnswer("it is away") for _ in range(5)))
    assert (world.told, world.turns) == ([], 6)


def test_expelled_member_loses_what_it_had_and_begins_anew(world: World) -> None:
    world.run(Expelled(), Expelled(), Expelled())
    assert [str(error) for error in world.told] == ["it was expelled"]
    assert (world.losses, world.turns) == (3, 4)


def test_error_for_good_ends_the_turns_and_is_told(world: World) -> None:
    world.run(TopicNotFound("there is no topic t"))
    assert [str(error) for error in world.told] == ["there is no topic t"]
    assert (world.losses, world.turns) == (1, 1)


def test_life_that_is_over_ends_without_a_word(world: World) -> None:
    world.run(Over())
    assert (world.told, world.losses, world.turns) == ([], 0, 1)


def test_unforeseen_error_is_logged_and_the_member_begins_anew(
    world: World, logged_errors: list[dict[str, Any]]
) -> None:
    world.run(ZeroDivisionError("a fault of ours"))
    assert (world.losses, world.turns) == (1, 2)
    (event,) = logged_errors
    assert event["group"] == "g"
    logged_errors.clear()


def test_turn_without_a_rest_is_followed_at_once(world: World) -> None:
    world.outcomes = [None, None]
    world.life.start()
    assert world.turns == 3


def test_leave_that_is_not_answered_ends_in_time(world: World) -> None:
    cancelled: list[object] = []
    asked: list[int] = []

    def ask(node: int) -> Deferred[bytes]:
        asked.append(node)
        return Deferred(cancelled.append)

    leaving = Deferred.fromCoroutine(world.life.leave(ask))
    assert asked == [7]
    world.clock.advance(LEAVE_SECONDS)
    assert leaving.called
    assert len(cancelled) == 1


@pytest.mark.parametrize("outcome", [NoAnswer("gone"), Unavailable("moves"), CancelledError()])
def test_leave_that_fails_is_over(world: World, outcome: Exception) -> None:
    assert Deferred.fromCoroutine(world.life.leave(lambda _node: fail(outcome))).called
    assert Deferred.fromCoroutine(world.life.leave(lambda _node: succeed(b""))).called
