"""Keeps a group's member by the classic protocol: find the coordinator, join, sync, heartbeat, rejoin, leave. The
``holder`` has a use for the partitions.

The protocol is *cooperative* (KIP-429) where every member of the group knows ``cooperative-sticky``: a member says at
each join what it holds, goes on with it, and gives up afterwards only what is not assigned to it any more. Beside a
member that knows only ``range`` or ``roundrobin`` it is *eager*: everything is handed over before each join. Which of
the two a generation is, the broker says with the answer to the join; in the one that turns from cooperative to eager
nothing is assigned anew (``cooperative.keep``), everything is handed over, and the members join once more.

With a name of its own (``instance``; KIP-345) a member that goes without leaving keeps its place until its session is
over: the process that comes back under the name before that is given the same partitions, and nothing rebalances.

A member that another process has passed on goes on without a join: its id and generation are all that the coordinator
knows it by, and the first heartbeat says whether it does.

On the wire rather than on afkak's ``Coordinator``: that one gives up its partitions at every failed connection
instead of keeping them as long as the session lives, waits 10 s after a timeout, speaks JoinGroup v0 only, and on
stopping queues its leave request behind a join that the broker holds back (a Kafka connection is serial).
"""

from __future__ import annotations

import contextlib
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from kateway.errors import Unavailable, Unprocessable
from kateway.storage.kafka.cluster.connection import RequestFailed
from kateway.storage.kafka.cluster.coordinators import NOT_HERE
from kateway.storage.kafka.cluster.pool import Pool
from kateway.storage.kafka.cluster.waiting import at_most
from kateway.storage.kafka.consumer.held_requests import HeldRequests
from kateway.storage.kafka.consumer.leading import COOPERATIVE, PROTOCOLS, Leading
from kateway.storage.kafka.consumer.member_life import Expelled, MemberLife
from kateway.storage.kafka.consumer.membership import (
    FENCED_INSTANCE_ID,
    ILLEGAL_GENERATION,
    LEAVE_SECONDS,
    REBALANCE,
    RETRY_SECONDS,
    UNKNOWN_MEMBER,
    UNSUPPORTED_VERSION,
    Generation,
    Joining,
    topic_must_be_there,
)
from kateway.storage.kafka.protocol import group_requests as wire
from kateway.storage.kafka.protocol.errors import error_for
from kateway.storage.kafka.protocol.primitives import MalformedResponse
from kateway.storage.passed_member import PassedMember

HEARTBEAT_INTERVAL_SECONDS = 1.0

INVALID_SESSION_TIMEOUT, MEMBER_ID_REQUIRED = 26, 79
COORDINATOR_NOT_AVAILABLE = 15


class _Rejoin(Exception):
    """The generation ends in an orderly way."""


_Passing = (RequestFailed, MalformedResponse, Unavailable)


class Membership:
    """One member of one group, subscribed to one topic."""

    _log = Logger()

    def __init__(self, joining: Joining) -> None:
        self._client, self._pool, self._coordinators, self._holder, self.group, self.topic = joining[:6]
        self._reactor = self._client.reactor
        self._instance = joining.instance
        self._session_seconds = joining.session_timeout_seconds
        self._member = ""
        self._held = HeldRequests(self._client, self._coordinators, self.group)
        self._leading = Leading(self._client)
        self._holding = False
        """Whether there is a generation in which partitions may be ours."""
        self._partitions: frozenset[int] = frozenset()
        self._cooperative = False
        """Of the last generation: whether what is ours stays so through the next join."""
        self._joining_pool: Pool | None = None
        """For joins while partitions are ours: a join is held back, and commits would wait behind it."""
        self._life = MemberLife(
            joining,
            self._turn,
            self._lose,
            self._look_at_topics,
            expelled="the session with the group's coordinator expired",
        )
        self._joined_at: int | None = None
        """The broker to which it still has a connection after a join."""
        self.generation: Generation | None = None
        """``None`` while there is none to commit under."""
        self._rejoining = False
        """Whether the coordinator may be in another generation already, of which the answer is on its way, or was lost:
        then the next join says so.
        """
        self._staying = False
        """Whether nothing but heartbeats is sent just now: this generation goes on."""
        self._client_id = ""
        """As the coordinator knows the member: what it called itself when it was new."""
        self._unconfirmed = joining.passed
        """What another process has passed on, until the coordinator says that it has the member."""
        if joining.passed is not None:
            self._take_up(joining.passed)

    by_consumer_protocol = False

    @property
    def known_as(self) -> str:
        """Its id, once the coordinator has given one."""
        return self._member

    def start(self) -> None:
        """Begins to join, or goes on as the member that was passed on."""
        if self._unconfirmed is not None:
            self._life.session.heard(self._unconfirmed.heard_at, self._session_seconds)
        self._life.start()

    def _take_up(self, passed: PassedMember) -> None:
        self._member, self._client_id = passed.member, passed.client_id
        self._session_seconds = passed.session_seconds
        self._holding, self._cooperative = True, passed.cooperative
        self._partitions = frozenset(passed.partitions)
        self.generation = Generation(passed.generation, passed.member)

    async def pass_on(self) -> PassedMember | None:
        """Stops without leaving; ``None`` where a rebalance is under way, or the coordinator was not heard lately."""
        generation, session = self.generation, self._life.session
        if not self._staying or generation is None or not session.lately(self._session_seconds):
            return None
        passed = PassedMember(
            group=self.group,
            topic=self.topic,
            member=generation.member,
            generation=generation.number,
            by_consumer_protocol=False,
            partitions=sorted(self._partitions),
            session_seconds=self._session_seconds,
            heard_at=session.heard_at,
            client_id=self._client_id,
            instance=self._instance,
            cooperative=self._cooperative,
            led=self._leading.counts,
        )
        await self._end_turns()
        return passed

    async def stop(self, *, returning: bool = False) -> None:
        """Leaves the group, without a word to the holder. Takes at most twice ``LEAVE_SECONDS``. ``returning``: does
        not leave it where the member has a name to come back under.
        """
        stays = returning and self._instance is not None
        if self._held.unlearned is not None and not stays:
            # only the answer has our member id: a member that left without it would hold the group up
            await at_most(self._reactor, LEAVE_SECONDS, self._held.unlearned)
        await self._end_turns()
        if self._member and not stays:
            body = wire.encode_leave(self.group, self._member)
            leave = wire.LEAVE_GROUP, wire.LEAVE_GROUP_VERSION
            await self._life.leave(lambda node: self._pool.request(node, *leave, body, timeout_seconds=LEAVE_SECONDS))

    async def _end_turns(self) -> None:
        self._life.stop()
        self.generation = None
        self._holding = False
        self._partitions = frozenset()
        if self._held.node is not None:
            self._pool.abort(self._held.node)
        if self._joining_pool is not None:
            await self._joining_pool.close()

    # --- the life ----------------------------------------------------------------------------------------------

    async def _turn(self) -> float | None:
        """Joins, and stays for one generation."""
        try:
            if self._unconfirmed is not None:
                await self._go_on(self._unconfirmed)
            else:
                await self._go_over()
            try:
                self._staying = True
                await self._stay()
            finally:
                self._staying = False
        except _Rejoin:
            return None if self._holding else RETRY_SECONDS[0]
        return None

    async def _go_over(self) -> None:
        """Goes over to the next generation."""
        if self._holding and not self._cooperative:
            await self._give_up(self._partitions)
            self._holding = False
        assigned = await self._join()
        self._life.succeeded()
        await self._change_to(assigned)

    async def _go_on(self, passed: PassedMember) -> None:
        """Asks whether the coordinator has the member that was passed on, and takes over what it holds: also where the
        generation is about to end, for it is held until then.
        """
        await self._topic_must_be_there()
        await self._leading.go_on(passed.led)
        node = await self._coordinators.find(self.group)
        generation, sent_at = self.generation, self._reactor.seconds()
        if generation is None:
            raise Expelled  # its session was over before it was heard
        error = await self._beat(node, generation)
        if not self._holding:
            raise Expelled
        if error in {0, REBALANCE}:
            self._unconfirmed = None
            self._life.session.heard(sent_at, self._session_seconds)
            self._life.succeeded()
            self._holder.take_over(self._partitions)
        self._check(error)

    async def _change_to(self, assigned: frozenset[int]) -> None:
        """Goes over to what a rebalance has assigned; ``_Rejoin`` where something had to be given up for it."""
        going = self._partitions - assigned if self._cooperative else self._partitions
        coming = assigned - self._partitions if self._cooperative or not going else frozenset[int]()
        self._partitions |= coming
        self._holder.take_over(coming)
        if going:
            await self._give_up(going)
            raise _Rejoin

    async def _give_up(self, partitions: frozenset[int]) -> None:
        await self._holder.hand_over(partitions)
        self._partitions -= partitions

    async def _join(self) -> frozenset[int]:
        """Joins and syncs: the partitions of the topic that are ours. What is ours already stays so meanwhile."""
        await self._topic_must_be_there()
        node = await self._coordinators.find(self.group)
        # a name's next process takes the leader's place unsaid (before JoinGroup v9), and would not look at the topic
        self._leading.begin([] if self._instance is None else [self.topic])
        if not self._holding:
            self.generation = None
            self._life.session.cancel()
            return await self._join_at(node, self._pool)
        if self._joining_pool is None:
            self._joining_pool = self._client.pool(f"joining group {self.group}", self._pool.client_id)
        if self._joined_at != node:
            self._end_joining()
        staying = Deferred.fromCoroutine(self._keep_alive(node))
        staying.addErrback(_quietly)
        self._rejoining = True
        self._joined_at = node
        try:
            return await self._join_at(node, self._joining_pool)
        except (_Rejoin, Expelled):
            raise  # it was answered: the next join goes over the same connection
        except BaseException:
            self._end_joining()
            raise
        finally:
            staying.cancel()

    async def _keep_alive(self, node: int) -> None:
        """Heartbeats in the old generation while the join is held back: what we hold is ours as long as we are heard.
        What else the coordinator says, it says to the join.
        """
        while True:
            await deferLater(self._reactor, HEARTBEAT_INTERVAL_SECONDS)
            generation = self.generation
            if generation is None:
                return
            sent_at = self._reactor.seconds()
            with contextlib.suppress(*_Passing):
                if await self._beat(node, generation) in {0, REBALANCE} and self.generation is generation:
                    self._life.session.heard(sent_at, self._session_seconds)

    async def _join_at(self, node: int, pool: Pool) -> frozenset[int]:
        joined = await self._ask_to_join(node, pool)
        if joined.error == MEMBER_ID_REQUIRED:
            joined = await self._ask_to_join(node, pool)
        self._check(joined.error)
        assignments = {}
        if joined.leader == joined.member:
            assignments = await self._leading.assign(joined)
        sent_at = self._reactor.seconds()
        error, assignment = wire.decode_sync(
            await self._held.ask(
                pool,
                node,
                wire.SYNC_GROUP,
                wire.SYNC_GROUP_VERSION,
                wire.encode_sync(self.group, joined.generation, self._member, assignments),
            )
        )
        self._check(error)
        self.generation = Generation(joined.generation, self._member)
        self._rejoining = False
        self._cooperative = joined.protocol == COOPERATIVE
        self._holding = True
        self._life.session.heard(sent_at, self._session_seconds)
        return frozenset(wire.decode_assignment(assignment).get(self.topic, ()))

    async def _ask_to_join(self, node: int, pool: Pool) -> wire.Joined:
        version = await self._coordinators.join_version(node)
        if not self._member:
            self._client_id = self._pool.client_id
        if version < wire.STATIC_JOIN_GROUP_VERSION:
            self._instance = None
        session_ms = int(self._session_seconds * 1000)
        owned = {self.topic: sorted(self._partitions)} if self._partitions else {}
        generation = -1 if self.generation is None else self.generation.number
        metadata = wire.encode_metadata([self.topic], owned, generation)
        protocols = dict.fromkeys(PROTOCOLS, metadata)
        body = wire.encode_join(version, self.group, session_ms, session_ms, self._member, self._instance, protocols)
        learn = None if self._member else partial(self._learn_member, version=version)
        answer = await self._held.ask(pool, node, wire.JOIN_GROUP, version, body, learn)
        joined = wire.decode_join(version, answer)
        if joined.error in {MEMBER_ID_REQUIRED, 0}:
            self._member = joined.member
        elif joined.error == UNKNOWN_MEMBER:
            self._member = ""
        elif self._instance is not None and joined.error in {FENCED_INSTANCE_ID, UNSUPPORTED_VERSION}:
            fenced = joined.error == FENCED_INSTANCE_ID
            self._log.warn(
                "group {group}: joins without the name {instance}: {why}",
                group=self.group,
                instance=self._instance,
                why="another process has taken it" if fenced else "the brokers keep none yet",
            )
            self._instance, self._member = None, ""
            raise Expelled
        return joined

    async def _topic_must_be_there(self) -> None:
        await topic_must_be_there(self._client, self.topic, was_there=bool(self._member))

    def _end_joining(self) -> None:
        """Closes the connection of the last join: such are seldom, and an idle one for each group the dearer way."""
        node, self._joined_at = self._joined_at, None
        if node is not None and self._joining_pool is not None:
            self._joining_pool.abort(node)

    async def _stay(self) -> None:
        """Heartbeats until the generation is over, which it raises."""
        pause = HEARTBEAT_INTERVAL_SECONDS
        while True:
            await self._life.rest.sleep(pause)
            with contextlib.suppress(*_Passing):
                await self._topic_must_be_there()
            if not self._holding:
                raise Expelled
            if self._leading.changed():
                raise _Rejoin
            generation = self.generation
            assert generation is not None
            sent_at = self._reactor.seconds()
            try:
                node = await self._coordinators.find(self.group)
                error = await self._beat(node, generation)
            except _Passing:
                error = COORDINATOR_NOT_AVAILABLE
            if not self._holding:
                raise Expelled
            if error in NOT_HERE:
                self._coordinators.forget(self.group)
                pause = HEARTBEAT_INTERVAL_SECONDS / 4
                continue
            pause = HEARTBEAT_INTERVAL_SECONDS
            if error in {0, REBALANCE}:
                self._life.session.heard(sent_at, self._session_seconds)
            self._check(error)
            self._end_joining()

    async def _beat(self, node: int, generation: Generation) -> int:
        """One heartbeat: the coordinator's answer."""
        body = await self._pool.request(
            node,
            wire.HEARTBEAT,
            wire.HEARTBEAT_VERSION,
            wire.encode_heartbeat(self.group, generation.number, generation.member),
            timeout_seconds=self._session_seconds / 3,
        )
        return wire.decode_error(body)

    def _check(self, error: int) -> None:
        if error == 0:
            return
        if error == REBALANCE:
            raise _Rejoin
        if error in {ILLEGAL_GENERATION, UNKNOWN_MEMBER}:
            if error == UNKNOWN_MEMBER and self._instance is None:
                self._member = ""  # with a name the next join says whether the place is another process's
            raise Expelled
        if error == INVALID_SESSION_TIMEOUT:
            raise Unprocessable(
                f"the broker allows no session of {self._session_seconds:g} s (group.min/max.session.timeout.ms)"
            )
        if error in NOT_HERE:
            raise Unavailable(f"the coordinator of group {self.group} is moving (error {error})")
        raise error_for(error, f"group {self.group}")

    def _learn_member(self, body: bytes, version: int) -> bytes:
        self._member = wire.decode_join(version, body).member
        return body

    # --- the session -------------------------------------------------------------------------------------------

    def refused(self, errors: set[int], generation: Generation) -> None:
        """The coordinator has refused a commit of a generation: whether that is a rebalance, or the end."""
        present = self.generation
        if present is None:
            return
        forgotten = UNKNOWN_MEMBER in errors and present.member == generation.member
        passed_over = ILLEGAL_GENERATION in errors and present == generation and not self._rejoining
        if forgotten or passed_over:
            self._lose()
            self._life.rest.wake()

    def _lose(self) -> None:
        self._life.session.cancel()
        self._unconfirmed = None
        self.generation = None
        self._rejoining = False
        if self._holding:
            self._holding = False
            self._partitions = frozenset()
            self._holder.drop()

    # --- changes of the topic ----------------------------------------------------------------------------------

    def _look_at_topics(self) -> None:
        if self._leading.changed() or self._client.partition_count(self.topic) is None:
            self._life.rest.wake()


def _quietly(_failure: object) -> None:
    """A watch over something that is over."""
