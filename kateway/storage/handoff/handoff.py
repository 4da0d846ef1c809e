"""Hands off the messages of one cluster: keeps them, drains its spool when the cluster takes them, tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.backoff import Backoff
from kateway.errors import KatewayError, PartitionNotFound
from kateway.model import Message
from kateway.storage.handoff.drain import TopicDrain
from kateway.storage.handoff.spool import Spool
from kateway.storage.interface import Gate, Outcome, PreparedWrites, RefusedRecord, Store

MAX_DRAINS = 8
"""Topics that are drained at once: each holds a round in memory."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
SLOW_LOOK_SECONDS = 5.0
"""So often ages are looked at, and which topics there are."""
RATE_SECONDS = 5.0

_log = Logger()


@attrs.frozen
class HandoffConfig:
    """Bounds; ``enabled`` False: nothing is taken, and the kept records are written."""

    enabled: bool
    max_bytes: int
    max_age_seconds: float
    drain_bytes_per_second: int


class DiskHandoff:
    """``storage.interface.Handoff`` on a spool in ``directory``, which this process alone uses."""

    def __init__(
        self,
        config: HandoffConfig,
        reactor: Any,
        directory: Path,
        where: str,
        store: Store,
        writes: PreparedWrites,
        gate: Gate,
        now_ms: Callable[[], int],
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._store = store
        self._writes = writes
        self._gate = gate
        self._now_ms = now_ms
        self._spool = Spool(reactor, directory, where, config.max_bytes, now_ms)
        self._topics = self._spool.topics
        self._drains: dict[str, TopicDrain] = {}
        self._running: dict[str, Deferred[None]] = {}
        self._pauses: dict[str, tuple[float, Backoff]] = {}
        self._slow_look_at = 0.0
        self._stopped = False
        self._drained_records = 0
        self._rate_since = 0.0
        self._rate = 0.0

    async def start(self) -> None:
        """Opens the spool. ``ConfigError``, ``DataDirectoryLocked``."""
        await self._spool.open()
        if self._spool.records:
            _log.info("the handoff holds {records} records to be written", records=self._spool.records)

    async def stop(self) -> None:
        """Ends draining, where it is, and closes the spool: what it holds is written after the next start."""
        self._stopped = True
        for running in list(self._running.values()):
            running.cancel()
        await self._spool.close()

    # --- taking ------------------------------------------------------------------------------------------------

    def holds(self, topic: str) -> bool:
        """Whether messages of the topic are kept."""
        return topic in self._topics

    def take(
        self, topic: str, messages: Sequence[Message], deadline: float, otherwise: KatewayError
    ) -> Deferred[list[Outcome]]:
        """Keeps messages, where that is on and the topic is known."""
        count = self._store.partitions(topic)
        if not self._config.enabled or self._stopped or (count is None and topic not in self._spool.seen):
            return succeed([otherwise] * len(messages))
        if count is not None and any(each.partition is not None and each.partition >= count for each in messages):
            return self._take_some(topic, messages, deadline, count)
        return self._spool.take(topic, messages, deadline)

    def _take_some(
        self, topic: str, messages: Sequence[Message], deadline: float, count: int
    ) -> Deferred[list[Outcome]]:
        """Keeps those messages that name no partition which is not there."""
        good = [index for index, each in enumerate(messages) if each.partition is None or each.partition < count]
        outcomes: list[Outcome] = [
            PartitionNotFound(f"partition {each.partition}: the topic has {count}") for each in messages
        ]
        if not good:
            return succeed(outcomes)

        def taken(found: list[Outcome]) -> list[Outcome]:
            for index, outcome in zip(good, found, strict=True):
                outcomes[index] = outcome
            return outcomes

        return self._spool.take(topic, [messages[index] for index in good], deadline).addCallback(taken)

    # --- draining ----------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Begins to drain topics that can be, and moves records that are too old; to be called again and again."""
        now = self._reactor.seconds()
        if now - self._rate_since >= RATE_SECONDS:
            self._rate = self._drained_records / (now - self._rate_since)
            self._drained_records, self._rate_since = 0, now
        self._begin(now)
        if now - self._slow_look_at < SLOW_LOOK_SECONDS or self._stopped:
            return
        self._slow_look_at = now
        if self._config.enabled:
            await self._spool.saw(list(self._writes.known_topics()))
        await self._spool.look_up_oldest()
        oldest = self._spool.oldest_ms
        age = self._config.max_age_seconds
        if oldest is not None and oldest < self._now_ms() - age * 1000:
            moved = await self._spool.refuse_older(age, f"it was kept for longer than {age:g} s")
            if moved:
                _log.warn("the handoff gives up {count} records that are too old", count=moved)

    def _begin(self, now: float) -> None:
        for topic in list(self._topics):
            if self._stopped or len(self._running) >= MAX_DRAINS:
                return
            paused_until, _ = self._pauses.get(topic, (0.0, None))
            if topic not in self._running and paused_until <= now:
                running = self._running[topic] = Deferred.fromCoroutine(self._drain(topic))
                running.addErrback(self._broke, topic)
                running.addBoth(self._ended, topic)

    async def _drain(self, topic: str) -> None:
        drain = self._drains.get(topic)
        if drain is None:
            drain = self._drains[topic] = TopicDrain(
                topic, self._spool, self._store, self._writes, self._gate, self._reactor.seconds
            )
        while topic in self._topics:
            before = self._topics[topic].records
            written = await drain.round()
            if not written:
                self._pause(topic)
                return
            self._pauses.pop(topic, None)
            left = self._topics.get(topic)
            self._drained_records += max(before - (left.records if left else 0), 0)
            await deferLater(self._reactor, written / self._config.drain_bytes_per_second)

    def _pause(self, topic: str) -> None:
        _, backoff = self._pauses.get(topic, (0.0, Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)))
        self._pauses[topic] = self._reactor.seconds() + backoff.next(), backoff

    def _broke(self, failure: Failure, topic: str) -> None:
        if failure.check(KatewayError):
            self._pause(topic)  # the spool has logged it, once
        elif not failure.check(CancelledError):
            _log.failure("draining {topic} broke; it is tried again", failure, topic=topic)
            self._pause(topic)

    def _ended(self, _: object, topic: str) -> None:
        self._running.pop(topic, None)
        if topic not in self._topics:
            self._pauses.pop(topic, None)
            self._drains.pop(topic, None)

    # --- for operators -----------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Returns the counts: records, bytes, the age of the oldest in seconds, records drained a second, refused; and
        the fault that stops it.
        """
        spool = self._spool
        oldest = spool.oldest_ms if spool.topics else None
        return {
            "enabled": self._config.enabled,
            "records": spool.records,
            "bytes": spool.held_bytes,
            "max_bytes": self._config.max_bytes,
            "oldest_seconds": None if oldest is None else round(max(self._now_ms() - oldest, 0) / 1000, 1),
            "drained_per_second": round(self._rate, 1),
            "refused": spool.refused_records,
            "fault": spool.fault,
            "topics": {topic: count.records for topic, count in sorted(spool.topics.items())[:100]},
        }

    async def list_refused(self, after: int, limit: int) -> list[RefusedRecord]:
        """Returns refused records behind number ``after``, oldest refusal first."""
        return await self._spool.list_refused(after, limit)

    async def retry_refused(self) -> int:
        """Writes the refused records again, behind those that are kept. Returns how many."""
        return await self._spool.retry_refused()

    async def delete_refused(self) -> int:
        """Deletes the refused records. Returns how many."""
        return await self._spool.delete_refused()
