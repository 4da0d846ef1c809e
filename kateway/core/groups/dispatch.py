"""Dispatches the records of a group's partitions to its readers: redeliveries first, then new records at hand."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from itertools import count

from twisted.internet.interfaces import IReactorTime

from kateway.config.schema import DeliveryConfig
from kateway.core.delivery.batch import Batch, Client
from kateway.core.delivery.ledger import Ledger, reason_of
from kateway.core.groups.reader import Reader
from kateway.core.groups.screening import screen
from kateway.core.transforms.in_force import Failed, Outgoing, Shown
from kateway.errors import KatewayError
from kateway.loop_turns import LoopTurns
from kateway.model import Record
from kateway.storage.interface import Subscription

_PROCESS = secrets.token_hex(4)
_LEASES = count(1)


class OwnedPartition:
    """A partition of ours: its ledger, the reader that it is assigned to, and whether there is something to take."""

    __slots__ = ("assigned_to", "delivery", "partition", "readable", "sent_to")

    def __init__(self, partition: int, delivery: Ledger) -> None:
        self.partition = partition
        self.delivery = delivery
        self.readable = False
        self.assigned_to: Reader | None = None
        """The ``ack=auto`` reader that it belongs to, as soon as nothing of another's is unsettled."""
        self.sent_to: Reader | None = None
        """The reader of the unsettled records."""


class Portion:
    """The partitions that an ``ack=auto`` reader takes from, and the one whose turn it is."""

    __slots__ = ("owned_partitions", "turn")

    def __init__(self) -> None:
        self.owned_partitions: list[OwnedPartition] = []
        self.turn = 0


class Dispatch:
    """The partitions that are ours, and how readers take from them."""

    def __init__(
        self, clock: IReactorTime, config: DeliveryConfig, turns: LoopTurns, advanced: Callable[[], None]
    ) -> None:
        self.subscription: Subscription | None = None
        self.owned_partitions: dict[int, OwnedPartition] = {}
        self.all: list[OwnedPartition] = []
        """The same in the order of their numbers."""
        self.portions: dict[Reader, Portion] = {}
        """Of every reader; of one with ``ack=explicit``, which takes from all, only the turn counts."""
        self._clock = clock
        self._config = config
        self.unfinished = False
        """The last ``take`` ended before all at hand was examined: it is to be repeated in the reader's turn."""
        self.refused: dict[Ledger, None] = {}
        """Ledgers with records that a transform refused since they were last looked at."""
        self._turns = turns
        self._advanced = advanced
        # told when a partition went on without a delivery: there may be something to commit

    def add(self, owned: OwnedPartition) -> None:
        self.owned_partitions[owned.partition] = owned
        self.all = [self.owned_partitions[partition] for partition in sorted(self.owned_partitions)]

    def remove(self, partitions: Iterable[int]) -> list[OwnedPartition]:
        """Takes partitions away; answers those of them that were ours."""
        removed = [
            self.owned_partitions.pop(partition) for partition in partitions if partition in self.owned_partitions
        ]
        self.all = [self.owned_partitions[partition] for partition in sorted(self.owned_partitions)]
        return removed

    def take(self, reader: Reader, max_records: int, max_bytes: int) -> Batch | None:
        """The next batch for a reader, from its partitions (all, with ``ack=explicit``) in turn."""
        auto = reader.mode == "auto"
        self.unfinished = False
        outgoing = reader.outgoing()
        if outgoing is not None and not self._turns.begin():
            self.unfinished = True
            return None
        portion = self.portions[reader]
        owned_partitions = portion.owned_partitions if auto else self.all
        number = len(owned_partitions)
        for step in range(number):
            owned = owned_partitions[(portion.turn + step) % number]
            if auto:
                batch = self._take_auto(owned, reader, outgoing, max_records, max_bytes)
            else:
                batch = self._take_explicit(owned, reader, outgoing, max_records, max_bytes)
            if batch is not None:
                portion.turn = (portion.turn + step + 1) % number
                return batch
            if self.unfinished:
                # what was done beside examining, such as decoding, is the slice's time, too
                self._turns.examined(0)
                portion.turn = (portion.turn + step + 1) % number
                return None
        return None

    def expects(self, reader: Reader, ends: Mapping[int, int]) -> bool:
        """Whether it is not known yet which partitions are ours or where they end, or some records are not here yet:
        as the subscription heard last, or of those that lie before ``ends``.
        """
        subscription = self.subscription
        if subscription is None or not self.all:
            return True
        owned_partitions = self.portions[reader].owned_partitions if reader.mode == "auto" else self.all
        for owned in owned_partitions:
            partition = owned.partition
            if subscription.lag(partition) != 0 or (subscription.position(partition) or 0) < ends.get(partition, 0):
                return True
        return False

    def pause(self, reader: Reader) -> None:
        """Drops the prefetched records for a reader, until it takes again."""
        if self.subscription is not None:
            for owned in self.portions[reader].owned_partitions:
                self.subscription.pause(owned.partition)
                owned.readable = True  # no ``readable`` comes before there was a take

    def _take_auto(
        self, owned: OwnedPartition, reader: Reader, outgoing: Outgoing | None, max_records: int, max_bytes: int
    ) -> Batch | None:
        delivery = owned.delivery
        if delivery.in_flight and owned.sent_to is not reader:
            return None
        batch = None
        shown: list[Record] | None = None
        if delivery.leases.items:
            if outgoing is not None:
                shown = self._screen_ready(owned, reader, outgoing)
                if self.unfinished:
                    return None
            if delivery.leases.has_ready():
                # one that was examined is alone: those behind it were not
                most = max_records if outgoing is None else 1
                batch = delivery.fly_again(most, max_bytes, self._clock.seconds())
            elif outgoing is not None and not self._room(delivery):
                return None
        if batch is None:
            found = self._fresh(owned, reader, outgoing, max_records, max_bytes)
            if found is None:
                return None
            start, kept, shown = found
            batch = delivery.fly(start, kept, self._clock.seconds())
        if shown is not None:
            batch.records = shown
        owned.sent_to = reader
        return batch

    def _take_explicit(
        self, owned: OwnedPartition, reader: Reader, outgoing: Outgoing | None, max_records: int, max_bytes: int
    ) -> Batch | None:
        delivery = owned.delivery
        if delivery.in_flight:
            return None
        batch = None
        shown: list[Record] | None = None
        back = delivery.leases.next_ready()
        # taken for another response, and not sent in it
        passed_by = back is not None and not back.attempts and reader.is_beyond(owned.partition, back.record.offset)
        if outgoing is not None and not passed_by:
            shown = self._screen_ready(owned, reader, outgoing)
            if self.unfinished:
                return None
        if not passed_by and delivery.leases.has_ready():
            most = max_records if outgoing is None else 1
            batch = delivery.lease_again(most, max_bytes, *self._terms(reader))
        elif room := self._room(delivery):
            found = self._fresh(owned, reader, outgoing, min(max_records, room), max_bytes)
            if found is not None:
                start, kept, shown = found
                batch = delivery.lease(start, kept, *self._terms(reader))
                if outgoing is not None:
                    # between those that are leased and those that were refused lie records that are not for this group
                    delivery.pass_over(start, batch.stop)
        if batch is not None and shown is not None:
            batch.records = shown
        return batch

    def _terms(self, reader: Reader) -> tuple[str, float, float, Client]:
        """The token of a new lease, when it runs out, when it began and its client."""
        now = self._clock.seconds()
        return f"{_PROCESS}{next(_LEASES):x}", now + reader.ack_timeout, now, reader.client

    def _room(self, delivery: Ledger) -> int:
        return delivery.room(self._config.max_unacknowledged_records, self._config.max_unacknowledged_bytes)

    def _screen_ready(self, owned: OwnedPartition, reader: Reader, outgoing: Outgoing) -> list[Record] | None:
        """Examines the records that came back, as the transforms may be others by now; gives the next one as it is
        shown.
        """
        shown: list[Record] | None = None

        def judge(record: Record) -> KatewayError | bool | None:
            nonlocal shown
            if not self._turns.left:
                self.unfinished = True
                return None
            self._turns.examined(1)
            outcome = outgoing.show(record, owned.partition, reader.wall_clock())
            if isinstance(outcome, Failed):
                if outcome.on_error == "stop":
                    raise outcome.error
                return outcome.error
            if isinstance(outcome, Shown):
                shown = [outcome.record]
            return shown is not None

        leases = owned.delivery.leases
        dying, there = len(leases.dying), len(leases.items)
        owned.delivery.screen_ready(judge)
        if len(leases.dying) > dying:
            self.refused[owned.delivery] = None
        if len(leases.items) < there:
            self._advanced()
        return shown

    def _screened(
        self, owned: OwnedPartition, reader: Reader, outgoing: Outgoing, start: int, fresh: list[Record]
    ) -> tuple[list[Record], list[Record]]:
        """Examines fresh records: gives those for this group as they are stored, and as its readers see them."""
        delivery = owned.delivery
        assert self.subscription is not None
        try:
            screened = screen(self._turns, outgoing, owned.partition, fresh, reader.wall_clock())
        except BaseException:
            # they were received and are with no reader: else the commit would wait for them for ever
            delivery.back_to(fresh[0].offset)
            self.subscription.seek(owned.partition, fresh[0].offset)
            raise
        if screened.examined < len(fresh):
            offset = fresh[screened.examined].offset
            delivery.back_to(offset)
            self.subscription.seek(owned.partition, offset)
        for record, error in screened.refused:
            delivery.refuse(record, reason_of(error), self._clock.seconds())
            self.refused[delivery] = None
        kept = screened.kept
        delivery.pass_over(kept[-1].offset + 1 if kept else start)
        if not kept and screened.stopped is not None:
            raise screened.stopped
        return kept, screened.shown

    def _fresh(
        self, owned: OwnedPartition, reader: Reader, outgoing: Outgoing | None, max_records: int, max_bytes: int
    ) -> tuple[int, list[Record], list[Record]] | None:
        """The next records that were not done before: where their tiles start, the records, and as they are shown."""
        subscription = self.subscription
        assert subscription is not None
        delivery = owned.delivery
        partition = owned.partition
        while owned.readable:
            position = None
            if delivery.frontier is None or reader.read_up_to:
                position = subscription.position(partition)
                self._came_back(reader, owned, position)
            if outgoing is not None:
                max_records = min(max_records, self._turns.left)
                if not max_records:
                    self.unfinished = True
                    return None
            records = subscription.take(partition, max_records, max_bytes)
            if not records:
                owned.readable = False
                if delivery.committed is not None and not delivery.outstanding():
                    self._advanced()  # perhaps there were invisible records
                return None
            start, fresh = delivery.receive(records, position)
            if fresh and outgoing is not None:
                fresh, shown = self._screened(owned, reader, outgoing, start, fresh)
                if fresh:
                    return start, fresh, shown
            elif fresh:
                return start, fresh, fresh
            self._advanced()
        return None

    def _came_back(self, reader: Reader, owned: OwnedPartition, position: int | None) -> None:
        """A client said what it had read before: skip it where this process does not know it delivered it."""
        offset = reader.read_up_to.pop(owned.partition, None)
        subscription = self.subscription
        if offset is None or position is None or subscription is None:
            return
        lag = subscription.lag(owned.partition)
        # no client is believed beyond the end: it cannot have read records that are yet to be written
        if lag is not None and offset < position + lag:
            owned.delivery.begin(position)
            owned.delivery.skip(offset)

    def step(self, owned_partitions: Iterable[OwnedPartition]) -> None:
        """Steps over invisible records, wherever everything taken is done and something was committed or can be."""
        for owned in owned_partitions:
            delivery = owned.delivery
            if self.subscription is not None and (delivery.committed or delivery.to_commit()):
                delivery.step(self.subscription.position(owned.partition))

    def give_back(self, batch: Batch) -> OwnedPartition | None:
        """Gives a batch to the next reader, in order, before everything later; returns a partition to take from."""
        owned = self.owned_partitions.get(batch.partition)
        if owned is None:
            return None
        offset = owned.delivery.give_back(batch)
        if offset is not None and self.subscription is not None:
            self.subscription.seek(batch.partition, offset)
            owned.readable = True
        return owned
