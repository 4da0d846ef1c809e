"""Delivered, confirmed, leased and acknowledged records in one partition of a group: pure state, no I/O, no clock.

Every offset is in exactly one place:

- below ``floor``: done with, and committable;
- in ``done``: done with out of order, kept as ranges until the floor reaches them;
- in a ``Batch`` of ``in_flight``: on its way to an ``ack=auto`` reader, not settled yet; one that comes back from there
  lies above the frontier again and is read from the store once more, so that nothing has to be kept for it;
- an ``Lease``: a record tracked (and kept) by itself, because it is leased (``ack=explicit``), put off, on its way to
  the dead-letter queue, or came back from a lease and waits for the next reader;
- at or above ``frontier``: not taken from the store.

A record stands for a *tile*: the offsets from the end of the record before it up to and with its own. Offsets that
are invisible (control records, compacted ones) so belong to the next record's tile, and the tiles between the floor
and the frontier cover everything: a tile that is not outstanding is done.

The ``ack=auto`` path works on batches; nothing here is done for each of its records unless some come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from math import inf

from kateway.core.delivery.batch import NOT_KNOWN, Ack, Batch, Client, Lease, State
from kateway.core.delivery.in_flight import InFlight
from kateway.core.delivery.leases import Leases
from kateway.core.delivery.moved_leases import Kind, Moved, MovedLease, decode, encode
from kateway.core.delivery.offset_ranges import Ranges
from kateway.core.delivery.redeliveries import Redeliveries
from kateway.errors import Conflict, KatewayError, NotFound
from kateway.model import Committed, Record
from kateway.observe.delivery import DeliveryCells

__all__ = ["Ack", "Batch", "Lease", "Ledger", "State"]

MAX_METADATA_CHARS = 4000
"""A commit's metadata: Kafka refuses more than 4,096 bytes (``offset.metadata.max.bytes``)."""
MAX_REASON_CHARACTERS = 500
REJECTED = "rejected"
"""Why a record goes to the dead letters that its client has rejected."""
ROOM_FOR_RANGES_CHARS = 2500
"""Beyond this nothing fresh is taken: leased records can still make the ranges longer when they are acknowledged."""
MAX_OFFERED = 16
"""Commits without an answer that are remembered, the first ones and the last: two to four in a session of 6 s."""


def reason_of(error: KatewayError | bool) -> str:
    """The reason that a dead letter has, where a transform failed on it."""
    return f"{error.code}: {error.detail}"[:MAX_REASON_CHARACTERS] if isinstance(error, KatewayError) else ""


def _kind(lease: Lease) -> Kind:
    if lease.state is State.WAITING:
        return Kind.PUT_OFF
    return Kind.REJECTED if lease.state is State.DYING and lease.reason == REJECTED else Kind.LEASED


class Ledger:
    """One partition of one group, as long as this process owns it."""

    __slots__ = (
        "carries",
        "cells",
        "committed",
        "done",
        "floor",
        "frontier",
        "in_flight",
        "leases",
        "live",
        "moved_end",
        "offered",
        "origin",
        "partition",
        "redeliveries",
        "stale",
    )  # fmt: skip

    def __init__(self, partition: int, committed: Committed | None = None, max_deliveries: int = 0) -> None:
        self.cells: DeliveryCells | None = None
        """Where is counted what becomes of deliveries."""
        self.leases = Leases(max_deliveries)
        """The records that are tracked one by one."""
        self.partition = partition
        self.floor: int | None = committed.offset if committed else None
        self.frontier = self.floor
        self.origin = self.floor
        """Where a group without committed offset started: not worth a commit."""
        self.done = Ranges.decode(committed.offset, committed.metadata) if committed else Ranges()
        if self.floor is not None:
            self.floor = self.done.absorb(self.floor)
        self.in_flight = InFlight()
        self.redeliveries = Redeliveries()
        """Of records that are read from the store again after batches came back."""
        self.committed = committed
        """The last commit that the store is known to have."""
        self.offered: tuple[Committed, ...] = ()
        """Commits that were sent since, in their order: the store may have each of them, where no answer came."""
        self.carries = False
        """Whether the store's commit carries leases."""
        self.stale = False
        """Whether some of those have ended since: their records are for other clients."""
        self.live = True
        """False while the partition is not ours: nothing can be committed or read then."""
        self.moved_end = 0
        """Behind the last lease that the last owner left; 0 where it left none. Below it, and above the frontier, lie
        records that this owner never delivered.
        """

    # --- taking -------------------------------------------------------------------------------------------------

    def receive(self, records: list[Record], position: int | None) -> tuple[int, list[Record]]:
        """Notes what the store gave: answers where its tiles start and the records that are not done already.

        ``position``: the subscription's, from before; where a group without committed offset starts.
        """
        first = records[0].offset
        frontier = self.frontier
        if frontier is None:
            self.floor = frontier = first if position is None else min(first, position)
            self.origin = first
        elif first < frontier:
            # the partition began anew: a topic deleted and made again, or a log cut short
            self.restart(first)
            frontier = first
        self.frontier = records[-1].offset + 1
        if self.leases.unread:
            self._read_again(records, self.frontier)
        floor = self.floor
        assert floor is not None
        if self.done or floor > first or (self.leases.items and next(reversed(self.leases.items)) >= first):
            # what ranges restored from the last owner's commit hold was read already, and after a rewind some
            # of the records that come again is tracked by itself
            done, items = self.done, self.leases.items
            fresh = [
                record
                for record in records
                if (offset := record.offset) >= floor and offset not in done and offset not in items
            ]
            # behind the last fresh one lie records that are done or leased, and invisible offsets before them
            self._settled_around(fresh[-1].offset + 1 if fresh else frontier, self.frontier)
            return frontier, fresh
        return frontier, records

    def hold(self, moved: Iterable[MovedLease], now: float) -> None:
        """Holds the leases that the last owner left in its commit. Their records lie beyond the frontier: they are read
        with the others, and skipped while their leases hold.
        """
        floor = self.floor
        self.carries = True
        for offset, token, left, attempts, kind in moved:
            if floor is None or offset < floor or offset in self.done or offset in self.leases.items or attempts < 1:
                continue
            lease = Lease(offset, Record(offset, 0, None, None), attempts, now, read=False)
            lease.token = token
            self.leases.track(lease)
            self.moved_end = offset + 1
            if kind is Kind.REJECTED:
                self.leases.doom(lease, REJECTED)
            elif left > 0:
                lease.state = State.WAITING if kind is Kind.PUT_OFF else State.LEASED
                lease.until = now + left
                self.leases.due = min(self.leases.due, lease.until)
            else:
                self.leases.exhausted(lease)

    def _read_again(self, records: list[Record], end: int) -> None:
        """Finds the records of leases that the last owner left among those that were read up to ``end``."""
        found = {record.offset: record for record in records}
        while (lease := self.leases.first_unread(end)) is not None:
            record = found.get(lease.record.offset)
            if record is None:
                if lease.state is State.DYING:
                    # it was promised to the dead letters: their writer asks the store for it
                    self.leases.passed(lease)
                else:
                    # the store has it no more: retention, compaction
                    self.complete(lease)
            elif lease.state is State.READY:
                self.leases.drop(lease)
                self.redeliveries.note(record.offset, lease.attempts)
                self.stale = True
            else:
                self.leases.read(lease, record)

    def begin(self, position: int) -> None:
        """A group without committed offset starts here; known before anything was received."""
        if self.frontier is None:
            self.floor = self.frontier = self.origin = position

    def skip(self, offset: int) -> None:
        """A client says that it has read everything up to and with ``offset``, which this owner never took."""
        if self.floor is not None and self.frontier is not None:
            self._settled_around(max(self.floor, self.frontier), offset + 1)

    def pass_over(self, start: int, stop: int | None = None) -> None:
        """Records from ``start`` up to ``stop`` (the frontier), received just now, are not for this group: those that
        are in no lease's tile are done.
        """
        stop = self.frontier if stop is None else stop
        assert stop is not None
        self._settled_around(start, stop)

    def refuse(self, record: Record, reason: str, now: float) -> None:
        """A record that was received just now goes to the dead-letter queue, and is not done before it is there."""
        lease = Lease(record.offset, record, 0, now)
        self.leases.track(lease)
        self.leases.doom(lease, reason)

    def back_to(self, offset: int) -> None:
        """Records from ``offset`` on, received just now, were not looked at: the store is read from there again."""
        self.frontier = offset

    def screen_ready(self, judge: Callable[[Record], KatewayError | bool | None]) -> None:
        """Judges the records that came back until one is for this group, or the judge has no time (``None``): false
        passes one over, an error sends it to the dead-letter queue.
        """
        while (lease := self.leases.next_ready()) is not None:
            verdict = judge(lease.record)
            if verdict is True or verdict is None:
                return
            heappop(self.leases.ready)
            if verdict is False:
                self.complete(lease)
            else:
                self.leases.doom(lease, reason_of(verdict))

    def fly(self, start: int, records: list[Record], now: float) -> Batch:
        """Hands fresh records to an ``ack=auto`` reader."""
        batch = Batch(
            self.partition, start, records, self.redeliveries.attempts(records) if self.redeliveries else None, now
        )
        self.in_flight.append(batch)
        return batch

    def fly_again(self, max_records: int, max_bytes: int, now: float) -> Batch | None:
        """Hands records whose lease ended to an ``ack=auto`` reader, in order, as far as their tiles touch."""
        items: list[Lease] = []
        size = 0
        while len(items) < max_records:
            lease = self.leases.next_ready()
            if lease is None or (
                items and (lease.start != items[-1].record.offset + 1 or size + lease.size > max_bytes)
            ):
                break
            heappop(self.leases.ready)
            self.leases.drop(lease)
            items.append(lease)
            size += lease.size
        if not items:
            return None
        attempts = [lease.attempts + 1 for lease in items]
        batch = Batch(self.partition, items[0].start, [lease.record for lease in items], attempts, now)
        # leases that readers of another mode left behind end below the records taken since
        self.in_flight.depart(batch)
        return batch

    def lease(
        self, start: int, records: list[Record], token: str, until: float, now: float, holder: Client = NOT_KNOWN
    ) -> Batch:
        """Hands fresh records to an ``ack=explicit`` reader."""
        items = []
        repeated = self.redeliveries.attempts(records) if self.redeliveries else None
        begin = start
        among = self.leases.from_offset(start)
        among.reverse()
        between = bool(among)
        for index, record in enumerate(records):
            while among and among[-1].record.offset < record.offset:
                start = among.pop().record.offset + 1
            lease = Lease(start, record, repeated[index] - 1 if repeated else 0, now)
            start = record.offset + 1
            self.leases.track(lease)
            items.append(lease)
        if between:
            # offsets before the tile of one that was leased already: with no record that is for a reader
            self._settled_around(begin, start)
        return self._leased(items, token, until, now, holder)

    def lease_again(
        self, max_records: int, max_bytes: int, token: str, until: float, now: float, holder: Client = NOT_KNOWN
    ) -> Batch | None:
        """Hands records that came back to an ``ack=explicit`` reader."""
        items: list[Lease] = []
        size = 0
        while len(items) < max_records:
            lease = self.leases.next_ready()
            if lease is None or (items and size + lease.size > max_bytes):
                break
            heappop(self.leases.ready)
            lease.state = State.LEASED
            items.append(lease)
            size += lease.size
        return self._leased(items, token, until, now, holder) if items else None

    def _leased(self, items: list[Lease], token: str, until: float, now: float, holder: Client) -> Batch:
        for lease in items:
            lease.attempts += 1
            lease.state = State.LEASED
            lease.token = token
            lease.until = until
            lease.holder = holder
            lease.sent = False
        self.leases.due = min(self.leases.due, until)
        attempts = [lease.attempts for lease in items]
        batch = Batch(self.partition, items[0].start, [lease.record for lease in items], attempts, now)
        batch.leases = [token] * len(items)
        batch.items = items
        return batch

    def room(self, max_records: int, max_bytes: int) -> int:
        """How many fresh records may still be leased: the window of unacknowledged records, and room for ranges."""
        if self.leases.bytes >= max_bytes:
            return 0
        many = len(self.done) > ROOM_FOR_RANGES_CHARS // 8
        if many and len(self.done.encode(self.floor or 0, 1 << 30)) > ROOM_FOR_RANGES_CHARS:
            return 0
        # those that are not read have to be, before they can be delivered again
        return max(max_records - len(self.leases.items) + len(self.leases.unread), 0)

    # --- settling a batch ---------------------------------------------------------------------------------------

    def settle(self, batch: Batch) -> None:
        """All of a batch has been read by its client. The hot end of ``ack=auto``: one call for each batch."""
        if self.in_flight.land(batch):
            self._settled_around(batch.start, batch.stop)
            if self.cells is not None:
                self.cells.settled(batch.count, batch.since)

    def settle_some(self, batch: Batch, count: int) -> None:
        """The first ``count`` records of a batch that was sent have been read; the others stay where they are."""
        if count >= batch.count:
            self.settle(batch)
        elif count > 0 and batch in self.in_flight:
            self._settled_around(batch.start, batch.behind(count))
            batch.cut(count)
            if self.cells is not None:
                self.cells.settled(count, batch.since)

    def give_back(self, batch: Batch) -> int | None:
        """A batch, and every later one of the partition, goes to the next reader: answers where the store has to be
        read on from, ``None`` where nothing is to be read again. A sent record counts as an attempt.
        """
        if batch.items is not None:
            self._give_back_leases(batch)
            return None
        if batch not in self.in_flight:
            return None
        self.redeliveries.rewind(self.in_flight.turn_back(batch))
        self.frontier = batch.start
        for lease in [lease for lease in self.leases.items.values() if lease.state is State.READY]:
            self._make_ready(lease)  # those above the frontier now are read again, too, so that the order holds
        return batch.start

    def _give_back_leases(self, batch: Batch) -> None:
        assert batch.items is not None
        token = batch.leases[0] if batch.leases else ""
        for lease in batch.items:
            # one that was acknowledged since is not tracked any more
            tracked = self.leases.items.get(lease.record.offset) is lease
            if tracked and lease.state is State.LEASED and lease.token == token:
                lease.attempts -= 0 if batch.sent else 1
                self._make_ready(lease)

    # --- acknowledging a record ---------------------------------------------------------------------------------

    def acknowledge(self, ack: Ack, now: float) -> KatewayError | None:
        """Applies one acknowledgement; returns ``None`` where it is done or was before, else the error."""
        if ack.upto:
            return self.acknowledge_upto(ack.offset)
        lease = self.leases.items.get(ack.offset)
        if lease is None or lease.attempts == 0:
            return self._not_outstanding(ack, lease)
        if ack.lease is not None and ack.lease != lease.token:
            return Conflict("the lease has passed to another reader")
        cells = self.cells
        if ack.outcome == "ack":
            self.complete(lease)
            if cells is not None:
                cells.settled(1, lease.since)
                if lease.read:
                    cells.confirmed(lease.record.timestamp, 1)
        elif lease.state is not State.DYING:
            dead = True
            if ack.outcome == "dead":
                self.leases.doom(lease, REJECTED)
            elif not self.leases.exhausted(lease):
                dead = False
                lease.state = State.WAITING
                lease.until = now + ack.delay_seconds
                self.leases.due = min(self.leases.due, lease.until)
            if cells is not None:
                (cells.group.dead if dead else cells.group.retry).value += 1
        return None

    def is_done(self, offset: int) -> bool:
        """Whether nothing is left to be done with an offset."""
        return self.floor is not None and (offset < self.floor or offset in self.done)

    def _not_outstanding(self, ack: Ack, lease: Lease | None) -> KatewayError | None:
        offset = ack.offset
        if lease is None and self.is_done(offset):
            return None
        for batch in self.in_flight:
            if batch.sent and batch.first <= offset < batch.stop:
                return Conflict("the record is with a reader whose delivery acknowledges it (ack=auto)")
        return NotFound("this gateway has delivered no such record")

    def acknowledge_upto(self, offset: int) -> KatewayError | None:
        """Everything delivered up to and with ``offset`` has been read, by whichever reader."""
        frontier, floor = self.frontier, self.floor
        if frontier is None or floor is None:
            return NotFound("this gateway has delivered no such record")
        delivered_end = max(frontier, floor, self.redeliveries.delivered_end(), self.leases.end())
        if offset >= delivered_end and offset not in self.done:
            return NotFound("this gateway has delivered no such record")
        for batch in list(self.in_flight):
            if batch.start > offset:
                break
            if batch.sent:
                self.settle_some(batch, batch.up_to(offset))
        acknowledged = []
        for number, lease in self.leases.items.items():
            if number > offset:
                break
            if lease.attempts and lease.state is not State.DYING:
                acknowledged.append(lease)
        start = end = -1
        for lease in acknowledged:
            self.leases.drop(lease)
            if self.cells is not None:
                self.cells.settled(1, lease.since)
            if lease.start != end:
                self._settled(start, end)
                start = lease.start
            end = lease.record.offset + 1
        self._settled(start, end)
        if self.moved_end > frontier:
            # between leases that the last owner left lie records that no client may ever have had
            for begin, stop in self.redeliveries.delivered(frontier):
                self._settled_around(begin, min(stop, offset + 1))
        else:
            self.skip(offset)
        return None

    def complete(self, lease: Lease) -> None:
        """A record is acknowledged, or in the dead-letter queue. One that is done already, or gone, is fine."""
        if self.leases.items.get(lease.record.offset) is lease:
            self.leases.drop(lease)
            self._settled(lease.start, lease.record.offset + 1)

    def expire(self, now: float) -> bool:
        """Brings back records leased or put off until now; returns whether some can be taken again.

        Looks at every item, but only when something may be due: a lease is as long as the scan is rare.
        """
        if now < self.leases.due:
            return False
        due = inf
        ready = False
        for lease in list(self.leases.items.values()):
            if lease.state is State.LEASED or lease.state is State.WAITING:
                if lease.until > now:
                    due = min(due, lease.until)
                    continue
                leased = lease.state is State.LEASED
                lease.attempts = lease.deliveries  # unsent, it has waited for a client that had no room
                exhausted = self.leases.exhausted(lease)
                if not exhausted:
                    self._make_ready(lease)
                    ready = True
                if leased and self.cells is not None:
                    (self.cells.group.dead if exhausted else self.cells.group.expired).value += 1
        self.leases.due = due
        return ready

    # --- committing ---------------------------------------------------------------------------------------------

    def outstanding(self) -> bool:
        """Whether anything below the frontier is not done."""
        return bool(self.in_flight or self.leases.items)

    def step(self, position: int | None) -> None:
        """With everything taken done, steps over invisible offsets behind the last record."""
        if position is not None and self.leases.unread:
            self._read_again([], position)
        floor, frontier = self.floor, self.frontier
        if position is None or floor is None or frontier is None or floor < frontier or position <= floor:
            return
        # leases that stayed out when reading was rewound keep their records, also where the store has them no more
        self._settled_around(floor, position)
        self.frontier = position

    def to_commit(self) -> Committed | None:
        """What a commit would say now; ``None`` where the store has it already."""
        if self.floor is None:
            return None
        if self.committed is None and self.floor == self.origin and not self.done:
            return None
        committed = self.committed
        if committed is not None and not self.done and committed.offset == self.floor and not self.outdated:
            return None
        now = self.place()
        return None if now == self.committed else now

    @property
    def outdated(self) -> bool:
        """Whether the store's commit has leases that have ended: after a kill the next owner would hold them, against
        the clients that have the records by now.
        """
        return self.carries and self.stale

    def place(self) -> Committed | None:
        """Returns how far everything is done, and the ranges beyond; ``None`` before anything is known."""
        return None if self.floor is None else Committed(self.floor, self.done.encode(self.floor, MAX_METADATA_CHARS))

    def last_place(self, now: float, wall_ms: float) -> tuple[Committed | None, int]:
        """Returns what the last commit before a planned move says, leases included, and how many leases did not fit.

        Also where a group has only begun, if records are with readers, so that a move by another member is seen when
        the partition comes back.
        """
        if self.floor is None:
            return None, 0
        leases = []
        for offset, lease in self.leases.items.items():
            # one that no client is known to have is for the next owner's readers at once
            if deliveries := lease.deliveries:
                left = lease.until - now if lease.until < inf and not lease.unsent else 0.0
                leases.append(MovedLease(offset, lease.token, left, deliveries, _kind(lease)))
        if not leases:
            return (self.place() if self.begun else self.to_commit()), 0
        moved = Moved(int(wall_ms), self.leases.max_deliveries, leases)
        text, left_out = encode(self.floor, self.done, moved, MAX_METADATA_CHARS)
        return Committed(self.floor, text), left_out

    def offer(self, place: Committed) -> None:
        """Notes that a commit is sent."""
        if place not in self.offered[-1:]:
            # the first ones stay: a coordinator that went has stored these, if any
            self.offered = (*self.offered[: MAX_OFFERED - 1], place)

    def confirm(self, place: Committed) -> None:
        """Notes that the store has a commit: none that was sent before it can take its place any more."""
        self.committed = place
        self.carries = False
        if place in self.offered:
            self.offered = self.offered[self.offered.index(place) + 1 :]

    def is_ours(self, committed: Committed | None) -> bool:
        """Whether the store may have this from us: another member that moved the partition on left something else."""
        return committed == self.committed or committed in self.offered or committed == self.place()

    @property
    def begun(self) -> bool:
        """Whether records are with readers of a group that has committed nothing yet."""
        return self.committed is None and bool(self.leases.items or self.in_flight)

    @property
    def worth_keeping(self) -> bool:
        """Whether anything is known of the partition beyond the committed offset in the store."""
        return bool(self.in_flight or self.leases.items or self.redeliveries) or self.to_commit() is not None

    def come_back(self, committed: Committed | None) -> None:
        """The partition is ours again, and no other member has moved it on."""
        self.live = True
        if committed is not None:
            self.confirm(committed)
            # where the last commit brought them there: no other owner needs them now, and from here on they change
            self.carries = self.stale = bool(decode(committed.offset, committed.metadata).leases)
        self.leases.dying = [lease for lease in self.leases.items.values() if lease.state is State.DYING]

    def oldest_ms(self) -> int | None:
        """Returns the timestamp of the first record that is not done; ``None`` where none is with readers, or it is not
        known.
        """
        found = [batch.timestamp for batch in self.in_flight]
        for lease in self.leases.items.values():
            if not lease.read:
                return None
            found.append(lease.record.timestamp)
            break
        return min(found, default=None)

    def unacknowledged(self, now: float) -> tuple[int, float]:
        """How many records are with readers, and for how many seconds the oldest."""
        count = 0
        since = now
        for batch in self.in_flight:
            count += batch.count
            since = min(since, batch.since)
        for lease in self.leases.items.values():
            count += 1
            since = min(since, lease.since)
        return count, max(now - since, 0.0)

    @property
    def undecided(self) -> bool:
        """Whether something of a batch may still be heard that a last commit would say: what its client has read, or,
        of leased records that went to another gateway, that its client has them.
        """
        return bool(self.in_flight) or any(lease.unsent for lease in self.leases.items.values())

    def busy(self) -> bool:
        """Whether a reader still has a record of this partition, or one is on its way to the dead letters."""
        if self.in_flight:
            return True
        return any(lease.state is State.LEASED or lease.state is State.DYING for lease in self.leases.items.values())

    def restart(self, offset: int) -> None:
        """Forgets everything: the partition goes on from ``offset``."""
        self.in_flight.clear()
        self.leases.drop_all()
        self.done.clear()
        self.redeliveries.clear()
        self.moved_end = 0
        self.stale = True
        self.floor = self.frontier = self.origin = offset

    # --- inside -------------------------------------------------------------------------------------------------

    def _settled(self, start: int, end: int) -> None:
        floor = self.floor
        if floor is None:
            return
        if start <= floor and not self.done:
            if end > floor:
                self.floor = end
            return
        self.done.add(max(start, floor), end)
        self.floor = self.done.absorb(floor)

    def _settled_around(self, start: int, end: int) -> None:
        for piece in self.leases.around(start, end):
            self._settled(*piece)

    def _make_ready(self, lease: Lease) -> None:
        lease.state = State.READY
        lease.until = inf
        offset = lease.record.offset
        if not lease.read:
            return  # it comes, with the others and in order, when the store has been read up to it
        self.stale = True
        if self.frontier is None or offset < self.frontier:
            heappush(self.leases.ready, offset)
            return
        # the store is read from below it again: it comes with the others, in order
        self.leases.drop(lease)
        self.redeliveries.note(offset, lease.attempts)
