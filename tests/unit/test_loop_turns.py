"""The loop's time for examining records: a slice a turn, shared in order, with a rest behind it where requests come."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.task import Clock

from kateway.loop_turns import (
    FIRST_EXAMINED,
    LEAST_SHARE,
    LONGEST_REST_SECONDS,
    LONGEST_SLICE_SECONDS,
    MOST_EXAMINED,
    OVERDUE_SECONDS,
    SLICE_SECONDS,
    LoopTurns,
)


class Reader:
    """Examines records of a given cost whenever it is its turn, and always has more."""

    def __init__(self, clock: Clock, turns: LoopTurns, each_seconds: float = 0.0) -> None:
        self.clock, self.turns, self.each_seconds = clock, turns, each_seconds
        self.slices: list[int] = []
        self.longest = 0.0

    def take(self) -> None:
        if self.turns.begin():
            began, done = self.clock.seconds(), 0
            for _ in range(self.turns.left):
                if done and self.turns.over:
                    break
                self.clock.rightNow += self.each_seconds
                done += 1
            self.turns.examined(done)
            self.slices.append(done)
            self.longest = max(self.longest, self.clock.seconds() - began)
        self.turns.wait(self, self.take)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turns(clock: Clock) -> LoopTurns:
    return LoopTurns(clock)


def loop(clock: Clock, turns: int) -> None:
    """Runs turns as the reactor does: what is called in one for the next one waits for it."""
    for _ in range(turns):
        for call in [call for call in clock.calls if call.getTime() <= clock.seconds()]:
            clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)


def test_slice_that_is_used_up_is_followed_by_another_in_the_next_turn_of_the_loop(
    clock: Clock, turns: LoopTurns
) -> None:
    reader = Reader(clock, turns)
    reader.take()
    assert reader.slices == [FIRST_EXAMINED]
    reader.take()
    assert len(reader.slices) == 1
    loop(clock, 5)
    assert len(reader.slices) == 6
    assert max(reader.slices) == MOST_EXAMINED


@pytest.mark.parametrize("each_seconds", [5e-6, 20e-6, 100e-6, 400e-6])
def test_slices_grow_and_shrink_to_the_time_that_records_take(
    clock: Clock, turns: LoopTurns, each_seconds: float
) -> None:
    reader = Reader(clock, turns, each_seconds)
    reader.take()
    loop(clock, 20)
    assert reader.longest <= SLICE_SECONDS + OVERDUE_SECONDS + each_seconds
    fitting = min(int(SLICE_SECONDS / each_seconds), MOST_EXAMINED)
    assert reader.slices[-1] == pytest.approx(fitting, abs=2)


def test_record_that_takes_longer_than_a_slice_is_examined_alone(clock: Clock, turns: LoopTurns) -> None:
    reader = Reader(clock, turns, 0.02)
    reader.take()
    loop(clock, 10)
    assert reader.slices == [1] * 11


def test_many_readers_share_one_slice_a_turn_in_the_order_in_which_they_asked(clock: Clock, turns: LoopTurns) -> None:
    readers = [Reader(clock, turns) for _ in range(5)]
    for reader in readers:
        reader.take()
    assert [len(reader.slices) for reader in readers] == [1, 0, 0, 0, 0]
    loop(clock, 5)
    assert [len(reader.slices) for reader in readers] == [2, 1, 1, 1, 1], "the first asked again before the others came"
    loop(clock, 10)
    assert [len(reader.slices) for reader in readers] == [4, 3, 3, 3, 3]


def test_readers_of_few_records_have_the_same_slice(clock: Clock, turns: LoopTurns) -> None:
    """A thousand readers of one record each must not need a thousand turns."""
    for _ in range(FIRST_EXAMINED):
        assert turns.begin()
        turns.examined(1)
    assert not turns.begin()
    loop(clock, 1)
    assert turns.begin()


def test_request_meanwhile_puts_the_next_slice_off_until_the_store_has_answered(clock: Clock, turns: LoopTurns) -> None:
    requests = [-1.0]
    under_way = True
    turns.last_request = lambda: requests[-1]
    turns.under_way = lambda: under_way
    reader = Reader(clock, turns)
    reader.take()
    requests.append(clock.seconds())
    loop(clock, 5)
    assert len(reader.slices) == 1
    under_way = False
    clock.rightNow += 0.0001
    turns.answered()
    assert len(reader.slices) == 1, "behind the response, which this turn writes"
    loop(clock, 1)
    assert len(reader.slices) == 2
    under_way = True
    loop(clock, 5)
    assert len(reader.slices) == 7, "one rest for each slice that a request came behind"


def test_request_that_the_store_has_answered_at_once_puts_nothing_off(clock: Clock, turns: LoopTurns) -> None:
    turns.last_request = clock.seconds
    reader = Reader(clock, turns)
    reader.take()
    loop(clock, 5)
    assert len(reader.slices) == 6
    turns.answered()  # nothing rests


def test_requests_without_end_leave_a_slice_behind_each_rest(clock: Clock, turns: LoopTurns) -> None:
    turns.last_request = clock.seconds
    turns.under_way = lambda: True
    reader = Reader(clock, turns)
    reader.take()
    for _ in range(10):
        clock.rightNow += LONGEST_REST_SECONDS
        loop(clock, 2)
    assert len(reader.slices) == 10


def test_request_beside_a_slice_that_is_not_used_up_puts_nothing_off(clock: Clock, turns: LoopTurns) -> None:
    turns.last_request = clock.seconds
    assert turns.begin()
    turns.examined(1)
    loop(clock, 1)
    assert turns.begin()


def test_reader_that_breaks_in_its_turn_leaves_the_others_theirs(
    clock: Clock, turns: LoopTurns, logged_errors: list[Any]
) -> None:
    def breaks() -> None:
        raise ZeroDivisionError("a fault")

    reader = Reader(clock, turns)
    turns.wait(object(), breaks)
    turns.wait(reader, reader.take)
    loop(clock, 1)
    assert reader.slices == [FIRST_EXAMINED]
    assert len(logged_errors) == 1
    logged_errors.clear()


def test_read_that_is_cancelled_while_it_waits_takes_no_turn(clock: Clock, turns: LoopTurns) -> None:
    reader = Reader(clock, turns)
    reader.take()
    waiting = ensureDeferred(turns.granted())
    failed: list[Any] = []
    waiting.addErrback(failed.append)
    waiting.cancel()
    assert failed[0].check(CancelledError)
    loop(clock, 3)
    assert len(reader.slices) == 4


def test_read_waits_behind_those_who_asked_before(clock: Clock, turns: LoopTurns) -> None:
    reader = Reader(clock, turns)
    reader.take()
    waiting: Deferred[None] = ensureDeferred(turns.granted())
    loop(clock, 1)
    assert not waiting.called
    loop(clock, 1)
    assert waiting.called


def test_idle_turns_leave_nothing_on_the_clock(clock: Clock, turns: LoopTurns) -> None:
    assert turns.begin()
    turns.examined(3)
    loop(clock, 1)
    assert not clock.getDelayedCalls()


def test_work_that_pauses_has_turns_of_its_own_beside_readers(clock: Clock, turns: LoopTurns) -> None:
    reader = Reader(clock, turns)
    began: list[int] = []

    async def work() -> None:
        for _ in range(3):
            await turns.pause()
            began.append(len(reader.slices))

    reader.take()
    done = ensureDeferred(work())
    loop(clock, 10)
    assert done.called
    assert began == [2, 3, 4], "one in turn with the other, never both in one turn"


def test_work_that_pauses_rests_behind_a_request_too(clock: Clock, turns: LoopTurns) -> None:
    turns.last_request = clock.seconds
    turns.under_way = lambda: True
    paused = ensureDeferred(turns.pause())
    loop(clock, 5)
    assert not paused.called
    clock.rightNow += LONGEST_REST_SECONDS
    loop(clock, 1)
    assert paused.called


@pytest.mark.parametrize("turn_seconds", [0.004, 0.01, 0.1])
def test_turns_that_requests_fill_leave_readers_their_share(
    clock: Clock, turns: LoopTurns, turn_seconds: float
) -> None:
    turns.last_request = clock.seconds
    turns.under_way = lambda: True
    reader = Reader(clock, turns, 10e-6)
    reader.take()
    loop(clock, 20)
    before, began = sum(reader.slices), clock.seconds()
    for _ in range(40):
        clock.rightNow += turn_seconds
        loop(clock, 1)
    share = (sum(reader.slices) - before) * 10e-6 / (clock.seconds() - began)
    assert share >= min(LEAST_SHARE, LONGEST_SLICE_SECONDS / turn_seconds) / 2 / 1.2
    assert reader.longest <= LONGEST_SLICE_SECONDS + OVERDUE_SECONDS


def test_first_slice_after_a_long_time_without_readers_is_no_longer_than_others(clock: Clock, turns: LoopTurns) -> None:
    reader = Reader(clock, turns, 10e-6)
    clock.rightNow += 3600
    reader.take()
    loop(clock, 20)
    assert reader.longest <= SLICE_SECONDS * 1.5


def test_slice_in_which_the_thread_stood_still_is_not_broken_off(clock: Clock, turns: LoopTurns) -> None:
    used = [0.0]
    turns.used_seconds = lambda: used[0]
    assert turns.begin()
    clock.rightNow += 0.05
    assert not turns.over
    assert turns.left == FIRST_EXAMINED
    used[0] += SLICE_SECONDS + OVERDUE_SECONDS
    assert turns.over
    assert turns.left == 0
    turns.examined(1)
    assert not turns.begin()
