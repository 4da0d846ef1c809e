"""Keeps what changed in the gateway over a restart, in a file of its own: charts mark it beside the history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from kateway.observe.own_file import replacing
from kateway.observe.troubles import Change, Changes

FILE_NAME = "changes.jsonl"
SAVE_SECONDS = 5.0
"""So much is lost at most where the process is killed."""

_log = Logger()


class ChangeKeeping:
    """One gateway's changes with their file. A failure costs the marks, never the gateway."""

    def __init__(self, changes: Changes, directory: Path, reactor: Any) -> None:
        self._changes = changes
        self._path = directory / FILE_NAME
        self._reactor = reactor
        self._saved = -1
        """How many changes there had been when they were last written; -1: not yet."""
        self._failing = False
        self._one_at_a_time = DeferredLock()

    async def load(self) -> None:
        """Takes over what the file has: it was before all that was noted since the start."""
        try:
            kept = await self._in_thread(lambda: _read(self._path))
        except (OSError, ValueError, TypeError) as error:
            _log.warn("what changed before the start is not known: {error}", error=error)
            return
        self._changes.restore(kept)

    async def save(self) -> None:
        """Writes the file where something has changed; a failure is said once, until it goes well again. One after the
        other: a stop does not wait for the regular work, and both write beside the file under the same name.
        """
        await self._one_at_a_time.run(lambda: Deferred.fromCoroutine(self._save()))

    async def _save(self) -> None:
        noted = self._changes.noted
        if noted == self._saved:
            return
        found = self._changes.newest()[::-1]
        try:
            await self._in_thread(lambda: _write(self._path, found))
        except OSError as error:
            if not self._failing:
                _log.warn("what changed cannot be written: {error}", error=error)
            self._failing = True
        else:
            self._saved, self._failing = noted, False

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)


def _read(path: Path) -> list[Change]:
    if not path.exists():
        return []
    return [Change(**orjson.loads(line)) for line in path.read_bytes().splitlines()]


def _write(path: Path, changes: Sequence[Change]) -> None:
    with replacing(path) as file:
        file.writelines(orjson.dumps(change._asdict()) + b"\n" for change in changes)
