"""A shield keeps a cancel from the work behind it."""

from __future__ import annotations

import gc

import pytest
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred

from kateway.shield import shield


def test_cancelled_waiter_leaves_the_work_and_its_other_waiters_alone() -> None:
    cancelled: list[object] = []
    work: Deferred[int] = Deferred(cancelled.append)
    first, second = shield(work), shield(work)
    failures: list[object] = []
    first.addErrback(lambda failure: failures.append(failure.check(CancelledError)))
    first.cancel()
    assert failures == [CancelledError]
    assert cancelled == []
    work.callback(7)
    results: list[int] = []
    second.addCallback(results.append)
    work.addCallback(results.append)
    assert results == [7, 7]


def test_failure_of_the_work_is_the_waiters() -> None:
    work: Deferred[int] = Deferred()
    waiting = ensureDeferred(_result(shield(work)))
    work.errback(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        waiting.addErrback(lambda failure: failure.raiseException()).result.raiseException()  # type: ignore[attr-defined]
    waiting.addErrback(lambda _: None)


def test_failed_work_told_to_each_waiter_also_a_late_one() -> None:
    work: Deferred[int] = Deferred()
    found: list[object] = []
    for _ in range(2):
        shield(work).addBoth(lambda outcome: found.append(outcome.check(ZeroDivisionError)))
    work.errback(ZeroDivisionError())
    shield(work).addBoth(lambda outcome: found.append(outcome.check(ZeroDivisionError)))
    assert found == [ZeroDivisionError] * 3


def test_failed_work_whose_only_waiter_was_cancelled_is_not_logged() -> None:
    work: Deferred[int] = Deferred()
    waiter = shield(work).addErrback(lambda _: None)
    waiter.cancel()
    work.errback(ZeroDivisionError())
    del work
    gc.collect()  # a failure that no callback took would be logged now, and that fails the test


async def _result(work: Deferred[int]) -> int:
    return await work
