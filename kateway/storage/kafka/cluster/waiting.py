"""Waits with a time limit, and one outcome for several waiting callers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.defer import Deferred


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
