"""Shields work from its caller's cancellation, and shares its outcome among all that wait for it."""

from __future__ import annotations

from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


@attrs.frozen
class _Told:
    """A failure that a waiter was told of. Unlike the failure itself it is nothing that Twisted logs as unhandled."""

    failure: Failure


def shield(work: Deferred[T]) -> Deferred[T]:
    """Returns another Deferred with the outcome of ``work``; cancelling it leaves the work and its other waiters alone.

    May be called several times for a work, and when it is over. ``work`` keeps its result for further callbacks; of a
    failure all shields are told, and callbacks behind the first one no more.
    """
    answer: Deferred[T] = Deferred()

    def over(outcome: Any) -> Any:
        if isinstance(outcome, Failure):
            outcome = _Told(outcome)
        # a failure fails it
        answer.callback(outcome.failure if isinstance(outcome, _Told) else outcome)
        return outcome

    work.addBoth(over)
    return answer
