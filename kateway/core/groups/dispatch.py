"""Dispatches the records of a group's partitions to its readers: redeliveries first, then new records at hand."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from itertools import count

from twisted.internet.interfaces import IReactorTime

from kateway.config.schema import DeliveryConfig
from kateway.core.delivery.batch import Batch
from kateway.core.delivery.ledger import Ledger
from kateway.core.groups.reader import Reader
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

    def __init__(self, clock: IReactorTime, config: DeliveryConfig, advanced: Callable[[], None]) -> None:
        self.subscription: Subscription | None = None
        self.owned_partitions: dict[int, OwnedPartition] = {}
        self.all: list[OwnedPartition] = []
        """The same in the order of their numbers."""
        self.portions: dict[Reader, Portion] = {}
        """Of every reader; of one with ``ack=explicit``, which takes from all, only the turn counts."""
        self._clock = clock
        self._config = config
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
        portion = self.portions[reader]
        owned_partitions = portion.owned_partitions if auto else self.all
        number = len(owned_partitions)
        for step in range(number):
            owned = owned_partitions[(portion.turn + step) % number]
            if auto:
                batch = self._take_auto(owned, reader, max_records, max_bytes)
            else:
                batch = self._take_explicit(owned, reader, max_records, max_bytes)
            if batch is not None:
                portion.turn = (portion.turn + step + 1) % number
                return batch
        return None

    def expects(self, reader: Reader) -> bool:
        """Whether it is not known yet which partitions are ours or where they end, or some records are not here yet."""
        if self.subscription is None or not self.all:
            return True
        owned_partitions = self.portions[reader].owned_partitions if reader.mode == "auto" else self.all
        return any(self.subscription.lag(owned.partition) != 0 for owned in owned_partitions)

    def pause(self, reader: Reader) -> None:
        """Drops the prefetched records for a reader, until it takes again."""
        if self.subscription is not None:
            for owned in self.portions[reader].owned_partitions:
                self.subscription.pause(owned.partition)
                owned.readable = True  # no ``readable`` comes before there was a take

    def _take_auto(self, owned: OwnedPartition, reader: Reader, max_records: int, max_bytes: int) -> Batch | None:
        delivery = owned.delivery
        if delivery.in_flight and owned.sent_to is not reader:
            return None
        batch = None
        if delivery.leases.items and delivery.leases.has_ready():
            batch = delivery.fly_again(max_records, max_bytes, self._clock.seconds())
        if batch is None:
            found = self._fresh(owned, reader, max_records, max_bytes)
            if found is None:
                return None
            batch = delivery.fly(*found, self._clock.seconds())
        owned.sent_to = reader
        return batch

    def _take_explicit(self, owned: OwnedPartition, reader: Reader, max_records: int, max_bytes: int) -> Batch | None:
        delivery = owned.delivery
        if delivery.in_flight:
            return None
        now = self._clock.seconds()
        until = now + reader.ack_timeout
        token = f"{_PROCESS}{next(_LEASES):x}"
        batch = None
        if delivery.leases.has_ready():
            batch = delivery.lease_again(max_records, max_bytes, token, until, now)
        else:
            room = delivery.room(self._config.max_unacknowledged_records, self._config.max_unacknowledged_bytes)
            found = self._fresh(owned, reader, min(max_records, room), max_bytes) if room else None
            if found is not None:
                batch = delivery.lease(*found, token, until, now)
        return batch

    def _fresh(
        self, owned: OwnedPartition, reader: Reader, max_records: int, max_bytes: int
    ) -> tuple[int, list[Record]] | None:
        subscription = self.subscription
        assert subscription is not None
        delivery = owned.delivery
        partition = owned.partition
        while owned.readable:
            position = None
            if delivery.frontier is None or reader.read_up_to:
                position = subscription.position(partition)
                self._came_back(reader, owned, position)
            records = subscription.take(partition, max_records, max_bytes)
            if not records:
                owned.readable = False
                if delivery.committed is not None and not delivery.outstanding():
                    self._advanced()  # perhaps there were invisible records
                return None
            start, fresh = delivery.receive(records, position)
            if fresh:
                return start, fresh
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
