"""All memberships of this process: one for each (store, group, topic) that has readers or had them just now, or whose
last owner left leases that are acknowledged here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from kateway.config.schema import DeliveryConfig
from kateway.core.delivery.batch import Ack
from kateway.core.delivery.confirmation import Connection
from kateway.core.delivery.moved_leases import decode
from kateway.core.delivery.offset_ranges import Ranges
from kateway.core.groups.dead_letters import DeadLetterTopic
from kateway.core.groups.membership import Give, Membership
from kateway.core.groups.passed_membership import PassedMembership, Taker
from kateway.core.groups.reader import Reader
from kateway.core.groups.retained import RetainedState
from kateway.core.groups.wanted import Wanted
from kateway.errors import Conflict, Draining, GroupBusy, KatewayError, NotFound, NotHere
from kateway.loop_turns import LoopTurns
from kateway.shield import shield
from kateway.storage.interface import Listener, OwnMember, OwnMembers, PassedMembers, Store, Subscription
from kateway.storage.passed_member import PassedMember

Key = tuple[str, str, str]
"""Store, group and topic, as they are named in the store."""

DEAD_LETTER_WAIT_SECONDS = 5.0
"""How long a reader of dead letters waits for those that are being written."""
NOT_DELIVERED = NotFound("this gateway has delivered no such record")
MOVING = NotHere("the record's lease is on its way to the next owner of its partition; try again")
_log = Logger()
_goes_on = _log.failureHandler("leaving a group broke; the others are left all the same")
LEAVE_AGAIN_SECONDS = 0.25
LOOK_SECONDS = 0.05
"""How often a stop looks whether everything is settled."""


class Memberships:
    """Gives readers, takes acknowledgements. ``lookup`` finds a store by its name."""

    def __init__(
        self,
        lookup: Callable[[str], Store],
        clock: IReactorTime,
        config: DeliveryConfig,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._wall = wall
        self._lookup = lookup
        self._clock = clock
        self.config = config
        """Of groups that are joined from now on."""
        self._groups: dict[Key, Membership] = {}
        self._closing: dict[Key, Deferred[None]] = {}
        self.turns = LoopTurns(clock)
        """In which records are examined where there are transforms or filters, and other work is done that may wait."""
        self._kept = RetainedState(clock)
        self._draining = False
        self.empty_handed: Callable[[Key, Membership], None] = _nothing
        """Is called when a rebalance has left a membership without partitions."""

    @property
    def readers(self) -> int:
        """How many readers there are just now."""
        return sum(len(group.readers) for group in self._groups.values())

    def members(self) -> list[Membership]:
        """Every membership of this process."""
        return list(self._groups.values())

    @property
    def live(self) -> Mapping[Key, Membership]:
        """The memberships that there are just now."""
        return self._groups

    @property
    def groups(self) -> int:
        """How many groups this process is a member of."""
        return len(self._groups)

    def reader(self, key: Key, wanted: Wanted, connection: Connection) -> Reader:
        """A new reader, at once; it joins the group if this process is not a member.

        Raises ``TooManyConsumers`` where every partition is held by a long reader, ``Conflict`` while the group is read
        in the other mode or with another filter, ``Draining`` during a stop.
        """
        if self._draining:
            raise Draining()
        return self._member(key, wanted).reader(wanted, connection)

    def acknowledge_at_once(
        self, store: str, group: str, topic: str, acks: Sequence[Ack]
    ) -> list[KatewayError | None] | None:
        """As ``acknowledge``, where there is nothing to wait for: ``None`` where this process is not a member."""
        member = self._groups.get((store, group, topic))
        return None if member is None or member.awaits(acks) else member.acknowledge(acks)

    async def acknowledge(
        self, store: str, group: str, topic: str, acks: Sequence[Ack], *, sync: bool = False
    ) -> list[KatewayError | None]:
        """Applies acknowledgements in order. Answers for each ``None`` where it holds (or held before), ``NotFound``
        where this gateway has delivered no such record, ``Conflict`` where its lease has passed to another reader.
        ``sync``: answers when it is committed, and among the dead letters where it goes there; raises what the store
        says where it cannot be.
        """
        key = (store, group, topic)
        member = self._groups.get(key)
        if member is None:
            await self.left(key)
            found = await self.acknowledged_before(store, group, topic, acks)
            if MOVING in found:
                member = await self.hold(store, group, topic)
            if member is None:
                return found
        awaited = member.awaits(acks)
        if awaited:
            await member.rebalancing.over()
        results = member.acknowledge(acks)
        away = [index for index, ack in enumerate(acks) if awaited and not member.has(ack.partition)]
        if away:
            found = await self.acknowledged_before(store, group, topic, [acks[index] for index in away])
            for index, outcome in zip(away, found, strict=True):
                results[index] = outcome
        if sync:
            await member.committed(acks)
        return results

    async def partitions(self, store: str, topic: str) -> int:
        """How many partitions a topic has."""
        return (await self._lookup(store).topic(topic)).partitions

    async def left(self, key: Key) -> None:
        """Waits until a group that is being left is, and its last commit made."""
        closing = self._closing.get(key)
        if closing is not None:
            await shield(closing)

    async def hold(self, store: str, group: str, topic: str) -> Membership | None:
        """Joins a group without a reader, for leases that a partition's last owner left, until they are over; ``None``
        where there are none, or the process stops.
        """
        committed = await self._lookup(store).committed(group, topic)
        moved = [decode(at.offset, at.metadata) for at in committed.values() if at is not None and at.metadata]
        deliveries = [each.max_deliveries for each in moved if each.leases]
        if self._draining or not deliveries:
            return self._groups.get((store, group, topic))
        member = self._member((store, group, topic), Wanted(max_deliveries=deliveries[0]))
        member.linger()
        return member

    async def dead_letters_written(self, store: str, group: str, topic: str) -> None:
        """Waits, not long, until the records rejected here are among the dead letters."""
        member = self._groups.get((store, group, topic))
        if member is not None:
            written = member.dead_letters_written().addErrback(lambda failure: failure.trap(KatewayError) and None)
            await written.addTimeout(DEAD_LETTER_WAIT_SECONDS, self._clock, lambda _failure, _seconds: None)

    async def acknowledged_before(
        self, store: str, group: str, topic: str, acks: Sequence[Ack]
    ) -> list[KatewayError | None]:
        """This process is not a member, so no lease holds: only committed records are fine. ``NotHere`` where a lease
        was left for the next owner of its partition.
        """
        committed = await self._lookup(store).committed(group, topic)
        left: dict[int, tuple[Ranges, set[int]]] = {}
        results: list[KatewayError | None] = []
        for ack in acks:
            at = committed.get(ack.partition)
            if at is None:
                results.append(NOT_DELIVERED)
                continue
            if ack.partition not in left:
                leases = decode(at.offset, at.metadata).leases
                left[ack.partition] = Ranges.decode(at.offset, at.metadata), {lease.offset for lease in leases}
            done, leased = left[ack.partition]
            if ack.offset < at.offset or (not ack.upto and ack.offset in done):
                results.append(None)
            elif ack.offset in leased or (ack.upto and leased and ack.offset <= max(leased)):
                results.append(MOVING)
            else:
                results.append(NOT_DELIVERED)
        return results

    def unacknowledged(self, store: str, group: str, topic: str) -> Mapping[int, tuple[int, float]]:
        """For each partition that this process holds: how many records are with readers, and for how many seconds
        the oldest of them.
        """
        member = self._groups.get((store, group, topic))
        return member.unacknowledged() if member is not None else {}

    async def let_go(self, store: str, group: str, topic: str) -> None:
        """Leaves a group that merely lingers, for this topic or another, and answers when it is left; nothing is kept
        of this topic's. ``GroupBusy`` where it has readers.
        """
        key = (store, group, topic)
        member = self._groups.get(key)
        if member is not None and member.readers:
            raise GroupBusy("the group has readers on this gateway")
        for other, lingering in list(self._groups.items()):
            if other[:2] == key[:2] and not lingering.readers:
                self._close(other, lingering)
        await DeferredList([shield(closing) for other, closing in self._closing.items() if other[:2] == key[:2]])
        self._kept.forget(key)

    async def stop(self, grace_seconds: float, *, returning: bool = True, taker: Taker | None = None) -> None:
        """Gives no more readers and leaves every group: as soon as nothing is unsettled, at the latest after
        ``grace_seconds``. Readers that are still there then fail with ``Draining``; what they sent comes back.
        ``returning``: the process may be back soon (``Subscription.close``). A ``taker`` is given the memberships, each
        as soon as nothing of it is unsettled; those that it is not given are left.
        """
        self._draining = True
        deadline = self._clock.seconds() + grace_seconds
        while self._clock.seconds() < deadline and any(not group.idle() for group in self._groups.values()):
            if taker is not None:
                for key, member in list(self._groups.items()):
                    if member.idle():
                        self._end(key, member, returning, taker)
            await deferLater(self._clock, min(LOOK_SECONDS, deadline - self._clock.seconds()))
        for key, member in list(self._groups.items()):
            self._end(key, member, returning, taker)
        await DeferredList([shield(closing) for closing in self._closing.values()])
        self._kept.stop()

    def _end(self, key: Key, member: Membership, returning: bool, taker: Taker | None) -> None:
        for reader in list(member.readers):
            with _goes_on:
                reader.fail(Draining())
        with _goes_on:
            give = None if taker is None or not taker.wants(key[0]) else partial(self._give, key, taker)
            self._close(key, member, returning=returning, give=give)

    def _give(self, key: Key, taker: Taker, member: PassedMember | None, max_deliveries: int) -> Deferred[None]:
        async def give() -> None:
            if member is not None:
                if await taker.give(PassedMembership(key[0], max_deliveries, member)):
                    return
                await self.leave_for(key[0], member)
            await taker.keep_from(key)

        return Deferred.fromCoroutine(give())

    # --- memberships that another process had before -----------------------------------------------------------------

    def go_on(self, passed: PassedMembership) -> bool:
        """Goes on with a membership that the process before this one has passed on, as one without readers; ``False``
        where it cannot: then the group is still to be left.
        """
        key, store = passed.key, self._lookup(passed.cluster)
        if self._draining or key in self._groups or key in self._closing or not hasattr(store, "go_on"):
            return False

        def subscribe(listener: Listener) -> Subscription:
            found = cast(PassedMembers, store).go_on(passed.member, listener)
            if found is None:
                raise Conflict("the configuration asks for another member")
            return found

        member = self._make(key, subscribe, passed.max_deliveries)
        try:
            member.start()
        except KatewayError as error:
            _log.info("the group {group} is left: {why}", group=key[1], why=error)
            return False
        self._groups[key] = member
        member.linger()
        return True

    async def leave_for(self, cluster: str, member: PassedMember) -> None:
        """Leaves a group that no process goes on with; where that fails, its session ends."""
        own = OwnMember(member.group, member.member, member.by_consumer_protocol)
        until = self._clock.seconds() + member.session_seconds
        while True:
            try:
                await cast(OwnMembers, self._lookup(cluster)).leave_for(own)
                return
            except KatewayError as error:
                # a store that has just been started knows no broker yet
                if self._draining or self._clock.seconds() >= until:
                    _log.info("the group {group} was not left: {why}", group=member.group, why=error)
                    return
            await deferLater(self._clock, LEAVE_AGAIN_SECONDS)

    # --- beginning and ending ----------------------------------------------------------------------------------------

    def _member(self, key: Key, wanted: Wanted) -> Membership:
        member = self._groups.get(key)
        if member is not None:
            return member
        name, group, topic = key
        store = self._lookup(name)
        member = self._make(
            key,
            lambda listener: store.subscribe(group, topic, listener, wanted.reset),
            self.config.max_deliveries if wanted.max_deliveries is None else wanted.max_deliveries,
        )
        closing = self._closing.get(key)
        if closing is None:
            member.start()
        self._groups[key] = member
        if closing is not None:
            # the former membership is being left: two at once would be two members
            shield(closing).addCallback(_start_behind, member)
        return member

    def _make(self, key: Key, subscribe: Callable[[Listener], Subscription], max_deliveries: int) -> Membership:
        store = self._lookup(key[0])
        return Membership(
            subscribe,
            DeadLetterTopic(store, key[2], key[1], self._clock),
            self._kept,
            self._clock,
            self.config,
            key=key,
            max_deliveries=max_deliveries,
            turns=self.turns,
            over=lambda member: self._close(key, member),
            wall=self._wall,
            empty_handed=lambda member: self.empty_handed(key, member),
        )

    def _close(self, key: Key, member: Membership, *, returning: bool = False, give: Give | None = None) -> None:
        if self._groups.get(key) is not member:
            return
        del self._groups[key]
        closing = member.close(returning=returning, give=give)
        if key not in self._closing:  # else it never started: the one before it is still being left
            self._closing[key] = closing
            closing.addCallback(lambda _: self._closed(key, closing))

    def _closed(self, key: Key, closing: Deferred[None]) -> None:
        if self._closing.get(key) is closing:
            del self._closing[key]


def _nothing(_key: Key, _member: Membership) -> None:
    """A gateway that stands alone waits for partitions."""


def _start_behind(_: None, member: Membership) -> None:
    try:
        member.start()
    except KatewayError as error:
        member.end(error)
    except Exception:
        _log.failure("joining a group behind a former membership broke")
        member.end(KatewayError("the gateway failed to join the group; its log says why"))
