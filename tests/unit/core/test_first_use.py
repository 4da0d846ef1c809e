"""Publishes to a topic that is being made: in order, each by its deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from kateway.core.first_use import FirstUse
from kateway.errors import InvalidTopic, Unavailable
from kateway.model import Receipt


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.first_use = FirstUse(self.clock)
        self.made: Deferred[None] = Deferred()
        self.makes = 0
        self.sent: list[int] = []

    async def make(self) -> None:
        self.makes += 1
        await self.made

    def publish(self, number: int, seconds: float = 5.0, then: Callable[[], Any] = lambda: None) -> list[Any]:
        def send() -> Deferred[Any]:
            self.sent.append(number)
            then()
            return succeed([Receipt(0, number)])

        found: list[Any] = []
        deadline = self.clock.seconds() + seconds
        self.first_use.wait("t", send, 1, deadline, self.make).addCallback(found.extend)
        return found


def test_publishes_are_sent_in_their_order_when_the_topic_is_made() -> None:
    world = World()
    answers = [world.publish(number) for number in range(5)]
    assert world.sent == []
    world.made.callback(None)
    assert world.sent == [0, 1, 2, 3, 4]
    assert answers == [[Receipt(0, number)] for number in range(5)]
    assert world.makes == 1
    assert "t" not in world.first_use
    assert world.clock.getDelayedCalls() == []


def test_publish_that_comes_while_the_others_are_sent_is_behind_them() -> None:
    world = World()
    world.publish(0, then=lambda: world.publish(9))
    world.publish(1)
    world.made.callback(None)
    assert world.sent == [0, 1, 9]


def test_topic_that_cannot_be_made_is_the_outcome_of_each() -> None:
    world = World()
    answers = [world.publish(number) for number in range(2)]
    world.made.errback(InvalidTopic("no"))
    assert [type(answer[0]) for answer in answers] == [InvalidTopic] * 2
    assert world.sent == []


def test_publish_whose_deadline_passes_is_answered_and_not_sent() -> None:
    world = World()
    impatient, patient = world.publish(0, seconds=1.0), world.publish(1)
    world.clock.advance(1.1)
    assert isinstance(impatient[0], Unavailable)
    world.made.callback(None)
    assert world.sent == [1]
    assert patient == [Receipt(0, 1)]


def test_exception_of_the_store_is_answered_and_logged(logged_errors: list[dict[str, Any]]) -> None:
    world = World()
    answer = world.publish(0)
    world.made.errback(ZeroDivisionError())
    assert answer[0].status == 500
    assert logged_errors[0]["log_failure"].check(ZeroDivisionError)
    logged_errors.clear()
    assert "t" not in world.first_use


def test_publish_that_breaks_when_it_is_sent_does_not_hold_up_those_behind_it() -> None:
    world = World()
    failures: list[Any] = []

    def breaks() -> Any:
        raise ZeroDivisionError

    world.first_use.wait("t", breaks, 1, 5.0, world.make).addErrback(failures.append)
    behind = world.publish(1)
    world.made.callback(None)
    assert failures[0].check(ZeroDivisionError)
    assert behind == [Receipt(0, 1)]
    assert "t" not in world.first_use
