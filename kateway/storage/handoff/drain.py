"""Drains a topic: writes its kept records to the store in rounds, in order for each partition, each record once.

A round takes the topic's oldest records, makes a batch of those of each partition, writes the batches down with their
numbers, and only then sends them; the next round begins when all are answered. So one batch of a partition is under
way at a time, and after a crash the same bytes go again under the same number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from kateway.errors import KatewayError, PartitionNotFound, TopicNotFound, Unavailable
from kateway.gathering import gathered
from kateway.model import Receipt
from kateway.storage.handoff.database import NewBatch, Prepared, Row
from kateway.storage.handoff.spool import Spool
from kateway.storage.interface import Attempt, Gate, Numbering, Outcome, PreparedWrites, Store

ROUND_RECORDS = 20000
ROUND_BYTES = 4 << 20
TOPIC_GONE_SECONDS = 10.0
"""A topic is taken for deleted when it is not found for so long: a cluster that starts may not know all at once."""
UNCLEAR_ANSWERS = 10
"""So often a batch is sent again though the answers say nothing; then it goes to the refused ones."""

_log = Logger()


@attrs.define(eq=False)
class TopicDrain:
    """Drains one topic; holds the state between its rounds."""

    topic: str
    spool: Spool
    store: Store
    writes: PreparedWrites
    gate: Gate
    seconds: Callable[[], float]
    _numbering: Numbering | None = None
    _sequences: dict[int, int] = attrs.field(factory=dict)
    _doubtful: set[int] = attrs.field(factory=set)
    """Batches that were sent and may have been written."""
    _own: dict[int, Numbering] = attrs.field(factory=dict)
    """Batches made here, with their numbering: any other may have been sent before a crash."""
    _unclear: dict[int, int] = attrs.field(factory=dict)
    _gone_since: float | None = None
    _most_records: int = ROUND_RECORDS
    """Less after a batch was refused for one of its records, until the bad one is found."""

    async def round(self) -> int:
        """Writes one round. Returns how many bytes were written; 0: there is nothing to do just now, or it failed."""
        admitted = self.gate.admit()
        if admitted is None:
            return 0
        began = self.seconds()
        outcomes: list[Outcome] = []
        try:
            count = await self._partitions()
            if count is None:
                return 0
            batches = list(self.spool.prepared.get(self.topic) or await self._prepared(count))
            if not batches:
                return 0
            attempts = await self._send(batches, count)
            outcomes = [
                Receipt(batch.partition, None) if attempt.verdict == "written" else attempt.error or Unavailable()
                for batch, attempt in zip(batches, attempts, strict=True)
            ]
        except KatewayError as error:
            outcomes = [error]
            _log.debug("the handoff of {topic} waits: {error}", topic=self.topic, error=error.detail)
            return 0
        finally:
            self.gate.ended(admitted, outcomes, began)
        return await self._settle(list(zip(batches, attempts, strict=True)))

    # --- making batches ----------------------------------------------------------------------------------------

    async def _prepared(self, count: int) -> Sequence[Prepared]:
        if any(self.store.undecided(self.topic, partition) for partition in range(count)):
            # a publish that was answered 504 may still be written: it came before
            return ()
        rows = await self.spool.next_rows(self.topic, self._most_records, ROUND_BYTES)
        if not rows:
            return ()
        if self._numbering is None:
            self._numbering = await self.writes.numbering()
            self._sequences.clear()
        await self.spool.prepare(self._batches(rows, count, self._numbering))
        made = self.spool.prepared.get(self.topic, [])
        self._own.update((batch.id, self._numbering) for batch in made)
        return made

    async def _partitions(self) -> int | None:
        try:
            count = (await self.store.topic(self.topic)).partitions
        except TopicNotFound:
            now = self.seconds()
            if self._gone_since is None:
                self._gone_since = now
            if now - self._gone_since >= TOPIC_GONE_SECONDS:
                _log.warn("the handoff gives up the records of {topic}: there is no such topic", topic=self.topic)
                await self.spool.refuse_topic(self.topic, "there is no such topic any more")
            return None
        self._gone_since = None
        return count

    def _batches(self, rows: list[Row], count: int, numbering: Numbering) -> list[NewBatch]:
        """Divides rows by partition; a partition's rows beyond one batch wait for the next round, with those behind."""
        size_of, limit = self.writes.encoded_size, self.writes.max_batch_bytes
        chosen: dict[int, list[Row]] = {}
        sizes: dict[int, int] = {}
        for row in rows:
            partition = row.message.partition
            if partition is None:
                partition = self.writes.partition_for(row.message.key, count)
            size = size_of(row.message)
            taken = chosen.setdefault(partition, [])
            if taken and sizes[partition] + size > limit:
                # rows are read in order: nothing behind this one may go before it
                break
            taken.append(row)
            sizes[partition] = sizes.get(partition, 0) + size
        return [
            NewBatch(
                self.topic,
                partition,
                self.writes.encode([row.message for row in taken], numbering, self._sequences.get(partition, 0)),
                [row.id for row in taken],
            )
            for partition, taken in chosen.items()
        ]

    # --- sending -----------------------------------------------------------------------------------------------

    async def _send(self, batches: Sequence[Prepared], count: int) -> list[Attempt]:
        try:
            return await gathered([Deferred.fromCoroutine(self._attempt(batch, count)) for batch in batches])
        except BaseException:
            # one ends the wait for all: what the others were answered is not known
            self._doubtful.update(batch.id for batch in batches if batch.partition < count)
            raise

    async def _attempt(self, batch: Prepared, count: int) -> Attempt:
        if batch.partition >= count:
            return Attempt("refused", PartitionNotFound(f"partition {batch.partition}: the topic has {count}"))
        return await self.writes.write(self.topic, batch.partition, batch.data)

    async def _settle(self, attempts: list[tuple[Prepared, Attempt]]) -> int:
        # first of all: the spool may fail at any of what follows, and then nothing more is made of these answers
        self._doubtful.update(batch.id for batch, attempt in attempts if attempt.verdict in ("again", "unclear"))
        written = [batch for batch, attempt in attempts if attempt.verdict == "written"]
        if written:
            await self.spool.written(written)
            for batch in written:
                if self._own.get(batch.id) == self._numbering:
                    self._sequences[batch.partition] = self._sequences.get(batch.partition, 0) + batch.records
                self._forget(batch)
        for batch, attempt in attempts:
            if attempt.verdict != "written":
                await self._not_written(batch, attempt)
        if len(written) == len(attempts):
            self._most_records = min(self._most_records * 2, ROUND_RECORDS)
        return sum(batch.held_bytes for batch in written)

    async def _not_written(self, batch: Prepared, attempt: Attempt) -> None:
        error = attempt.error or Unavailable()
        if attempt.verdict in ("again", "unclear"):
            if attempt.verdict == "unclear":
                self._unclear[batch.id] = self._unclear.get(batch.id, 0) + 1
                if self._unclear[batch.id] >= UNCLEAR_ANSWERS:
                    await self._refuse(batch, error)
            return
        surely_not = batch.id in self._own and batch.id not in self._doubtful
        if surely_not and attempt.verdict == "renumber":
            self._numbering = None
            await self.spool.unmake(batch)
            self._forget(batch)
        elif surely_not and attempt.verdict == "split" and batch.records > 1:
            # the next round has fewer records: the bad one is alone in the end
            self._most_records = max(batch.records // 2, 1)
            await self.spool.unmake(batch)
            self._forget(batch)
        else:
            await self._refuse(batch, error)

    async def _refuse(self, batch: Prepared, error: KatewayError) -> None:
        doubtful = batch.id in self._doubtful or batch.id not in self._own
        reason = f"{error.code}: {error.detail}" + ("; it may have been written all the same" if doubtful else "")
        _log.warn(
            "the handoff could not write {count} records to {topic} partition {partition}: {reason}",
            count=batch.records,
            topic=self.topic,
            partition=batch.partition,
            reason=reason,
        )
        await self.spool.refuse_batch(batch, reason)
        self._forget(batch)
        if doubtful:
            # whether its numbers are used is not known: nothing may follow under them
            self._numbering = None

    def _forget(self, batch: Prepared) -> None:
        self._own.pop(batch.id, None)
        self._doubtful.discard(batch.id)
        self._unclear.pop(batch.id, None)
