"""Gives a membership's partitions, read by a fetcher into buffers, to one listener: a subscription.

Each partition is ours for a *tenure*, from taking over to handing over or loss. In a cooperative group it outlives
rebalances: reading goes on through them. A commit that was asked for in an earlier tenure is never made in a later one
(``commit_queue``): another member may have gone on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.errors import CorruptRecords, KatewayError, Unavailable
from kateway.model import Committed, Record
from kateway.storage.interface import Listener, OwnMember, Reset
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.cluster.coordinators import Coordinators
from kateway.storage.kafka.cluster.offsets import Offsets
from kateway.storage.kafka.cluster.waiting import at_most
from kateway.storage.kafka.consumer.beginnings import Beginnings
from kateway.storage.kafka.consumer.commit_queue import BETWEEN_GENERATIONS_SECONDS, CommitQueue
from kateway.storage.kafka.consumer.fetcher import Fetcher
from kateway.storage.kafka.consumer.membership import Joining
from kateway.storage.kafka.consumer.protocol_choice import make_membership
from kateway.storage.passed_member import PassedMember

T = TypeVar("T")

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
        instance: str | None = None,
        client_id: str = "",
        passed: PassedMember | None = None,
        closed: Callable[[KafkaSubscription], None],
    ) -> None:
        """``passed``: the member is there, and another process was it before."""
        self._client = client
        self._reactor = client.reactor
        self._listener = listener
        self.group = group
        self.topic = topic
        self._grace_seconds = session_timeout_seconds * HAND_OVER_SHARE
        self._pool = client.pool(f"group {group}", client_id)
        self._fetcher = Fetcher(client, f"fetching for group {group}", topic, self)
        self._membership = make_membership(
            client.config.group_protocol,
            Joining(client, self._pool, coordinators, self, group, topic, session_timeout_seconds, instance, passed),
        )
        self._on_closed = closed
        self._reset: Reset = reset
        self._named = instance is not None
        self._passed: PassedMember | None = None
        """What another process goes on as."""
        self._owned: dict[int, int] = {}
        """Our partitions, each with the number of its tenure."""
        self._tenure = 0
        self._told: set[int] = set()
        """Of those, the ones that the listener was notified of."""
        self._revoking: dict[int, int | None] = {}
        """Positions of partitions that are being handed over: nothing can be taken, commits still count."""
        self._taking_over: dict[Deferred[None], int] = {}
        """Beginnings under way, with the tenure that they begin."""
        self._handing_over: set[Deferred[None]] = set()
        self._background: set[Deferred[None]] = set()
        self._repeats: dict[int, IDelayedCall] = {}
        self._last_trouble = ""
        self._closing: Deferred[None] | None = None
        self._over = False
        """No partition will come any more."""
        self._commits = CommitQueue(
            self._reactor,
            self._membership,
            offsets,
            self._pool,
            group,
            topic,
            self._owned,
            self._own,
            lambda: self._over,
        )
        self._beginnings = Beginnings(self._membership, offsets, self._commits, group, topic, reset)
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
        return self._commits.add(offsets)

    def own_member(self) -> OwnMember | None:
        """What the coordinator knows this member as; ``None`` where it knows none, or a name keeps its place."""
        membership = self._membership
        name = "" if self._named else membership.known_as
        return OwnMember(self.group, name, membership.by_consumer_protocol) if name else None

    def close(self, *, returning: bool = False) -> Deferred[None]:
        """Leaves the group and frees everything. At most the grace, and twice ``LEAVE_SECONDS``."""
        return self._end_by(lambda: self._close(returning, passing=False))

    def pass_on(self, *, returning: bool = False) -> Deferred[PassedMember | None]:
        """Closes as ``close`` does, but leaves the member for another process to go on as; ``None``: it has left."""
        return self._end_by(lambda: self._close(returning, passing=True)).addCallback(lambda _: self._passed)

    def _end_by(self, close: Callable[[], Coroutine[Any, Any, None]]) -> Deferred[None]:
        if self._closing is None:
            self._closing = Deferred.fromCoroutine(close())
            self._closing.addErrback(self._complain)
        closed: Deferred[None] = Deferred()

        def fire(_: None) -> None:
            closed.callback(None)

        self._closing.addCallback(fire)
        return closed

    async def _close(self, returning: bool, *, passing: bool) -> None:
        await deferLater(self._reactor, 0)  # the listener is not called from inside ``close``
        over = self._over
        try:
            if not over:
                await self.hand_over(frozenset(self._owned))
            self._over = True
            passed = await self._membership.pass_on() if passing and not over else None
            if passed is None:
                await self._membership.stop(returning=returning)
            else:
                self._passed = passed._replace(reset=self._reset)
        finally:
            self._over = True
            await self._free()

    async def _free(self) -> None:
        fetching_ended = self._fetcher.close()
        for call in self._repeats.values():
            call.cancel()
        self._repeats.clear()
        for task in list(self._background):
            task.cancel()
        self._commits.close()
        await gatherResults([self._pool.close(), fetching_ended])
        self._on_closed(self)

    # --- what the membership brings ----------------------------------------------------------------------------

    def take_over(self, partitions: frozenset[int]) -> None:
        """These are ours, too: looks up where to begin, then tells the listener."""
        if self._over or self._closing is not None:
            return
        if not partitions:
            self._tell(self._listener.assigned, {})
            return
        self._tenure += 1
        self._owned.update(dict.fromkeys(partitions, self._tenure))
        self._fetcher.own(partitions)
        beginning = self._own(self._begin(partitions, self._tenure))
        if not beginning.called:
            self._taking_over[beginning] = self._tenure
            beginning.addBoth(lambda _: self._taking_over.pop(beginning, None) and None)

    def _left_of(self, tenure: int) -> frozenset[int]:
        return frozenset(partition for partition, since in self._owned.items() if since == tenure)

    async def _begin(self, partitions: frozenset[int], tenure: int) -> None:
        everywhere = partitions | frozenset(range(self._client.partition_count(self.topic) or 0))
        while (found := await self._insist(lambda: self._beginnings.find(partitions, everywhere))) is None:
            # a rebalance has come, and in a cooperative group the next generation does not begin anew
            await deferLater(self._reactor, BETWEEN_GENERATIONS_SECONDS)
        left = self._left_of(tenure) - self._revoking.keys()
        committed = {partition: found[partition] for partition in sorted(left)}
        for partition, place in committed.items():
            if place is not None:
                self._fetcher.buffers[partition].start_at(place.offset)
        self._told |= left
        self._tell(self._listener.assigned, committed)
        self._fetcher.fill()
        await self._start_by_rule([partition for partition, place in committed.items() if place is None])

    async def _start_by_rule(self, partitions: Iterable[int]) -> None:
        """Starts partitions that have no position where the reset rule says."""
        waiting = [partition for partition in partitions if self.position(partition) is None]
        starts = await self._insist(lambda: self._beginnings.by_rule(waiting))
        for partition in waiting:
            buffer = self._fetcher.buffers.get(partition)
            if buffer is not None and buffer.position is None:
                buffer.start_at(starts[partition])
        self._fetcher.fill()

    async def hand_over(self, partitions: frozenset[int]) -> None:
        """Some partitions are about to go: lets the listener commit, for a bounded grace."""
        handing_over = self._own(self._revoke(partitions))
        if not handing_over.called:
            self._handing_over.add(handing_over)
            handing_over.addBoth(lambda _: self._handing_over.discard(handing_over))
        until = self._reactor.seconds() + self._grace_seconds + 1
        for each in list(self._handing_over):  # of an earlier call, too
            await at_most(self._reactor, max(0.0, until - self._reactor.seconds()), each)

    async def _revoke(self, partitions: frozenset[int]) -> None:
        going = {
            partition: self._owned[partition]
            for partition in partitions
            if partition in self._owned and partition not in self._revoking
        }
        if not going:
            return
        try:
            told = self._told & going.keys()
            self._revoking.update((partition, self.position(partition)) for partition in going)
            self._stop_reading(frozenset(going))
            until = self._reactor.seconds() + self._grace_seconds
            if told:
                held_up = self._tell(self._listener.revoked, frozenset(told))
                if held_up is not None:
                    held_up.addErrback(self._complain)
                    await at_most(self._reactor, self._grace_seconds, held_up)
            if self._commits.running is not None:
                await at_most(self._reactor, max(0.0, until - self._reactor.seconds()), self._commits.running)
        finally:
            for partition, tenure in going.items():
                if self._owned.get(partition) == tenure:
                    del self._owned[partition]
                    self._told.discard(partition)
                    self._revoking.pop(partition, None)

    def drop(self) -> None:
        """All partitions are gone already."""
        lost = frozenset(self._told)
        self._owned.clear()
        self._told.clear()
        self._revoking.clear()
        self._stop_reading(frozenset(self._fetcher.buffers))
        if lost:
            self._tell(self._listener.lost, lost)

    def _stop_reading(self, partitions: frozenset[int]) -> None:
        for beginning, tenure in list(self._taking_over.items()):
            if self._left_of(tenure) <= partitions:
                del self._taking_over[beginning]
                beginning.cancel()
        self._fetcher.give_up(partitions)

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
        if buffer is not None and buffer.readable and partition in self._told:
            self._tell(self._listener.readable, partition)

    def out_of_range(self, partition: int) -> None:
        """Retention took the next record, or the topic was made anew: the reset rule says where to go on."""
        self._log.info("{topic}/{partition}: out of range", topic=self.topic, partition=partition)
        self._beginnings.forget(partition)
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
