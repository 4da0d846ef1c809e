"""Keeps the partitions in force of a file registry's elastic topics, in a JSON file: people keep the registry's own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import orjson

from kateway.errors import BadRequest, ConfigError
from kateway.registry.documents import from_table, name_of, to_table
from kateway.registry.interface import Placement, Snapshot
from kateway.registry.plans import Change

FILE_NAME = "placements.json"


class KeptPlacements:
    """The placements as they are on disk. Blocking; for a thread, one call at a time."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept: tuple[Placement, ...] = ()

    def read(self) -> None:
        """Reads the file, if there is one. ``ConfigError``."""
        if self._path is None or not self._path.exists():
            return
        kept = []
        try:
            for name, table in orjson.loads(self._path.read_bytes()).items():
                entry = from_table("placements", name, table, str(table["generation"]))
                assert isinstance(entry, Placement)
                kept.append(entry)
        except OSError as error:
            raise ConfigError([f"{self._path}: {error.strerror or error}"]) from error
        except (BadRequest, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError([f"{self._path}: {error}; it is the gateway's own, put it back from a copy"]) from error
        self._kept = tuple(kept)

    def write(self, placements: Iterable[Placement]) -> None:
        """Puts placements in the file's place, all or nothing."""
        kept = tuple(placements)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            beside = self._path.with_suffix(".new")
            with beside.open("wb") as file:
                file.write(orjson.dumps({name_of(each): to_table(each) for each in kept}))
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        self._kept = kept

    def changes(self, snapshot: Snapshot) -> Sequence[Change]:
        """Returns what adds the placements to a snapshot of the registry's file; those of topics that are gone are
        left out.
        """
        return [Change("placements", name_of(each), each) for each in self._kept if each.name in snapshot.topics]
