"""Waits with a time limit, and one outcome for several waiting callers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable, Iterable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def answer_all(waiters: Iterable[Deferred[None]], error: Exception | None) -> None:
    """Answers every waiting caller: done, or the failure."""
    for waiter in waiters:
        if waiter.called:
            continue
        if error is None:
            waiter.callback(None)
        else:
            waiter.errback(error)


async def at_most(reactor: Any, seconds: float, waited_for: Deferred[Any]) -> bool:
    """Waits until a Deferred has fired, whatever with, but not longer than ``seconds``; it is left as it was.

    Whether it has fired. Cancelling ends the wait, not the work.
    """
    over: Deferred[bool] = Deferred()

    def fired(result: object) -> object:
        if not over.called:
            over.callback(True)
        return result

    call = reactor.callLater(seconds, over.callback, False)
    waited_for.addBoth(fired)
    try:
        return await over
    finally:
        if call.active():
            call.cancel()


class SharedQuestions(Generic[T]):
    """Asks a question once at a time: callers that come with the same key meanwhile get its answer, too. Cancelling
    a caller's wait leaves the question and the others alone.
    """

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[Deferred[T]]] = {}

    def ask(self, key: Hashable, question: Callable[[], Coroutine[Any, Any, T]]) -> Deferred[T]:
        """Waits for the answer of the question that is under way, or of a new one."""
        answer: Deferred[T] = Deferred()
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(answer)
            return answer
        self._waiting[key] = [answer]
        Deferred.fromCoroutine(question()).addBoth(self._answered, key)
        return answer

    def _answered(self, result: T | Failure, key: Hashable) -> None:
        for answer in self._waiting.pop(key):
            if not answer.called:
                # a callback with a failure is an errback
                answer.callback(result)
