"""Keeps the usage of each application in a SQLite file: a row an hour, and of older hours a row a day.

What is noted is added to the row of its hour, so that nothing is counted twice however often it is written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, DeferredLock

from kateway.errors import KatewayError, Unavailable
from kateway.shield import shield
from kateway.storage.sqlite.transaction import make_schema, transaction, words

HOUR_SECONDS = 3600
DAY_SECONDS = 86400
HOURS_KEPT_SECONDS = 35 * DAY_SECONDS
DAYS_KEPT_SECONDS = 400 * DAY_SECONDS
BUSY_SECONDS = 5.0
FIGURES = ("in_records", "in_bytes", "out_records", "out_bytes", "throttled")
SCHEMA_VERSION = 1
_COLUMNS = ", ".join(FIGURES)
_ADD = ", ".join(f"{name} = {name} + excluded.{name}" for name in FIGURES)
_TABLE = (
    "CREATE TABLE {} (start INTEGER NOT NULL, application TEXT NOT NULL, "
    + ", ".join(f"{name} INTEGER NOT NULL" for name in FIGURES)
    + ", PRIMARY KEY (start, application)) WITHOUT ROWID"
)
_SCHEMA = _TABLE.format("hours") + ";\n" + _TABLE.format("days")

InThread = Callable[[Callable[[], Any]], Coroutine[Any, Any, Any]]
"""Runs a function off the reactor's thread."""


class UsageRow(NamedTuple):
    """What one application used within one time."""

    start: int
    """Seconds since the epoch."""
    seconds: int
    """An hour, or a day."""
    application: str
    in_records: int
    in_bytes: int
    out_records: int
    out_bytes: int
    throttled: int


class UsageBook:
    """The file. ``take`` gives what was used since it was last called, by application in the order of ``FIGURES``."""

    def __init__(
        self,
        path: Path,
        take: Callable[[], Mapping[str, Sequence[int]]],
        in_thread: InThread,
        wall: Callable[[], float],
    ) -> None:
        self._path = path
        self._take = take
        self._in_thread = in_thread
        self._wall = wall
        self._unwritten: dict[tuple[int, str], list[int]] = {}
        """By hour and application."""
        self._one_at_a_time = DeferredLock()

    async def write(self) -> None:
        """Adds what was used to the file. ``Unavailable`` where that fails: then it is added the next time.

        Cancelling leaves it to go on: a thread that has begun commits all the same.
        """
        await shield(self._one_at_a_time.run(lambda: Deferred.fromCoroutine(self._write())))

    async def read(self, application: str | None, start: int, end: int, most: int) -> list[UsageRow]:
        """Returns the rows that begin within a time, up to ``most`` and one more."""
        await self.write()
        found: list[UsageRow] = await self._in_file(lambda file: _read(file, application, start, end, most + 1))
        return found

    async def _write(self) -> None:
        now = int(self._wall())
        hour = now // HOUR_SECONDS * HOUR_SECONDS
        for application, used in self._take().items():
            noted = self._unwritten.setdefault((hour, application), [0] * len(FIGURES))
            noted[:] = [before + more for before, more in zip(noted, used, strict=True)]
        writing, self._unwritten = self._unwritten, {}
        try:
            await self._in_file(lambda file: _add(file, writing, now))
        except BaseException:
            for key, used in writing.items():
                self._unwritten[key] = used
            raise

    async def _in_file(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        def opened() -> Any:
            with closing(_open(self._path)) as file:
                return work(file)

        try:
            return await self._in_thread(opened)
        except sqlite3.Error as error:
            raise Unavailable(f"the file of the usage cannot be used: {words(error)}") from error
        except OSError as error:
            raise Unavailable(f"the file of the usage cannot be used: {error}") from error
        except KatewayError as error:
            raise Unavailable(str(error)) from error


# --- in the thread ---------------------------------------------------------------------------------------------


def _open(path: Path) -> sqlite3.Connection:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        make_schema(connection, _SCHEMA, SCHEMA_VERSION, path, "data_directory")
    except BaseException:
        connection.close()
        raise
    return connection


def _add(connection: sqlite3.Connection, used: Mapping[tuple[int, str], Sequence[int]], now: int) -> None:
    """Adds to the hours, and makes days of those that are old."""
    rows = [(hour, application, *figures) for (hour, application), figures in used.items() if any(figures)]
    with transaction(connection):
        _insert(connection, "hours", rows)
        before = (now - HOURS_KEPT_SECONDS) // DAY_SECONDS * DAY_SECONDS
        sums = ", ".join(f"sum({name})" for name in FIGURES)
        old = connection.execute(
            f"SELECT start / {DAY_SECONDS} * {DAY_SECONDS}, application, {sums} FROM hours "
            "WHERE start < ? GROUP BY 1, 2",
            (before,),
        ).fetchall()
        if old:
            _insert(connection, "days", old)
            connection.execute("DELETE FROM hours WHERE start < ?", (before,))
        connection.execute("DELETE FROM days WHERE start < ?", (now - DAYS_KEPT_SECONDS,))


def _insert(connection: sqlite3.Connection, table: str, rows: Iterable[Sequence[object]]) -> None:
    places = ", ".join("?" * (len(FIGURES) + 2))
    connection.executemany(
        f"INSERT INTO {table} (start, application, {_COLUMNS}) VALUES ({places}) "
        f"ON CONFLICT (start, application) DO UPDATE SET {_ADD}",
        rows,
    )


def _read(connection: sqlite3.Connection, application: str | None, start: int, end: int, most: int) -> list[UsageRow]:
    only = "" if application is None else "AND application = :application"
    chosen = f"WHERE start >= :start AND start < :end {only}"
    rows = connection.execute(
        f"SELECT start, {DAY_SECONDS}, application, {_COLUMNS} FROM days {chosen} UNION ALL "
        f"SELECT start, {HOUR_SECONDS}, application, {_COLUMNS} FROM hours {chosen} "
        "ORDER BY start, application LIMIT :most",
        {"start": start, "end": end, "application": application, "most": most},
    )
    return [UsageRow(*row) for row in rows]
