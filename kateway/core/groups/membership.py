"""One membership: this process in one group for one topic, and the local readers that share its partitions.

It listens to the store's subscription, assigns partitions to readers, commits settled records, and is over when it has
been without readers for ``linger_seconds``. The state of a partition's records is in its ledger, that of a
connection in ``reader``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from math import inf
from typing import cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kateway.config.schema import DeliveryConfig
from kateway.core.delivery import moved_leases
from kateway.core.delivery.batch import Ack, Batch
from kateway.core.delivery.confirmation import Connection
from kateway.core.delivery.ledger import Ledger
from kateway.core.groups.assignment import Assignment
from kateway.core.groups.commits import Commits, committable
from kateway.core.groups.dead_letters import DeadLetterTopic, DeadLetterWriter
from kateway.core.groups.dispatch import Dispatch, OwnedPartition, Portion
from kateway.core.groups.reader import Reader
from kateway.core.groups.retained import Rebalancing, RetainedState
from kateway.core.groups.revocation import Revocations
from kateway.core.groups.wakeups import Wakeups
from kateway.core.groups.wanted import Wanted
from kateway.errors import Conflict, KatewayError, NotFound, NotHere, TooManyConsumers
from kateway.loop_turns import LoopTurns
from kateway.model import Committed
from kateway.observe.delivery import DeliveryCells
from kateway.shield import shield
from kateway.storage.interface import Listener, PassedSubscription, Subscription
from kateway.storage.passed_member import PassedMember

Give = Callable[[PassedMember | None, int], Deferred[None]]
"""Gives another process a member, with how often a record is delivered at most; ``None``: it has left."""
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
        turns: LoopTurns,
        over: Callable[[Membership], None],
        wall: Callable[[], float],
        empty_handed: Callable[[Membership], None] = lambda _member: None,
    ) -> None:
        self.config = config
        self.cells: DeliveryCells | None = None
        """Where is counted what becomes of deliveries."""
        self.last_error: KatewayError | None = None
        """The subscription's error while the driver keeps trying."""
        self.available_since: float | None = None
        """Since when our partitions are known; ``None`` while they are away."""
        self.rebalancing = Rebalancing(clock)
        """Whether partitions are being handed over, or the first ones are awaited."""
        self.rebalancing.begin()
        self.since = clock.seconds()
        self.unread_since: float | None = self.since
        """When its last reader ended; ``None`` while it has some."""
        self._read_by_spares = False
        """Whether only spare readers took records since it ended."""
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
        self._empty_handed = empty_handed
        self._watched: dict[Reader, None] = {}
        self._wakeups = Wakeups(clock)
        self._ticking: IDelayedCall | None = None
        self._lingering: IDelayedCall | None = None
        self._wall = wall
        self._revocations = Revocations(self._send, self._gone, self._leases_not_moved, wall)
        self._closing: Deferred[None] | None = None
        self._left = self._passes_on = False
        self._commits = Commits(
            clock,
            config.commit_interval_seconds,
            self._collect,
            self._send,
            lambda: bool(self.rebalancing),
            self._commit_failed,
        )
        self._turns = turns
        self.dispatch = Dispatch(clock, config, turns, self._commits.due)
        self._assignment = Assignment(self.dispatch, self._wakeups)
        self._dead_letters = DeadLetterWriter(dead_letters, clock, self._dead_letter_written)

    def now(self) -> float:
        return self._clock.seconds()

    def start(self) -> None:
        """Becomes a member; raises the error of a store that refuses it at once."""
        if self._closing is None:
            self.dispatch.subscription = self._subscribe(self)

    def _count_in(self, cells: DeliveryCells) -> None:
        """Counts deliveries there from now on."""
        if self.cells is None or self.cells.group is not cells.group:
            self.cells = cells
            for owned in self.dispatch.all:
                owned.delivery.cells = cells

    # --- readers come and go --------------------------------------------------------------------------------------

    def reader(
        self,
        wanted: Wanted,
        connection: Connection,
    ) -> Reader:
        """A new reader. ``TooManyConsumers``, or ``Conflict`` between modes or filters."""
        if wanted.cells is not None:
            self._count_in(wanted.cells)
        reader = Reader(self, wanted, connection)
        try:
            self._check_alike(reader)
        except Conflict:
            connection.unwatch(reader)
            raise
        self.dispatch.portions[reader] = Portion()
        if wanted.mode == "auto":
            try:
                self._assignment.arrive(reader, wanted.partitions)
            except TooManyConsumers:
                del self.dispatch.portions[reader]
                connection.unwatch(reader)
                raise
        self.readers[reader] = None
        if wanted.spare:
            self._read_by_spares = self.unread_since is not None
            self.linger()
            return reader
        self.unread_since, self._read_by_spares = None, False
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        return reader

    def _check_alike(self, reader: Reader) -> None:
        other = next(iter(self.readers), None)
        if other is None:
            return
        if other.mode != reader.mode:
            raise Conflict(f"the group has readers with another ack than {reader.mode}")
        if other.filter != reader.filter:
            # what one filter passes over is done with for the whole group
            raise Conflict("the group has readers with another filter: all readers of a group have the same one")

    def idle(self) -> bool:
        """Whether there are no readers and nothing that any sent is unsettled."""
        return not self.readers and not self._departed

    def ended(self, reader: Reader) -> None:
        """A reader takes no more; what it sent may still be unsettled."""
        if self.readers.pop(reader, self) is self:
            return
        self._departed[reader] = None
        if not reader.spare and not self._kept_alive():
            self.unread_since = self.now()
            self._read_by_spares = bool(self.readers)
        self._wakeups.forget(reader)
        if reader.mode == "auto":
            self._assignment.leave(reader)
        del self.dispatch.portions[reader]

    def gone(self, reader: Reader) -> None:
        """Nothing that a departed reader sent is unsettled any more."""
        self._departed.pop(reader, None)
        self._watched.pop(reader, None)
        self.linger()

    def _kept_alive(self) -> bool:
        return any(not reader.spare for reader in self.readers)

    def linger(self) -> None:
        """Leaves the group after a while, unless a reader comes; with leases out, when they are over. What spare
        readers have does not hold that up: they may take new records for ever, and leases move to the next owner.
        """
        unsettled = any(not reader.spare for reader in self._departed) if self._read_by_spares else bool(self._departed)
        if self._kept_alive() or unsettled or self._closing is not None:
            return
        busy = not self._read_by_spares and any(owned.delivery.busy() for owned in self.dispatch.all)
        if self.rebalancing or busy:
            if self._lingering is not None:
                self._lingering.cancel()
                self._lingering = None
            self._tick_soon()  # leases are out: acknowledgements may come
            return
        if self._lingering is None:
            self._lingering = self._clock.callLater(self.config.linger_seconds, self._leave)

    def _leave(self) -> None:
        self._lingering = None
        for reader in list(self.readers):
            with _goes_on:
                reader.fail(NotHere("this gateway leaves the group: no client of its own reads it any more"))
        self._over(self)

    def close(self, *, returning: bool = False, give: Give | None = None) -> Deferred[None]:
        """Leaves the group: commits settled records, gives up the others, fails the remaining readers. ``returning``:
        the process may be back soon (``Subscription.close``). ``give``: the member does not leave but is passed on,
        where the store can do that.
        """
        if self._closing is None:
            self._closing = Deferred()
            subscription = self.dispatch.subscription
            closed: Deferred[None]
            if subscription is None:
                closed = succeed(None)
            elif give is None or not hasattr(subscription, "pass_on"):
                closed = subscription.close(returning=returning)
            else:
                self._passes_on = True
                passing = cast(PassedSubscription, subscription).pass_on(returning=returning)
                closed = passing.addCallback(lambda passed: give(passed, self._max_deliveries))
            closed.addErrback(lambda failure: _log.warn("leaving a group: {e}", e=failure.getErrorMessage()))
            closed.addBoth(self._closed)
        return shield(self._closing)

    def _closed(self, _result: object) -> None:
        assert self._closing is not None
        self.lost(frozenset(self.dispatch.owned_partitions))
        self._left = True
        if self._passes_on:
            # nothing looks after them any more, and their connections would wait for that
            for reader in [*self.readers, *self._departed]:
                with _goes_on:
                    reader.give_up()
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
        anew: list[OwnedPartition] = []
        for partition, committed in sorted(partitions.items()):
            owned = self._kept.take_back(self._key, partition, committed)
            if owned is None:
                owned = OwnedPartition(partition, Ledger(partition, committed, self._max_deliveries))
                anew.append(owned)
                self._hold_moved(owned.delivery)
            elif owned.delivery.frontier is not None:
                owned.delivery.leases.max_deliveries = self._max_deliveries
                subscription.seek(partition, owned.delivery.frontier)
                self._dead_letters.take(owned.delivery)
                self._tick_soon()
            owned.delivery.cells = self.cells
            self.dispatch.add(owned)
        self._partitions_changed()
        for owned in anew:
            for reader in list(self.readers):
                with _goes_on:
                    reader.begins_again(owned.partition, owned.delivery.floor or 0)
        if self.available_since is None:
            self.available_since = self.now()
        self.rebalancing.end()
        # commits that the rebalance refused, and records that were settled during it
        self._commits.soon()
        if not self.dispatch.all:
            self._empty_handed(self)
        elif not self.readers:
            self.linger()  # for as long as leases are out that the last owner left

    def _hold_moved(self, ledger: Ledger) -> None:
        committed = ledger.committed
        if committed is None or not committed.metadata:
            return
        moved = moved_leases.decode(committed.offset, committed.metadata).since(self._wall() * 1000)
        if moved:
            ledger.hold(moved, self.now())
            self._dead_letters.take(ledger)
            self._tick_soon()

    def revoked(self, partitions: frozenset[int]) -> Deferred[None] | None:
        self._count_rebalance()
        self.rebalancing.begin()
        # while they are ours still: what is settled between two places would be settled nowhere
        for reader in list(self._watched):
            with _goes_on:
                reader.tick(self.now())
        owned_partitions = self._take_away(partitions)
        if not self.dispatch.all:  # else clients are served from those that stay
            self.available_since = None
        # only now: a batch that comes back while they are held up cannot be sought any more, and records behind it
        # would look as if everything before were done
        self.dispatch.step(owned_partitions)
        held_up = self._revocations.begin(owned_partitions, self.now())
        if self._revocations:
            self._tick_soon()
        return held_up

    def lost(self, partitions: frozenset[int]) -> None:
        self._count_rebalance()
        self.rebalancing.begin()
        for owned in self._take_away(partitions):
            self._gone(owned)
        if not self.dispatch.all:
            self.available_since = None
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
        dispatch = self.dispatch
        try:
            batch = dispatch.take(reader, max_records, max_bytes)
        finally:
            if dispatch.refused:
                self._bury_refused()
        if dispatch.unfinished:
            self._turns.wait(reader, reader.call)
        if batch is not None and batch.items is not None:
            self._tick_soon()
        return batch

    def _bury_refused(self) -> None:
        refused, self.dispatch.refused = self.dispatch.refused, {}
        for ledger in refused:
            self._dead_letters.take(ledger)

    def pause(self, reader: Reader) -> None:
        """A reader takes nothing for a while."""
        self.dispatch.pause(reader)

    def expects(self, reader: Reader, ends: Mapping[int, int]) -> bool:
        """Whether there ought to be something for a reader that is not at hand yet."""
        return self.dispatch.expects(reader, ends)

    def leased(self, batch: Batch) -> None:
        """A batch of leased records was written to its client: the ledger has seen it."""
        if self._revocations:
            self._revocations.look(self.now())

    def confirmed(self, batch: Batch) -> None:
        """A batch has arrived with its client."""
        if self.cells is not None:
            self.cells.confirmed(batch.timestamp, batch.count)

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
        seconds, waits = TICK_SECONDS, True
        try:
            seconds, waits = self._look(self.now())
        except Exception:
            # else no lease would ever end here any more
            _log.failure("a look at a group's leases broke, the next one comes")
        if waits:
            self._tick_soon(seconds)

    def _look(self, now: float) -> tuple[float, bool]:
        """Looks at clients, leases and revocations; returns in how many seconds to look again, and whether to."""
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
            if owned.delivery.leases.due < inf:  # seldom, and there may be thousands of partitions
                waits = self._end_leases(owned, now) or waits
        if self._revocations:
            self._revocations.look(now)
        self.linger()
        return seconds, waits or bool(self._revocations)

    def _end_leases(self, owned: OwnedPartition, now: float) -> bool:
        """Brings back the records whose leases ended; returns whether others will end."""
        delivery = owned.delivery
        with _goes_on:
            if delivery.expire(now):
                self._wake_for(owned)
            self._dead_letters.take(delivery)
            if delivery.outdated:
                self._commits.due()
        return delivery.leases.due < inf

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

    def awaits(self, acks: Sequence[Ack]) -> bool:
        """Whether some are of partitions that were taken away a moment ago and may be back in another."""
        if not self.rebalancing:
            return False
        return any(not self.has(ack.partition) for ack in acks)

    def has(self, partition: int) -> bool:
        """Whether a partition is ours."""
        return partition in self.dispatch.owned_partitions

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

    def lag(self, now_ms: int) -> tuple[int, float | None] | None:
        """How many records are not done in the partitions of ours, and the age of the oldest in seconds as far as it
        is known; ``None`` where not all of their ends are. Asks no store.
        """
        subscription = self.dispatch.subscription
        if subscription is None or not self.dispatch.all:
            return None
        behind = 0
        oldest: list[int | None] = []
        for owned in self.dispatch.all:
            position, left = subscription.position(owned.partition), subscription.lag(owned.partition)
            if position is None or left is None:
                return None
            floor = owned.delivery.floor
            here = position + left - (position if floor is None else floor)
            if here > 0:
                behind += here
                oldest.append(owned.delivery.oldest_ms())
        if not behind:
            return 0, 0.0
        known = [each for each in oldest if each is not None]
        return behind, max(now_ms - min(known), 0) / 1000 if len(known) == len(oldest) else None

    def _count_rebalance(self) -> None:
        if self.cells is not None and self._closing is None:
            self.cells.group.rebalances.value += 1

    def _leases_not_moved(self, count: int) -> None:
        if self.cells is not None:
            self.cells.group.leases_not_moved.value += count

    def _commit_failed(self) -> None:
        if self.cells is not None:
            self.cells.group.commit_failures.value += 1

    def _dead_letter_written(self, ledger: Ledger) -> None:
        self._commits.due()
        owned = self.dispatch.owned_partitions.get(ledger.partition)
        if owned is not None:
            # there may be room for fresh records again
            self._wake_for(owned)

    # --- committing -----------------------------------------------------------------------------------------------

    def _collect(self) -> list[tuple[Ledger, Committed]]:
        self.dispatch.step(self.dispatch.all)
        return committable(owned.delivery for owned in self.dispatch.all)

    def _send(self, offsets: Mapping[int, Committed]) -> Deferred[None]:
        assert self.dispatch.subscription is not None
        return self.dispatch.subscription.commit(offsets)
