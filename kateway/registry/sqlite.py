"""The registry in one SQLite file of ours, for one gateway: ``registry.db`` in the data directory.

A write is on disk when it answers. The file is read once, at the start (and by ``reload``): while the gateway runs it
is the only one that has it open, which SQLite's exclusive lock holds to. SQLite works in a thread, one call at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import attrs
import orjson
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.threads import deferToThreadPool

from kateway.errors import BadRequest, ConfigError, DataDirectoryLocked, RegistryUnavailable
from kateway.model import Health
from kateway.registry import plans
from kateway.registry.changes import WritableRegistry
from kateway.registry.documents import from_table, to_table
from kateway.registry.interface import Entry, GatewayEntry, Snapshot
from kateway.registry.plans import Change, Plan
from kateway.shield import shield

FILE_NAME: Final = "registry.db"
LAYOUT: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entries (
  kind TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, document BLOB NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revisions (revision INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS used (key TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
"""

P = ParamSpec("P")
T = TypeVar("T")


class EmbeddedRegistry(WritableRegistry):
    """Applications, keys, topics and bindings in SQLite. ``data`` is the data directory; it is made if missing."""

    driver = "embedded"

    def __init__(self, reactor: Any, data: Path) -> None:
        super().__init__()
        self._reactor = reactor
        self._path = data / FILE_NAME
        self._connection: sqlite3.Connection | None = None
        self._lock = DeferredLock()
        self._gateway: GatewayEntry | None = None
        self._fault = ""

    async def start(self) -> None:
        self._current.replace(await self._in_turn(self._open))

    async def stop(self) -> None:
        self._gateway = None
        if self._connection is not None:
            await self._in_turn(self._close)

    async def reload(self) -> None:
        noticed = self._reactor.seconds()
        self._current.replace(await self._in_turn(self._load), noticed)

    def health(self) -> Health:
        details = {"driver": self.driver, "path": str(self._path), **self._current.counts()}
        return Health(not self._fault, self._fault, details)

    async def register_gateway(self, entry: GatewayEntry) -> None:
        self._gateway = entry

    async def gateways(self) -> Sequence[GatewayEntry]:
        return [] if self._gateway is None else [self._gateway]

    async def note_used(self, used: Mapping[str, int]) -> None:
        known = self.snapshot.keys
        rows = [(key, at) for key, at in used.items() if key in known]
        if rows:
            await self._in_turn(self._write_used, rows)

    async def last_used(self, keys: Collection[str]) -> Mapping[str, int]:
        return await self._in_turn(self._read_used, list(keys))

    # --- turns -------------------------------------------------------------------------------------------------

    async def _commit(self, plan: Plan) -> tuple[Snapshot, Snapshot]:
        # the write goes on, and into force, when its caller is cancelled: an entry on disk must be in the snapshot
        return await shield(Deferred.fromCoroutine(self._carry_out(plan)))

    async def _carry_out(self, plan: Plan) -> tuple[Snapshot, Snapshot]:
        await self._lock.acquire()
        try:
            before = self.snapshot
            changes = plan(before)
            if not changes:
                return before, before
            noticed = self._reactor.seconds()
            revision = before.revision + 1
            changes = [_stamped(change, revision) for change in changes]
            await self._in_thread(self._write, changes, revision)
            after = plans.apply(before, changes, revision)
            self._current.replace(after, noticed)
            return before, after
        finally:
            self._lock.release()

    async def _in_turn(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async def turn() -> T:
            await self._lock.acquire()
            try:
                return await self._in_thread(call, *args, **kwargs)
            finally:
                self._lock.release()

        return await shield(Deferred.fromCoroutine(turn()))

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            pool = self._reactor.getThreadPool()
            result: T = await deferToThreadPool(self._reactor, pool, call, *args, **kwargs)
        except sqlite3.Error as error:
            self._fault = f"{self._path}: {error}"
            raise RegistryUnavailable(f"the registry's file cannot be used: {error}") from error
        self._fault = ""
        return result

    # --- in the thread -----------------------------------------------------------------------------------------

    def _open(self) -> Snapshot:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            (layout,) = connection.execute("PRAGMA user_version").fetchone()
            if layout not in {0, LAYOUT}:
                raise ConfigError([f"{self._path}: written by a newer kateway (layout {layout})"])
            connection.executescript(f"BEGIN EXCLUSIVE; {_SCHEMA} PRAGMA user_version = {LAYOUT}; COMMIT;")
            self._connection = connection
            return self._load()
        except BaseException as error:
            self._connection = None
            connection.close()
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise DataDirectoryLocked(f"another process uses {self._path}") from error
            if isinstance(error, sqlite3.DatabaseError):
                raise ConfigError([f"{self._path}: {error}"]) from error
            raise

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise RegistryUnavailable("the registry is stopped")
        return self._connection

    def _load(self) -> Snapshot:
        connection = self._open_connection()
        (revision,) = connection.execute("SELECT coalesce(max(revision), 0) FROM revisions").fetchone()
        entries: list[Entry] = []
        problems: list[str] = []
        for kind, name, written, document in connection.execute("SELECT kind, name, revision, document FROM entries"):
            try:
                entries.append(from_table(kind, name, orjson.loads(document), str(written)))
            except (BadRequest, KeyError, ValueError) as error:
                problems.append(f"{self._path}: {kind}.{name}: {error}")
        if problems:
            raise ConfigError(problems)
        return plans.build(entries, revision)

    def _write(self, changes: Iterable[Change], revision: int) -> None:
        with self._transaction() as connection:
            for kind, name, entry in ((change.kind, change.name, change.entry) for change in changes):
                if entry is None:
                    connection.execute("DELETE FROM entries WHERE kind = ? AND name = ?", (kind, name))
                    if kind == "keys":
                        connection.execute("DELETE FROM used WHERE key = ?", (name,))
                else:
                    row = (kind, name, revision, orjson.dumps(to_table(entry)))
                    connection.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", row)
            connection.execute("DELETE FROM revisions")
            connection.execute("INSERT INTO revisions VALUES (?)", (revision,))

    def _write_used(self, rows: list[tuple[str, int]]) -> None:
        newest = "INSERT INTO used VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET at = max(at, excluded.at)"
        with self._transaction() as connection:
            connection.executemany(newest, rows)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._open_connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _read_used(self, keys: list[str]) -> dict[str, int]:
        connection = self._open_connection()
        found = {}
        for key in keys:
            row = connection.execute("SELECT at FROM used WHERE key = ?", (key,)).fetchone()
            if row is not None:
                found[key] = row[0]
        return found

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _stamped(change: Change, revision: int) -> Change:
    if change.entry is None:
        return change
    return attrs.evolve(change, entry=attrs.evolve(change.entry, etag=str(revision)))
