"""Publishes, subscribes, acknowledges, and answers questions about topics and groups: the rules, step by step.

Here are the rules and their order; HTTP is above, stores are below. A publish handed to a store has an outcome
even when its client goes away: nothing here cancels one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple, NoReturn, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from kateway.backoff import Backoff
from kateway.core.access.control import AuthorizedRequest, Place
from kateway.core.breaker import Breakers, for_the_stores_sake
from kateway.core.delivery.confirmation import Connection
from kateway.core.delivery.ledger import Ack
from kateway.core.delivery.offset_ranges import Ranges
from kateway.core.elastic_topic import ElasticTopic
from kateway.core.first_use import FirstUse
from kateway.core.groups.dead_letters import DeadLetterTopic, dead_letter_topic
from kateway.core.groups.group_reader import GroupReader
from kateway.core.groups.memberships import Memberships
from kateway.core.groups.wanted import Wanted
from kateway.core.idempotency import Answered, Idempotency, Use, placing_keys
from kateway.core.inflight_shares import InflightShares, weight
from kateway.core.passing.passing import PassingOn
from kateway.core.reads import MergedRead, NewestRead, PartitionRead, Read, Start
from kateway.core.screened_reads import ScreenedRead
from kateway.core.transforms.in_force import View
from kateway.core.transforms.incoming import Transformed, transform
from kateway.core.transforms.pipeline import Pipeline
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
from kateway.observe.store import StoreCells
from kateway.storage.interface import At, Handoff, Outcome

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
    incoming: Pipeline | None = None
    """The topic's steps for records on their way in."""
    placed: bool = False
    """Whether the messages of an elastic topic have their partitions."""


class Lag(NamedTuple):
    """How far a group is behind in one partition."""

    partition: int
    end: int
    committed: int | None
    lag: int
    unacked: int
    """Records with readers of this gateway, not acknowledged yet."""
    oldest_unacked_seconds: float
    acknowledged: int = 0
    """Records of the lag that are acknowledged, one by one, behind one that is not."""


class Move(NamedTuple):
    """A group's move in one partition, as it would be."""

    partition: int
    committed: int | None
    to: int
    again: int
    """Offsets that were done with and will be read again."""
    skipped: int
    """Offsets that will never be read."""


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
        cells: Mapping[str, StoreCells] | None = None,
        wall_clock: Callable[[], float] = time.time,
        elastic: Mapping[tuple[str, str], ElasticTopic] | None = None,
        passing: PassingOn | None = None,
    ) -> None:
        """``elastic``: the elastic topics of now, by cluster and name."""
        self._elastic: Mapping[tuple[str, str], ElasticTopic] = {} if elastic is None else elastic
        self._wall_clock = wall_clock
        """Seconds since the epoch, as transforms see it."""
        self._passing = passing
        """``None`` where this gateway stands alone."""
        self._cells: Mapping[str, StoreCells] = cells or {}
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

    @property
    def name(self) -> str:
        """This gateway's name, where it passes on; empty where it stands alone."""
        return "" if self._passing is None else self._passing.name

    # --- publish ---------------------------------------------------------------------------------------------

    def publish(self, publish: Publish) -> Deferred[list[Outcome]]:
        """Writes messages; one outcome each, in their order. Never fails as a whole.

        A plain callback, not a coroutine: this runs for every request of the hot path.
        """
        if publish.incoming is not None:
            return self._transformed(publish, publish.incoming)
        place = publish.place
        if self._elastic and not publish.placed:
            elastic = self._elastic.get((place.cluster, place.topic))
            if elastic is not None:
                return self._to_elastic(publish, elastic)
        if self._handoffs:
            handoff = self._handoffs.get(place.cluster)
            if handoff is not None:
                return self._with_handoff(publish, handoff)
        if self._creation[place.cluster].allowed and (place.cluster, place.topic) not in self._in_use:
            return self._first(publish)
        return self._send(publish)

    def _transformed(self, publish: Publish, pipeline: Pipeline) -> Deferred[list[Outcome]]:
        """Publishes the messages that the topic's steps let in, as they are behind them."""

        def write(found: Transformed) -> Deferred[list[Outcome]]:
            messages = [each for each in found if isinstance(each, Message)]
            if not messages:
                return succeed([each for each in found if isinstance(each, KatewayError)])
            publishing = self.publish(publish._replace(messages=messages, incoming=None))
            return publishing if len(messages) == len(found) else publishing.addCallback(among, found)

        def among(outcomes: list[Outcome], found: Transformed) -> list[Outcome]:
            written = iter(outcomes)
            return [each if isinstance(each, KatewayError) else next(written) for each in found]

        return transform(pipeline, publish.messages, self._wall_clock, self._clock).addCallback(write)

    def _to_elastic(self, publish: Publish, elastic: ElasticTopic) -> Deferred[list[Outcome]]:
        """Publishes to a topic whose keys are placed by the registry. A message that was placed so is not handed off:
        it would be written to its partition of now at a time when its key has gone over to another one.
        """

        def send(messages: list[Message], keep: bool) -> Deferred[list[Outcome]]:
            handoff = publish.handoff and keep
            return self.publish(publish._replace(messages=messages, handoff=handoff, placed=True))

        return elastic.publish(publish.messages, publish.deadline, send)

    def _with_handoff(self, publish: Publish, handoff: Handoff) -> Deferred[list[Outcome]]:
        """Publishes to a cluster that has a handoff: behind the messages that are kept, and into it where the store
        surely did not write.
        """
        place, messages, _, deadline, _, _, allowed, _, _, _ = publish
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
            if isinstance(outcome, KatewayError)
            and not outcome.maybe_written
            and (for_the_stores_sake(outcome) or (isinstance(outcome, Overloaded) and outcome.late))
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
        place, messages, _, deadline, _, _, _, _, _, _ = publish
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
        place, messages, acks, deadline, _, _, _, application, _, _ = publish
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
            if breaker.refusing:
                self._breakers.probed(place.cluster, ())
            raise
        if breaker.refusing:
            publishing.addCallbacks(self._probed, self._probe_broke, (publish,), {}, (publish,), {})
        publishing.addCallback(self._judge, publish)
        if shares is not None:
            # behind the repeats of what was not written: its bytes are held meanwhile
            publishing.addBoth(_release, shares, application, size)
        return publishing

    async def publish_once(self, use: Use, publish: Publish, *, batch: bool) -> Answered:
        """Publishes under an idempotency key. ``IdempotencyKeyReused``, ``IdempotencyKeyInUse``; ``Unavailable`` where
        it cannot be known whether it was written before.
        """
        place = publish.place
        replayed = self._idempotency.replay(use)
        if replayed is not None:
            return replayed
        named = _named(publish.messages) if batch else -1
        if publish.incoming is not None:
            # before its place is chosen: a step may give a message another key
            found = await transform(publish.incoming, publish.messages, self._wall_clock, self._clock)
            for each in found:
                if isinstance(each, KatewayError):
                    # the key covers the whole: nothing of it is written
                    raise each
            publish = publish._replace(messages=[each for each in found if isinstance(each, Message)], incoming=None)
        if self._breakers[place.cluster].state == "open":
            # nothing can be read either; half-open, this may be the publish that tries
            raise self._breakers.refusal(place.cluster)
        partitions = (await self._in_time(publish, self.topic(place, create=True))).partitions
        if publish.acks:
            # with another acknowledgement a batch has no number, and one that was lost could be written beside its copy
            publish = publish._replace(acks=-1)
        messages, deadline = publish.messages, publish.deadline

        def write(placed: Sequence[Message]) -> Deferred[list[Outcome]]:
            # of a key whose message is kept here another gateway could not know: it gets 503 and may be used anew
            return self.publish(publish._replace(messages=placed, handoff=False, placed=True))

        elastic = self._elastic.get((place.cluster, place.topic))
        if elastic is None:
            _check_named(named, place.topic, partitions)
            return await self._idempotency.publish(use, place, partitions, messages, deadline, write)
        entered = await elastic.enter(placing_keys(use, messages), messages, deadline)
        try:
            # not as many as before it was waited for: they may have become more
            partitions = await self._in_time(publish, elastic.partitions())
            _check_named(named, place.topic, partitions)
            return await self._idempotency.publish(use, place, partitions, messages, deadline, write, elastic)
        finally:
            elastic.leave(entered)

    async def _partitions(self, place: Place) -> int:
        """Returns how many partitions a topic has, made first where it may be; of an elastic one not fewer than its
        keys may lie in.
        """
        partitions = (await self.topic(place, create=True)).partitions
        elastic = self._elastic.get((place.cluster, place.topic))
        return partitions if elastic is None else await elastic.partitions()

    def _in_time(self, publish: Publish, asking: Coroutine[Deferred[Any], Any, R]) -> Deferred[R]:
        """Asks a store about a topic within the caller's patience."""
        left = max(publish.deadline - self._clock.seconds(), 0.0)
        return Deferred.fromCoroutine(asking).addTimeout(left, self._clock, _topic_not_found_in_time)

    def _probed(self, outcomes: list[Outcome], publish: Publish) -> list[Outcome]:
        written = any(isinstance(outcome, Receipt) for outcome in outcomes)
        self._breakers.probed(publish.place.cluster, outcomes if written or _patient(publish) else ())
        return outcomes

    def _probe_broke(self, failure: Failure, publish: Publish) -> Failure:
        """Ends a probe whose store broke, against its contract; the next publish may try."""
        self._breakers.probed(publish.place.cluster, ())
        return failure

    def publish_batch(self, publish: Publish) -> Deferred[list[Outcome]]:
        """As ``publish``, but fails with ``MalformedBatch`` and writes nothing where a message names a partition
        that does not exist.
        """
        place = publish.place
        named = _named(publish.messages)
        if named < (place.store.partitions(place.topic) or 0) or self._breakers[place.cluster].refusing:
            return self.publish(publish)
        return Deferred.fromCoroutine(self._publish_checked(publish, named))

    async def _publish_checked(self, publish: Publish, named: int) -> list[Outcome]:
        _check_named(named, publish.place.topic, await self._partitions(publish.place))
        return await self.publish(publish)

    def _judge(self, outcomes: list[Outcome], publish: Publish) -> list[Outcome] | Deferred[list[Outcome]]:
        breaker = self._breakers[publish.place.cluster]
        for outcome in outcomes:
            if outcome.__class__ is not Receipt:
                self._count_errors(publish.place.cluster, outcomes)
                if publish.acks and _patient(publish):
                    breaker.count(outcomes, publish.began)
                return Deferred.fromCoroutine(self._again(outcomes, publish))
        if publish.acks:
            # without acks nothing says that it was written, and so neither end of one counts
            breaker.successes += 1
        return outcomes

    def _count_errors(self, cluster: str, outcomes: Sequence[Outcome]) -> None:
        """Counts what a store answered instead of receipts, each error of a publish once."""
        cells = self._cells.get(cluster)
        if cells is not None:
            for code in {outcome.code for outcome in outcomes if isinstance(outcome, KatewayError)}:
                cells.failed(code)

    async def _again(self, outcomes: list[Outcome], publish: Publish) -> list[Outcome]:
        """Publishes once more the messages that surely were not written: after making the topic, or after a pause."""
        place, messages, acks, deadline, retries, _, _, _, _, _ = publish
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
            self._count_errors(place.cluster, repeated)
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
        self, authorized: AuthorizedRequest, wanted: Wanted, connection: Connection, *, dead: bool
    ) -> GroupReader:
        """A reader of the topic, or of the group's dead letters (``dead``), for a response on ``connection``.
        However often a dead letter is delivered, it goes nowhere by itself.

        ``TopicNotFound``, ``TooManyConsumers``, ``Conflict`` between ack modes, ``Draining``.
        """
        place = authorized.place
        passing = self._passing
        if dead:
            # a client that rejects a record and then looks for it finds it
            key = place.cluster, authorized.group, place.topic
            await (self._groups.dead_letters_written(*key) if passing is None else passing.dead_letters_written(key))
            partitions = await DeadLetterTopic(place.store, place.topic, authorized.group, self._clock).make()
        else:
            partitions = (await self.topic(place, create=True)).partitions
        wanted = wanted._replace(
            max_deliveries=0 if dead else authorized.max_deliveries,
            partitions=partitions,
            names=authorized.group_names(dead),
        )
        key = place.cluster, authorized.group, source_topic(authorized, dead).topic
        if passing is not None:
            return await passing.reader(key, wanted, connection)
        return self._groups.reader(key, wanted, connection)

    def acknowledge_at_once(self, place: Place, group: str, acks: Sequence[Ack]) -> list[KatewayError | None] | None:
        """Applies acknowledgements where this process is a member of the group, one answer each; else ``None``."""
        passing = self._passing
        if passing is not None and not passing.holds((place.cluster, group, place.topic), acks):
            return None
        return self._groups.acknowledge_at_once(place.cluster, group, place.topic, acks)

    async def acknowledge(
        self, place: Place, group: str, acks: Sequence[Ack], *, sync: bool, answered: set[str] | None = None
    ) -> list[KatewayError | None]:
        """Applies acknowledgements, one answer each; ``sync`` waits until they are committed. ``answered`` gets the
        names of the gateways that hold the partitions.
        """
        await place.store.topic(place.topic)
        if self._passing is not None:
            key = place.cluster, group, place.topic
            names = set[str]() if answered is None else answered
            return await self._passing.acknowledge(key, acks, sync=sync, answered=names)
        return await self._groups.acknowledge(place.cluster, group, place.topic, acks, sync=sync)

    async def ends(self, place: Place) -> list[tuple[int, int, int]]:
        """``(partition, earliest, end)`` of each partition."""
        await place.store.topic(place.topic)
        earliest = await place.store.offsets(place.topic, "earliest")
        end = await place.store.offsets(place.topic, "latest")
        return [(partition, earliest[partition], end[partition]) for partition in sorted(earliest.keys() & end.keys())]

    def read(self, place: Place, partition: int | None, start: Start, view: View | None = None) -> Read:
        """A read without a group: of one partition, or of all (``timestamp`` and ``last`` alone). ``view``: what the
        caller sees of the records.
        """
        read = self._read(place, partition, start)
        return read if view is None else ScreenedRead(read, view, self._groups.turns, self._clock)

    def _read(self, place: Place, partition: int | None, start: Start) -> Read:
        if partition is not None:
            return PartitionRead(place.store, place.topic, partition, start)
        if start.kind == "last":
            return NewestRead(place.store, place.topic, start.at, self._clock)
        return MergedRead(place.store, place.topic, start.at, self._clock)

    async def committed(self, place: Place, group: str) -> Mapping[int, Committed | None]:
        """Returns the group's committed offset in each partition."""
        await place.store.topic(place.topic)
        return await place.store.committed(group, place.topic)

    async def lag(self, place: Place, group: str, answered: set[str] | None = None) -> list[Lag]:
        """How far the group is behind in each partition. Where nothing is committed, all that is there is lag.
        ``answered`` gets the names of the gateways that know what is unacknowledged; ``None``: only this one is asked.
        """
        committed = await self.committed(place, group)
        key = place.cluster, group, place.topic
        if self._passing is None or answered is None:
            unacknowledged = self._groups.unacknowledged(*key)
        else:
            unacknowledged = await self._passing.unacknowledged(key, answered)
        found = []
        for partition, earliest, end in await self.ends(place):
            at = committed.get(partition)
            offset = None if at is None else at.offset
            unacked, oldest = unacknowledged.get(partition, (0, 0.0))
            behind = max(end - max(earliest, offset or 0), 0)
            done = 0 if at is None else acknowledged_within(at, end - behind, end)
            found.append(Lag(partition, end, offset, behind, unacked, round(oldest, 1), done))
        return found

    async def reset(self, place: Place, group: str, to: At | Mapping[int, int]) -> None:
        """Moves the group. ``GroupBusy`` while it has readers; a member of ours that merely lingers is let go."""
        offsets = await self._positions(place, to)
        key = place.cluster, group, place.topic
        await (self._groups.let_go(*key) if self._passing is None else self._passing.let_go(key))
        await place.store.reset(group, place.topic, offsets)

    async def moves(self, place: Place, group: str, to: At | Mapping[int, int]) -> list[Move]:
        """Returns what ``reset`` would do, in the partitions that it would change; changes nothing."""
        offsets = await self._positions(place, to)
        committed = await self.committed(place, group)
        found = []
        for partition, earliest, _end in await self.ends(place):
            at, offset = committed.get(partition), offsets.get(partition)
            if offset is None or (at is not None and at.offset == offset):
                continue
            # below the earliest record there is nothing to be read again or to be skipped
            done = max(earliest, 0 if at is None else at.offset)
            found.append(
                Move(
                    partition,
                    None if at is None else at.offset,
                    offset,
                    max(done - offset, 0),
                    max(offset - done, 0),
                )
            )
        return found

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


def acknowledged_within(at: Committed, start: int, end: int) -> int:
    """Counts the offsets from ``start`` up to and without ``end`` that a commit says are acknowledged one by one."""
    if not at.metadata:
        return 0
    ranges = Ranges.decode(at.offset, at.metadata)
    return sum(max(min(stop, end) - max(first, start), 0) for first, stop in ranges)


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


def _named(messages: Sequence[Message]) -> int:
    """Returns the highest partition that the client names, -1 for none: a step may name others, and each of these is
    answered by itself.
    """
    return max((message.partition for message in messages if message.partition is not None), default=-1)


def _check_named(named: int, topic: str, partitions: int) -> None:
    if named >= partitions:
        raise MalformedBatch(f"the batch names partition {named}, but {topic} has {partitions}; nothing was written")


def _topic_not_found_in_time(_failure: object, _seconds: float) -> NoReturn:
    raise Unavailable("the topic was not found or made by the deadline")


def _worth_a_retry(outcome: Outcome) -> bool:
    """Whether nothing was written and a repeat may succeed soon. A refusal for want of room should be quick."""
    return (
        isinstance(outcome, KatewayError)
        and outcome.retriable
        and not outcome.maybe_written
        and not isinstance(outcome, Overloaded)
    )
