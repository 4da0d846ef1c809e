"""Keeps a group's member by the consumer protocol (KIP-848): heartbeats say what the member holds, and the group's
coordinator answers what it shall hold.

No member waits for another one, and no generation has to end: a member that comes or goes is felt only by those that
give up a partition for it, or get one. Heartbeats go on while a partition is being handed over; the next one after it
says that it is free. Each heartbeat says all, so that a coordinator that has moved, or whose answer was lost, needs no
other: it takes the epoch before its own from a member that holds nothing but what it may.

How long a member is kept that is not heard of is the brokers' to say (``group.consumer.session.timeout.ms``, 45 s by
default); ours is the time after which we believe to be forgotten, where that is the shorter one.

A name of its own (``instance``) belongs, as in the classic protocol, to the process that came last: the coordinator
keeps it from a process that comes while it believes the former one alive, so it is told that that one has left.

A member that another process has passed on goes on with its id, its epoch and what it holds: to the coordinator its
first heartbeat is one like any other.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.errors import Unavailable, Unsupported
from kateway.storage.kafka.cluster.coordinators import NOT_HERE
from kateway.storage.kafka.consumer.member_life import Expelled, MemberLife, Over
from kateway.storage.kafka.consumer.membership import (
    FENCED_INSTANCE_ID,
    FENCED_MEMBER_EPOCH,
    GROUP_ID_NOT_FOUND,
    LEAVE_SECONDS,
    RETRY_SECONDS,
    STALE_MEMBER_EPOCH,
    UNKNOWN_MEMBER,
    UNRELEASED_INSTANCE_ID,
    UNSUPPORTED_VERSION,
    Generation,
    Joining,
    topic_must_be_there,
)
from kateway.storage.kafka.consumer.reconciliation import Reconciliation
from kateway.storage.kafka.protocol import consumer_group_requests as wire
from kateway.storage.kafka.protocol import group_members
from kateway.storage.kafka.protocol.errors import error_for
from kateway.storage.kafka.protocol.metadata import METADATA
from kateway.storage.passed_member import PassedMember

HEARTBEAT_INTERVAL_SECONDS = 1.0
"""At least so often, as in the classic protocol: a partition that is to move waits for its holder's next heartbeat, and
then for its next one's. The brokers' own interval is 5 s by default.
"""
QUICK_INTERVAL_SECONDS = 0.25
QUICK_SECONDS = 3.0
"""After a change of the epoch: partitions that others give up may come."""


class _NotSpoken(Exception):
    """The group cannot be joined by this protocol."""


class ConsumerMembership:
    """One member of one group, subscribed to one topic. ``not_spoken``: called, with the reason and instead of the
    holder, where the brokers or the group do not speak the protocol, or would keep a member that is gone for longer
    than ``session_timeout_seconds``.
    """

    _log = Logger()

    def __init__(self, joining: Joining, not_spoken: Callable[[str], None] | None = None) -> None:
        self._client, self._pool, self._coordinators, self._holder, self.group, self.topic = joining[:6]
        self._reactor = self._client.reactor
        self._topic_id: bytes | None = None
        self._instance = joining.instance
        self._not_spoken = not_spoken
        self._member = uuid.uuid4().hex
        self._epoch = wire.JOINING
        self._losses = 0
        """Counts the times that the membership was lost: an answer from before one says nothing."""
        self._asked_to_join = False
        self._places = Reconciliation()
        self._unannounced = False
        """Whether the holder is still to hear of a change, even one that brings it nothing."""
        self._reconciling: Deferred[None] | None = None
        self._timeout_seconds = self._session_seconds = joining.session_timeout_seconds
        self._life = MemberLife(
            joining,
            self._turn,
            self._lose,
            self._look_at_topics,
            expelled="the group's coordinator does not know this member any more",
            unserved=lambda: self.generation is None,
        )
        self._quick_until = 0.0
        self.generation: Generation | None = None
        """``None`` while there is none to commit under."""
        self._unconfirmed = joining.passed
        """What another process has passed on, until the coordinator says that it has the member."""
        if joining.passed is not None:
            self._take_up(joining.passed)

    by_consumer_protocol = True

    @property
    def known_as(self) -> str:
        """Its id, once the coordinator may have heard it."""
        return self._member if self._asked_to_join else ""

    def start(self) -> None:
        """Begins to join, or goes on as the member that was passed on."""
        if self._unconfirmed is not None:
            self._life.session.heard(self._unconfirmed.heard_at, self._session_seconds)
        self._life.start()

    def _take_up(self, passed: PassedMember) -> None:
        self._member, self._epoch, self._asked_to_join = passed.member, passed.generation, True
        self._session_seconds = passed.session_seconds
        self._topic_id = bytes.fromhex(passed.topic_id) or None
        self._places.go_on((self._topic_id, partition) for partition in passed.partitions if self._topic_id)
        self.generation = Generation(passed.generation, passed.member, by_consumer_protocol=True)

    async def pass_on(self) -> PassedMember | None:
        """Stops without leaving; ``None`` where partitions come or go, or the coordinator was not heard lately."""
        generation, session, places = self.generation, self._life.session, self._places
        settled = self._unconfirmed is None and self._reconciling is None and places.held == places.assigned
        if not settled or generation is None or not session.lately(self._session_seconds):
            return None
        passed = PassedMember(
            group=self.group,
            topic=self.topic,
            member=generation.member,
            generation=generation.number,
            by_consumer_protocol=True,
            partitions=sorted(_numbers(places.held)),
            session_seconds=self._session_seconds,
            heard_at=session.heard_at,
            client_id=self._pool.client_id,
            instance=self._instance,
            topic_id=(self._topic_id or b"").hex(),
        )
        self._end_turns()
        return passed

    async def stop(self, *, returning: bool = False) -> None:
        """Leaves the group; where it is ``returning`` and has a name, for a while."""
        self._end_turns()
        if self._asked_to_join:
            for_a_while = returning and self._instance is not None
            epoch = wire.LEAVING_FOR_A_WHILE if for_a_while else wire.LEAVING
            body = wire.encode_leave(self.group, self._member, epoch, self._instance)
            await self._life.leave(lambda node: self._send(node, body, LEAVE_SECONDS))

    def _end_turns(self) -> None:
        self._life.stop()
        self._stop_reconciling()
        self.generation = None
        self._places.lose()

    # --- the life ----------------------------------------------------------------------------------------------

    async def _turn(self) -> float:
        await topic_must_be_there(self._client, self.topic, was_there=self._asked_to_join)
        try:
            pause = await self._beat()
        except _NotSpoken as reason:
            self._lose()
            if self._not_spoken is None:
                raise Unsupported(f'{reason}; set group_protocol = "auto" or "classic"') from reason
            self._asked_to_join = False
            self._not_spoken(str(reason))
            raise Over from reason
        self._life.succeeded()
        return pause

    async def _beat(self) -> float:
        """Says what is held, hears what shall be; answers how long to rest."""
        node = await self._coordinators.find(self.group)
        if self._epoch == wire.JOINING:
            await self._look_at_broker(node)
        losses, sent_at = self._losses, self._reactor.seconds()
        self._asked_to_join = True
        body = wire.encode_heartbeat(
            self.group,
            self._member,
            self._epoch,
            self._instance,
            int(self._timeout_seconds * 1000),
            [self.topic],
            self._places.say(),
        )
        heard = wire.decode_heartbeat(await self._send(node, body, max(0.5, self._session_seconds / 3)))
        if losses != self._losses:
            return 0.0
        if heard.error == UNRELEASED_INSTANCE_ID and self._instance is not None:
            await self._take_name(node, self._instance)
            return RETRY_SECONDS[0]
        self._check(heard)
        self._life.session.heard(sent_at, self._session_seconds)
        if self._unconfirmed is not None:
            self._unconfirmed = None
            self._holder.take_over(_numbers(self._places.held))
        if heard.epoch != self._epoch:
            self._unannounced = self._unannounced or self._epoch == wire.JOINING
            self._epoch = heard.epoch
            self.generation = Generation(heard.epoch, self._member, by_consumer_protocol=True)
            self._quick_until = self._reactor.seconds() + QUICK_SECONDS
        if heard.assigned is not None:
            await self._aim_at(node, heard.assigned)
        interval = QUICK_INTERVAL_SECONDS if self._reactor.seconds() < self._quick_until else HEARTBEAT_INTERVAL_SECONDS
        return min(interval, heard.interval_ms / 1000)

    def _send(self, node: int, body: bytes, timeout_seconds: float) -> Deferred[bytes]:
        return self._pool.request(
            node,
            wire.CONSUMER_GROUP_HEARTBEAT,
            wire.CONSUMER_GROUP_HEARTBEAT_VERSION,
            body,
            timeout_seconds=timeout_seconds,
        )

    async def _look_at_broker(self, node: int) -> None:
        """Before the group is joined: whether the broker can, and for how long it keeps a member."""
        if not await self._coordinators.lists_consumer_protocol(node):
            raise _NotSpoken("the brokers do not assign partitions themselves (Kafka does from 4.0 on)")
        answer = await self._ask(
            node, wire.DESCRIBE_CONFIGS, wire.DESCRIBE_CONFIGS_VERSION, wire.encode_group_session(self.group)
        )
        seconds = wire.decode_group_session(answer)
        if self._not_spoken is not None and (seconds is None or seconds > self._timeout_seconds):
            kept = "do not say for how long they keep" if seconds is None else f"keep for {seconds:g} s"
            raise _NotSpoken(
                f"the brokers {kept} a member that is gone, more than session_timeout_seconds "
                f"({self._timeout_seconds:g}); set group.consumer.session.timeout.ms there"
            )
        self._session_seconds = min(self._timeout_seconds, seconds or self._timeout_seconds)

    def _ask(self, node: int, api_key: int, api_version: int, body: bytes) -> Deferred[bytes]:
        timeout = self._client.config.request_timeout_seconds
        return self._pool.request(node, api_key, api_version, body, timeout_seconds=timeout)

    def _check(self, heard: wire.Heard) -> None:
        error = heard.error
        if error == 0:
            return
        if error in NOT_HERE:
            raise Unavailable(f"the coordinator of group {self.group} is moving (error {error})")
        if error in {UNKNOWN_MEMBER, FENCED_MEMBER_EPOCH}:
            raise Expelled
        if error == FENCED_INSTANCE_ID and self._instance is not None:
            self._go_on_without_name("another process has taken it")
            raise Expelled
        if error in {GROUP_ID_NOT_FOUND, UNSUPPORTED_VERSION}:
            if self._epoch != wire.JOINING:
                raise Expelled
            raise _NotSpoken(f"group {self.group} cannot be joined by the consumer protocol ({heard.message})")
        raise error_for(error, f"group {self.group}")

    # --- the member's own name ---------------------------------------------------------------------------------

    async def _take_name(self, node: int, instance: str) -> None:
        """Says for the process that bore our name before that it has left, so that its place is ours."""
        body = group_members.encode_consumer_describe(self.group)
        describe = group_members.CONSUMER_GROUP_DESCRIBE, group_members.CONSUMER_GROUP_DESCRIBE_VERSION
        _error, _state, members = group_members.decode_consumer_describe(await self._ask(node, *describe, body))
        former = next((each.member for each in members if each.instance == instance), None)
        if former is None:
            self._go_on_without_name("the coordinator does not say which process has it")
            return
        body = wire.encode_leave(self.group, former, wire.LEAVING_FOR_A_WHILE, instance)
        heard = wire.decode_heartbeat(await self._send(node, body, LEAVE_SECONDS))
        if heard.error not in {0, UNKNOWN_MEMBER, FENCED_INSTANCE_ID}:
            self._go_on_without_name(heard.message)

    def _go_on_without_name(self, why: str) -> None:
        self._log.warn(
            "group {group}: joins without the name {instance}: {why}",
            group=self.group,
            instance=self._instance,
            why=why,
        )
        self._instance, self._member = None, uuid.uuid4().hex

    # --- partitions --------------------------------------------------------------------------------------------

    async def _aim_at(self, node: int, assigned: frozenset[wire.Place]) -> None:
        if {topic for topic, _ in assigned} - {self._topic_id}:
            answer = await self._ask(node, METADATA, wire.TOPIC_ID_METADATA_VERSION, wire.encode_topic_id(self.topic))
            self._topic_is(wire.decode_topic_id(answer))
        places = frozenset(place for place in assigned if place[0] == self._topic_id)
        if max((partition for _, partition in places), default=0) >= (self._client.partition_count(self.topic) or 0):
            await self._client.refresh()
        count = self._client.partition_count(self.topic) or 0
        # what brokers have not told of yet comes with a later heartbeat
        self._places.assigned = frozenset(place for place in places if place[1] < count)
        if self._reconciling is None:
            reconciling = Deferred.fromCoroutine(self._reconcile())
            if not reconciling.called:
                self._reconciling = reconciling
                reconciling.addBoth(self._reconciled, reconciling)
            reconciling.addErrback(self._broke)

    def _topic_is(self, topic_id: bytes | None) -> None:
        if topic_id is None or topic_id == self._topic_id:
            return
        if self._topic_id is not None:
            # made anew: no commit may say of the new one how far the old one was read
            self._stop_reconciling()
            self._places.lose()
            self._holder.drop()
            self._unannounced = True
        self._topic_id = topic_id

    async def _reconcile(self) -> None:
        while True:
            going = self._places.begin_to_give_up()
            if not going:
                break
            self._unannounced = True
            await self._holder.hand_over(_numbers(going))
            self._places.gave_up(going)
            self._life.rest.wake()  # the next holder waits for the heartbeat that says so
        coming = self._places.take()
        if coming or self._unannounced:
            self._unannounced = False
            self._holder.take_over(_numbers(coming))

    def _reconciled(self, result: object, reconciling: Deferred[None]) -> object:
        if self._reconciling is reconciling:
            self._reconciling = None
        return result

    def _broke(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("the membership in {group} broke, and begins anew", failure=failure, group=self.group)
            self._lose()

    def _stop_reconciling(self) -> None:
        reconciling, self._reconciling = self._reconciling, None
        if reconciling is not None:
            reconciling.cancel()

    # --- the end of a membership -------------------------------------------------------------------------------

    def refused(self, errors: set[int], generation: Generation) -> None:
        """The coordinator has refused a commit: it is in another epoch, or does not know the member any more."""
        if self.generation != generation:
            return
        if errors & {UNKNOWN_MEMBER, FENCED_MEMBER_EPOCH, GROUP_ID_NOT_FOUND}:
            self._lose()
        if errors & {UNKNOWN_MEMBER, FENCED_MEMBER_EPOCH, GROUP_ID_NOT_FOUND, STALE_MEMBER_EPOCH}:
            self._life.rest.wake()

    def _lose(self) -> None:
        self._life.session.cancel()
        self._stop_reconciling()
        self._losses += 1
        self._unconfirmed = None
        self._epoch = wire.JOINING
        self._places.lose()
        if self.generation is not None:
            self.generation = None
            self._holder.drop()

    def _look_at_topics(self) -> None:
        if self._client.partition_count(self.topic) is None:
            self._life.rest.wake()


def _numbers(places: frozenset[wire.Place]) -> frozenset[int]:
    return frozenset(partition for _, partition in places)
