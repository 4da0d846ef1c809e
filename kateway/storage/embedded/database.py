"""Holds the SQLite file's schema and every statement that is run on it. Plain functions of a connection, for a thread.

A row of ``log`` holds several records of one partition, one behind the other (``records.py``): a row for each record
would cost a step of SQLite for each, and with every step Python's lock changes hands, which takes up to 5 ms while
the reactor computes. For the same reason ``read`` joins its rows inside SQLite.

A row's id is ``partition id << 40 | offset of its first record``: one partition's rows lie together and in order.
``position`` is where the row begins in its partition's stream of bytes, ``newest`` the latest timestamp of all records
up to and with it; both only grow, so ranges by size and by time are found without an index of their own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kateway.errors import ConfigError, KatewayError, OutcomeUnknown, StorageFull, Unavailable
from kateway.model import Committed
from kateway.storage.sqlite.records import Slice
from kateway.storage.sqlite.transaction import make_schema, transaction, words

SCHEMA_VERSION = 1
OFFSET_BITS = 40
PAGE_BYTES = 8192

_SCHEMA = """
CREATE TABLE topics (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, retention_ms INTEGER);
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic INTEGER,  -- null: deleted, its records are being removed
    number INTEGER NOT NULL,
    earliest INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, number)
);
CREATE TABLE log (
    id INTEGER PRIMARY KEY,
    count INTEGER NOT NULL,
    position INTEGER NOT NULL,
    newest INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE TABLE commits (
    partition INTEGER NOT NULL,
    "group" TEXT NOT NULL,
    next_offset INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    PRIMARY KEY (partition, "group")
) WITHOUT ROWID;
CREATE TABLE probe (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
"""

_JOINED = "SELECT CAST(group_concat(CAST(data AS TEXT), '') AS BLOB)"


class Row(NamedTuple):
    """A row of the log to be written; one that begins where another does takes its place."""

    id: int
    records: int
    position: int
    newest: int
    data: bytes


class Commit(NamedTuple):
    """A group's committed position to be written."""

    partition: int
    group: str
    next_offset: int
    metadata: str


class Loaded(NamedTuple):
    """A partition as the file has it."""

    id: int
    number: int
    earliest: int
    end: int
    size: int
    newest: int


# --- opening -----------------------------------------------------------------------------------------------------


def open_for_writing(path: Path, where: str, max_bytes: int) -> sqlite3.Connection:
    """Opens the file, makes it where it is missing. ``ConfigError`` says what a person must mend; ``where`` names the
    option that led here.
    """
    connection = _connect(path)
    try:
        _prepare(connection, path, where, max_bytes)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, where: str, max_bytes: int) -> None:
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 2000")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    make_schema(connection, _SCHEMA, SCHEMA_VERSION, path, where)
    # only now: it counts in pages, and an empty file has not fixed their size yet
    if max_bytes:
        connection.execute(f"PRAGMA max_page_count = {max(1, max_bytes // PAGE_BYTES)}")
    every_byte = bytes(range(256))
    joined = connection.execute(f"{_JOINED} FROM (SELECT ? AS data UNION ALL SELECT ?)", (every_byte, every_byte))
    if joined.fetchone()[0] != every_byte * 2:
        raise ConfigError([f"{where}: this SQLite ({sqlite3.sqlite_version}) cannot join blobs"])


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A further connection to a file that ``open_for_writing`` has made."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only = 1")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=10)


def load(connection: sqlite3.Connection) -> list[tuple[int, str, int | None, list[Loaded]]]:
    """All topics: id, name, retention, partitions in order."""
    topics = []
    for topic, name, retention_ms in connection.execute("SELECT id, name, retention_ms FROM topics").fetchall():
        topics.append((topic, name, retention_ms, _partitions(connection, topic)))
    return topics


def _partitions(connection: sqlite3.Connection, topic: int) -> list[Loaded]:
    rows = connection.execute(
        "SELECT id, number, earliest FROM partitions WHERE topic = ? ORDER BY number", (topic,)
    ).fetchall()
    found = []
    for partition, number, earliest in rows:
        last = connection.execute(
            "SELECT id + count, position + length(data), newest FROM log WHERE id BETWEEN ? AND ? "
            "ORDER BY id DESC LIMIT 1",
            _range(partition),
        ).fetchone()
        end, size, newest = (_offset(last[0]), *last[1:]) if last else (earliest, 0, 0)
        found.append(Loaded(partition, number, earliest, end, size, newest))
    return found


# --- writing -----------------------------------------------------------------------------------------------------


def write(connection: sqlite3.Connection, rows: Sequence[Row], commits: Sequence[Commit]) -> None:
    """Writes all of it in one transaction; when it returns, it is on disk."""
    with transaction(connection):
        if rows:
            connection.executemany("REPLACE INTO log VALUES (?, ?, ?, ?, ?)", rows)
        if commits:
            _commit(connection, commits)


def _commit(connection: sqlite3.Connection, commits: Iterable[Commit]) -> None:
    connection.executemany("REPLACE INTO commits VALUES (?, ?, ?, ?)", commits)


def create_topic(
    connection: sqlite3.Connection, name: str, partitions: int, retention_ms: int | None
) -> tuple[int, list[Loaded]] | None:
    """Answers the topic's id and its partitions; ``None`` where the topic exists."""
    with transaction(connection):
        if connection.execute("SELECT 1 FROM topics WHERE name = ?", (name,)).fetchone():
            return None
        topic = connection.execute(
            "INSERT INTO topics (name, retention_ms) VALUES (?, ?)", (name, retention_ms)
        ).lastrowid
        assert topic is not None
        _add(connection, topic, range(partitions))
        return topic, _partitions(connection, topic)


def set_retention(connection: sqlite3.Connection, topic: int, retention_ms: int) -> None:
    with transaction(connection):
        connection.execute("UPDATE topics SET retention_ms = ? WHERE id = ?", (retention_ms, topic))


def add_partitions(connection: sqlite3.Connection, topic: int, total: int) -> list[Loaded]:
    """Answers all partitions of the topic."""
    with transaction(connection):
        _add(connection, topic, range(len(_partitions(connection, topic)), total))
        return _partitions(connection, topic)


def _add(connection: sqlite3.Connection, topic: int, numbers: range) -> None:
    connection.executemany(
        "INSERT INTO partitions (topic, number) VALUES (?, ?)", [(topic, number) for number in numbers]
    )


def delete_topic(connection: sqlite3.Connection, topic: int) -> None:
    """Makes the topic unknown; ``sweep`` removes its records."""
    with transaction(connection):
        connection.execute(
            "DELETE FROM commits WHERE partition IN (SELECT id FROM partitions WHERE topic = ?)", (topic,)
        )
        connection.execute("UPDATE partitions SET topic = NULL WHERE topic = ?", (topic,))
        connection.execute("DELETE FROM topics WHERE id = ?", (topic,))


def sweep(connection: sqlite3.Connection, max_rows: int) -> bool:
    """Removes some records of deleted topics; answers whether more may be left."""
    with transaction(connection):
        dropped = connection.execute("SELECT id FROM partitions WHERE topic IS NULL LIMIT 1").fetchone()
        if dropped is None:
            return False
        low, high = _range(dropped[0])
        gone = connection.execute(
            "DELETE FROM log WHERE id IN (SELECT id FROM log WHERE id BETWEEN ? AND ? LIMIT ?)", (low, high, max_rows)
        ).rowcount
        if gone < max_rows:
            # also offsets committed while the topic was being deleted
            connection.execute("DELETE FROM commits WHERE partition = ?", dropped)
            connection.execute("DELETE FROM partitions WHERE id = ?", dropped)
        return True


def expire(connection: sqlite3.Connection, partition: int, before_ms: int, max_rows: int) -> int | None:
    """Removes the partition's oldest rows whose records are all older than ``before_ms``, at most ``max_rows``;
    answers the new earliest offset, ``None`` where there was nothing to remove.
    """
    low, high = _range(partition)
    with transaction(connection):
        rows = connection.execute(
            "SELECT id, id + count, newest FROM log WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?", (low, high, max_rows)
        ).fetchall()
        old = [row for row in rows if row[2] < before_ms]
        if not old:
            return None
        last, end, _ = old[-1]
        earliest: int = _offset(end)
        connection.execute("DELETE FROM log WHERE id BETWEEN ? AND ?", (low, last))
        connection.execute("UPDATE partitions SET earliest = ? WHERE id = ?", (earliest, partition))
        return earliest


def probe(connection: sqlite3.Connection, size: int) -> None:
    """Writes ``size`` bytes and takes them back: fails as a publish would."""
    with transaction(connection):
        connection.execute("REPLACE INTO probe VALUES (1, zeroblob(?))", (size,))
    with transaction(connection):
        connection.execute("DELETE FROM probe")


# --- reading -----------------------------------------------------------------------------------------------------

# the last row is found first, without its data: the scan for it ends at the first row that lies too far ahead
_READ = f"""
WITH first (id, position) AS (
    SELECT id, position FROM log WHERE id >= ifnull(
        (SELECT id FROM log WHERE id BETWEEN :low AND :key ORDER BY id DESC LIMIT 1), :key
    ) AND id <= :high ORDER BY id LIMIT 1
)
{_JOINED}, min(id), max(id + count) FROM log
WHERE id >= (SELECT id FROM first) AND id < ifnull(
    (SELECT id FROM log WHERE id BETWEEN (SELECT id FROM first) AND :high
     AND position >= (SELECT position FROM first) + :max_bytes ORDER BY id LIMIT 1),
    :high + 1
)
"""


def read(connection: sqlite3.Connection, partition: int, offset: int, max_bytes: int) -> Slice | None:
    """Records from ``offset`` on: whole rows, at least one, until there are ``max_bytes`` of them (or a row more).
    Begins later where older records are gone. ``None``: there is nothing from there on.
    """
    low, high = _range(partition)
    data, first, end = connection.execute(
        _READ, {"low": low, "key": low + offset, "high": high, "max_bytes": max(1, max_bytes)}
    ).fetchone()
    if data is None:
        return None
    found = Slice(data, _offset(first), end - low)
    found.skip_to(offset)
    return found if found.left else None


def offset_at(connection: sqlite3.Connection, partition: int, timestamp: int) -> int | None:
    """The offset of the partition's first record at or after ``timestamp``. Halves the range of ids until it has the
    first row that can hold it; rows behind that are looked at only where retention took the record it tells of.
    """
    low, high = _range(partition)
    first, last = low, high + 1
    while first < last:
        middle = (first + last) // 2
        row = connection.execute(
            "SELECT id, newest FROM log WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 1", (middle, high)
        ).fetchone()
        if row is None or row[1] >= timestamp:
            last = middle
        else:
            first = row[0] + 1
    rows = connection.execute("SELECT id, count, data FROM log WHERE id BETWEEN ? AND ? ORDER BY id", (first, high))
    for row, count, data in rows:
        found = Slice(data, _offset(row), _offset(row) + count).first_at(timestamp)
        if found is not None:
            return found
    return None


def committed(connection: sqlite3.Connection, group: str, partitions: Sequence[int]) -> Mapping[int, Committed]:
    """What the group has committed in these partitions, by partition id."""
    found = {}
    for partition in partitions:
        row = connection.execute(
            'SELECT next_offset, metadata FROM commits WHERE partition = ? AND "group" = ?', (partition, group)
        ).fetchone()
        if row is not None:
            found[partition] = Committed(*row)
    return found


def committed_groups(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Lists groups with the topics that they have committed a place in."""
    return connection.execute(
        'SELECT DISTINCT commits."group", topics.name FROM commits '
        "JOIN partitions ON partitions.id = commits.partition JOIN topics ON topics.id = partitions.topic"
    ).fetchall()


def row_id(partition: int, offset: int) -> int:
    return partition << OFFSET_BITS | offset


def _range(partition: int) -> tuple[int, int]:
    """The lowest and the highest id that a row of the partition can have."""
    return partition << OFFSET_BITS, (partition + 1 << OFFSET_BITS) - 1


def _offset(row: int) -> int:
    return row & (1 << OFFSET_BITS) - 1


# --- errors ------------------------------------------------------------------------------------------------------


def cannot_open(error: BaseException, path: Path, where: str) -> BaseException:
    """What a person reads where the store does not start."""
    if isinstance(error, sqlite3.Error):
        return ConfigError([f"{where}: {path} cannot be opened: {words(error)}"])
    return error


def translate(error: BaseException | None) -> KatewayError:
    """What a client hears where SQLite failed."""
    if isinstance(error, KatewayError):
        return error
    if not isinstance(error, sqlite3.Error):
        return Unavailable(f"the embedded store failed: {type(error).__name__}")
    code = getattr(error, "sqlite_errorcode", 0)
    if code in (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC):
        return OutcomeUnknown(f"the embedded store could not be flushed to disk: {words(error)}")
    if code & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return StorageFull(f"the embedded store cannot grow: {words(error)}; make room on its disk")
    return Unavailable(f"the embedded store failed: {words(error)}")
