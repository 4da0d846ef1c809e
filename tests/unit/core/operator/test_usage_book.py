"""The usage of applications: added up by the hour, then by the day, and counted once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from kateway.core.operator.usage import (
    DAY_SECONDS,
    DAYS_KEPT_SECONDS,
    HOUR_SECONDS,
    HOURS_KEPT_SECONDS,
    UsageBook,
    UsageRow,
)
from kateway.errors import Unavailable

T = TypeVar("T")
START = 1_800_000_000 // DAY_SECONDS * DAY_SECONDS
"""A midnight."""


def done(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine that never waits returns."""
    with pytest.raises(StopIteration) as ended:
        work.send(None)
    value: T = ended.value.value
    return value


class Book:
    """A book of a file, with the time and the usage that a test sets."""

    def __init__(self, path: Path) -> None:
        self.now = float(START)
        self.used: dict[str, list[int]] = {}
        self.book = UsageBook(path, self._take, self._in_thread, lambda: self.now)

    def _take(self) -> dict[str, list[int]]:
        used, self.used = self.used, {}
        return used

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return work()

    def use(self, application: str, records: int) -> None:
        self.used[application] = [records, records * 10, 0, 0, 0]
        done(self.book.write())

    def rows(self, application: str | None = None, start: int = 0, end: int = 1 << 40) -> list[UsageRow]:
        return done(self.book.read(application, start, end, 1000))


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "data" / "usage")


def test_usage_is_added_up_within_its_hour(book: Book) -> None:
    book.use("app1", 3)
    book.now += 60
    book.use("app1", 4)
    book.now += HOUR_SECONDS
    book.use("app1", 5)
    assert book.rows() == [
        UsageRow(START, HOUR_SECONDS, "app1", 7, 70, 0, 0, 0),
        UsageRow(START + HOUR_SECONDS, HOUR_SECONDS, "app1", 5, 50, 0, 0, 0),
    ]


def test_application_that_did_nothing_has_no_row(book: Book) -> None:
    book.use("app1", 0)
    assert book.rows() == []


def test_rows_are_of_one_application_and_time(book: Book) -> None:
    for hour in range(3):
        book.now = START + hour * HOUR_SECONDS
        book.use("app1", 1)
        book.use("app2", 2)
    assert [row.application for row in book.rows("app2")] == ["app2"] * 3
    found = book.rows(None, START + HOUR_SECONDS, START + 2 * HOUR_SECONDS)
    assert [(row.start, row.application) for row in found] == [
        (START + HOUR_SECONDS, "app1"),
        (START + HOUR_SECONDS, "app2"),
    ]


def test_hours_of_long_ago_become_a_day(book: Book) -> None:
    for hour in (0, 1, 23, 24):
        book.now = START + hour * HOUR_SECONDS
        book.use("app1", 1)
    book.now = START + HOURS_KEPT_SECONDS + DAY_SECONDS
    book.use("app1", 9)
    assert [(row.start - START, row.seconds, row.in_records) for row in book.rows()] == [
        (0, DAY_SECONDS, 3),
        (DAY_SECONDS, HOUR_SECONDS, 1),
        (HOURS_KEPT_SECONDS + DAY_SECONDS, HOUR_SECONDS, 9),
    ]
    book.now = START + DAYS_KEPT_SECONDS + 2 * DAY_SECONDS
    assert next(iter(book.rows())).start > START


def test_file_that_fails_is_written_the_next_time(book: Book, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    book.used = {"app1": [1, 10, 0, 0, 0]}
    with pytest.raises(Unavailable):
        book.book.write().send(None)
    (tmp_path / "data").unlink()
    book.use("app1", 2)
    assert [row.in_records for row in book.rows()] == [3]


def test_damaged_file_is_unavailable(book: Book, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "usage").write_bytes(b"this is no database" * 100)
    with pytest.raises(Unavailable):
        book.book.write().send(None)


def test_file_is_its_owners_alone(book: Book, tmp_path: Path) -> None:
    book.use("app1", 1)
    assert (tmp_path / "data" / "usage").stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(tmp_path / "data" / "usage")) as file, file:
        assert file.execute("SELECT count(*) FROM hours").fetchone() == (1,)


@settings(deadline=None, max_examples=25)
@given(used=st.lists(st.tuples(st.integers(0, 90), st.sampled_from(["a", "b"]), st.integers(1, 1000)), max_size=15))
def test_nothing_is_lost_or_counted_twice(
    tmp_path_factory: pytest.TempPathFactory, used: list[tuple[int, str, int]]
) -> None:
    book = Book(tmp_path_factory.mktemp("usage") / "usage")
    for days, application, records in used:
        book.now += days * DAY_SECONDS / 10
        book.use(application, records)
    for application in ("a", "b"):
        expected = sum(records for _, name, records in used if name == application)
        assert sum(row.in_records for row in book.rows(application)) == expected


def test_write_whose_caller_goes_while_the_thread_works_counts_nothing_twice(book: Book) -> None:
    commits: list[Deferred[None]] = []

    async def in_thread(work: Callable[[], Any]) -> Any:
        committed: Deferred[None] = Deferred()
        commits.append(committed)
        # a thread is not cancelled with what waits for it
        found = work()
        await committed
        return found

    book.book._in_thread = in_thread
    book.used["app1"] = [3, 30, 0, 0, 0]
    gone = Deferred.fromCoroutine(book.book.write()).addErrback(lambda _: None)
    gone.cancel()
    commits.pop().callback(None)
    book.book._in_thread = book._in_thread
    assert book.rows() == [UsageRow(START, HOUR_SECONDS, "app1", 3, 30, 0, 0, 0)]
