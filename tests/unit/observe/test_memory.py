"""The memory that is traced: looked at by one caller at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from twisted.internet.defer import Deferred

from kateway.errors import Conflict
from kateway.observe.memory import Memory, MemoryTracing


class Threads:
    """Threads that a test lets work; giving up the wait for one does not end it."""

    def __init__(self) -> None:
        self.working: list[Deferred[None]] = []

    async def run(self, work: Callable[[], Memory]) -> Memory:
        done: Deferred[None] = Deferred()
        self.working.append(done)
        await done
        return work()


@pytest.fixture
def threads() -> Threads:
    return Threads()


@pytest.fixture
def tracing(threads: Threads) -> Iterator[MemoryTracing]:
    tracing = MemoryTracing(threads.run)
    tracing.configure(1)
    yield tracing
    tracing.configure(0)


def test_call_while_the_thread_of_one_that_was_given_up_works_conflicts(
    tracing: MemoryTracing, threads: Threads
) -> None:
    gone = Deferred.fromCoroutine(tracing.top(5)).addErrback(lambda _: None)
    gone.cancel()
    refused: list[object] = []
    Deferred.fromCoroutine(tracing.top(5)).addErrback(lambda failure: refused.append(failure.value))
    assert [type(each) for each in refused] == [Conflict]
    threads.working.pop().callback(None)
    found: list[Memory] = []
    Deferred.fromCoroutine(tracing.top(5)).addCallback(found.append)
    threads.working.pop().callback(None)
    assert len(found[0].top) == 5
