"""A subscription: a membership's partitions, read by a fetcher into buffers, given to one listener.

The group protocol is *eager*: at each rebalance all partitions are handed over, then the assigned ones are taken over.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.errors import Conflict, CorruptRecords, KatewayError, Unavailable
from kateway.model import Committed, Record
from kateway.storage.interface import Listener, Reset
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.cluster.coordinators import Coordinators
from kateway.storage.kafka.cluster.offsets import Offsets
from kateway.storage.kafka.cluster.waiting import answer_all, at_most
from kateway.storage.kafka.consumer.fetcher import Fetcher
from kateway.storage.kafka.consumer.group_protocol import Generation, Membership

T = TypeVar("T")

EXPELLED = frozenset({22, 25})
"""Of a commit: the generation is over, or the coordinator does not know the member."""

HAND_OVER_SHARE = 0.4
"""Of the session: what the listener gets for its last commits. No heartbeats are sent meanwhile."""
RETRY_SECONDS = 0.5


class KafkaSubscription:
    """A membership in a group for one topic."""

    _log = Logger()

    def __init__(
        self,
        client: Client,
        coordinators: Coordinators,
        offsets: Offsets,
        listener: Listener,
        *,
        group: str,
        topic: str,
        reset: Reset,
        session_timeout_seconds: float,
        closed: Callable[[KafkaSubscription], None],
    ) -> None:
        self._client = client
        self._reactor = client.reactor
        self._offsets = offsets
        self._listener = listener
        self._reset: Reset = reset
        self.group = group
        self.topic = topic
        self._grace_seconds = session_timeout_seconds * HAND_OVER_SHARE
        self._pool = client.pool(f"group {group}")
        self._fetcher = Fetcher(client, f"fetching for group {group}", topic, self)
        self._membership = Membership(
            client,
            self._pool,
            coordinators,
            self,
            group=group,
            topic=topic,
            session_timeout_seconds=session_timeout_seconds,
        )
        self._on_closed = closed
        self._owned: frozenset[int] = frozenset()
        self._told = False
        """Whether the listener was notified of the owned partitions."""
        self._first_ends: dict[int, int] = {}
        """Where 'latest' was when a partition was first ours: later records are not skipped after a rebalance."""
        self._revoking: dict[int, int | None] = {}
        """Positions of partitions that are being handed over: nothing can be taken, commits still count."""
        self._taking_over: Deferred[None] | None = None
        self._handing_over: Deferred[None] | None = None
        self._background: set[Deferred[None]] = set()
        self._repeats: dict[int, IDelayedCall] = {}
        self._last_trouble = ""
        self._uncommitted: dict[int, Committed] = {}
        self._uncommitted_of: Generation | None = None
        """The generation in which these were queued: under a later one they could move another member's back."""
        self._committing: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []
        self._closing: Deferred[None] | None = None
        self._over = False
        """No partition will come any more."""
        self._membership.start()

    # --- Subscription ------------------------------------------------------------------------------------------

    def take(self, partition: int, max_records: int, max_bytes: int) -> list[Record]:
        """The next records of a partition that are at hand. Hot."""
        buffer = self._fetcher.buffers.get(partition)
        if buffer is None or not buffer.readable:
            if buffer is not None and buffer.asleep:
                self._fetcher.wake(buffer)
            return []
        try:
            records = buffer.take(max_records, max_bytes)
        except CorruptRecords as error:
            assert buffer.position is not None
            buffer.start_at(buffer.position)
            self._fetcher.hold(partition)
            self._own(self._report(error))
            return []
        self._fetcher.taken(buffer)
        if buffer.readable and partition not in self._repeats:
            self._repeats[partition] = self._reactor.callLater(0, self._repeat, partition)
        return records

    def position(self, partition: int) -> int | None:
        """The next offset that ``take`` will look at."""
        buffer = self._fetcher.buffers.get(partition)
        return buffer.position if buffer is not None else self._revoking.get(partition)

    def lag(self, partition: int) -> int | None:
        """Records between position and end as last heard."""
        buffer = self._fetcher.buffers.get(partition)
        if buffer is None or buffer.position is None or buffer.end is None:
            return None
        return max(0, buffer.end - buffer.position)

    def seek(self, partition: int, offset: int) -> None:
        """Goes on from ``offset``."""
        buffer = self._fetcher.buffers.get(partition)
        if buffer is not None:
            buffer.start_at(offset)
            self._fetcher.fill()

    def pause(self, partition: int) -> None:
        """Drops the fetched records until the next ``take``."""
        buffer = self._fetcher.buffers.get(partition)
        if buffer is not None and buffer.position is not None:
            buffer.let_go()

    def commit(self, offsets: Mapping[int, Committed]) -> Deferred[None]:
        """Commits, together with what else waits to be committed."""
        waiter: Deferred[None] = Deferred()
        if self._membership.generation is None or any(partition not in self._owned for partition in offsets):
            waiter.errback(self._not_ours())
        elif not offsets:
            waiter.callback(None)
        else:
            if self._uncommitted_of != self._membership.generation:
                self._forget_uncommitted()
            self._uncommitted.update(offsets)
            self._waiting.append(waiter)
            if self._committing is None:
                committing = self._own(self._commit())
                self._committing = None if committing.called else committing
        return waiter

    def _forget_uncommitted(self) -> None:
        waiters, self._waiting = self._waiting, []
        self._uncommitted = {}
        self._uncommitted_of = self._membership.generation
        answer_all(waiters, self._not_ours())

    def close(self) -> Deferred[None]:
        """Leaves the group and frees everything. At most the grace, and twice ``LEAVE_SECONDS``."""
        if self._closing is None:
            self._closing = Deferred.fromCoroutine(self._close())
            self._closing.addErrback(self._complain)
        closed: Deferred[None] = Deferred()

        def fire(_: None) -> None:
            closed.callback(None)

        self._closing.addCallback(fire)
        return closed

    async def _close(self) -> None:
        await deferLater(self._reactor, 0)  # the listener is not called from inside ``close``
        if not self._over:
            await self.hand_over()
        self._over = True
        await self._membership.stop()
        await self._free()

    async def _free(self) -> None:
        fetching_ended = self._fetcher.close()
        for call in self._repeats.values():
            call.cancel()
        self._repeats.clear()
        for task in list(self._background):
            task.cancel()
        answer_all(self._waiting, self._not_ours())
        self._waiting = []
        await gatherResults([self._pool.close(), fetching_ended])
        self._on_closed(self)

    def _not_ours(self) -> Conflict:
        return Conflict(f"group {self.group}: the partition is not ours any more")

    # --- commits -----------------------------------------------------------------------------------------------

    async def _commit(self) -> None:
        try:
            while self._waiting:
                offsets, self._uncommitted = self._uncommitted, {}
                waiters, self._waiting = self._waiting, []
                generation = self._membership.generation
                if generation is None or generation != self._uncommitted_of:
                    answer_all(waiters, self._not_ours())
                    continue
                try:
                    errors = await self._offsets.commit(
                        self._pool,
                        self.group,
                        self.topic,
                        offsets,
                        generation=generation.number,
                        member=generation.member,
                    )
                except CancelledError:
                    answer_all(waiters, Unavailable("the commit was given up"))
                    if self._over:
                        raise
                    continue  # from within: those that wait behind it are not answered otherwise
                except KatewayError as error:
                    answer_all(waiters, error)
                    continue
                except Exception:
                    self._log.failure("group {group}: a commit broke, it is made again", group=self.group)
                    answer_all(waiters, Unavailable("a commit broke; the gateway's log says why"))
                    continue
                if errors and generation == self._membership.generation and errors & EXPELLED:
                    self._membership.expelled()
                answer_all(waiters, self._not_ours() if errors else None)
        finally:
            self._committing = None

    # --- what the membership brings ----------------------------------------------------------------------------

    def take_over(self, partitions: frozenset[int]) -> None:
        """These are ours: looks up where to begin, then tells the listener."""
        if self._over or self._closing is not None:
            return
        self._owned = partitions
        self._told = False
        self._fetcher.own(partitions)
        if partitions:
            self._taking_over = self._own(self._begin(partitions))
        else:
            self._tell(self._listener.assigned, {})

    async def _begin(self, partitions: frozenset[int]) -> None:
        everywhere = partitions | frozenset(range(self._client.partition_count(self.topic) or 0))
        found = await self._insist(lambda: self._offsets.committed(self.group, self.topic, everywhere))
        if any(found[partition] is None for partition in partitions):
            found.update(await self._insist(lambda: self._commit_starts(found)))
        committed = {partition: found[partition] for partition in partitions}
        for partition, place in committed.items():
            if place is not None:
                self._fetcher.buffers[partition].start_at(place.offset)
        self._told = True
        self._tell(self._listener.assigned, committed)
        self._fetcher.fill()
        await self._start_by_rule([partition for partition, place in committed.items() if place is None])

    async def _commit_starts(self, found: Mapping[int, Committed | None]) -> dict[int, Committed | None]:
        """Commits where a group begins, so that it goes on from there even if nothing comes: at ``latest``, in a topic
        without records, and in partitions that were added to a topic that the group reads already, which it reads from
        their beginning.

        A new group's first member does so for all partitions: a partition without a commit was added later then.
        """
        new = [partition for partition, place in found.items() if place is None]
        if len(new) < len(found):
            starts = await self._offsets.at(self.topic, "earliest", new)
        else:
            starts = await self._offsets.at(self.topic, "latest", new)
            if self._reset == "earliest" and await self._offsets.at(self.topic, "earliest", new) != starts:
                return {}  # its records come from the beginning in any case
        generation = self._membership.generation
        places = {partition: Committed(offset) for partition, offset in starts.items()}
        if generation is None or await self._offsets.commit(
            self._pool, self.group, self.topic, places, generation=generation.number, member=generation.member
        ):
            return {}  # a rebalance has come: the next generation begins anew
        return dict(places)

    async def _start_by_rule(self, partitions: Iterable[int]) -> None:
        """Starts partitions that have no position where the reset rule says."""
        waiting = [partition for partition in partitions if self.position(partition) is None]
        unknown = [partition for partition in waiting if partition not in self._first_ends]
        if unknown:
            found = await self._insist(lambda: self._offsets.at(self.topic, self._reset, unknown))
            if self._reset == "latest":
                self._first_ends.update(found)
        else:
            found = {}
        for partition in waiting:
            buffer = self._fetcher.buffers.get(partition)
            if buffer is not None and buffer.position is None:
                buffer.start_at(found[partition] if partition in found else self._first_ends[partition])
        self._fetcher.fill()

    async def hand_over(self) -> None:
        """All partitions are about to go: lets the listener commit, for a bounded grace."""
        if self._handing_over is None:
            handing_over = self._own(self._revoke())
            if handing_over.called:
                return
            self._handing_over = handing_over
        await at_most(self._reactor, self._grace_seconds + 1, self._handing_over)

    async def _revoke(self) -> None:
        try:
            owned, told = self._owned, self._told
            self._revoking = {partition: self.position(partition) for partition in owned}
            self._stop_reading()
            until = self._reactor.seconds() + self._grace_seconds
            if owned and told:
                held_up = self._tell(self._listener.revoked, owned)
                if held_up is not None:
                    held_up.addErrback(self._complain)
                    await at_most(self._reactor, self._grace_seconds, held_up)
            if self._committing is not None:
                await at_most(self._reactor, max(0.0, until - self._reactor.seconds()), self._committing)
            if self._owned is owned:
                self._owned = frozenset()
        finally:
            self._revoking = {}
            self._handing_over = None

    def drop(self) -> None:
        """All partitions are gone already."""
        lost, told = self._owned, self._told
        self._owned = frozenset()
        self._revoking = {}
        self._stop_reading()
        if lost and told:
            self._tell(self._listener.lost, lost)

    def _stop_reading(self) -> None:
        taking_over, self._taking_over = self._taking_over, None
        if taking_over is not None:
            taking_over.cancel()
        self._fetcher.disown()

    def failed(self, error: KatewayError) -> None:
        """Reports an error that keeps the group from being joined, or the end."""
        if self._over:
            return
        if not error.retriable:
            self._over = True
            self.drop()
            self._own(self._end())
        self._tell(self._listener.failed, error)

    async def _end(self) -> None:
        await deferLater(self._reactor, 0)  # the caller that ended it still runs
        self.close()

    # --- what the fetcher brings -------------------------------------------------------------------------------

    def arrived(self, partition: int) -> None:
        """There is something to take."""
        self._last_trouble = ""
        if partition not in self._repeats:
            self._repeat(partition)

    def _repeat(self, partition: int) -> None:
        self._repeats.pop(partition, None)
        buffer = self._fetcher.buffers.get(partition)
        if buffer is not None and buffer.readable and self._told:
            self._tell(self._listener.readable, partition)

    def out_of_range(self, partition: int) -> None:
        """Retention took the next record, or the topic was made anew: the reset rule says where to go on."""
        self._log.info("{topic}/{partition}: out of range", topic=self.topic, partition=partition)
        self._first_ends.pop(partition, None)
        self._own(self._start_by_rule([partition]))

    def report_error(self, error: KatewayError) -> None:
        """A broker refuses a fetch, or what it holds cannot be read."""
        if isinstance(error, CorruptRecords):
            error = Unavailable(error.detail)
        if error.detail != self._last_trouble:
            self._last_trouble = error.detail
            self.failed(error)

    async def _report(self, error: KatewayError) -> None:
        await deferLater(self._reactor, 0)
        self.report_error(error)

    # --- coroutines without a waiting caller ----------------------------------------------------------------------

    async def _insist(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Asks until there is an answer; an error that is not retriable ends the subscription."""
        while True:
            try:
                return await ask()
            except KatewayError as error:
                self.report_error(error)
                if not error.retriable:
                    raise
            except CancelledError:
                raise
            except Exception:
                self._log.failure("group {group}: a question broke, it is asked again", group=self.group)
                self.report_error(Unavailable("a question to the cluster broke; the gateway's log says why"))
            await deferLater(self._reactor, RETRY_SECONDS)

    def _own(self, coroutine: Coroutine[Any, Any, None]) -> Deferred[None]:
        task = Deferred.fromCoroutine(coroutine)
        if not task.called:
            self._background.add(task)
        task.addErrback(self._complain)
        task.addBoth(self._done, task)
        return task

    def _done(self, result: None, task: Deferred[None]) -> None:
        self._background.discard(task)

    def _complain(self, failure: Failure) -> None:
        if not isinstance(failure.value, (CancelledError, KatewayError)):
            self._log.failure("group {group}: a step broke", failure=failure, group=self.group)

    def _tell(self, method: Callable[..., T], *told: object) -> T | None:
        """Calls the listener; an error there must not break the membership."""
        try:
            return method(*told)
        except Exception:
            self._log.failure("group {group}: the listener broke", group=self.group)
            return None
