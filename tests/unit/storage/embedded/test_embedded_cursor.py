"""Reading ahead in the embedded store: how far, for whom, and when not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from kateway.errors import KatewayError, StorageFull
from kateway.storage.embedded import database
from kateway.storage.embedded.cursor import FIRST_WINDOW_BYTES, IDLE_SECONDS, Cursor
from kateway.storage.embedded.partition import ROW_BYTES, Partition
from kateway.storage.sqlite.records import encode


class SameThread:
    """Runs what a ``SqlThread`` would run, when told to."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.jobs: list[tuple[Callable[..., Any], tuple[Any, ...], Deferred[Any]]] = []
        self.error: Exception | None = None

    def call(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.jobs.append((function, args, answer))
        return answer

    def run(self) -> int:
        """Runs everything that is asked for, also what that leads to; answers how much it was."""
        ran = 0
        while self.jobs:
            function, args, answer = self.jobs.pop(0)
            ran += 1
            if self.error is not None:
                answer.errback(Failure(self.error))
            else:
                answer.callback(function(self.connection, *args))
        return ran


class Bench:
    """A partition in a file, a clock, and a cursor on it."""

    def __init__(self, path: Path) -> None:
        self.connection = database.open_for_writing(path / "bench.sqlite3", "bench", 0)
        created = database.create_topic(self.connection, "topic", 1, None)
        assert created is not None
        self.partition = Partition(created[1][0])
        self.clock = Clock()
        self.thread = SameThread(self.connection)
        self.readable: list[int] = []
        self.errors: list[KatewayError] = []

    def write(self, count: int, size: int = 80) -> None:
        self.write_unannounced(count, size)()

    def write_unannounced(self, count: int, size: int = 80) -> Callable[[], None]:
        """Writes to the disk; the process hears of it when what is answered is called."""
        partition = self.partition
        partition.pending = [encode(1, None, b"x" * size, ()) for _ in range(count)]
        partition.pending_newest = 1
        rows, tail, added = partition.rows()
        database.write(self.connection, rows, [])
        return lambda: partition.written(tail, added)

    def cursor(self, offset: int = 0, max_window_bytes: int = 1 << 20) -> Cursor:
        cursor = Cursor(
            self.clock,
            self.thread,
            self.partition,
            offset,
            "earliest",
            max_window_bytes,
            self.readable.append,
            self.errors.append,
        )
        cursor.start()
        self.thread.run()
        return cursor


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.connection.close()


def test_reader_that_takes_nothing_has_one_small_slice_read_ahead(bench):
    bench.write(50_000)
    cursor = bench.cursor()
    assert 0 < cursor.held_bytes <= 2 * FIRST_WINDOW_BYTES + ROW_BYTES
    bench.clock.advance(100)
    for _ in range(20):
        bench.write(1000)
    assert bench.thread.run() == 0
    assert cursor.held_bytes <= 2 * FIRST_WINDOW_BYTES + ROW_BYTES
    assert bench.readable == [0]


def test_untaken_records_are_let_go_of_and_read_again_when_taken(bench):
    bench.write(5000)
    cursor = bench.cursor()
    assert [record.offset for record in cursor.take(3, 1 << 20)] == [0, 1, 2]
    bench.thread.run()
    bench.clock.advance(IDLE_SECONDS)
    assert cursor.held_bytes == 0
    assert cursor.position == 3
    bench.readable.clear()
    assert cursor.take(3, 1 << 20) == []
    bench.thread.run()
    assert bench.readable == [0]
    assert [record.offset for record in cursor.take(3, 1 << 20)] == [3, 4, 5]
    cursor.close()
    assert not bench.clock.getDelayedCalls()


def test_record_that_is_read_before_its_write_is_answered_is_read_once(bench):
    # the writing thread commits, the reading thread finds it, and only then comes the news of the write
    bench.write(3)
    cursor = bench.cursor()
    assert len(cursor.take(2, 1 << 20)) == 2
    bench.write(2000)
    announce = bench.write_unannounced(2)
    offsets = []
    for _ in range(100):
        bench.thread.run()
        offsets += [record.offset for record in cursor.take(100, 1 << 20)]
    announce()
    bench.write(1)
    bench.thread.run()
    offsets += [record.offset for record in cursor.take(100, 1 << 20)]
    assert offsets == list(range(2, 2006))
    assert cursor.lag == 0


def test_fast_reader_has_larger_slices_read_ahead_up_to_the_bound(bench):
    bench.write(50_000)
    cursor = bench.cursor(max_window_bytes=1 << 18)
    largest = taken = 0
    while taken < 50_000:
        taken += len(cursor.take(1000, 1 << 20))
        bench.thread.run()
        bench.clock.advance(0.001)
        largest = max(largest, cursor.held_bytes)
    assert 1 << 17 < largest <= (1 << 18) + ROW_BYTES
    assert cursor.lag == 0


def test_reader_that_becomes_slow_has_small_slices_read_ahead_again(bench):
    bench.write(50_000)
    cursor = bench.cursor()
    for _ in range(30):
        cursor.take(1000, 1 << 20)
        bench.thread.run()
        bench.clock.advance(0.001)
    held = cursor.held_bytes
    while cursor.lag > 5000:
        cursor.take(200, 1 << 20)
        bench.clock.advance(10)
        bench.thread.run()
    assert held > 1 << 17
    assert cursor.held_bytes <= 2 * FIRST_WINDOW_BYTES + ROW_BYTES


def test_reader_at_the_end_gets_new_records_from_memory(bench):
    bench.write(10)
    cursor = bench.cursor()
    assert len(cursor.take(100, 1 << 20)) == 10
    for number in range(5):
        bench.write(3)
        assert bench.thread.run() == 0
        assert [record.offset for record in cursor.take(100, 1 << 20)] == [10 + 3 * number + each for each in range(3)]


def test_every_record_is_given_once_and_in_order_while_more_are_written(bench):
    cursor = bench.cursor()
    seen: list[int] = []
    for step in range(400):
        bench.write(1 + step % 60, size=step)
        if step % 3 == 0:
            bench.thread.run()
        if step % 7 == 0:
            seen += [record.offset for record in cursor.take(1 + step, 1 << 16)]
    while cursor.lag:
        bench.thread.run()
        seen += [record.offset for record in cursor.take(1000, 1 << 20)]
    assert seen == list(range(bench.partition.end))


def test_fetch_from_before_a_seek_is_not_given_after_it(bench):
    bench.write(5000)
    cursor = bench.cursor()
    cursor.take(1000, 1 << 20)
    assert bench.thread.jobs
    cursor.seek(4000)
    assert cursor.position == 4000
    bench.thread.jobs = [job for job in bench.thread.jobs if not job[2].called]
    bench.thread.run()
    assert cursor.take(1, 1 << 20)[0].offset == 4000


def test_a_read_that_fails_is_told_and_tried_again(bench):
    bench.write(10)
    bench.thread.error = StorageFull("the disk is ill")
    cursor = bench.cursor()
    assert [error.detail for error in bench.errors] == ["the disk is ill"]
    assert cursor.take(10, 1000) == []
    bench.thread.error = None
    bench.clock.advance(1)
    bench.thread.run()
    assert len(cursor.take(10, 1 << 20)) == 10


def test_a_closed_cursor_reads_no_more_and_leaves_no_call_behind(bench):
    bench.write(10)
    bench.thread.error = StorageFull("the disk is ill")
    cursor = bench.cursor()
    cursor.close()
    assert bench.clock.getDelayedCalls() == []
    bench.thread.error = None
    bench.write(10)
    assert bench.thread.run() == 0
    assert bench.partition.followers == set()


def test_reader_goes_on_at_the_earliest_where_retention_took_the_next_records(bench):
    bench.write(3000)
    cursor = bench.cursor()
    while cursor.held_bytes:
        cursor.take(100, 1 << 20)
    bench.thread.jobs.clear()
    cursor.seek(100)
    bench.thread.jobs.clear()
    earliest = database.expire(bench.connection, bench.partition.id, 2, 10)
    assert earliest
    assert earliest > 100
    bench.partition.earliest = earliest
    cursor.seek(100)
    bench.thread.run()
    assert cursor.position == earliest
    assert cursor.take(1, 1000)[0].offset == earliest
