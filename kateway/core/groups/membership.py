"""One membership: this process in one group for one topic, and the local readers that share its partitions.

It listens to the store's subscription, assigns partitions to readers, commits settled records, and is over when it has
been without readers for ``linger_seconds``. The state of a partition's records is in its ledger, that of a
connection in ``reader``.
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
from kateway.core.delivery.ledger import Ledger
from kateway.core.groups.assignment import Assignment
from kateway.core.groups.commits import Commits, committable
from kateway.core.groups.dead_letters import DeadLetterTopic, DeadLetterWriter
from kateway.core.groups.dispatch import Dispatch, OwnedPartition, Portion
from kateway.core.groups.reader import Mode, Reader
from kateway.core.groups.retained import Rebalancing, RetainedState
from kateway.core.groups.revocation import Revocations
from kateway.core.groups.wakeups import Wakeups
from kateway.errors import Conflict, KatewayError, NotFound, TooManyConsumers
from kateway.model import Committed
from kateway.shield import shield
from kateway.storage.interface import Listener, Subscription

TICK_SECONDS = 0.25
"""How often is looked whether clients have confirmed and leases have ended, while there are any."""
BLOCKED_TICK_SECONDS = 0.02
"""The same while a reader that has just made progress may not take because of unconfirmed records."""

_log = Logger()
_goes_on = _log.failureHandler("a reader broke; the others of its group go on")


class Membership:
    """A member of a group, from its first reader until it has lingered after its last."""

    def __init__(
        self,
        subscribe: Callable[[Listener], Subscription],
        dead_letters: DeadLetterTopic,
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
        """The subscription's error while the driver keeps trying."""
        self.available_since: float | None = None
        """Since when our partitions are known; ``None`` while they are away."""
        self.rebalancing = Rebalancing(clock)
        """Whether partitions are being handed over."""
        self.readers: dict[Reader, None] = {}
        """Those that take."""
        self._departed: dict[Reader, None] = {}
        """Those that take no more, but sent records that are not settled."""
        self._subscribe = subscribe
        self._clock = clock
        self._key = key
        self._kept = kept
        self._max_deliveries = max_deliveries
        self._over = over
        self._watched: dict[Reader, None] = {}
        self._wakeups = Wakeups(clock)
        self._ticking: IDelayedCall | None = None
        self._lingering: IDelayedCall | None = None
        self._revocations = Revocations(self._send, self._gone)
        self._closing: Deferred[None] | None = None
        self._left = False
        self._commits = Commits(
            clock, config.commit_interval_seconds, self._collect, self._send, lambda: bool(self.rebalancing)
        )
        self.dispatch = Dispatch(clock, config, self._commits.due)
        self._assignment = Assignment(self.dispatch, self._wakeups)
        self._dead_letters = DeadLetterWriter(dead_letters, clock, self._dead_letter_written)

    def now(self) -> float:
        return self._clock.seconds()

    def start(self) -> None:
        """Becomes a member; raises the error of a store that refuses it at once."""
        if self._closing is None:
            self.dispatch.subscription = self._subscribe(self)

    # --- readers come and go --------------------------------------------------------------------------------------

    def reader(self, mode: Mode, *, short: bool, ack_timeout: float, connection: Connection, partitions: int) -> Reader:
        """A new reader of a topic of so many ``partitions``. ``TooManyConsumers``, or ``Conflict`` between modes."""
        if self.readers and next(iter(self.readers)).mode != mode:
            raise Conflict(f"the group has readers with another ack than {mode}")
        reader = Reader(self, mode, short=short, ack_timeout=ack_timeout, connection=connection)
        self.dispatch.portions[reader] = Portion()
        if mode == "auto":
            try:
                self._assignment.arrive(reader, partitions)
            except TooManyConsumers:
                del self.dispatch.portions[reader]
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
        self._wakeups.forget(reader)
        if reader.mode == "auto":
            self._assignment.leave(reader)
        del self.dispatch.portions[reader]

    def gone(self, reader: Reader) -> None:
        """Nothing that a departed reader sent is unsettled any more."""
        self._departed.pop(reader, None)
        self._watched.pop(reader, None)
        self._linger()

    def _linger(self) -> None:
        if self.readers or self._departed or self._lingering is not None or self._closing is not None:
            return
        if self.rebalancing or any(owned.delivery.busy() for owned in self.dispatch.all):
            self._tick_soon()  # leases are out: acknowledgements may come
            return
        self._lingering = self._clock.callLater(self.config.linger_seconds, self._leave)

    def _leave(self) -> None:
        self._lingering = None
        self._over(self)

    def close(self) -> Deferred[None]:
        """Leaves the group: commits settled records, gives up the others, fails the remaining readers."""
        if self._closing is None:
            self._closing = Deferred()
            closed = self.dispatch.subscription.close() if self.dispatch.subscription is not None else succeed(None)
            closed.addErrback(lambda failure: _log.warn("leaving a group: {e}", e=failure.getErrorMessage()))
            closed.addBoth(self._closed)
        return shield(self._closing)

    def _closed(self, _result: object) -> None:
        assert self._closing is not None
        self.lost(frozenset(self.dispatch.owned_partitions))
        self._left = True
        for call in (self._ticking, self._lingering):
            if call is not None and call.active():
                call.cancel()
        self._ticking = self._lingering = None
        self._wakeups.stop()
        self._commits.stop()
        self._dead_letters.stop()
        self.rebalancing.end()
        self._closing.callback(None)

    # --- the subscription tells (storage.interface.Listener) ------------------------------------------------------

    def assigned(self, partitions: Mapping[int, Committed | None]) -> None:
        self.last_error = None
        subscription = self.dispatch.subscription
        assert subscription is not None
        for partition, committed in sorted(partitions.items()):
            owned = self._kept.take_back(self._key, partition, committed)
            if owned is None:
                owned = OwnedPartition(partition, Ledger(partition, committed, self._max_deliveries))
            elif owned.delivery.frontier is not None:
                owned.delivery.leases.max_deliveries = self._max_deliveries
                subscription.seek(partition, owned.delivery.frontier)
                self._dead_letters.take(owned.delivery)
                self._tick_soon()
            self.dispatch.add(owned)
        self._partitions_changed()
        self.available_since = self.now()
        self.rebalancing.end()
        # commits that the rebalance refused, and records that were settled during it
        self._commits.soon()

    def revoked(self, partitions: frozenset[int]) -> Deferred[None] | None:
        self.available_since = None
        self.rebalancing.begin()
        owned_partitions = self._take_away(partitions)
        for reader in list(self._watched):
            with _goes_on:
                reader.tick(self.now())
        # only now: a batch that comes back while they are held up cannot be sought any more, and records behind it
        # would look as if everything before were done
        self.dispatch.step(owned_partitions)
        held_up = self._revocations.begin(owned_partitions, self.now())
        if self._revocations:
            self._tick_soon()
        return held_up

    def lost(self, partitions: frozenset[int]) -> None:
        self.available_since = None
        self.rebalancing.begin()
        for owned in self._take_away(partitions):
            self._gone(owned)
        self._revocations.lose(partitions)
        self._revocations.look(self.now())

    def readable(self, partition: int) -> None:
        # the hot end of a partition with traffic: no list, no delayed call
        owned = self.dispatch.owned_partitions.get(partition)
        if owned is None:
            return
        owned.readable = True
        self.last_error = None
        if owned.assigned_to is not None:
            with _goes_on:
                owned.assigned_to.call()
        else:
            self._call_explicit()

    def failed(self, error: KatewayError) -> None:
        self.last_error = error
        if not error.retriable:
            self.end(error)

    def end(self, error: KatewayError) -> None:
        """Is over: fails its readers with ``error``."""
        self.lost(frozenset(self.dispatch.owned_partitions))
        self._kept.forget(self._key)
        for reader in list(self.readers):
            with _goes_on:
                reader.fail(error)
        self._over(self)

    def _gone(self, owned: OwnedPartition) -> None:
        owned.delivery.live = False
        if self._closing is None or not owned.delivery.in_flight:
            # records in flight when the membership ends are known to its readers only
            self._kept.keep(self._key, owned)

    def _take_away(self, partitions: Iterable[int]) -> list[OwnedPartition]:
        owned_partitions = self.dispatch.remove(partitions)
        self._partitions_changed()
        return owned_partitions

    def _partitions_changed(self) -> None:
        self._assignment.partitions_changed()
        self._wake_explicit()

    def _find(self, partition: int) -> Ledger | None:
        """Returns the ledger of a partition that is ours, is about to go, or may come back."""
        owned = self.dispatch.owned_partitions.get(partition)
        if owned is not None:
            return owned.delivery
        return self._revocations.find(partition) or self._kept.find(self._key, partition)

    # --- waking ---------------------------------------------------------------------------------------------------

    def wake(self, reader: Reader) -> None:
        """Lets a reader know, in the reactor's next turn, that it may find something."""
        self._wakeups.wake(reader)

    def _call_explicit(self) -> None:
        for reader in list(self.readers):
            if reader.mode == "explicit":
                with _goes_on:
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

    # --- what readers call (reader.Source) ------------------------------------------------------------------------

    def take(self, reader: Reader, max_records: int, max_bytes: int) -> Batch | None:
        """The next batch for a reader."""
        batch = self.dispatch.take(reader, max_records, max_bytes)
        if batch is not None and batch.items is not None:
            self._tick_soon()
        return batch

    def pause(self, reader: Reader) -> None:
        """A reader takes nothing for a while."""
        self.dispatch.pause(reader)

    def expects(self, reader: Reader) -> bool:
        """Whether there ought to be something for a reader that is not at hand yet."""
        return self.dispatch.expects(reader)

    def settle(self, batches: Iterable[Batch]) -> None:
        """Batches have been read by their client. The hot end of ``ack=auto``: one call for each batch."""
        partitions = set()
        for batch in batches:
            ledger = self._find(batch.partition)
            if ledger is not None:
                ledger.settle(batch)
                partitions.add(batch.partition)
        self.settled(partitions)

    def settle_some(self, batch: Batch, count: int) -> None:
        """The first ``count`` records of a batch have been read by its client."""
        ledger = self._find(batch.partition)
        if ledger is not None:
            ledger.settle_some(batch, count)

    def give_back(self, batches: Iterable[Batch]) -> None:
        """Batches go to the next reader, in order, before everything later."""
        for batch in batches:
            owned = self.dispatch.give_back(batch)
            if owned is not None:
                self._wake_for(owned)
            elif (ledger := self._find(batch.partition)) is not None:
                ledger.give_back(batch)
        if self._revocations:
            self._tick_soon()

    def read_up_to(self, reader: Reader, read: Mapping[int, int]) -> None:
        """A client says what it has read: partition → last offset."""
        for partition, offset in read.items():
            owned = self.dispatch.owned_partitions.get(partition)
            if owned is None or isinstance(owned.delivery.acknowledge_upto(offset), NotFound):
                reader.read_up_to[partition] = offset
        self.settled(read)

    def settled(self, partitions: Iterable[int]) -> None:
        """Records were settled there: they can be committed, and the partitions may be free for their next reader."""
        self._commits.due()
        for partition in partitions:
            owned = self.dispatch.owned_partitions.get(partition)
            if owned is None or owned.delivery.in_flight:
                continue
            assigned_to = owned.assigned_to
            if assigned_to is not None and assigned_to.hungry and owned.sent_to is not assigned_to:
                self.wake(assigned_to)
        if self._revocations:
            self._revocations.look(self.now())

    def commit_soon(self) -> None:
        """Commits soon: a client went, and its records should show in the committed offsets."""
        if self._closing is None and self.dispatch.subscription is not None:
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
            with _goes_on:
                if not reader.tick(now):
                    self._watched.pop(reader, None)
                if reader.blocked and reader.window() > 0:
                    reader.blocked = False
                    seconds = BLOCKED_TICK_SECONDS
                    reader.call()
        waits = bool(self._watched)
        for owned in self.dispatch.all:
            delivery = owned.delivery
            if delivery.leases.due < inf:  # seldom, and there may be thousands of partitions
                if delivery.expire(now):
                    self._wake_for(owned)
                self._dead_letters.take(delivery)
                waits = waits or delivery.leases.due < inf
        if self._revocations:
            self._revocations.look(now)
        self._linger()
        if waits or self._revocations:
            self._tick_soon(seconds)

    # --- acknowledging --------------------------------------------------------------------------------------------

    def acknowledge(self, acks: Sequence[Ack]) -> list[KatewayError | None]:
        """Applies acknowledgements in order; returns ``None`` for each that holds, else its error."""
        now = self.now()
        results: list[KatewayError | None] = []
        for ack in acks:
            owned = self.dispatch.owned_partitions.get(ack.partition)
            if owned is None:
                results.append(NotFound("this gateway has delivered no such record"))
                continue
            results.append(owned.delivery.acknowledge(ack, now))
            if ack.outcome != "ack":
                self._dead_letters.take(owned.delivery)
                self._tick_soon()
        # only where something changed: a group may have thousands of partitions, and a request of its own for each ack
        self.settled({ack.partition for ack in acks})
        self._wake_explicit()
        return results

    def committed(self, acks: Sequence[Ack]) -> Deferred[None]:
        """Fires when ``acks`` are committed, and written where they go to the dead letters."""
        rejected = {(ack.partition, ack.offset) for ack in acks if ack.outcome != "ack"}
        return self._dead_letters.done(rejected).addCallback(lambda _: self._commits.done())

    def dead_letters_written(self) -> Deferred[None]:
        """Fires when everything rejected until now is among the dead letters, fails where it could not be written."""
        return self._dead_letters.done()

    def unacknowledged(self) -> dict[int, tuple[int, float]]:
        """For each partition of ours, how many records readers have, and for how many seconds the oldest."""
        now = self.now()
        return {owned.partition: owned.delivery.unacknowledged(now) for owned in self.dispatch.all}

    def _dead_letter_written(self, _delivery: Ledger) -> None:
        self._commits.due()
        self._wake_explicit()

    # --- committing -----------------------------------------------------------------------------------------------

    def _collect(self) -> list[tuple[Ledger, Committed]]:
        self.dispatch.step(self.dispatch.all)
        return committable(owned.delivery for owned in self.dispatch.all)

    def _send(self, offsets: Mapping[int, Committed]) -> Deferred[None]:
        assert self.dispatch.subscription is not None
        return self.dispatch.subscription.commit(offsets)
