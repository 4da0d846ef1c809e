"""The thread that reads: cancelled calls are left out, and no pile of answers waits for the reactor."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

import pytest
from sql_turns import PATIENCE_SECONDS, Turns
from twisted.internet.defer import CancelledError, Deferred

from kateway.storage.sqlite.thread import ANSWERS_AT_ONCE, SqlThread


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def thread(turns: Turns) -> Iterator[SqlThread]:
    thread = SqlThread(turns, "reader under test", reads=True)
    opened = thread.start(lambda: sqlite3.connect(":memory:"))
    turns.run_until(lambda: opened.called)
    yield thread
    ended = thread.stop()
    turns.run_until(lambda: ended.called)


def test_answers_wait_for_the_reactor_in_small_numbers(turns: Turns, thread: SqlThread) -> None:
    begun: list[int] = []
    answers = [thread.call(lambda _, number=number: begun.append(number)) for number in range(5 * ANSWERS_AT_ONCE)]
    until = time.monotonic() + PATIENCE_SECONDS
    while len(begun) < ANSWERS_AT_ONCE and time.monotonic() < until:
        time.sleep(0.001)
    assert begun == list(range(ANSWERS_AT_ONCE))
    assert turns.turn()
    turns.run_until(lambda: all(answer.called for answer in answers))
    assert begun == list(range(5 * ANSWERS_AT_ONCE))


def test_a_read_that_was_cancelled_before_its_turn_is_left_out(turns: Turns, thread: SqlThread) -> None:
    begun: list[int] = []
    answers: list[Deferred[None]] = []
    for number in range(3 * ANSWERS_AT_ONCE):
        answers.append(thread.call(lambda _, number=number: begun.append(number)))
    unwanted = answers[2 * ANSWERS_AT_ONCE :]
    for answer in unwanted:
        answer.cancel()
        answer.addErrback(lambda failure: failure.trap(CancelledError) and None)
    last = thread.call(lambda _: begun.append(-1))
    turns.run_until(lambda: last.called)
    assert begun == [*range(2 * ANSWERS_AT_ONCE), -1]


def test_a_read_that_fails_says_so_and_the_next_one_runs(turns: Turns, thread: SqlThread) -> None:
    failed = thread.call(lambda connection: connection.execute("SELECT nothing"))
    fine = [thread.call(lambda connection: connection.execute("SELECT 7").fetchone()[0]) for _ in range(20)]
    errors: list[object] = []
    failed.addErrback(lambda failure: errors.append(failure.check(sqlite3.OperationalError)))
    turns.run_until(lambda: all(answer.called for answer in fine))
    assert errors == [sqlite3.OperationalError]
    assert [answer.result for answer in fine] == [7] * 20
