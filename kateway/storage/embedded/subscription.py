"""Reads one topic for one group: a subscription.

One process uses the directory, and has one membership of a group and topic: so the subscription owns every partition,
from the load of the group's commits until it closes or the topic goes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.errors import Conflict, KatewayError, Unavailable
from kateway.model import Committed, Record
from kateway.storage.embedded import database
from kateway.storage.embedded.cursor import Cursor
from kateway.storage.embedded.listeners import NextTurn
from kateway.storage.embedded.partition import TopicState
from kateway.storage.embedded.writer import Writer
from kateway.storage.interface import Listener, Reset
from kateway.storage.sqlite.thread import Reactor, SqlThread

RETRY_SECONDS = 1.0
"""After a read of the group's commits, or a commit of its start, that failed."""

_log = Logger()


@attrs.frozen
class SubscriptionContext:
    """The parts of the store that every subscription uses."""

    reactor: Reactor
    next_turn: NextTurn
    reader: SqlThread
    writer: Writer
    close_grace_seconds: float
    """How long a listener may hold up the close."""
    prefetch_max_bytes: int


class EmbeddedSubscription:
    """Owns all partitions of a topic for a group; ``storage.interface.Subscription`` documents its methods."""

    def __init__(
        self,
        group: str,
        topic: TopicState,
        listener: Listener,
        reset: Reset,
        context: SubscriptionContext,
        on_over: Callable[[EmbeddedSubscription], None],
    ) -> None:
        self.group = group
        self.topic = topic
        self._listener = listener
        self._reset: Reset = reset
        self._context = context
        self._on_over = on_over
        self._ends = {partition.id: partition.end for partition in topic.partitions}
        """Where ``latest`` is: the ends at the time of the subscription, not of the load of its commits."""
        self._committed: dict[int, Committed] | None = None
        """By partition id; ``None`` until loaded."""
        self._starting = False
        """The offsets at which the group starts are being committed."""
        self._uncommitted_starts: dict[int, Committed] = {}
        """By partition id: starts whose commit failed; tried again until it succeeds or a later offset replaces it."""
        self._owned: dict[int, Cursor] = {}
        """By partition number."""
        self._announced: set[int] = set()
        """Partitions whose ``readable`` is queued."""
        self._closing: list[Deferred[None]] | None = None
        self._over = False
        self._retry: IDelayedCall | None = None
        self._grace: IDelayedCall | None = None

    def start(self) -> None:
        """Loads the group's commits, those under way included, and takes the partitions."""
        ids = [partition.id for partition in self.topic.partitions]
        context = self._context
        behind_all = context.writer.commit(self.group, []).addErrback(lambda _: None)
        loading = behind_all.addCallback(lambda _: context.reader.call(database.committed, self.group, ids))
        loading.addCallback(self._loaded).addErrback(self._not_loaded)

    # --- Subscription

    def take(self, partition: int, max_records: int, max_bytes: int) -> list[Record]:
        cursor = self._cursor(partition)
        return [] if cursor is None else cursor.take(max_records, max_bytes)

    def position(self, partition: int) -> int | None:
        cursor = self._owned.get(partition)
        return None if cursor is None else cursor.position

    def commit(self, offsets: Mapping[int, Committed]) -> Deferred[None]:
        foreign = [str(partition) for partition in offsets if partition not in self._owned]
        if foreign:
            answer: Deferred[None] = Deferred()
            answer.errback(Conflict(f"this reader does not own partition {', '.join(foreign)} any more"))
            return answer
        by_id = [(self.topic.partitions[number].id, committed) for number, committed in offsets.items()]
        for partition, _ in by_id:
            self._uncommitted_starts.pop(partition, None)
        return self._context.writer.commit(self.group, by_id)

    def seek(self, partition: int, offset: int) -> None:
        cursor = self._cursor(partition)
        if cursor is not None:
            cursor.seek(offset)

    def pause(self, partition: int) -> None:
        cursor = self._cursor(partition)
        if cursor is not None:
            cursor.pause()

    def lag(self, partition: int) -> int | None:
        cursor = self._owned.get(partition)
        return None if cursor is None else cursor.lag

    def close(self, *, returning: bool = False) -> Deferred[None]:
        if self._over:
            return succeed(None)
        answer: Deferred[None] = Deferred()
        if self._closing is not None:
            self._closing.append(answer)
            return answer
        self._closing = [answer]
        if self._uncommitted_starts:
            self._commit_again()
        for cursor in self._owned.values():
            cursor.close()
        if self._owned:
            self._context.next_turn(self._revoke)
        else:
            self._end()
        return answer

    def _cursor(self, partition: int) -> Cursor | None:
        """Returns the cursor of a partition that can be read."""
        return None if self._closing is not None else self._owned.get(partition)

    # --- used by the store

    def topic_grew(self) -> None:
        """Takes the partitions that were added to the topic."""
        self._begin()

    def fail(self, error: KatewayError) -> None:
        """Ends it at once; the listener hears ``lost`` and the error."""
        self.abandon()
        self._context.next_turn(self._listener.failed, error)

    def abandon(self) -> None:
        """Ends it at once; the listener hears ``lost``."""
        partitions = frozenset(self._owned)
        for cursor in self._owned.values():
            cursor.close()
        if partitions:
            self._context.next_turn(self._listener.lost, partitions)
        self._end()

    # --- the start

    def _loaded(self, committed: Mapping[int, Committed]) -> None:
        self._committed = dict(committed)
        self._begin()

    def _not_loaded(self, failure: Failure) -> None:
        """Tries again: the listener goes on waiting."""
        if self._over or self._closing is not None:
            return
        if not failure.check(KatewayError, sqlite3.Error):
            _log.failure("group {group}: its start broke; it is tried again", failure, group=self.group)
        self._failed(database.translate(failure.value))
        self._retry = self._context.reactor.callLater(RETRY_SECONDS, self._start_again)

    def _start_again(self) -> None:
        self._cancel_retry()
        self.start()

    def _begin(self) -> None:
        """Commits the starts of partitions that need one, then takes all partitions that are not owned yet."""
        if self._committed is None or self._starting or self._closing is not None or self._over:
            return
        starts = self._starts(self._committed)
        if not starts:
            self._assign(self._committed)
            return
        self._starting = True
        self._committed.update(starts)
        started = self._context.writer.commit(self.group, list(starts.items()))
        started.addErrback(self._not_started, starts).addCallback(self._started)
        started.addErrback(lambda failure: _log.failure("group {group}: its start broke", failure, group=self.group))

    def _starts(self, committed: Mapping[int, Committed]) -> dict[int, Committed]:
        """Returns where the group starts, so that it goes on from there though nothing comes: at ``latest``, in a
        topic without records, and in partitions that were added to a topic that it reads already, which it reads from
        their beginning.
        """
        partitions = self.topic.partitions
        new = [partition for partition in partitions if partition.id not in committed]
        ends = [self._ends.get(partition.id, partition.earliest) for partition in new]
        if len(new) < len(partitions):
            return {partition.id: Committed(partition.earliest) for partition in new}
        if self._reset == "latest" or all(partition.earliest == end for partition, end in zip(new, ends, strict=True)):
            return {partition.id: Committed(end) for partition, end in zip(new, ends, strict=True)}
        return {}

    def _started(self, _: None) -> None:
        self._starting = False
        self._begin()

    def _not_started(self, failure: Failure, starts: Mapping[int, Committed]) -> None:
        """Reading goes on; the commit is tried again."""
        _log.warn("where group {group} starts was not committed: {e}", group=self.group, e=failure.getErrorMessage())
        self._uncommitted_starts.update(starts)
        self._soon_again()

    def _soon_again(self) -> None:
        if self._retry is None and self._closing is None and not self._over:
            self._retry = self._context.reactor.callLater(RETRY_SECONDS, self._commit_again)

    def _commit_again(self) -> None:
        self._cancel_retry()
        starts = dict(self._uncommitted_starts)
        if not starts:
            return

        def committed(_: None) -> None:
            for partition in starts:
                self._uncommitted_starts.pop(partition, None)

        def again(failure: Failure) -> None:
            # of those that are left: the group may have committed a later offset meanwhile
            _log.warn(
                "where group {group} starts was not committed: {e}", group=self.group, e=failure.getErrorMessage()
            )
            self._soon_again()

        self._context.writer.commit(self.group, list(starts.items())).addCallbacks(committed, again)

    def _assign(self, known: Mapping[int, Committed]) -> None:
        context = self._context
        free = [number for number in range(len(self.topic.partitions)) if number not in self._owned]
        committed: dict[int, Committed | None] = {}
        for number in free:
            partition = self.topic.partitions[number]
            at = committed[number] = known.get(partition.id)
            self._owned[number] = Cursor(
                context.reactor,
                context.reader,
                partition,
                partition.earliest if at is None else at.offset,
                self._reset,
                context.prefetch_max_bytes,
                self._readable,
                self._failed,
                len(free),
            )
        if free:
            context.next_turn(self._assigned, committed)

    # --- the listener's calls, each in a turn of its own

    def _assigned(self, committed: Mapping[int, Committed | None]) -> None:
        if self._over:
            return
        self._listener.assigned(committed)
        for number in committed:
            cursor = self._cursor(number)
            if cursor is not None:
                cursor.start()

    def _readable(self, partition: int) -> None:
        """Announces, once, that there is something to take."""
        if partition not in self._announced:
            self._announced.add(partition)
            self._context.next_turn(self._announce, partition)

    def _announce(self, partition: int) -> None:
        self._announced.discard(partition)
        if self._cursor(partition) is not None:
            self._listener.readable(partition)

    def _failed(self, error: KatewayError) -> None:
        """Reports an error that the subscription outlives: a read that fails is tried again, whatever the error."""
        self._context.next_turn(self._listener.failed, error if error.retriable else Unavailable(error.detail))

    def _revoke(self) -> None:
        """Lets the listener commit a last time, for at most the grace."""
        if self._over:
            return
        held: Deferred[None] | None = None
        try:
            held = self._listener.revoked(frozenset(self._owned))
        finally:
            if held is None:
                self._end()
            else:
                self._grace = self._context.reactor.callLater(self._context.close_grace_seconds, self._end)
                held.addBoth(self._released)

    def _released(self, result: object) -> None:
        if isinstance(result, Failure):
            _log.failure("a listener failed to give partitions up", failure=result)
        self._end()

    def _end(self) -> None:
        """Is over: owns nothing, answers the calls of ``close``."""
        if self._over:
            return
        self._over = True
        self._owned.clear()
        if self._grace is not None and self._grace.active():
            self._grace.cancel()
        self._cancel_retry()
        self._on_over(self)
        closing, self._closing = self._closing, None
        _answer(closing or ())

    def _cancel_retry(self) -> None:
        retry, self._retry = self._retry, None
        if retry is not None and retry.active():
            retry.cancel()


def _answer(waiting: Iterable[Deferred[None]]) -> None:
    for answer in waiting:
        answer.callback(None)
