"""Spools records: kept on disk in the order of their taking, with their counts in memory.

Group commit: what is taken while the disk is busy goes in one transaction when it is not.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.errors import ConfigError, KatewayError, OutcomeUnknown, StorageFull
from kateway.model import HandedOff, Message
from kateway.storage.handoff import database
from kateway.storage.handoff.database import FILE, Kept, Moved, NewBatch, Prepared, Row
from kateway.storage.handoff.reserve import DiskReserve
from kateway.storage.interface import Outcome, RefusedRecord
from kateway.storage.sqlite.directory import DataDirectory
from kateway.storage.sqlite.thread import Reactor, SqlThread

TRANSACTION_BYTES = 8 << 20
DISK_PATIENCE_SECONDS = 5.0
"""A publish waits so long for the disk, or until its deadline where that is later."""
LOOK_SECONDS = 0.5
HELD_BYTES = 64 << 20
"""Taken and not on disk yet, in memory: beyond it publishes are refused."""

P = ParamSpec("P")
T = TypeVar("T")

_log = Logger()


class _Answer(Deferred[list[Outcome]]):
    """A taken publish has an outcome whatever its caller does."""

    def cancel(self) -> None:
        """Does nothing."""


@attrs.define(eq=False)
class _Taken:
    records: list[Kept]
    held_bytes: int
    until: float
    answer: _Answer | None


@attrs.define
class _Count:
    records: int = 0
    held_bytes: int = 0


class Spool:
    """One cluster's kept records. ``now_ms`` gives ms since the epoch."""

    def __init__(
        self, reactor: Reactor, directory: Path, where: str, max_bytes: int, now_ms: Callable[[], int]
    ) -> None:
        self.topics: dict[str, _Count] = {}
        """Those with records, also such as are on their way to the disk."""
        self.seen: set[str] = set()
        """Topics that are known to exist, or did when they were last used."""
        self.prepared: dict[str, list[Prepared]] = {}
        """Batches whose outcome is not known, by topic."""
        self.refused_records = 0
        self.held_bytes = 0
        """Of all records, refused ones with them; bounded by ``max_bytes``."""
        self.oldest_ms: int | None = None
        """When the oldest record was taken, as last looked up."""
        self.fault: str | None = None
        """Why nothing is taken or drained just now, for a person."""
        self._refused_bytes = 0
        self._reserve = DiskReserve(directory)
        self._identity: tuple[int, int] | None = None
        """Device and inode of the file that is open."""
        self._reactor = reactor
        self._directory = directory
        self._where = where
        self._max_bytes = max_bytes
        self._now_ms = now_ms
        self._thread = SqlThread(reactor, f"kateway-handoff-{directory.name}")
        self._lock: DataDirectory | None = None
        self._gathered: deque[_Taken] = deque()
        self._gathered_bytes = 0
        self._writing: list[_Taken] | None = None
        self._turn: IDelayedCall | None = None
        self._looking: IDelayedCall | None = None
        self._idle: list[Deferred[None]] = []

    # --- opening and closing -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Opens the file and reads the counts. ``ConfigError``, ``DataDirectoryLocked``."""
        lock = DataDirectory(self._directory, self._where)
        try:
            await self._thread.start(self._connect)
            try:
                contents = await self._thread.call(database.load)
            except BaseException:
                await self._thread.stop()
                raise
        except BaseException:
            lock.release()
            raise
        self._lock = lock
        self.seen = set(contents.seen)
        for topic, found in contents.topics.items():
            self._count(topic, found.records, found.held_bytes)
        for batch in contents.batches:
            self.prepared.setdefault(batch.topic, []).append(batch)
        self.refused_records, self._refused_bytes = contents.refused
        self.held_bytes += self._refused_bytes

    def _connect(self) -> sqlite3.Connection:
        """Opens the file on the thread. One that has filled its disk is opened with the room that was set aside."""
        path = self._directory / FILE
        try:
            connection = database.open_spool(path, self._where)
        except ConfigError:
            if not self._reserve.give_up():
                raise
            connection = database.open_spool(path, self._where)
        found = path.stat()
        self._identity = found.st_dev, found.st_ino
        self._reserve.take()
        return connection

    def _still_there(self) -> None:
        """Fails where the file was removed or replaced: what is written to it then is gone with this process."""
        try:
            found = (self._directory / FILE).stat()
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._identity:
            raise StorageFull(
                f"{self._directory / FILE} was removed or replaced while it was in use: restart the gateway once its "
                "records are written; they are still written from here"
            )

    def _take(self, connection: sqlite3.Connection, records: Sequence[Kept], topics: Sequence[str]) -> int:
        self._still_there()
        return database.take(connection, records, topics)

    async def _draining(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Calls what drains the spool, with the room that was set aside where the disk is full. ``StorageFull``."""
        try:
            return await self._thread.call(function, *args, **kwargs)
        except sqlite3.OperationalError as error:
            if not self._reserve.held:
                raise self._failed(error) from error
        _log.warn("the disk of {file} is full: the room that was set aside is used", file=str(self._directory / FILE))
        await self._thread.call(lambda _connection: self._reserve.give_up())
        try:
            return await self._thread.call(function, *args, **kwargs)
        except sqlite3.OperationalError as error:
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> KatewayError:
        found = database.translate(error)
        if found.detail != self.fault:
            _log.warn("the handoff cannot go on: {fault}", fault=found.detail)
        self.fault = found.detail
        return found

    async def close(self) -> None:
        """Writes the records that were taken, then closes the file. Bounded by the disk's answer."""
        if self._lock is None:
            return
        if self._gathered or self._writing is not None:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle
        for call in (self._turn, self._looking):
            if call is not None and call.active():
                call.cancel()
        await self._thread.stop()
        self._lock.release()
        self._lock = None

    @property
    def records(self) -> int:
        """Records that are kept, without the refused ones."""
        return sum(count.records for count in self.topics.values())

    @property
    def full(self) -> bool:
        """Whether nothing more is taken."""
        return self.held_bytes >= self._max_bytes

    # --- taking ------------------------------------------------------------------------------------------------

    def take(self, topic: str, messages: Sequence[Message], deadline: float) -> Deferred[list[Outcome]]:
        """Keeps messages; answers when they are on disk, or ``StorageFull``."""
        now_ms = self._now_ms()
        records = [
            Kept(topic, message.partition, now_ms, database.encode_message(message, now_ms)) for message in messages
        ]
        size = sum([record.held_bytes for record in records])
        answer = _Answer()
        refusal = self._refusal(size)
        if refusal is not None:
            answer.callback([refusal] * len(records))
            return answer
        if not self.topics:
            self.oldest_ms = now_ms
        self._count(topic, len(records), size)
        self._gathered_bytes += size
        until = max(deadline, self._reactor.seconds() + DISK_PATIENCE_SECONDS)
        self._gathered.append(_Taken(records, size, until, answer))
        if self._looking is None:
            self._looking = self._reactor.callLater(LOOK_SECONDS, self._look_at_deadlines)
        if self._writing is None and self._turn is None:
            self._turn = self._reactor.callLater(0, self._hand_over)
        return answer

    def _refusal(self, size: int) -> KatewayError | None:
        if self._lock is None:
            return StorageFull("the handoff's spool is not open")
        if self.held_bytes + size > self._max_bytes:
            return StorageFull(
                f"the handoff holds {self.held_bytes} bytes already, and its limit is {self._max_bytes} "
                "(handoff_max_bytes)"
            )
        if not self._reserve.held:
            return StorageFull("the handoff's disk is nearly full: what it holds has to be written first")
        if self._gathered_bytes > HELD_BYTES:
            return StorageFull("the handoff's disk is too slow for what is published")
        return None

    def _hand_over(self) -> None:
        self._turn = None
        if self._writing is not None or not self._gathered:
            self._tell_idle()
            return
        batch: list[_Taken] = []
        size = 0
        while self._gathered and size < TRANSACTION_BYTES:
            taken = self._gathered.popleft()
            size += taken.held_bytes
            batch.append(taken)
        self._writing = batch
        records = [record for taken in batch for record in taken.records]
        topics = list({record.topic for record in records} - self.seen)
        writing = self._thread.call(self._take, records, topics)
        writing.addCallbacks(self._written, self._not_written, callbackArgs=(topics,))
        writing.addErrback(lambda failure: _log.failure("the handoff's writer broke; it goes on", failure))
        writing.addCallback(lambda _: self._hand_over())

    def _written(self, number: int, topics: list[str]) -> None:
        self.fault = None
        self.seen.update(topics)
        for taken in self._end_writing():
            first, number = number, number + len(taken.records)
            answer, taken.answer = taken.answer, None
            if answer is not None:
                answer.callback([HandedOff(at) for at in range(first, number)])

    def _not_written(self, failure: Failure) -> None:
        error = database.translate(failure.value)
        if error.detail != self.fault:
            _log.warn("the handoff could not keep records: {error}", error=error.detail)
        self.fault = error.detail
        for taken in self._end_writing():
            self._count(taken.records[0].topic, -len(taken.records), -taken.held_bytes)
            self._fail(taken, error)

    def _end_writing(self) -> list[_Taken]:
        batch, self._writing = self._writing or [], None
        self._gathered_bytes -= sum(taken.held_bytes for taken in batch)
        return batch

    @staticmethod
    def _fail(taken: _Taken, error: KatewayError) -> None:
        answer, taken.answer = taken.answer, None
        if answer is not None:
            answer.callback([error] * len(taken.records))

    def _look_at_deadlines(self) -> None:
        """Answers those whose disk takes too long: never handed over, or of unknown outcome."""
        self._looking = None
        now = self._reactor.seconds()
        late = [taken for taken in self._gathered if taken.until <= now]
        if late:
            self._gathered = deque(taken for taken in self._gathered if taken.until > now)
            for taken in late:
                self._gathered_bytes -= taken.held_bytes
                self._count(taken.records[0].topic, -len(taken.records), -taken.held_bytes)
                self._fail(taken, StorageFull("the handoff's disk does not answer"))
        for taken in self._writing or ():
            if taken.until <= now:
                self._fail(taken, OutcomeUnknown("the handoff's disk does not answer"))
        if self._gathered or self._writing is not None:
            self._looking = self._reactor.callLater(LOOK_SECONDS, self._look_at_deadlines)

    def _tell_idle(self) -> None:
        if self._writing is None and not self._gathered:
            told, self._idle = self._idle, []
            for idle in told:
                idle.callback(None)

    def _count(self, topic: str, records: int, size: int) -> None:
        count = self.topics.setdefault(topic, _Count())
        count.records += records
        count.held_bytes += size
        self.held_bytes += size
        if count.records <= 0:
            del self.topics[topic]

    # --- writing to the store ----------------------------------------------------------------------------------

    async def next_rows(self, topic: str, max_records: int, max_bytes: int) -> list[Row]:
        """Returns a topic's oldest records that are in no batch."""
        return await self._thread.call(database.next_rows, topic, max_records, max_bytes)

    async def prepare(self, batches: Sequence[NewBatch]) -> None:
        """Writes batches of one topic down; they are in ``prepared`` then."""
        for batch in await self._draining(database.prepare, batches):
            self.prepared.setdefault(batch.topic, []).append(batch)

    async def written(self, batches: Sequence[Prepared]) -> None:
        """Forgets batches that the store has, and their records."""
        await self._draining(database.written, [batch.id for batch in batches])
        self.fault = None
        for batch in batches:
            self._done(batch)
            self._count(batch.topic, -batch.records, -batch.held_bytes)

    async def unmake(self, batch: Prepared) -> None:
        """Takes a batch apart that surely was not written."""
        await self._draining(database.unmake, batch.id)
        self._done(batch)

    async def refuse_batch(self, batch: Prepared, reason: str) -> None:
        """Moves a batch's records to the refused ones."""
        self._refused(await self._draining(database.refuse_batch, batch.id, reason, self._now_ms()))
        self._done(batch)

    async def refuse_topic(self, topic: str, reason: str) -> None:
        """Moves a topic's records to the refused ones; it was not seen any more."""
        self._refused(await self._draining(database.refuse_topic, topic, reason, self._now_ms()))
        self.prepared.pop(topic, None)
        self.seen.discard(topic)

    async def refuse_older(self, age_seconds: float, reason: str) -> int:
        """Moves records older than that to the refused ones. Returns how many."""
        now_ms = self._now_ms()
        moved = await self._draining(database.refuse_older, now_ms - int(age_seconds * 1000), reason, now_ms)
        self._refused(moved)
        return sum(each.records for each in moved)

    def _done(self, batch: Prepared) -> None:
        left = self.prepared.get(batch.topic, [])
        if batch in left:
            left.remove(batch)
        if not left:
            self.prepared.pop(batch.topic, None)

    def _refused(self, moved: list[Moved]) -> None:
        for topic, records, size in moved:
            self._count(topic, -records, -size)
            self.refused_records += records
            self._refused_bytes += size
            self.held_bytes += size

    async def saw(self, topics: Sequence[str]) -> None:
        """Notes that topics exist."""
        new = [topic for topic in topics if topic not in self.seen]
        if new:
            await self._thread.call(database.saw, new)
            self.seen.update(new)

    # --- for operators -----------------------------------------------------------------------------------------

    async def list_refused(self, after: int, limit: int) -> list[RefusedRecord]:
        """Returns refused records behind number ``after``."""
        return await self._thread.call(database.list_refused, after, limit)

    async def retry_refused(self) -> int:
        """Moves all refused records back, behind those that wait. Returns how many."""
        moved = await self._thread.call(database.retry_refused, self._now_ms())
        for topic, records, size in moved:
            self.held_bytes -= size
            self._refused_bytes -= size
            self.refused_records -= records
            self._count(topic, records, size)
            self.seen.add(topic)
        return sum(each.records for each in moved)

    async def delete_refused(self) -> int:
        """Deletes all refused records. Returns how many."""
        count = await self._thread.call(database.delete_refused)
        self.held_bytes -= self._refused_bytes
        self._refused_bytes = 0
        self.refused_records = 0
        return count

    async def look_up_oldest(self) -> None:
        """Looks up when the oldest record was taken, and sets room aside again where it was used."""
        if not self._reserve.held:
            await self._thread.call(lambda _connection: self._reserve.take())
        self.oldest_ms = await self._thread.call(database.oldest_ms) if self.topics else None
