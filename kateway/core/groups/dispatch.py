"""Takes records from a group's partitions for its readers: what came back first, then what the store has at hand."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from itertools import count

from twisted.internet.interfaces import IReactorTime

from kateway.config.schema import DeliveryConfig
from kateway.core.delivery.batch import Taken
from kateway.core.delivery.ledger import Delivery
from kateway.core.groups.reader import Reader
from kateway.model import Record
from kateway.storage.interface import Subscription

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


class Feeding:
    """The partitions that are ours, and how readers take from them."""

    def __init__(self, clock: IReactorTime, config: DeliveryConfig, advanced: Callable[[], None]) -> None:
        self.subscription: Subscription | None = None
        self.shares: dict[int, Share] = {}
        self.all: list[Share] = []
        """The same in the order of their numbers."""
        self._clock = clock
        self._config = config
        self._advanced = advanced
        # told when a partition went on without a delivery: there may be something to commit

    def add(self, share: Share) -> None:
        self.shares[share.partition] = share
        self.all = [self.shares[partition] for partition in sorted(self.shares)]

    def remove(self, partitions: Iterable[int]) -> list[Share]:
        """Takes partitions away; answers those of them that were ours."""
        removed = [self.shares.pop(partition) for partition in partitions if partition in self.shares]
        self.all = [self.shares[partition] for partition in sorted(self.shares)]
        return removed

    def take(self, reader: Reader, max_records: int, max_bytes: int) -> Taken | None:
        """The next batch for a reader, from its partitions (all, with ``ack=explicit``) in turn."""
        auto = reader.mode == "auto"
        shares = reader.shares if auto else self.all
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

    def expects(self, reader: Reader) -> bool:
        """Whether it is not known yet which partitions are ours or where they end, or some records are not here yet."""
        if self.subscription is None or not self.all:
            return True
        shares = reader.shares if reader.mode == "auto" else self.all
        return any(self.subscription.lag(share.partition) != 0 for share in shares)

    def rest(self, reader: Reader) -> None:
        """Lets go of what is read ahead for a reader, until it takes again."""
        if self.subscription is not None:
            for share in reader.shares:
                self.subscription.rest(share.partition)
                share.readable = True  # nobody will be told of anything before there was a take

    def _take_auto(self, share: Share, reader: Reader, max_records: int, max_bytes: int) -> Taken | None:
        delivery = share.delivery
        if delivery.flights and share.holder is not reader:
            return None
        taken = None
        if delivery.items and delivery.has_ready():
            taken = delivery.fly_again(max_records, max_bytes, self._clock.seconds())
        if taken is None:
            found = self._fresh(share, reader, max_records, max_bytes)
            if found is None:
                return None
            taken = delivery.fly(*found, self._clock.seconds())
        share.holder = reader
        return taken

    def _take_explicit(self, share: Share, reader: Reader, max_records: int, max_bytes: int) -> Taken | None:
        delivery = share.delivery
        if delivery.flights:
            return None
        now = self._clock.seconds()
        until = now + reader.ack_timeout
        token = f"{_PROCESS}{next(_LEASES):x}"
        taken = None
        if delivery.has_ready():
            taken = delivery.lease_again(max_records, max_bytes, token, until, now)
        else:
            room = delivery.room(self._config.max_unacknowledged_records, self._config.max_unacknowledged_bytes)
            found = self._fresh(share, reader, min(max_records, room), max_bytes) if room else None
            if found is not None:
                taken = delivery.lease(*found, token, until, now)
        return taken

    def _fresh(self, share: Share, reader: Reader, max_records: int, max_bytes: int) -> tuple[int, list[Record]] | None:
        subscription = self.subscription
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
                    self._advanced()  # perhaps there was something that nobody may see
                return None
            start, fresh = delivery.receive(records, position)
            if fresh:
                return start, fresh
            self._advanced()
        return None

    def _came_back(self, reader: Reader, share: Share, position: int | None) -> None:
        """A client said what it had read before: skip it where this process does not know it delivered it."""
        offset = reader.read_up_to.pop(share.partition, None)
        subscription = self.subscription
        if offset is None or position is None or subscription is None:
            return
        lag = subscription.lag(share.partition)
        # no client is believed beyond the end: what will be written there it cannot have read
        if lag is not None and offset < position + lag:
            share.delivery.begin(position)
            share.delivery.skip(offset)

    def step(self, shares: Iterable[Share]) -> None:
        """Steps over what nobody may see, wherever everything taken is done and something was committed or can be."""
        for share in shares:
            delivery = share.delivery
            if self.subscription is not None and (delivery.committed or delivery.to_commit()):
                delivery.step(self.subscription.position(share.partition))

    def give_back(self, taken: Taken) -> Share | None:
        """A batch goes to the next reader, in order, before everything later; answers whose partition can be fed."""
        offset = taken.delivery.give_back(taken)
        share = self.shares.get(taken.partition)
        if share is None or share.delivery is not taken.delivery:
            return None
        if offset is not None and self.subscription is not None:
            self.subscription.seek(taken.partition, offset)
            share.readable = True
        return share
