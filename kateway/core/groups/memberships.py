"""All memberships of this process: one for each (store, group, topic) that has readers or had them just now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from kateway.config.schema import DeliveryConfig
from kateway.core.delivery.batch import Ack
from kateway.core.delivery.confirmation import Connection
from kateway.core.delivery.offset_ranges import Ranges
from kateway.core.groups.dead_letters import DeadLetterTopic
from kateway.core.groups.membership import Membership
from kateway.core.groups.reader import Mode, Reader
from kateway.core.groups.retained import RetainedState
from kateway.errors import Draining, GroupBusy, KatewayError, NotFound
from kateway.shield import shield
from kateway.storage.interface import Reset, Store

Key = tuple[str, str, str]
"""Store, group and topic, as they are named in the store."""

MOST_PARTITIONS = 1 << 31
"""Where the topic's count is not given."""
DEAD_LETTER_WAIT_SECONDS = 5.0
"""How long a reader of dead letters waits for those that are being written."""
LOOK_SECONDS = 0.05
"""How often a stop looks whether everything is settled."""


class Memberships:
    """Gives readers, takes acknowledgements. ``lookup`` finds a store by its name."""

    def __init__(self, lookup: Callable[[str], Store], clock: IReactorTime, config: DeliveryConfig) -> None:
        self._lookup = lookup
        self._clock = clock
        self.config = config
        """Of groups that are joined from now on."""
        self._groups: dict[Key, Membership] = {}
        self._closing: dict[Key, Deferred[None]] = {}
        self._kept = RetainedState(clock)
        self._draining = False

    @property
    def readers(self) -> int:
        """How many readers there are just now."""
        return sum(len(group.readers) for group in self._groups.values())

    @property
    def groups(self) -> int:
        """How many groups this process is a member of."""
        return len(self._groups)

    def reader(
        self,
        store: str,
        group: str,
        topic: str,
        *,
        connection: Connection,
        mode: Mode = "auto",
        reset: Reset = "earliest",
        short: bool = True,
        ack_timeout: float = 60.0,
        max_deliveries: int | None = None,
        partitions: int = MOST_PARTITIONS,
    ) -> Reader:
        """A new reader, at once; it joins the group if this process is not a member.

        ``short``: a poll that ends soon; false for followers and long streams. ``partitions``: how many the topic has.
        ``reset`` and ``max_deliveries`` (``None``: as configured) are those of the reader for whom the group was
        joined. Raises ``TooManyConsumers`` where every partition is held by a long reader, ``Conflict`` while the
        group is read in the other mode, ``Draining`` during a stop.
        """
        if self._draining:
            raise Draining()
        member = self._member((store, group, topic), reset, max_deliveries)
        return member.reader(mode, short=short, ack_timeout=ack_timeout, connection=connection, partitions=partitions)

    def acknowledge_at_once(
        self, store: str, group: str, topic: str, acks: Sequence[Ack]
    ) -> list[KatewayError | None] | None:
        """As ``acknowledge``, where there is nothing to wait for: ``None`` where this process is not a member."""
        member = self._groups.get((store, group, topic))
        return None if member is None or member.rebalancing else member.acknowledge(acks)

    async def acknowledge(
        self, store: str, group: str, topic: str, acks: Sequence[Ack], *, sync: bool = False
    ) -> list[KatewayError | None]:
        """Applies acknowledgements in order. Answers for each ``None`` where it holds (or held before), ``NotFound``
        where this gateway has delivered no such record, ``Conflict`` where its lease has passed to another reader.
        ``sync``: answers when it is committed, and among the dead letters where it goes there; raises what the store
        says where it cannot be.
        """
        member = self._groups.get((store, group, topic))
        if member is None:
            return await self._acknowledged_before(store, group, topic, acks)
        if member.rebalancing:
            await member.rebalancing.over()
        results = member.acknowledge(acks)
        if sync:
            await member.committed(acks)
        return results

    async def dead_letters_written(self, store: str, group: str, topic: str) -> None:
        """Waits, not long, until the records rejected here are among the dead letters."""
        member = self._groups.get((store, group, topic))
        if member is not None:
            written = member.dead_letters_written().addErrback(lambda failure: failure.trap(KatewayError) and None)
            await written.addTimeout(DEAD_LETTER_WAIT_SECONDS, self._clock, lambda _failure, _seconds: None)

    async def _acknowledged_before(
        self, store: str, group: str, topic: str, acks: Sequence[Ack]
    ) -> list[KatewayError | None]:
        """This process is not a member, so no lease holds: only committed records are fine."""
        committed = await self._lookup(store).committed(group, topic)
        results: list[KatewayError | None] = []
        for ack in acks:
            at = committed.get(ack.partition)
            done = at is not None and (
                ack.offset < at.offset or (not ack.upto and ack.offset in Ranges.decode(at.offset, at.metadata))
            )
            results.append(None if done else NotFound("this gateway has delivered no such record"))
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

    async def stop(self, grace_seconds: float) -> None:
        """Gives no more readers and leaves every group: as soon as nothing is unsettled, at the latest after
        ``grace_seconds``. Readers that are still there then fail with ``Draining``; what they sent comes back.
        """
        self._draining = True
        deadline = self._clock.seconds() + grace_seconds
        while self._clock.seconds() < deadline and any(not group.idle() for group in self._groups.values()):
            await deferLater(self._clock, min(LOOK_SECONDS, deadline - self._clock.seconds()))
        for key, member in list(self._groups.items()):
            for reader in list(member.readers):
                reader.fail(Draining())
            self._close(key, member)
        await DeferredList([shield(closing) for closing in self._closing.values()])
        self._kept.stop()

    def _member(self, key: Key, reset: Reset, max_deliveries: int | None) -> Membership:
        member = self._groups.get(key)
        if member is not None:
            return member
        name, group, topic = key
        store = self._lookup(name)
        member = Membership(
            lambda listener: store.subscribe(group, topic, listener, reset),
            DeadLetterTopic(store, topic, group, self._clock),
            self._kept,
            self._clock,
            self.config,
            key=key,
            max_deliveries=self.config.max_deliveries if max_deliveries is None else max_deliveries,
            over=lambda member: self._close(key, member),
        )
        closing = self._closing.get(key)
        if closing is None:
            member.start()
        self._groups[key] = member
        if closing is not None:
            # the former membership is being left: two at once would be two members
            shield(closing).addCallback(_start_behind, member)
        return member

    def _close(self, key: Key, member: Membership) -> None:
        if self._groups.get(key) is not member:
            return
        del self._groups[key]
        closing = member.close()
        if key not in self._closing:  # else it never started: the one before it is still being left
            self._closing[key] = closing
            closing.addCallback(lambda _: self._closed(key, closing))

    def _closed(self, key: Key, closing: Deferred[None]) -> None:
        if self._closing.get(key) is closing:
            del self._closing[key]


def _start_behind(_: None, member: Membership) -> None:
    try:
        member.start()
    except KatewayError as error:
        member.end(error)
