"""Questions that several callers ask at once."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from kateway.storage.kafka.cluster.waiting import SharedQuestions


class Asked:
    """A question that is answered by hand."""

    def __init__(self) -> None:
        self.times = 0
        self.answer: Deferred[int] = Deferred()

    async def question(self) -> int:
        self.times += 1
        self.answer = Deferred()
        return await self.answer


def results(*waiting: Deferred[int]) -> list[Any]:
    """What they fire with, failures as their types."""
    found: list[Any] = []
    for each in waiting:
        each.addCallbacks(found.append, lambda failure: found.append(failure.type))
    return found


def test_question_that_is_under_way_is_not_asked_again_and_answers_all() -> None:
    shared, asked = SharedQuestions[int](), Asked()
    found = results(shared.ask("a", asked.question), shared.ask("a", asked.question))
    assert asked.times == 1
    asked.answer.callback(7)
    assert found == [7, 7]
    shared.ask("a", asked.question)
    assert asked.times == 2


def test_question_that_fails_fails_for_all() -> None:
    shared, asked = SharedQuestions[int](), Asked()
    found = results(shared.ask("a", asked.question), shared.ask("a", asked.question))
    asked.answer.errback(Failure(ZeroDivisionError()))
    assert found == [ZeroDivisionError, ZeroDivisionError]


def test_caller_that_gives_up_leaves_the_question_and_the_others_alone() -> None:
    shared, asked = SharedQuestions[int](), Asked()
    first, second = shared.ask("a", asked.question), shared.ask("a", asked.question)
    found = results(first, second)
    first.cancel()
    asked.answer.callback(7)
    assert found == [CancelledError, 7]


def test_questions_with_other_keys_are_asked_beside_each_other() -> None:
    shared, asked, other = SharedQuestions[int](), Asked(), Asked()
    found = results(shared.ask("a", asked.question), shared.ask("b", other.question))
    other.answer.callback(8)
    asked.answer.callback(7)
    assert sorted(found) == [7, 8]
