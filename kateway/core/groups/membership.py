"""One membership: this process in one group for one topic, and the local readers that share its partitions.

It listens to the store's subscription, gives each reader its share, puts what comes back before what is new, commits
what is settled, and tells when it has been without readers for so long that it may leave. What happened to the records
of a partition is kept in ``delivery``; what happened on a connection, in ``reader``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from math import inf

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kateway.config.schema import DeliveryConfig
from kateway.core.delivery.batch import Ack, Batch
from kateway.core.delivery.confirmation import Connection
from kateway.core.delivery.ledger import Delivery
from kateway.core.groups.assignment import Sharing
from kateway.core.groups.commits import Commits, committable
from kateway.core.groups.dead_letter_records import DeadLetters
from kateway.core.groups.dead_letters import DeadLetterWriter
from kateway.core.groups.dispatch import Feeding, OwnedPartition
from kateway.core.groups.reader import Mode, Reader
from kateway.core.groups.retained import Rebalancing, RetainedState
from kateway.core.groups.revocation import HandOvers
from kateway.core.groups.wakeups import Waking
from kateway.errors import Conflict, KatewayError, NotFound, TooManyConsumers
from kateway.model import Committed
from kateway.storage.interface import Listener, Subscription

TICK_SECONDS = 0.25
"""How often is looked whether clients have confirmed and leases have ended, while there are any."""
BLOCKED_TICK_SECONDS = 0.02
"""The same while a reader that has just made progress may not take for what is unconfirmed."""

_log = Logger()


class Membership:
    """A member of a group, from its first reader until it has lingered after its last."""

    def __init__(
        self,
        subscribe: Callable[[Listener], Subscription],
        dead_letters: DeadLetters,
        kept: RetainedState,
        clock: IReactorTime,
        config: DeliveryConfig,
        *,
        key: Hashable,
        max_deliveries: int,
        over: Callable[[Membership], None],
    ) -> None:
        self.config = config
        self.last_error: KatewayError | None = None
        """What ails the subscription while the driver keeps trying."""
        self.rebalancing = Rebalancing(clock)
        """Whether partitions are being handed over."""
        self.readers: dict[Reader, None] = {}
        """Those that take."""
        self._departed: dict[Reader, None] = {}
        """Those that take no more, but sent what is not settled."""
        self._subscribe = subscribe
        self._clock = clock
        self._key = key
        self._kept = kept
        self._max_deliveries = max_deliveries
        self._over = over
        self._watched: dict[Reader, None] = {}
        self._waking = Waking(clock)
        self._ticking: IDelayedCall | None = None
        self._lingering: IDelayedCall | None = None
        self._hand_overs = HandOvers(self._send, self._gone)
        self._closing: Deferred[None] | None = None
        self._left = False
        self._commits = Commits(clock, config.commit_interval_seconds, self._collect, self._send)
        self.feeding = Feeding(clock, config, self._commits.due)
        self._sharing = Sharing(self.feeding, self._waking)
        self._burial = DeadLetterWriter(dead_letters, clock, self._buried)

    def now(self) -> float:
        return self._clock.seconds()

    def start(self) -> None:
        """Becomes a member."""
        if self._closing is None:
            self.feeding.subscription = self._subscribe(self)

    # --- readers come and go --------------------------------------------------------------------------------------

    def reader(self, mode: Mode, *, short: bool, ack_timeout: float, connection: Connection, partitions: int) -> Reader:
        """A new reader of a topic of so many ``partitions``. ``TooManyConsumers``, or ``Conflict`` between modes."""
        if self.readers and next(iter(self.readers)).mode != mode:
            raise Conflict(f"the group has readers with another ack than {mode}")
        reader = Reader(self, mode, short=short, ack_timeout=ack_timeout, connection=connection)
        if mode == "auto":
            try:
                self._sharing.arrive(reader, partitions)
            except TooManyConsumers:
                connection.unwatch(reader)
                raise
        self.readers[reader] = None
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        return reader

    def idle(self) -> bool:
        """Whether there are no readers and nothing that any sent is unsettled."""
        return not self.readers and not self._departed

    def ended(self, reader: Reader) -> None:
        """A reader takes no more; what it sent may still be unsettled."""
        if self.readers.pop(reader, self) is self:
            return
        self._departed[reader] = None
        self._waking.forget(reader)
        if reader.mode == "auto":
            self._sharing.leave(reader)

    def gone(self, reader: Reader) -> None:
        """Nothing that a departed reader sent is unsettled any more."""
        self._departed.pop(reader, None)
        self._watched.pop(reader, None)
        self._linger()

    def _linger(self) -> None:
        if self.readers or self._departed or self._lingering is not None or self._closing is not None:
            return
        if self.rebalancing or any(owned.delivery.busy() for owned in self.feeding.all):
            self._tick_soon()  # leases are out: acknowledgements may come
            return
        self._lingering = self._clock.callLater(self.config.linger_seconds, self._leave)

    def _leave(self) -> None:
        self._lingering = None
        self._over(self)

    def close(self) -> Deferred[None]:
        """Leaves the group: commits what is settled, gives up what is not, fails readers that are left."""
        if self._closing is None:
            self._closing = Deferred()
            closed = self.feeding.subscription.close() if self.feeding.subscription is not None else succeed(None)
            closed.addErrback(lambda failure: _log.warn("leaving a group: {e}", e=failure.getErrorMessage()))
            closed.addBoth(self._closed)
        waiter: Deferred[None] = Deferred()
        self._closing.addCallback(lambda _: waiter.callback(None))
        return waiter

    def _closed(self, _result: object) -> None:
        assert self._closing is not None
        self.lost(frozenset(self.feeding.owned_partitions))
        self._left = True
        for call in (self._ticking, self._lingering):
            if call is not None and call.active():
                call.cancel()
        self._ticking = self._lingering = None
        self._waking.stop()
        self._commits.stop()
        self._burial.stop()
        self.rebalancing.end()
        self._closing.callback(None)

    # --- the subscription tells (storage.interface.Listener) ------------------------------------------------------

    def assigned(self, partitions: Mapping[int, Committed | None]) -> None:
        self.last_error = None
        subscription = self.feeding.subscription
        assert subscription is not None
        for partition, committed in sorted(partitions.items()):
            delivery = self._kept.take_back(self._key, partition, committed)
            if delivery is None:
                delivery = Delivery(partition, committed, self._max_deliveries)
            elif delivery.frontier is not None:
                delivery.max_deliveries = self._max_deliveries
                subscription.seek(partition, delivery.frontier)
                self._burial.take(delivery)
                self._tick_soon()
            self.feeding.add(OwnedPartition(partition, delivery))
        self._partitions_changed()
        self.rebalancing.end()

    def revoked(self, partitions: frozenset[int]) -> Deferred[None] | None:
        self.rebalancing.begin()
        owned_partitions = self._take_away(partitions)
        for reader in list(self._watched):
            reader.tick(self.now())
        # only now: a batch that comes back while they are held up cannot be sought any more, and what is behind it
        # would look as if everything before were done
        self.feeding.step(owned_partitions)
        held_up = self._hand_overs.begin(owned_partitions, self.now())
        if self._hand_overs:
            self._tick_soon()
        return held_up

    def lost(self, partitions: frozenset[int]) -> None:
        self.rebalancing.begin()
        for owned in self._take_away(partitions):
            self._gone(owned.delivery)
        self._hand_overs.lose(partitions)
        self._hand_overs.look(self.now())

    def readable(self, partition: int) -> None:
        # the hot end of a partition with traffic: no list, no delayed call
        owned = self.feeding.owned_partitions.get(partition)
        if owned is None:
            return
        owned.readable = True
        self.last_error = None
        if owned.assigned_to is not None:
            owned.assigned_to.call()
        else:
            self._call_explicit()

    def failed(self, error: KatewayError) -> None:
        self.last_error = error
        if error.retriable:
            return
        self.lost(frozenset(self.feeding.owned_partitions))
        self._kept.forget(self._key)
        for reader in list(self.readers):
            reader.fail(error)
        self._over(self)

    def _gone(self, delivery: Delivery) -> None:
        delivery.live = False
        self._kept.keep(self._key, delivery)

    def _take_away(self, partitions: Iterable[int]) -> list[OwnedPartition]:
        owned_partitions = self.feeding.remove(partitions)
        self._partitions_changed()
        return owned_partitions

    def _partitions_changed(self) -> None:
        self._sharing.partitions_changed()
        self._wake_explicit()

    # --- waking ---------------------------------------------------------------------------------------------------

    def wake(self, reader: Reader) -> None:
        """Lets a reader know, in the reactor's next turn, that it may find something."""
        self._waking.wake(reader)

    def _call_explicit(self) -> None:
        for reader in list(self.readers):
            if reader.mode == "explicit":
                reader.call()

    def _wake_for(self, owned: OwnedPartition) -> None:
        if owned.assigned_to is not None:
            self.wake(owned.assigned_to)
        else:
            self._wake_explicit()

    def _wake_explicit(self) -> None:
        for reader in self.readers:
            if reader.mode == "explicit" and reader.hungry:
                self.wake(reader)

    # --- what readers tell ----------------------------------------------------------------------------------------

    def take(self, reader: Reader, max_records: int, max_bytes: int) -> Batch | None:
        """The next batch for a reader."""
        batch = self.feeding.take(reader, max_records, max_bytes)
        if batch is not None and batch.items is not None:
            self._tick_soon()
        return batch

    def pause(self, reader: Reader) -> None:
        """A reader takes nothing for a while."""
        self.feeding.pause(reader)

    def give_back(self, batches: Iterable[Batch]) -> None:
        """Batches go to the next reader, in order, before everything later."""
        for batch in batches:
            owned = self.feeding.give_back(batch)
            if owned is not None:
                self._wake_for(owned)
        if self._hand_overs:
            self._tick_soon()

    def read_up_to(self, reader: Reader, read: Mapping[int, int]) -> None:
        """A client says what it has read: partition → last offset."""
        for partition, offset in read.items():
            owned = self.feeding.owned_partitions.get(partition)
            if owned is None or isinstance(owned.delivery.acknowledge_upto(offset), NotFound):
                reader.read_up_to[partition] = offset
        self.settled(read)

    def settled(self, partitions: Iterable[int]) -> None:
        """Something was settled there: it can be committed, and they may be free for whom they wait."""
        self._commits.due()
        for partition in partitions:
            owned = self.feeding.owned_partitions.get(partition)
            if owned is None or owned.delivery.flights:
                continue
            assigned_to = owned.assigned_to
            if assigned_to is not None and assigned_to.hungry and owned.sent_to is not assigned_to:
                self.wake(assigned_to)
        if self._hand_overs:
            self._hand_overs.look(self.now())

    def commit_soon(self) -> None:
        """Somebody went: let who looks at the committed offsets see it."""
        if self._closing is None and self.feeding.subscription is not None:
            self._commits.soon()

    def wants_attention(self, reader: Reader) -> None:
        """A reader sent something that is to be confirmed, or may not take before more is."""
        self._watched[reader] = None
        if self._ticking is None or reader.blocked:
            self._tick_soon(BLOCKED_TICK_SECONDS if reader.blocked else TICK_SECONDS)

    # --- time passes ----------------------------------------------------------------------------------------------

    def _tick_soon(self, seconds: float = TICK_SECONDS) -> None:
        if self._left:
            return
        if self._ticking is None:
            self._ticking = self._clock.callLater(seconds, self._tick)
        elif self._ticking.getTime() > self.now() + seconds:
            self._ticking.reset(seconds)

    def _tick(self) -> None:
        self._ticking = None
        now = self.now()
        seconds = TICK_SECONDS
        for reader in list(self._watched):
            if not reader.tick(now):
                self._watched.pop(reader, None)
            if reader.blocked and reader.window() > 0:
                reader.blocked = False
                seconds = BLOCKED_TICK_SECONDS
                reader.call()
        waits = bool(self._watched)
        for owned in self.feeding.all:
            delivery = owned.delivery
            if delivery.due < inf:  # seldom, and there may be thousands of partitions
                if delivery.expire(now):
                    self._wake_for(owned)
                self._burial.take(delivery)
                waits = waits or delivery.due < inf
        if self._hand_overs:
            self._hand_overs.look(now)
        self._linger()
        if waits or self._hand_overs:
            self._tick_soon(seconds)

    # --- acknowledging --------------------------------------------------------------------------------------------

    def acknowledge(self, acks: Sequence[Ack]) -> list[KatewayError | None]:
        """Applies acknowledgements in order; answers ``None`` for each that holds, else what is wrong with it."""
        now = self.now()
        results: list[KatewayError | None] = []
        for ack in acks:
            owned = self.feeding.owned_partitions.get(ack.partition)
            if owned is None:
                results.append(NotFound("this gateway has delivered no such record"))
                continue
            results.append(owned.delivery.acknowledge(ack, now))
            if ack.outcome != "ack":
                self._burial.take(owned.delivery)
                self._tick_soon()
        # only where something changed: a group may have thousands of partitions, and a request of its own for each ack
        self.settled({ack.partition for ack in acks})
        self._wake_explicit()
        return results

    def committed(self, acks: Sequence[Ack]) -> Deferred[None]:
        """Fires when ``acks`` are committed, and written where they go to the dead letters."""
        rejected = {(ack.partition, ack.offset) for ack in acks if ack.outcome != "ack"}
        return self._burial.done(rejected).addCallback(lambda _: self._commits.done())

    def buried(self) -> Deferred[None]:
        """Fires when everything rejected until now is among the dead letters, fails where it could not be written."""
        return self._burial.done()

    def unacknowledged(self) -> dict[int, tuple[int, float]]:
        """For each partition of ours, how many records readers have, and for how many seconds the oldest."""
        now = self.now()
        return {owned.partition: owned.delivery.unacknowledged(now) for owned in self.feeding.all}

    def _buried(self, _delivery: Delivery) -> None:
        self._commits.due()
        self._wake_explicit()

    # --- committing -----------------------------------------------------------------------------------------------

    def _collect(self) -> list[tuple[Delivery, Committed]]:
        self.feeding.step(self.feeding.all)
        return committable(owned.delivery for owned in self.feeding.all)

    def _send(self, offsets: Mapping[int, Committed]) -> Deferred[None]:
        assert self.feeding.subscription is not None
        return self.feeding.subscription.commit(offsets)
