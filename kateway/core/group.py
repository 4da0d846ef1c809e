"""One membership: this process in one group for one topic, and the local readers that share its partitions.

It listens to the store's subscription, gives each reader its share, puts what comes back before what is new, commits
what is settled, and tells when it has been without readers for so long that it may leave. What happened to the records
of a partition is kept in ``delivery``; what happened on a connection, in ``reader``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from math import inf

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kateway.config import DeliveryConfig
from kateway.core.burial import Burial
from kateway.core.commits import Commits
from kateway.core.deadletter import DeadLetters
from kateway.core.delivery import Ack, Delivery, Taken
from kateway.core.reader import Connection, Mode, Reader
from kateway.core.seats import Seats, share_out
from kateway.errors import Conflict, KatewayError, NotFound, TooManyConsumers
from kateway.model import Committed, Record
from kateway.storage.interface import Listener, Subscription

TICK_SECONDS = 0.25
"""How often is looked whether clients have confirmed and leases have ended, while there are any."""
BLOCKED_TICK_SECONDS = 0.02
"""The same while a reader that has just made progress may not take for what is unconfirmed."""
HAND_OVER_SECONDS = 1.0
"""So long a rebalance is held up for what is on its way to clients."""

_log = Logger()
_PROCESS = secrets.token_hex(4)
_LEASES = count(1)


class Share:
    """A partition of ours: what is known of its records, who is fed from it, and whether there is something."""

    __slots__ = ("delivery", "goal", "holder", "partition", "readable")

    def __init__(self, partition: int, delivery: Delivery) -> None:
        self.partition = partition
        self.delivery = delivery
        self.readable = False
        self.goal: Reader | None = None
        """The ``ack=auto`` reader that it belongs to, as soon as nothing of another's is unsettled."""
        self.holder: Reader | None = None
        """The one that what is unsettled was sent to."""


class Group:
    """A member of a group, from its first reader until it has lingered after its last."""

    def __init__(
        self,
        subscribe: Callable[[Listener], Subscription],
        dead_letters: DeadLetters,
        clock: IReactorTime,
        config: DeliveryConfig,
        *,
        max_deliveries: int,
        over: Callable[[Group], None],
    ) -> None:
        self.config = config
        self.trouble: KatewayError | None = None
        """What ails the subscription while the driver keeps trying."""
        self.failed_with: KatewayError | None = None
        self.shares: dict[int, Share] = {}
        self.readers: dict[Reader, None] = {}
        """Those that take."""
        self._departed: dict[Reader, None] = {}
        """Those that take no more, but sent what is not settled."""
        self._subscribe = subscribe
        self._subscription: Subscription | None = None
        self._clock = clock
        self._max_deliveries = max_deliveries
        self._over = over
        self._all: list[Share] = []
        self._seats: Seats[Reader] = Seats()
        self._watched: dict[Reader, None] = {}
        self._woken: dict[Reader, KatewayError | None] = {}
        self._waking: IDelayedCall | None = None
        self._ticking: IDelayedCall | None = None
        self._lingering: IDelayedCall | None = None
        self._leaving: list[tuple[list[Share], float, Deferred[None]]] = []
        self._closing: Deferred[None] | None = None
        self._left = False
        self._commits = Commits(clock, config.commit_interval_seconds, self._collect, self._send)
        self._burial = Burial(dead_letters, clock, self._buried)

    def now(self) -> float:
        return self._clock.seconds()

    def start(self) -> None:
        """Becomes a member."""
        if self._closing is None:
            self._subscription = self._subscribe(self)

    # --- readers come and go --------------------------------------------------------------------------------------

    def reader(self, mode: Mode, *, short: bool, ack_timeout: float, connection: Connection) -> Reader:
        """A new reader. ``TooManyConsumers``, or ``Conflict`` while the group is read in the other mode."""
        if self.readers and next(iter(self.readers)).mode != mode:
            raise Conflict(f"the group has readers with another ack than {mode}")
        reader = Reader(self, mode, short=short, ack_timeout=ack_timeout, connection=connection)
        if mode == "auto":
            try:
                self._seats.arrive(reader)
            except TooManyConsumers:
                connection.unwatch(reader)
                raise
        self.readers[reader] = None
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if mode == "auto":
            self._share_out()
        return reader

    def idle(self) -> bool:
        """Whether there are no readers and nothing that any sent is unsettled."""
        return not self.readers and not self._departed

    def ended(self, reader: Reader) -> None:
        """A reader takes no more; what it sent may still be unsettled."""
        if self.readers.pop(reader, self) is self:
            return
        self._departed[reader] = None
        self._woken.pop(reader, None)
        if reader.mode == "auto":
            self._refuse(self._seats.leave(reader))
            self._share_out()

    def gone(self, reader: Reader) -> None:
        """Nothing that a departed reader sent is unsettled any more."""
        self._departed.pop(reader, None)
        self._watched.pop(reader, None)
        self._linger()

    def _linger(self) -> None:
        if self.readers or self._departed or self._lingering is not None or self._closing is not None:
            return
        if any(share.delivery.busy() for share in self._all):
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
            closed = self._subscription.close() if self._subscription is not None else succeed(None)
            closed.addErrback(lambda failure: _log.warn("leaving a group: {e}", e=failure.getErrorMessage()))
            closed.addBoth(self._closed)
        waiter: Deferred[None] = Deferred()
        self._closing.addCallback(lambda _: waiter.callback(None))
        return waiter

    def _closed(self, _result: object) -> None:
        assert self._closing is not None
        self.lost(frozenset(self.shares))
        self._left = True
        for call in (self._waking, self._ticking, self._lingering):
            if call is not None and call.active():
                call.cancel()
        self._waking = self._ticking = self._lingering = None
        self._commits.stop()
        self._burial.stop()
        self._closing.callback(None)

    # --- the subscription tells (storage.interface.Listener) ------------------------------------------------------

    def assigned(self, partitions: Mapping[int, Committed | None]) -> None:
        self.trouble = None
        for partition, committed in sorted(partitions.items()):
            self.shares[partition] = Share(partition, Delivery(partition, committed, self._max_deliveries))
        self._partitions_changed()

    def revoked(self, partitions: frozenset[int]) -> Deferred[None] | None:
        shares = self._take_away(partitions)
        for reader in list(self._watched):
            reader.tick(self.now())
        if any(share.delivery.flights for share in shares):
            held_up: Deferred[None] = Deferred()
            self._leaving.append((shares, self.now() + HAND_OVER_SECONDS, held_up))
            self._tick_soon()
            return held_up
        return self._hand_over(shares)

    def lost(self, partitions: frozenset[int]) -> None:
        for share in self._take_away(partitions):
            share.delivery.live = False
        for shares, _until, _held_up in self._leaving:
            for share in shares:
                if share.partition in partitions:
                    share.delivery.live = False
        self._check_leaving(self.now())

    def readable(self, partition: int) -> None:
        # the hot end of a partition with traffic: no list, no delayed call
        share = self.shares.get(partition)
        if share is None:
            return
        share.readable = True
        self.trouble = None
        if share.goal is not None:
            share.goal.call()
        else:
            self._call_explicit()

    def failed(self, error: KatewayError) -> None:
        self.trouble = error
        if error.retriable:
            return
        self.failed_with = error
        self.lost(frozenset(self.shares))
        for reader in list(self.readers):
            reader.fail(error)
        self._over(self)

    def _take_away(self, partitions: Iterable[int]) -> list[Share]:
        shares = [self.shares.pop(partition) for partition in partitions if partition in self.shares]
        self._partitions_changed()
        return shares

    def _partitions_changed(self) -> None:
        self._all = [self.shares[partition] for partition in sorted(self.shares)]
        self._refuse(self._seats.resize(len(self._all)))
        self._share_out()
        self._wake_explicit()

    def _hand_over(self, shares: list[Share]) -> Deferred[None] | None:
        found = self._committable(share for share in shares if share.delivery.live)
        for share in shares:
            share.delivery.live = False
        if not found:
            return None
        sent = self._send({delivery.partition: committed for delivery, committed in found})
        return sent.addErrback(lambda failure: _log.warn("last commit: {e}", e=failure.getErrorMessage()))

    def _check_leaving(self, now: float) -> None:
        leaving, self._leaving = self._leaving, []
        for shares, until, held_up in leaving:
            if now < until and any(share.delivery.live and share.delivery.flights for share in shares):
                self._leaving.append((shares, until, held_up))
                continue
            sent = self._hand_over(shares)
            if sent is None:
                held_up.callback(None)
            else:
                sent.chainDeferred(held_up)

    # --- sharing out ----------------------------------------------------------------------------------------------

    def _share_out(self) -> None:
        seated = self._seats.seated
        for reader in self._seats.waiting:
            reader.shares = []
        goals = share_out(
            self.shares,
            seated,
            {share.partition: share.goal for share in self._all if share.goal is not None},
            lambda partition: not self.shares[partition].delivery.flights,
        )
        for reader in seated:
            reader.shares = []
        for share in self._all:
            share.goal = goals.get(share.partition)
            if share.goal is not None:
                share.goal.shares.append(share)
        for reader in seated:
            if reader.hungry:
                self.wake(reader)

    def _refuse(self, readers: Iterable[Reader]) -> None:
        for reader in readers:
            self._woken[reader] = TooManyConsumers("every partition that this gateway holds has a reader")
            self._wake_soon()

    def wake(self, reader: Reader) -> None:
        """Lets a reader know, in the reactor's next turn, that it may find something."""
        if reader.reading:
            self._woken.setdefault(reader, None)
            self._wake_soon()

    def _wake_soon(self) -> None:
        if self._waking is None and self._closing is None:
            self._waking = self._clock.callLater(0, self._wake_up)

    def _wake_up(self) -> None:
        self._waking = None
        woken, self._woken = self._woken, {}
        for reader, error in woken.items():
            if error is not None:
                reader.fail(error)
            elif reader in self.readers:
                reader.call()

    def _call_explicit(self) -> None:
        for reader in list(self.readers):
            if reader.mode == "explicit":
                reader.call()

    def _wake_explicit(self) -> None:
        for reader in self.readers:
            if reader.mode == "explicit" and reader.hungry:
                self.wake(reader)

    # --- taking ---------------------------------------------------------------------------------------------------

    def take(self, reader: Reader, max_records: int, max_bytes: int) -> Taken | None:
        """The next batch for a reader, from its partitions (all, with ``ack=explicit``) in turn."""
        auto = reader.mode == "auto"
        shares = reader.shares if auto else self._all
        number = len(shares)
        for step in range(number):
            share = shares[(reader.turn + step) % number]
            if auto:
                taken = self._take_auto(share, reader, max_records, max_bytes)
            else:
                taken = self._take_explicit(share, reader, max_records, max_bytes)
            if taken is not None:
                reader.turn = (reader.turn + step + 1) % number
                return taken
        return None

    def _take_auto(self, share: Share, reader: Reader, max_records: int, max_bytes: int) -> Taken | None:
        delivery = share.delivery
        if delivery.flights and share.holder is not reader:
            return None
        taken = None
        if delivery.items and delivery.has_ready():
            taken = delivery.fly_again(max_records, max_bytes, self.now())
        if taken is None:
            found = self._fresh(share, reader, max_records, max_bytes)
            if found is None:
                return None
            taken = delivery.fly(*found, self.now())
        share.holder = reader
        return taken

    def _take_explicit(self, share: Share, reader: Reader, max_records: int, max_bytes: int) -> Taken | None:
        delivery = share.delivery
        if delivery.flights:
            return None
        now = self.now()
        until = now + reader.ack_timeout
        token = f"{_PROCESS}{next(_LEASES):x}"
        taken = None
        if delivery.has_ready():
            taken = delivery.lease_again(max_records, max_bytes, token, until, now)
        else:
            room = delivery.room(self.config.max_unacknowledged_records, self.config.max_unacknowledged_bytes)
            found = self._fresh(share, reader, min(max_records, room), max_bytes) if room else None
            if found is not None:
                taken = delivery.lease(*found, token, until, now)
        if taken is not None:
            self._tick_soon()
        return taken

    def _fresh(self, share: Share, reader: Reader, max_records: int, max_bytes: int) -> tuple[int, list[Record]] | None:
        subscription = self._subscription
        assert subscription is not None
        delivery = share.delivery
        partition = share.partition
        while share.readable:
            position = None
            if delivery.frontier is None or reader.read_up_to:
                position = subscription.position(partition)
                self._came_back(reader, share, position)
            records = subscription.take(partition, max_records, max_bytes)
            if not records:
                share.readable = False
                if delivery.committed is not None and not delivery.outstanding():
                    self._commits.due()  # perhaps there was something that nobody may see
                return None
            start, fresh = delivery.receive(records, position)
            if fresh:
                return start, fresh
            self._commits.due()
        return None

    def _came_back(self, reader: Reader, share: Share, position: int | None) -> None:
        """A client said what it had read before: skip it where this process does not know it delivered it."""
        offset = reader.read_up_to.pop(share.partition, None)
        subscription = self._subscription
        if offset is None or position is None or subscription is None:
            return
        lag = subscription.lag(share.partition)
        # no client is believed beyond the end: what will be written there it cannot have read
        if lag is not None and offset < position + lag:
            share.delivery.skip(offset)

    # --- what readers tell ----------------------------------------------------------------------------------------

    def give_back(self, batches: Iterable[Taken]) -> None:
        """Batches go to the next reader, in order, before everything later."""
        for taken in batches:
            offset = taken.delivery.give_back(taken)
            share = self.shares.get(taken.partition)
            if share is None or share.delivery is not taken.delivery:
                continue
            if offset is not None and self._subscription is not None:
                self._subscription.seek(taken.partition, offset)
                share.readable = True
            if share.goal is not None:
                self.wake(share.goal)
            else:
                self._wake_explicit()
        if self._leaving:
            self._tick_soon()

    def read_up_to(self, reader: Reader, read: Mapping[int, int]) -> None:
        """A client says what it has read: partition → last offset."""
        for partition, offset in read.items():
            share = self.shares.get(partition)
            if share is None or isinstance(share.delivery.acknowledge_upto(offset), NotFound):
                reader.read_up_to[partition] = offset
        self.settled()

    def settled(self) -> None:
        """Something was settled: it can be committed, and partitions may be free for whom they wait."""
        self._commits.due()
        for share in self._all:
            goal = share.goal
            if goal is not None and goal.hungry and share.holder is not goal and not share.delivery.flights:
                self.wake(goal)
        if self._leaving:
            self._check_leaving(self.now())

    def commit_soon(self) -> None:
        """Somebody went: let who looks at the committed offsets see it."""
        if self._closing is None and self._subscription is not None:
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
        for share in self._all:
            delivery = share.delivery
            if delivery.expire(now):
                if share.goal is not None:
                    self.wake(share.goal)
                else:
                    self._wake_explicit()
            self._burial.take(delivery)
            waits = waits or delivery.due < inf
        if self._leaving:
            self._check_leaving(now)
        self._linger()
        if waits or self._leaving:
            self._tick_soon(seconds)

    # --- acknowledging --------------------------------------------------------------------------------------------

    def acknowledge(self, acks: Sequence[Ack]) -> list[KatewayError | None]:
        """Applies acknowledgements in order; answers ``None`` for each that holds, else what is wrong with it."""
        now = self.now()
        results: list[KatewayError | None] = []
        for ack in acks:
            share = self.shares.get(ack.partition)
            if share is None:
                results.append(NotFound("no such record was delivered"))
                continue
            results.append(share.delivery.acknowledge(ack, now))
            if ack.outcome != "ack":
                self._burial.take(share.delivery)
                self._tick_soon()
        self.settled()
        self._wake_explicit()
        return results

    def committed(self) -> Deferred[None]:
        """Fires when everything acknowledged until now is committed."""
        return self._commits.done()

    def unacknowledged(self) -> dict[int, tuple[int, float]]:
        """For each partition of ours, how many records readers have, and for how many seconds the oldest."""
        now = self.now()
        return {share.partition: share.delivery.unacknowledged(now) for share in self._all}

    def _buried(self, delivery: Delivery) -> None:
        self._commits.due()
        self._wake_explicit()

    # --- committing -----------------------------------------------------------------------------------------------

    def _collect(self) -> list[tuple[Delivery, Committed]]:
        return self._committable(self._all)

    def _committable(self, shares: Iterable[Share]) -> list[tuple[Delivery, Committed]]:
        found = []
        for share in shares:
            delivery = share.delivery
            if self._subscription is not None and delivery.to_commit() is not None:
                delivery.step(self._subscription.position(share.partition))
            committed = delivery.to_commit()
            if committed is not None:
                found.append((delivery, committed))
        return found

    def _send(self, offsets: Mapping[int, Committed]) -> Deferred[None]:
        assert self._subscription is not None
        return self._subscription.commit(offsets)
