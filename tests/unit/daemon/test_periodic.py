"""Work that is done again and again."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from kateway.daemon.periodic import RegularWork
from kateway.errors import RegistryUnavailable


def test_work_is_done_now_and_then_regularly_until_it_is_stopped() -> None:
    clock, times = Clock(), []

    async def work() -> None:
        times.append(clock.seconds())

    regular = RegularWork(clock)
    regular.every(5.0, work)
    clock.pump([5.0, 5.0])
    regular.stop()
    clock.pump([5.0])
    assert times == [0.0, 5.0, 10.0]
    assert clock.getDelayedCalls() == []


def test_missing_leader_is_asked_for_again() -> None:
    clock, tries = Clock(), []

    async def work() -> None:
        tries.append(1)
        raise RegistryUnavailable("away")

    regular = RegularWork(clock)
    regular.every(5.0, work)
    clock.advance(5.0)
    regular.stop()
    assert len(tries) == 2


def test_unforeseen_exception_in_regular_work_is_logged_and_work_goes_on(logged_errors: list[dict[str, Any]]) -> None:
    clock, tries = Clock(), []

    async def work() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("a fault")

    regular = RegularWork(clock)
    regular.every(5.0, work)
    clock.pump([5.0, 5.0, 5.0])
    assert len(tries) == 4
    assert [type(event["log_failure"].value) for event in logged_errors] == [ValueError, ValueError]
    logged_errors.clear()
    regular.stop()


def test_work_whose_answer_was_cancelled_by_others_goes_on() -> None:
    clock, tries, waits = Clock(), [], list[Deferred[None]]()

    async def work() -> None:
        tries.append(1)
        waits.append(Deferred())
        await waits[-1]

    regular = RegularWork(clock)
    regular.every(5.0, work)
    waits[0].cancel()
    clock.advance(5.0)
    assert len(tries) == 2
    regular.stop()
    waits[1].callback(None)


def test_slow_work_is_not_begun_twice() -> None:
    clock, begun = Clock(), []
    done: Deferred[None] = Deferred()

    async def work() -> None:
        begun.append(clock.seconds())
        await done

    regular = RegularWork(clock)
    regular.every(5.0, work)
    clock.pump([5.0, 5.0, 2.0])
    assert begun == [0.0]
    done.callback(None)
    clock.advance(3.0)
    assert begun == [0.0, 15.0]
    regular.stop()
