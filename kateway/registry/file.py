"""The registry in a TOML file that people keep: read at the start and by ``reload``, all or nothing, never written.

The partitions in force of elastic topics, which change by themselves, are in a file of ours (``kept_placements``).
``conf/registry.toml`` is a worked example. An entry's etag is a digest of its members, so an entry that a reload
leaves as it was keeps its etag.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import orjson
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.threads import deferToThreadPool

from kateway.errors import BadRequest, ConfigError, KatewayError, RegistryReadOnly
from kateway.model import Health
from kateway.registry import plans
from kateway.registry.documents import Kind, from_table, to_table
from kateway.registry.interface import Entry, Placement, Snapshot, TopicName, Written
from kateway.registry.kept_placements import KeptPlacements
from kateway.registry.plans import Plan
from kateway.registry.read_only import ReadOnlyRegistry

Faults = Callable[[Snapshot], Iterable[str]]
_TABLES: tuple[Kind, ...] = ("applications", "topics", "bindings", "transforms")


class FileRegistry(ReadOnlyRegistry):
    """The entries of a TOML file."""

    driver = "file"

    def __init__(
        self, reactor: Any, path: Path, faults: Faults = lambda _snapshot: (), placements: Path | None = None
    ) -> None:
        """``faults`` finds what is wrong with the entries beyond their form, in a thread. ``placements``: the file
        of elastic topics' partitions in force; without one they last as long as the process.
        """
        super().__init__(Snapshot())
        self._kept = KeptPlacements(placements)
        self._lock = DeferredLock()
        self._reactor = reactor
        self._path = path
        self._faults = faults
        self._fault = ""

    def _refusal(self) -> KatewayError:
        return RegistryReadOnly(f"the registry is the file {self._path.name}: change that, then reload (SIGHUP)")

    async def start(self) -> None:
        await self.reload()

    async def reload(self) -> None:
        # a placement that is being written meanwhile must not be taken back by what was read before it
        await self._lock.run(lambda: Deferred.fromCoroutine(self._reload()))

    async def _reload(self) -> None:
        # a large file takes long enough to parse that streams would notice
        noticed = self._reactor.seconds()
        pool = self._reactor.getThreadPool()
        revision = self.snapshot.revision + 1
        try:
            snapshot = await deferToThreadPool(self._reactor, pool, read, self._path, revision, self._faults)
            await deferToThreadPool(self._reactor, pool, self._kept.read)
        except ConfigError as error:
            self._fault = f"the last reload failed, the registry read before is in force: {error}"
            raise
        self._fault = ""
        snapshot = plans.with_generations(snapshot, self.snapshot)
        changes = self._kept.changes(snapshot)
        self._current.replace(plans.apply(snapshot, changes, revision) if changes else snapshot, noticed)

    async def put_placement(self, placement: Placement, expected: str | None) -> Written[Placement]:
        before = self.snapshot.placements.get(placement.name)
        await self._keep(plans.put_placement(placement, expected))
        return Written(self.snapshot.placements[placement.name], before is None)

    async def delete_placement(self, name: TopicName, expected: str | None) -> None:
        await self._keep(plans.delete("placements", "/".join(name), expected))

    async def _keep(self, plan: Plan) -> None:
        """Carries out a change of a placement, on disk before it is in force."""
        await self._lock.acquire()
        try:
            revision = self.snapshot.revision + 1
            # the topics' own entries are the file's
            planned = [change for change in plan(self.snapshot) if change.kind == "placements"]
            changes = [
                change if change.entry is None else attrs.evolve(change, entry=_stamped(change.entry))
                for change in planned
            ]
            if changes:
                after = plans.apply(self.snapshot, changes, revision)
                pool = self._reactor.getThreadPool()
                await deferToThreadPool(self._reactor, pool, self._kept.write, tuple(after.placements.values()))
                self._current.replace(plans.apply(self.snapshot, changes, revision))
        finally:
            self._lock.release()

    def health(self) -> Health:
        details = {"driver": self.driver, "path": str(self._path), **self._current.counts()}
        return Health(not self._fault, self._fault, details)


def read(path: Path, revision: int = 1, faults: Faults = lambda _snapshot: ()) -> Snapshot:
    """A registry file as a snapshot; ``ConfigError`` names every fault by its path."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"{path}: {error}"]) from error
    reading = _Reading()
    for name in table:
        if name not in _TABLES:
            reading.problems.append(f"{name}: there is no such table, only {', '.join(_TABLES)}")
    for kind in _TABLES:
        reading.tables(kind, table.get(kind, {}))
    snapshot = plans.build(reading.entries, revision)
    if problems := reading.problems or plans.faults(snapshot) or list(faults(snapshot)):
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return snapshot


class _Reading:
    """The entries read so far, and all that was wrong with the others."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.problems: list[str] = []
        self._keys: set[str] = set()

    def tables(self, kind: Kind, tables: object) -> None:
        if not isinstance(tables, dict):
            self.problems.append(f"{kind}: must be tables, one an entry")
            return
        for name, members in tables.items():
            if kind == "applications" and isinstance(members, dict):
                self._read_keys(name, members.pop("keys", []))
            self._read(kind, name, members, f"{kind}.{name}")

    def _read_keys(self, application: str, keys: object) -> None:
        where = f"applications.{application}.keys"
        if not isinstance(keys, list):
            self.problems.append(f"{where}: must be [[{where}]], one a key")
            return
        for number, members in enumerate(keys):
            key = members.pop("key", None) if isinstance(members, dict) else None
            if not isinstance(key, str) or "application" in members:
                self.problems.append(f"{where}[{number}]: must be a table of key, kind, secret_hash …")
            elif key in self._keys:
                self.problems.append(f"{where}[{number}].key: {key} is given twice")
            else:
                self._keys.add(key)
                self._read("keys", key, members | {"application": application}, f"{where}[{number}]")

    def _read(self, kind: Kind, name: str, members: object, where: str) -> None:
        try:
            entry = from_table(kind, name, members)
        except BadRequest as error:
            self.problems.append(f"{where}: {error.detail}")
            return
        self.entries.append(_stamped(entry))


def _stamped(entry: Entry) -> Entry:
    return attrs.evolve(entry, etag=_digest(to_table(entry)))


def _digest(table: Mapping[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(table, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
