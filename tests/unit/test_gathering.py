"""Pieces of work that are awaited together: they end together, with an error of their own."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from kateway.errors import Unavailable
from kateway.gathering import gathered


class Work:
    """Two pieces that are awaited."""

    def __init__(self) -> None:
        self.given_up: list[int] = []
        self.pieces: list[Deferred[str]] = [
            Deferred(lambda _, number=number: self.given_up.append(number)) for number in range(2)
        ]
        self.outcome: list[Any] = []
        self.waiting = Deferred.fromCoroutine(gathered(self.pieces))
        self.waiting.addCallbacks(self.outcome.append, lambda failure: self.outcome.append(failure.value))


def test_results_come_in_the_order_of_the_work() -> None:
    work = Work()
    work.pieces[1].callback("b")
    assert work.outcome == []
    work.pieces[0].callback("a")
    assert work.outcome == [["a", "b"]]


def test_failure_of_one_ends_the_others_and_is_told_as_it_is() -> None:
    work = Work()
    error = Unavailable("away")
    work.pieces[1].errback(error)
    assert work.outcome == [error]
    assert work.given_up == [0]


def test_cancelled_wait_ends_all_of_the_work_and_is_told_as_a_cancellation() -> None:
    work = Work()
    work.waiting.cancel()
    assert [type(each) for each in work.outcome] == [CancelledError]
    assert work.given_up == [0, 1]
