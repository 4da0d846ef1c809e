"""Holds the spool's file in SQL: the records that are kept, the batches that were made of them, and refused records.

A record stays in ``records`` until the store has answered for it. A batch is made of records of one partition and
written to ``batches`` as the very bytes that are sent, with their producer id and sequence, *before* they are sent:
after a crash the same bytes go again, and the store, which knows their number, does not write them twice.

All functions run on the spool's thread and are one transaction each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from kateway.errors import ConfigError, Conflict, KatewayError, OutcomeUnknown, StorageFull
from kateway.model import Headers, Message
from kateway.storage.interface import RECORD_OVERHEAD_BYTES, RefusedRecord
from kateway.storage.sqlite.records import Slice, encode
from kateway.storage.sqlite.transaction import make_schema, transaction, words

SCHEMA_VERSION = 1
PAGE_BYTES = 8192
FILE = "spool.sqlite3"

_SCHEMA = """
CREATE TABLE topics (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE records (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    partition INTEGER,
    taken_ms INTEGER NOT NULL,
    data BLOB NOT NULL,
    batch INTEGER
);
CREATE INDEX records_by_topic ON records (topic, id);
CREATE INDEX records_by_age ON records (taken_ms);
CREATE INDEX records_by_batch ON records (batch) WHERE batch IS NOT NULL;
CREATE TABLE batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE TABLE refused (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    partition INTEGER,
    taken_ms INTEGER NOT NULL,
    refused_ms INTEGER NOT NULL,
    reason TEXT NOT NULL,
    data BLOB NOT NULL
);
"""


class Kept(NamedTuple):
    """A record to be kept, as the file has it."""

    topic: str
    partition: int | None
    taken_ms: int
    data: bytes

    @property
    def held_bytes(self) -> int:
        return held(len(self.data))


class Row(NamedTuple):
    """A kept record that is read back to be written."""

    id: int
    message: Message


class Prepared(NamedTuple):
    """A batch as it is sent, byte for byte."""

    id: int
    topic: str
    partition: int
    data: bytes
    records: int
    held_bytes: int
    """Of its records in the spool."""


class NewBatch(NamedTuple):
    """A batch to be written down before it is sent."""

    topic: str
    partition: int
    data: bytes
    rows: Sequence[int]


class TopicContent(NamedTuple):
    """A topic's share of the spool."""

    records: int
    held_bytes: int


class Contents(NamedTuple):
    """All that is in the file when it is opened."""

    seen: list[str]
    topics: dict[str, TopicContent]
    batches: list[Prepared]
    refused: TopicContent


class Moved(NamedTuple):
    """Records that left a topic's queue for the refused ones, or the other way."""

    topic: str
    records: int
    held_bytes: int


def held(size: int) -> int:
    """The bytes that count for a record of ``size`` encoded bytes."""
    return size + RECORD_OVERHEAD_BYTES


_HELD = f"total(length(data) + {RECORD_OVERHEAD_BYTES})"


# --- opening -----------------------------------------------------------------------------------------------------


def open_spool(path: Path, where: str) -> sqlite3.Connection:
    """Opens the file, makes it where it is missing. ``ConfigError`` says what a person must mend."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=10)
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        # given back bit by bit: a spool that was full once must not keep the disk for ever
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        make_schema(connection, _SCHEMA, SCHEMA_VERSION, path, where)
    except sqlite3.Error as error:
        raise ConfigError([f"{where}: {path} cannot be opened: {words(error)}"]) from error
    return connection


def load(connection: sqlite3.Connection) -> Contents:
    """Returns all that has to be known of the file; records themselves are read when they are written."""
    seen = [name for (name,) in connection.execute("SELECT name FROM topics")]
    topics = {
        topic: TopicContent(count, int(size))
        for topic, count, size in connection.execute(f"SELECT topic, count(*), {_HELD} FROM records GROUP BY topic")
    }
    refused = TopicContent(*map(int, connection.execute(f"SELECT count(*), {_HELD} FROM refused").fetchone()))
    batches = []
    for number, topic, partition, data in connection.execute("SELECT * FROM batches ORDER BY id").fetchall():
        count, size = connection.execute(f"SELECT count(*), {_HELD} FROM records WHERE batch = ?", (number,)).fetchone()
        batches.append(Prepared(number, topic, partition, data, count, int(size)))
    return Contents(seen, topics, batches, refused)


# --- taking ------------------------------------------------------------------------------------------------------


def take(connection: sqlite3.Connection, records: Sequence[Kept], seen: Sequence[str]) -> int:
    """Keeps records, in their order; when it returns, they are on disk. Returns the first one's number."""
    with transaction(connection):
        _saw(connection, seen)
        last = connection.execute("SELECT ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'records'), 0)")
        first: int = last.fetchone()[0] + 1
        connection.executemany("INSERT INTO records (topic, partition, taken_ms, data) VALUES (?, ?, ?, ?)", records)
    return first


def saw(connection: sqlite3.Connection, topics: Sequence[str]) -> None:
    """Notes that topics exist: after a restart records are kept for those alone."""
    with transaction(connection):
        _saw(connection, topics)


def _saw(connection: sqlite3.Connection, topics: Sequence[str]) -> None:
    connection.executemany("INSERT OR IGNORE INTO topics VALUES (?)", [(topic,) for topic in topics])


def encode_message(message: Message, taken_ms: int) -> bytes:
    """Encodes a message as the file keeps it; one without a timestamp has that of its taking."""
    timestamp = taken_ms if message.timestamp is None else message.timestamp
    return encode(timestamp, message.key, message.value, message.headers)


# --- writing to the store ----------------------------------------------------------------------------------------


def next_rows(connection: sqlite3.Connection, topic: str, max_records: int, max_bytes: int) -> list[Row]:
    """Returns a topic's oldest records that are in no batch: at least one, at most about ``max_bytes`` of them."""
    rows: list[Row] = []
    size = 0
    for number, partition, data in connection.execute(
        "SELECT id, partition, data FROM records WHERE topic = ? AND batch IS NULL ORDER BY id LIMIT ?",
        (topic, max_records),
    ):
        size += len(data)
        if rows and size > max_bytes:
            break
        timestamp, key, value, headers = _decoded(data)
        rows.append(Row(number, Message(value, key, headers, partition, timestamp)))
    return rows


def _decoded(data: bytes) -> tuple[int, bytes | None, bytes | None, Headers]:
    records: list[tuple[int, int, bytes | None, bytes | None, Headers]] = []
    Slice(data, 0, 1).take(records, 1, len(data))  # type: ignore[arg-type]
    return records[0][1:]


def prepare(connection: sqlite3.Connection, batches: Sequence[NewBatch]) -> list[Prepared]:
    """Writes batches down, with the records that each is made of. ``Conflict`` where one of the records went to the
    refused ones since it was read; then nothing is changed.
    """
    found = []
    with transaction(connection):
        for topic, partition, data, rows in batches:
            number = connection.execute(
                "INSERT INTO batches (topic, partition, data) VALUES (?, ?, ?)", (topic, partition, data)
            ).lastrowid
            assert number is not None
            found_rows = connection.executemany(
                "UPDATE records SET batch = ? WHERE id = ?", [(number, row) for row in rows]
            ).rowcount
            if found_rows != len(rows):
                raise Conflict("a record that was to be written is too old by now")
            size = connection.execute(f"SELECT {_HELD} FROM records WHERE batch = ?", (number,)).fetchone()[0]
            found.append(Prepared(number, topic, partition, data, len(rows), int(size)))
    return found


def written(connection: sqlite3.Connection, batches: Iterable[int]) -> None:
    """Removes batches that the store has, with their records."""
    with transaction(connection):
        for batch in batches:
            connection.execute("DELETE FROM records WHERE batch = ?", (batch,))
            connection.execute("DELETE FROM batches WHERE id = ?", (batch,))
    connection.execute("PRAGMA incremental_vacuum(256)").fetchall()


def unmake(connection: sqlite3.Connection, batch: int) -> None:
    """Forgets a batch that surely was not written; its records are as they were before."""
    with transaction(connection):
        connection.execute("UPDATE records SET batch = NULL WHERE batch = ?", (batch,))
        connection.execute("DELETE FROM batches WHERE id = ?", (batch,))


# --- refused records ---------------------------------------------------------------------------------------------


def refuse_batch(connection: sqlite3.Connection, batch: int, reason: str, now_ms: int) -> list[Moved]:
    """Moves a batch's records to the refused ones."""
    with transaction(connection):
        moved = _refuse(connection, "batch = ?", (batch,), reason, now_ms)
        connection.execute("DELETE FROM batches WHERE id = ?", (batch,))
    return moved


def refuse_topic(connection: sqlite3.Connection, topic: str, reason: str, now_ms: int) -> list[Moved]:
    """Moves all records of a topic to the refused ones, with those in batches."""
    with transaction(connection):
        moved = _refuse(connection, "topic = ?", (topic,), reason, now_ms)
        connection.execute("DELETE FROM batches WHERE topic = ?", (topic,))
        connection.execute("DELETE FROM topics WHERE name = ?", (topic,))
    return moved


def refuse_older(connection: sqlite3.Connection, before_ms: int, reason: str, now_ms: int) -> list[Moved]:
    """Moves records that were taken before ``before_ms`` and are in no batch to the refused ones."""
    with transaction(connection):
        return _refuse(connection, "taken_ms < ? AND batch IS NULL", (before_ms,), reason, now_ms)


def _refuse(
    connection: sqlite3.Connection, condition: str, values: tuple[object, ...], reason: str, now_ms: int
) -> list[Moved]:
    counted = connection.execute(
        f"SELECT topic, count(*), {_HELD} FROM records WHERE {condition} GROUP BY topic", values
    ).fetchall()
    if counted:
        connection.execute(
            "INSERT INTO refused (topic, partition, taken_ms, refused_ms, reason, data) "
            f"SELECT topic, partition, taken_ms, ?, ?, data FROM records WHERE {condition} ORDER BY id",
            (now_ms, reason, *values),
        )
        connection.execute(f"DELETE FROM records WHERE {condition}", values)
    return [Moved(topic, count, int(size)) for topic, count, size in counted]


def list_refused(connection: sqlite3.Connection, after: int, limit: int) -> list[RefusedRecord]:
    """Returns refused records behind number ``after``, in the order in which they were refused."""
    found = []
    for number, topic, partition, taken_ms, refused_ms, reason, data in connection.execute(
        "SELECT * FROM refused WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
    ):
        _, key, value, _ = _decoded(data)
        found.append(RefusedRecord(number, topic, partition, key, len(value or b""), taken_ms, refused_ms, reason))
    return found


def retry_refused(connection: sqlite3.Connection, now_ms: int) -> list[Moved]:
    """Moves all refused records back, behind those that wait, as if they were taken now."""
    with transaction(connection):
        counted = connection.execute(f"SELECT topic, count(*), {_HELD} FROM refused GROUP BY topic").fetchall()
        connection.execute(
            "INSERT INTO records (topic, partition, taken_ms, data) "
            "SELECT topic, partition, ?, data FROM refused ORDER BY id",
            (now_ms,),
        )
        connection.execute("DELETE FROM refused")
        _saw(connection, [topic for topic, _, _ in counted])
    return [Moved(topic, count, int(size)) for topic, count, size in counted]


def delete_refused(connection: sqlite3.Connection) -> int:
    """Deletes all refused records. Returns how many there were."""
    with transaction(connection):
        return connection.execute("DELETE FROM refused").rowcount


def oldest_ms(connection: sqlite3.Connection) -> int | None:
    """Returns when the oldest record was taken, in ms since the epoch."""
    found: int | None = connection.execute("SELECT min(taken_ms) FROM records").fetchone()[0]
    return found


def translate(error: BaseException | None) -> KatewayError:
    """Says for a client how SQLite failed."""
    if isinstance(error, KatewayError):
        return error
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", 0)
        if code in (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC):
            return OutcomeUnknown(f"the handoff's spool could not be flushed to disk: {words(error)}")
        return StorageFull(f"the handoff's spool cannot be written: {words(error)}")
    return StorageFull(f"the handoff's spool cannot be written: {type(error).__name__}")
