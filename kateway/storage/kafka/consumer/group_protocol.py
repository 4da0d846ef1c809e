"""A group member's life: find the coordinator, join, sync, heartbeat, rejoin, leave. What the partitions are for is
``member``'s business.

On the wire rather than on afkak's ``Coordinator``: that one gives up its partitions at every failed connection
instead of keeping them as long as the session lives, waits 10 s after a timeout, speaks JoinGroup v0 only, and on
stopping queues its leave request behind a join that the broker holds back (a Kafka connection is serial).
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.errors import KatewayError, TopicNotFound, Unavailable, Unprocessable
from kateway.storage.kafka.cluster.client import Client, Pool
from kateway.storage.kafka.cluster.connection import RequestFailed
from kateway.storage.kafka.cluster.coordinators import NOT_HERE, Coordinators
from kateway.storage.kafka.cluster.waiting import at_most
from kateway.storage.kafka.consumer.assignors import STRATEGIES
from kateway.storage.kafka.protocol import group_requests as wire
from kateway.storage.kafka.protocol.errors import error_for
from kateway.storage.kafka.protocol.primitives import MalformedResponse

HEARTBEAT_INTERVAL_SECONDS = 1.0
HELD_CHECK_SECONDS = 3.0
HELD_AT_MOST_SECONDS = 330.0
"""A join is held back until all members have joined: for Java members up to their max.poll.interval, 5 minutes."""
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)
LEAVE_SECONDS = 3.0
DELETED_CHECK_SECONDS = 1.0
NEWS_AFTER_FAILURES = 3

ILLEGAL_GENERATION, UNKNOWN_MEMBER, INVALID_SESSION_TIMEOUT, REBALANCE, MEMBER_ID_REQUIRED = 22, 25, 26, 27, 79
COORDINATOR_NOT_AVAILABLE = 15


class Generation(NamedTuple):
    """A commit's credentials: generation and member id."""

    number: int
    member: str


class Holder(Protocol):
    """The owner of the partitions that a membership brings."""

    def take_over(self, partitions: frozenset[int]) -> None:
        """These are ours, after none were."""

    async def hand_over(self) -> None:
        """All are about to go: the last commits. Bounded by the holder."""

    def drop(self) -> None:
        """All are gone already."""

    def failed(self, error: KatewayError) -> None:
        """Joining does not succeed; ``retriable``: it is tried on."""


class _Rejoin(Exception):
    """The generation ends in an orderly way."""


class _Expelled(Exception):
    """The coordinator does not know this member or its generation any more, or has not been heard for too long."""


_Passing = (RequestFailed, MalformedResponse, Unavailable)


class Membership:
    """One member of one group, subscribed to one topic."""

    _log = Logger()

    def __init__(
        self,
        client: Client,
        pool: Pool,
        coordinators: Coordinators,
        holder: Holder,
        *,
        group: str,
        topic: str,
        session_timeout_seconds: float,
    ) -> None:
        self._client = client
        self._reactor = client.reactor
        self._pool = pool
        self._coordinators = coordinators
        self._holder = holder
        self.group = group
        self.topic = topic
        self._session_seconds = session_timeout_seconds
        self._member = ""
        self._held_at: int | None = None
        self._first_join: Deferred[None] | None = None
        self._led: dict[str, int] = {}
        self._holding = False
        self._expiry: IDelayedCall | None = None
        self._nap: Deferred[None] | None = None
        self._running: Deferred[None] | None = None
        self.generation: Generation | None = None
        """``None`` while there is none to commit under."""

    def start(self) -> None:
        """Begins to join; the holder hears the rest."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._ended)

    async def stop(self) -> None:
        """Leaves the group, without a word to the holder. Takes at most twice ``LEAVE_SECONDS``."""
        if self._first_join is not None:
            # only the answer has our member id: a member that left without it would hold the group up
            await at_most(self._reactor, LEAVE_SECONDS, self._first_join)
        if self._running is not None:
            self._running.cancel()
        self._cancel_expiry()
        self.generation = None
        self._holding = False
        if self._held_at is not None:
            self._pool.abort(self._held_at)
        if self._member:
            leaving = Deferred.fromCoroutine(self._leave())
            await at_most(self._reactor, LEAVE_SECONDS, leaving)
            leaving.cancel()

    async def _leave(self) -> None:
        body = wire.encode_leave(self.group, self._member)
        try:
            node = await self._coordinators.find(self.group)
            await self._pool.request(
                node, wire.LEAVE_GROUP, wire.LEAVE_GROUP_VERSION, body, timeout_seconds=LEAVE_SECONDS
            )
        except (*_Passing, CancelledError, KatewayError) as error:
            self._log.info("group {group} was not left: {error}", group=self.group, error=str(error))

    def _ended(self, failure: Failure) -> None:
        if not isinstance(failure.value, CancelledError):
            self._log.failure("the membership in {group} broke", failure=failure, group=self.group)
            self._lose()
            self._holder.failed(KatewayError("the group membership broke; see the log"))

    # --- the life ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        forget = self._client.watch(self._look_at_topics)
        try:
            while True:
                try:
                    if self._holding:
                        await self._holder.hand_over()
                        self._holding = False
                    partitions = await self._join()
                    failures = 0
                    self._holder.take_over(partitions)
                    await self._stay()
                except _Rejoin:
                    if not self._holding:
                        await self._sleep(RETRY_SECONDS[0])
                    continue
                except _Expelled:
                    self._lose()
                    error: Exception = Unavailable("the session with the group's coordinator expired")
                except (RequestFailed, MalformedResponse, KatewayError) as caught:
                    if isinstance(caught, KatewayError) and not caught.retriable:
                        raise
                    self._coordinators.forget(self.group)
                    error = caught
                except CancelledError:
                    raise
                except Exception:
                    # the clients of the group must not wait for ever because of it
                    self._log.failure("the membership in {group} broke, and begins anew", group=self.group)
                    self._lose()
                    error = Unavailable("the group membership broke; the gateway's log says why")
                failures += 1
                if failures == NEWS_AFTER_FAILURES:
                    self._holder.failed(error if isinstance(error, KatewayError) else Unavailable(str(error)))
                await self._sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1])
        except KatewayError as error:
            self._lose()
            self._holder.failed(error)
        finally:
            forget()
            self._cancel_expiry()

    async def _join(self) -> frozenset[int]:
        """Joins and syncs: the partitions of the topic that are ours."""
        await self._topic_must_be_there()
        node = await self._coordinators.find(self.group)
        self.generation = None
        self._led = {}
        self._cancel_expiry()
        joined = await self._ask_to_join(node)
        if joined.error == MEMBER_ID_REQUIRED:
            joined = await self._ask_to_join(node)
        self._check(joined.error)
        assignments = {}
        if joined.leader == joined.member:
            assignments = await self._assign(joined)
        sent_at = self._reactor.seconds()
        error, assignment = wire.decode_sync(
            await self._held(
                node,
                wire.SYNC_GROUP,
                wire.SYNC_GROUP_VERSION,
                wire.encode_sync(self.group, joined.generation, self._member, assignments),
            )
        )
        self._check(error)
        self.generation = Generation(joined.generation, self._member)
        self._holding = True
        self._heard(sent_at)
        return frozenset(wire.decode_assignment(assignment).get(self.topic, ()))

    async def _ask_to_join(self, node: int) -> wire.Joined:
        version = await self._coordinators.join_version(node)
        session_ms = int(self._session_seconds * 1000)
        protocols = dict.fromkeys(STRATEGIES, wire.encode_metadata([self.topic]))
        body = wire.encode_join(self.group, session_ms, session_ms, self._member, protocols)
        joined = wire.decode_join(await self._held(node, wire.JOIN_GROUP, version, body))
        if joined.error in {MEMBER_ID_REQUIRED, 0}:
            self._member = joined.member
        return joined

    async def _topic_must_be_there(self) -> None:
        """``TopicNotFound`` where a fresh listing lacks it; where it was there before two must, for the first may
        come from a broker that is just starting.
        """
        if self._client.partition_count(self.topic) is not None:
            return
        found = await self._client.look_for(self.topic)
        if self._member and found is None:
            await deferLater(self._reactor, DELETED_CHECK_SECONDS)
            await self._client.refresh()
        if self._client.partition_count(self.topic) is None:
            raise TopicNotFound(f"there is no topic {self.topic}")

    async def _assign(self, joined: wire.Joined) -> dict[str, bytes]:
        """What each member gets, for the broker's protocol of choice."""
        subscriptions = {member: wire.decode_metadata(metadata) for member, metadata in joined.members}
        topics = {topic for subscribed in subscriptions.values() for topic in subscribed}
        if any(self._client.partition_count(topic) is None for topic in topics):
            await self._client.refresh()
        counts = {topic: self._client.partition_count(topic) or 0 for topic in topics}
        self._led = counts
        assigned = STRATEGIES[joined.protocol](subscriptions, counts)
        return {member: wire.encode_assignment(topics) for member, topics in assigned.items()}

    async def _stay(self) -> None:
        """Heartbeats until the generation is over, which it raises."""
        pause = HEARTBEAT_INTERVAL_SECONDS
        while True:
            await self._sleep(pause)
            with contextlib.suppress(*_Passing):
                await self._topic_must_be_there()
            if not self._holding:
                raise _Expelled
            if self._led_changed():
                raise _Rejoin
            generation = self.generation
            assert generation is not None
            sent_at = self._reactor.seconds()
            try:
                node = await self._coordinators.find(self.group)
                body = await self._pool.request(
                    node,
                    wire.HEARTBEAT,
                    wire.HEARTBEAT_VERSION,
                    wire.encode_heartbeat(self.group, *generation),
                    timeout_seconds=self._session_seconds / 3,
                )
                error = wire.decode_error(body)
            except _Passing:
                error = COORDINATOR_NOT_AVAILABLE
            if not self._holding:
                raise _Expelled
            if error in NOT_HERE:
                self._coordinators.forget(self.group)
                pause = HEARTBEAT_INTERVAL_SECONDS / 4
                continue
            pause = HEARTBEAT_INTERVAL_SECONDS
            if error in {0, REBALANCE}:
                self._heard(sent_at)
            self._check(error)

    def _check(self, error: int) -> None:
        if error == 0:
            return
        if error == REBALANCE:
            raise _Rejoin
        if error in {ILLEGAL_GENERATION, UNKNOWN_MEMBER}:
            if error == UNKNOWN_MEMBER:
                self._member = ""
            raise _Expelled
        if error == INVALID_SESSION_TIMEOUT:
            raise Unprocessable(
                f"the broker allows no session of {self._session_seconds:g} s (group.min/max.session.timeout.ms)"
            )
        if error in NOT_HERE:
            raise Unavailable(f"the coordinator of group {self.group} is moving (error {error})")
        raise error_for(error, f"group {self.group}")

    async def _held(self, node: int, api_key: int, api_version: int, body: bytes) -> bytes:
        """A request that the coordinator may hold back for minutes; given up when another one has taken its place."""
        answer = self._pool.request(node, api_key, api_version, body, timeout_seconds=HELD_AT_MOST_SECONDS)
        first: Deferred[None] | None = None
        if api_key == wire.JOIN_GROUP and not self._member:
            self._first_join = first = Deferred()
            answer.addCallback(self._learn_member)
        self._held_at = node
        watching = Deferred.fromCoroutine(self._watch_held(node))
        watching.addErrback(_quietly)
        try:
            return await answer
        finally:
            self._held_at = None
            watching.cancel()
            if first is not None:
                self._first_join = None
                first.callback(None)

    def _learn_member(self, body: bytes) -> bytes:
        self._member = wire.decode_join(body).member
        return body

    async def _watch_held(self, node: int) -> None:
        while True:
            await deferLater(self._reactor, HELD_CHECK_SECONDS)
            try:
                moved = await self._coordinators.ask(self.group) != node
            except KatewayError:
                moved = not self._client.health().healthy
            if moved:
                self._pool.abort(node)
                return

    # --- the session -------------------------------------------------------------------------------------------

    def _heard(self, sent_at: float) -> None:
        """The coordinator heard us no sooner than ``sent_at``: its own count of the session began then or later."""
        self._cancel_expiry()
        left = sent_at + self._session_seconds - self._reactor.seconds()
        self._expiry = self._reactor.callLater(max(0.0, left), self._lose)

    def expelled(self) -> None:
        """A commit was refused because the generation is over."""
        self._lose()
        self._wake()

    def _lose(self) -> None:
        self._cancel_expiry()
        self.generation = None
        if self._holding:
            self._holding = False
            self._holder.drop()

    def _cancel_expiry(self) -> None:
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()
        self._expiry = None

    # --- changes of the topic ----------------------------------------------------------------------------------

    def _look_at_topics(self) -> None:
        if self._led_changed() or self._client.partition_count(self.topic) is None:
            self._wake()

    def _led_changed(self) -> bool:
        """Whether this member, as the leader, has to have partitions assigned anew."""
        return any((self._client.partition_count(topic) or 0) != count for topic, count in self._led.items())

    async def _sleep(self, seconds: float) -> None:
        nap: Deferred[None] = Deferred()
        self._nap = nap
        call = self._reactor.callLater(seconds, nap.callback, None)
        try:
            await nap
        finally:
            self._nap = None
            if call.active():
                call.cancel()

    def _wake(self) -> None:
        nap, self._nap = self._nap, None
        if nap is not None and not nap.called:
            nap.callback(None)


def _quietly(_failure: object) -> None:
    """A watch over something that is over."""
