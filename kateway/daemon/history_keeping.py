"""Reads the history's file at the start, and writes it every few minutes and at the end, off the reactor's thread."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from kateway.observe.history import History
from kateway.observe.history_file import Damaged, Kept, copied, read, restore, write

FILE_NAME = "history"
SLICE_BYTES = 1 << 20
"""Copied without a pause: about a millisecond."""

_log = Logger()


class HistoryKeeping:
    """One history with its file. A failure costs the history, never the gateway."""

    def __init__(self, history: History, directory: Path, reactor: Any) -> None:
        self._history = history
        self._path = directory / FILE_NAME
        self._reactor = reactor
        self._clock: IReactorTime = reactor
        self._failing = False
        self._one_at_a_time = DeferredLock()

    async def load(self) -> None:
        """Takes over what the file has."""
        try:
            kept = await self._in_thread(lambda: read(self._path))
        except (OSError, Damaged) as error:
            _log.warn("the history begins anew: {error}", error=error)
            return
        restore(self._history, kept)

    async def save(self) -> None:
        """Writes the file; a failure is said once, until it goes well again."""
        await self._one_at_a_time.run(lambda: Deferred.fromCoroutine(self._save()))

    async def _save(self) -> None:
        kept: list[Kept] = []
        size = 0
        for each in copied(self._history):
            kept.append(each)
            size += len(each.slots)
            if size >= SLICE_BYTES:
                size = 0
                await deferLater(self._clock, 0)
        try:
            await self._in_thread(lambda: write(self._path, kept))
        except OSError as error:
            if not self._failing:
                _log.warn("the history cannot be written: {error}", error=error)
            self._failing = True
        else:
            self._failing = False

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)
