"""Maintains the file: its health, its recovery, and the removal of old records."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.config.schema import EmbeddedStorageConfig
from kateway.errors import KatewayError
from kateway.model import Health
from kateway.storage.embedded import database
from kateway.storage.embedded.partition import Partition, TopicState
from kateway.storage.embedded.writer import Writer
from kateway.storage.interface import FOR_EVER
from kateway.storage.sqlite.thread import Reactor, SqlThread

_log = Logger()

PROBE_SECONDS = 1.0
PROBE_BYTES = 65536
LEAST_FREE_BYTES = 1 << 20
SLOW_SECONDS = 3.0
ROWS_AT_ONCE = 256
"""Rows removed in one transaction, so that publishes wait for a short one only."""


class Keeper:
    """Runs while the store does. After a failed transaction it tries one of its own each second until that works."""

    def __init__(
        self,
        config: EmbeddedStorageConfig,
        reactor: Reactor,
        thread: SqlThread,
        writer: Writer,
        file: Path,
        now_ms: Callable[[], int],
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._thread = thread
        self._writer = writer
        self._file = file
        self._now_ms = now_ms
        self._topics: Mapping[str, TopicState] = {}
        self._inode: tuple[int, int] | None = None
        self._probe: IDelayedCall | None = None
        self._next_look: IDelayedCall | None = None
        self._looking: Deferred[None] | None = None
        self._again = False
        self._stopped = False

    def start(self, topics: Mapping[str, TopicState]) -> None:
        self._topics = topics
        stat = self._file.stat()
        self._inode = stat.st_dev, stat.st_ino
        self._writer.on_trouble = self._in_trouble
        self.look_soon()

    def stop(self) -> None:
        self._stopped = True
        self._writer.on_trouble = lambda: None
        for call in (self._probe, self._next_look):
            if call is not None and call.active():
                call.cancel()
        if self._looking is not None:
            self._looking.cancel()

    # --- health

    def health(self) -> Health:
        try:
            stat = self._file.stat()
            disk = os.statvfs(self._file)
        except OSError as error:
            return Health(False, f"{self._file} cannot be looked at: {error.strerror}; restore it and restart")
        free = disk.f_bavail * disk.f_frsize
        details = {
            "driver": "embedded",
            "file": str(self._file),
            "bytes": stat.st_size + self._log_bytes(),
            "free_bytes": free,
        }
        if (stat.st_dev, stat.st_ino) != self._inode:
            return Health(False, f"{self._file} was replaced under the gateway; restart it", details)
        if self._writer.last_error is not None:
            return Health(False, self._writer.last_error.detail, details)
        busy_since = self._writer.busy_since
        if busy_since is not None and self._reactor.seconds() - busy_since > SLOW_SECONDS:
            return Health(False, f"the disk of {self._file} has not answered for {SLOW_SECONDS:g} s", details)
        if free < LEAST_FREE_BYTES:
            return Health(False, f"the disk of {self._file} has {free} bytes left; make room on it", details)
        return Health(True, "", details)

    def _log_bytes(self) -> int:
        try:
            return self._file.with_name(f"{self._file.name}-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def _in_trouble(self) -> None:
        if self._probe is None:
            _log.warn("the embedded store cannot write: {last_error}", last_error=self._writer.last_error)
            self._probe = self._reactor.callLater(PROBE_SECONDS, self._try)

    def _try(self) -> None:
        trying = self._thread.call(database.probe, PROBE_BYTES)
        trying.addCallbacks(self._recovered, lambda _: self._still_in_trouble())

    def _recovered(self, _: None) -> None:
        self._probe = None
        self._writer.last_error = None
        _log.info("the embedded store can write again")

    def _still_in_trouble(self) -> None:
        self._probe = None if self._stopped else self._reactor.callLater(PROBE_SECONDS, self._try)

    # --- removing old records and deleted topics

    def look_soon(self) -> None:
        """Looks now for something to remove, and at intervals from then on."""
        if self._looking is not None:
            self._again = True
            return
        if self._next_look is not None and self._next_look.active():
            self._next_look.cancel()
        self._looking = Deferred.fromCoroutine(self._look())
        self._looking.addErrback(self._could_not_remove)
        self._looking.addCallback(self._looked)

    def _looked(self, _: object) -> None:
        self._looking = None
        if self._stopped:
            return
        again, self._again = self._again, False
        delay = 0 if again else self._config.retention_check_seconds
        self._next_look = self._reactor.callLater(delay, self.look_soon)

    def _could_not_remove(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if failure.check(KatewayError, sqlite3.Error):
            _log.warn("old records could not be removed: {error}", error=database.translate(failure.value))
        else:
            _log.failure("the removal of old records broke; it is tried again", failure)

    async def _look(self) -> None:
        while await self._thread.call(database.sweep, ROWS_AT_ONCE):
            pass
        for topic in list(self._topics.values()):
            kept = topic.retention_ms
            if kept is not None and kept != FOR_EVER:
                for partition in list(topic.partitions):
                    await self._expire(partition, self._now_ms() - kept)

    async def _expire(self, partition: Partition, before_ms: int) -> None:
        if partition.earliest == partition.end:
            return
        # its last row may go: records published meanwhile begin a new one
        partition.expiring = True
        partition.tail = None
        try:
            while True:
                earliest = await self._thread.call(database.expire, partition.id, before_ms, ROWS_AT_ONCE)
                if earliest is None:
                    return
                partition.earliest = earliest
        finally:
            partition.expiring = False
