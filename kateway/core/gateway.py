"""Publishes, subscribes, acknowledges, and answers questions about topics and groups: the rules, step by step.

Here are the rules and their order; HTTP is above, stores are below. A publish handed to a store has an outcome
even when its client goes away: nothing here cancels one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from kateway.backoff import Backoff
from kateway.core.access.control import AuthorizedRequest, Place
from kateway.core.breaker import Breakers, for_the_stores_sake
from kateway.core.delivery.confirmation import Connection
from kateway.core.delivery.ledger import Ack
from kateway.core.first_use import FirstUse
from kateway.core.groups.dead_letters import DeadLetterTopic, dead_letter_topic
from kateway.core.groups.memberships import Memberships
from kateway.core.groups.reader import Mode, Reader
from kateway.core.idempotency import Answered, Idempotency, Use
from kateway.core.inflight_shares import InflightShares, weight
from kateway.core.reads import MergedRead, NewestRead, PartitionRead, Read, Start
from kateway.errors import (
    Conflict,
    KatewayError,
    MalformedBatch,
    OffsetOutOfRange,
    Overloaded,
    PartitionNotFound,
    StoreUnavailable,
    TopicNotFound,
    Unavailable,
)
from kateway.model import Committed, Message, Receipt, TopicInfo
from kateway.storage.interface import At, Handoff, Outcome, Reset

R = TypeVar("R")

FIRST_RETRY_SECONDS = 0.05
LEAST_CHANCE_SECONDS = 0.5
"""A publish whose caller waits less than this may fail for that, and not for the store's sake."""

LONGEST_RETRY_SECONDS = 1.0


class Publish(NamedTuple):
    """A publish as it is handed from step to step."""

    place: Place
    messages: Sequence[Message]
    acks: int
    """0 none, 1 leader, -1 all in-sync replicas."""
    deadline: float
    """On the reactor's clock: when the caller's patience ends."""
    retries: int
    """How often a publish that surely was not written is tried again before the deadline."""
    began: float = inf
    """On the reactor's clock: when the request arrived."""
    handoff: bool = True
    """Whether it may be kept on this gateway's disk while its store does not take it."""
    application: str = ""
    """The publisher's, for its share of the room."""


class Lag(NamedTuple):
    """How far a group is behind in one partition."""

    partition: int
    end: int
    committed: int | None
    lag: int
    unacked: int
    """Records with readers of this gateway, not acknowledged yet."""
    oldest_unacked_seconds: float


class TopicCreation(NamedTuple):
    """Whether an unknown topic of a store may be made on first use, and with how many partitions and replicas."""

    allowed: bool
    partitions: int
    replicas: int


class Gateway:
    """The gateway's rules over its stores; ``creation`` and the others by the clusters' names."""

    def __init__(
        self,
        creation: Mapping[str, TopicCreation],
        breakers: Breakers,
        idempotency: Idempotency,
        groups: Memberships,
        clock: IReactorTime,
        handoffs: Mapping[str, Handoff] | None = None,
        shares: Mapping[str, InflightShares] | None = None,
    ) -> None:
        self._breakers = breakers
        self._handoffs: Mapping[str, Handoff] = handoffs or {}
        self._shares: Mapping[str, InflightShares] = shares or {}
        self._idempotency = idempotency
        self._creation = creation
        self._groups = groups
        self._clock = clock
        self._first_use = FirstUse(clock)
        self._in_use: set[tuple[str, str]] = set()
        """Topics that were there when they were published to, of clusters where topics are made on first use."""

    # --- publish ---------------------------------------------------------------------------------------------

    def publish(self, publish: Publish) -> Deferred[list[Outcome]]:
        """Writes messages; one outcome each, in their order. Never fails as a whole.

        A plain callback, not a coroutine: this runs for every request of the hot path.
        """
        place = publish.place
        if self._handoffs:
            handoff = self._handoffs.get(place.cluster)
            if handoff is not None:
                return self._with_handoff(publish, handoff)
        if self._creation[place.cluster].allowed and (place.cluster, place.topic) not in self._in_use:
            return self._first(publish)
        return self._send(publish)

    def _with_handoff(self, publish: Publish, handoff: Handoff) -> Deferred[list[Outcome]]:
        """Publishes to a cluster that has a handoff: behind the messages that are kept, and into it where the store
        surely did not write.
        """
        place, messages, _, deadline, _, _, allowed, _ = publish
        if handoff.holds(place.topic):
            behind = StoreUnavailable("records of this topic that are kept in the handoff have to be written first")
            if allowed:
                return handoff.take(place.topic, messages, deadline, behind)
            return succeed([behind] * len(messages))
        if self._creation[place.cluster].allowed and (place.cluster, place.topic) not in self._in_use:
            publishing = self._first(publish)
        else:
            publishing = self._send(publish)
        return publishing.addCallback(self._keep, publish, handoff) if allowed else publishing

    def _keep(
        self, outcomes: list[Outcome], publish: Publish, handoff: Handoff
    ) -> list[Outcome] | Deferred[list[Outcome]]:
        """Keeps the messages that surely were not written, for the store's sake."""
        lost = [
            index
            for index, outcome in enumerate(outcomes)
            if isinstance(outcome, KatewayError) and not outcome.maybe_written and for_the_stores_sake(outcome)
        ]
        if not lost:
            return outcomes
        why = outcomes[lost[0]]
        assert isinstance(why, KatewayError)

        def kept(found: list[Outcome]) -> list[Outcome]:
            for index, outcome in zip(lost, found, strict=True):
                outcomes[index] = outcome
            return outcomes

        messages = [publish.messages[index] for index in lost]
        return handoff.take(publish.place.topic, messages, publish.deadline, why).addCallback(kept)

    def _first(self, publish: Publish) -> Deferred[list[Outcome]]:
        """Publishes to a topic that was not used yet: it is found or made first."""
        place, messages, _, deadline, _, _, _, _ = publish
        topic = place.cluster, place.topic
        refusing = self._breakers[place.cluster].refusing
        if topic not in self._first_use and (refusing or place.store.partitions(place.topic) is not None):
            if not refusing:
                self._in_use.add(topic)
            return self._send(publish)

        async def make() -> None:
            try:
                await self.topic(place, create=True)
            except KatewayError as error:
                if for_the_stores_sake(error) and _patient(publish):
                    self._breakers[place.cluster].failed(error, publish.began)
                raise
            self._in_use.add(topic)

        return self._first_use.wait(topic, lambda: self._send(publish), len(messages), deadline, make)

    def _send(self, publish: Publish) -> Deferred[list[Outcome]]:
        place, messages, acks, deadline, _, _, _, application = publish
        breaker = self._breakers[place.cluster]
        shares = self._shares.get(place.cluster)
        if shares is not None:
            # before the breaker is asked: a probe that it admits has to be reported
            size = weight(messages)
            if not shares.take(application, size):
                return succeed([_share_used_up(shares, application)] * len(messages))
        if breaker.refusing and not breaker.admit():
            if shares is not None:
                shares.release(application, size)
            refusal = self._breakers.refusal(place.cluster)
            return succeed([refusal] * len(messages))
        try:
            publishing = place.store.publish(place.topic, messages, acks, deadline)
        except BaseException:
            if shares is not None:
                shares.release(application, size)
            raise
        if shares is not None:
            publishing.addBoth(_release, shares, application, size)
        if breaker.refusing:
            publishing.addCallback(self._probed, publish)
        publishing.addCallback(self._judge, publish)
        return publishing

    async def publish_once(self, use: Use, publish: Publish, *, batch: bool) -> Answered:
        """Publishes under an idempotency key. ``IdempotencyKeyReused``, ``IdempotencyKeyInUse``; ``Unavailable`` where
        it cannot be known whether it was written before.
        """
        place = publish.place
        replayed = self._idempotency.replay(use)
        if replayed is not None:
            return replayed
        if self._breakers[place.cluster].state == "open":
            # nothing can be read either; half-open, this may be the publish that tries
            raise self._breakers.refusal(place.cluster)
        looking = Deferred.fromCoroutine(self.topic(place, create=True))
        left = max(publish.deadline - self._clock.seconds(), 0.0)
        partitions = (await looking.addTimeout(left, self._clock, _topic_not_found_in_time)).partitions
        if publish.acks:
            # with another acknowledgement a batch has no number, and one that was lost could be written beside its copy
            publish = publish._replace(acks=-1)

        def write(messages: Sequence[Message]) -> Deferred[list[Outcome]]:
            # of a key whose message is kept here another gateway could not know: it gets 503 and may be used anew
            part = publish._replace(messages=messages, handoff=False)
            return self.publish_batch(part) if batch else self.publish(part)

        return await self._idempotency.publish(use, place, partitions, publish.messages, publish.deadline, write)

    def _probed(self, outcomes: list[Outcome], publish: Publish) -> list[Outcome]:
        written = any(isinstance(outcome, Receipt) for outcome in outcomes)
        self._breakers.probed(publish.place.cluster, outcomes if written or _patient(publish) else ())
        return outcomes

    def publish_batch(self, publish: Publish) -> Deferred[list[Outcome]]:
        """As ``publish``, but fails with ``MalformedBatch`` and writes nothing where a message names a partition
        that does not exist.
        """
        place = publish.place
        named = max((message.partition for message in publish.messages if message.partition is not None), default=-1)
        if named < (place.store.partitions(place.topic) or 0) or self._breakers[place.cluster].refusing:
            return self.publish(publish)
        return Deferred.fromCoroutine(self._publish_checked(publish, named))

    async def _publish_checked(self, publish: Publish, named: int) -> list[Outcome]:
        info = await self.topic(publish.place, create=True)
        if named >= info.partitions:
            raise MalformedBatch(
                f"the batch names partition {named}, but {info.name} has {info.partitions}; nothing was written"
            )
        return await self.publish(publish)

    def _judge(self, outcomes: list[Outcome], publish: Publish) -> list[Outcome] | Deferred[list[Outcome]]:
        breaker = self._breakers[publish.place.cluster]
        for outcome in outcomes:
            if outcome.__class__ is not Receipt:
                if publish.acks and _patient(publish):
                    breaker.count(outcomes, publish.began)
                return Deferred.fromCoroutine(self._again(outcomes, publish))
        if publish.acks:
            # without acks nothing says that it was written, and so neither end of one counts
            breaker.successes += 1
        return outcomes

    async def _again(self, outcomes: list[Outcome], publish: Publish) -> list[Outcome]:
        """Publishes once more the messages that surely were not written: after making the topic, or after a pause."""
        place, messages, acks, deadline, retries, _, _, _ = publish
        backoff = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        created = False
        while True:
            again = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, TopicNotFound)]
            if again and not created and self._creation[place.cluster].allowed:
                created = True
                self._in_use.discard((place.cluster, place.topic))
                try:
                    await self._make(place)
                except KatewayError as error:
                    return [error if isinstance(outcome, TopicNotFound) else outcome for outcome in outcomes]
            else:
                again = [index for index, outcome in enumerate(outcomes) if _worth_a_retry(outcome)]
                pause = backoff.next()
                refusing = self._breakers[place.cluster].refusing
                if not again or refusing or retries <= 0 or self._clock.seconds() + pause >= deadline:
                    return outcomes
                retries -= 1
                await deferLater(self._clock, pause)
            repeated = await place.store.publish(place.topic, [messages[index] for index in again], acks, deadline)
            if acks and _patient(publish):
                self._breakers[place.cluster].count(repeated, publish.began)
            for index, outcome in zip(again, repeated, strict=True):
                outcomes[index] = outcome

    # --- topics and groups -----------------------------------------------------------------------------------

    async def topic(self, place: Place, *, create: bool = False) -> TopicInfo:
        """The topic, made first where ``create`` and the store's settings allow it. ``TopicNotFound``."""
        try:
            return await place.store.topic(place.topic)
        except TopicNotFound:
            if not create or not self._creation[place.cluster].allowed:
                raise
        return await self._make(place)

    async def _make(self, place: Place) -> TopicInfo:
        creation = self._creation[place.cluster]
        try:
            return await place.store.create_topic(
                place.topic, partitions=creation.partitions, replicas=creation.replicas
            )
        except Conflict:
            return await place.store.topic(place.topic)

    async def reader(
        self,
        authorized: AuthorizedRequest,
        *,
        mode: Mode,
        reset: Reset,
        short: bool,
        ack_timeout: float,
        dead: bool,
        connection: Connection,
    ) -> Reader:
        """A reader of the topic, or of the group's dead letters (``dead``), for a response on ``connection``.
        However often a dead letter is delivered, it goes nowhere by itself.

        ``TopicNotFound``, ``TooManyConsumers``, ``Conflict`` between ack modes, ``Draining``.
        """
        place = authorized.place
        if dead:
            # a client that rejects a record and then looks for it finds it
            await self._groups.dead_letters_written(place.cluster, authorized.group, place.topic)
            partitions = await DeadLetterTopic(place.store, place.topic, authorized.group, self._clock).make()
        else:
            partitions = (await self.topic(place, create=True)).partitions
        return self._groups.reader(
            place.cluster,
            authorized.group,
            source_topic(authorized, dead).topic,
            connection=connection,
            mode=mode,
            reset=reset,
            short=short,
            ack_timeout=ack_timeout,
            max_deliveries=0 if dead else authorized.max_deliveries,
            partitions=partitions,
        )

    def acknowledge_at_once(self, place: Place, group: str, acks: Sequence[Ack]) -> list[KatewayError | None] | None:
        """Applies acknowledgements where this process is a member of the group, one answer each; else ``None``."""
        return self._groups.acknowledge_at_once(place.cluster, group, place.topic, acks)

    async def acknowledge(
        self, place: Place, group: str, acks: Sequence[Ack], *, sync: bool
    ) -> list[KatewayError | None]:
        """Applies acknowledgements, one answer each; ``sync`` waits until they are committed."""
        await place.store.topic(place.topic)
        return await self._groups.acknowledge(place.cluster, group, place.topic, acks, sync=sync)

    async def ends(self, place: Place) -> list[tuple[int, int, int]]:
        """``(partition, earliest, end)`` of each partition."""
        await place.store.topic(place.topic)
        earliest = await place.store.offsets(place.topic, "earliest")
        end = await place.store.offsets(place.topic, "latest")
        return [(partition, earliest[partition], end[partition]) for partition in sorted(earliest.keys() & end.keys())]

    def read(self, place: Place, partition: int | None, start: Start) -> Read:
        """A read without a group: of one partition, or of all (``timestamp`` and ``last`` alone)."""
        if partition is not None:
            return PartitionRead(place.store, place.topic, partition, start)
        if start.kind == "last":
            return NewestRead(place.store, place.topic, start.at, self._clock)
        return MergedRead(place.store, place.topic, start.at, self._clock)

    async def committed(self, place: Place, group: str) -> Mapping[int, Committed | None]:
        """Returns the group's committed offset in each partition."""
        await place.store.topic(place.topic)
        return await place.store.committed(group, place.topic)

    async def lag(self, place: Place, group: str) -> list[Lag]:
        """How far the group is behind in each partition. Where nothing is committed, all that is there is lag."""
        committed = await self.committed(place, group)
        unacknowledged = self._groups.unacknowledged(place.cluster, group, place.topic)
        found = []
        for partition, earliest, end in await self.ends(place):
            at = committed.get(partition)
            offset = None if at is None else at.offset
            unacked, oldest = unacknowledged.get(partition, (0, 0.0))
            behind = max(end - max(earliest, offset or 0), 0)
            found.append(Lag(partition, end, offset, behind, unacked, round(oldest, 1)))
        return found

    async def reset(self, place: Place, group: str, to: At | Mapping[int, int]) -> None:
        """Moves the group. ``GroupBusy`` while it has readers; a member of ours that merely lingers is let go."""
        offsets = await self._positions(place, to)
        await self._groups.let_go(place.cluster, group, place.topic)
        await place.store.reset(group, place.topic, offsets)

    async def _positions(self, place: Place, to: At | Mapping[int, int]) -> Mapping[int, int]:
        """Turns a reset into offsets: a place in time, or offsets by partition, checked against those that exist."""
        await place.store.topic(place.topic)
        if not isinstance(to, Mapping):
            return await place.store.offsets(place.topic, to)
        ends = {partition: (earliest, end) for partition, earliest, end in await self.ends(place)}
        for partition, offset in to.items():
            if partition not in ends:
                raise PartitionNotFound(f"there is no partition {partition}")
            earliest, end = ends[partition]
            if not earliest <= offset <= end:
                raise OffsetOutOfRange(f"partition {partition} holds offsets {earliest} to {end}, not {offset}")
        return to


def source_topic(authorized: AuthorizedRequest, dead: bool) -> Place:
    """Returns the place of a group's records: the topic, or its dead letters."""
    place = authorized.place
    return place._replace(topic=dead_letter_topic(place.topic, authorized.group)) if dead else place


def _patient(publish: Publish) -> bool:
    """Whether a publish gave the store a chance: one that did not says nothing of it, whatever became of it."""
    return publish.deadline - publish.began >= LEAST_CHANCE_SECONDS or publish.began == inf


def _release(outcomes: R, shares: InflightShares, application: str, size: int) -> R:
    shares.release(application, size)
    return outcomes


def _share_used_up(shares: InflightShares, application: str) -> Overloaded:
    return Overloaded(
        f"{shares.held(application)} bytes of this application are on their way already: that is its share"
    )


def _topic_not_found_in_time(_failure: object, _seconds: float) -> TopicInfo:
    raise Unavailable("the topic was not found or made by the deadline")


def _worth_a_retry(outcome: Outcome) -> bool:
    """Whether nothing was written and a repeat may succeed soon. A refusal for want of room should be quick."""
    return (
        isinstance(outcome, KatewayError)
        and outcome.retriable
        and not outcome.maybe_written
        and not isinstance(outcome, Overloaded)
    )
