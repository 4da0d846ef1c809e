"""Shields work from its caller's cancellation."""

from __future__ import annotations

from typing import TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


def shield(work: Deferred[T]) -> Deferred[T]:
    """Returns another Deferred with the outcome of ``work``; cancelling it leaves the work and its other waiters alone.

    ``work`` keeps its result for further callbacks; its failure goes to the returned Deferred alone.
    """
    answer: Deferred[T] = Deferred()

    def succeeded(result: T) -> T:
        answer.callback(result)
        return result

    work.addCallbacks(succeeded, answer.errback)
    return answer
