"""Retains the state of partitions that are not ours just now, in case they come back as they went.

In an eager group each member that comes or goes takes all partitions from all members for a moment; a group without
readers is left after a while. Records in flight, leases, delays and counts of attempts, and commits that were refused
meanwhile, are known to this process only. A partition that comes back with the committed offset that it went with has
not been moved on by another member: then it goes on as if nothing had been. Records that another member has delivered
of it meanwhile come twice at most.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kateway.core.delivery.ledger import Ledger
from kateway.core.groups.dispatch import OwnedPartition
from kateway.model import Committed
from kateway.storage.interface import RECORD_OVERHEAD_BYTES

AWAY_SECONDS = 5.0
"""How long an acknowledgement waits for a partition that was taken away: a rebalance where all members live."""
RETAINED_SECONDS = 300.0
MAX_RETAINED_BYTES = 64 << 20
"""Of all retained records, ``RECORD_OVERHEAD_BYTES`` for each; the oldest partition goes first."""


class RetainedState:
    """Ledgers by group and partition, with the reader that the records in flight were sent to."""

    def __init__(
        self, clock: IReactorTime, *, seconds: float = RETAINED_SECONDS, max_bytes: int = MAX_RETAINED_BYTES
    ) -> None:
        self._clock = clock
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[Hashable, int], tuple[OwnedPartition, int, float]] = OrderedDict()
        # with the bytes that it counts for, and until when
        self._bytes = 0
        self._expiring: IDelayedCall | None = None

    def keep(self, group: Hashable, owned: OwnedPartition) -> None:
        """Retains the state of a partition that has gone."""
        delivery = owned.delivery
        self._forget(group, owned.partition)
        if not delivery.worth_keeping:
            return
        owned.readable = False
        size = delivery.leases.bytes + RECORD_OVERHEAD_BYTES * len(delivery.leases.items)
        self._kept[group, owned.partition] = (owned, size, self._clock.seconds() + self._seconds)
        self._bytes += size
        if self._expiring is None:
            self._expiring = self._clock.callLater(self._seconds, self._expire)
        while self._bytes > self._max_bytes:
            self._forget(*next(iter(self._kept)))

    def find(self, group: Hashable, partition: int) -> Ledger | None:
        """Returns the ledger of a partition that has gone, where it is retained."""
        found = self._kept.get((group, partition))
        return None if found is None else found[0].delivery

    def take_back(self, group: Hashable, partition: int, committed: Committed | None) -> OwnedPartition | None:
        """Returns the state of a partition that is ours again; ``None`` where another member has moved it on."""
        found = self._forget(group, partition)
        if found is None:
            return None
        delivery = found[0].delivery
        if not delivery.is_ours(committed):
            return None
        delivery.come_back(committed)
        return found[0]

    def forget(self, group: Hashable) -> None:
        """A group was moved, or its topic is gone."""
        for key in [key for key in self._kept if key[0] == group]:
            self._forget(*key)

    def stop(self) -> None:
        """Retains nothing any more."""
        self._kept.clear()
        self._bytes = 0
        if self._expiring is not None:
            self._expiring.cancel()
            self._expiring = None

    def _expire(self) -> None:
        self._expiring = None
        now = self._clock.seconds()
        while self._kept:
            key, (_owned, _bytes, until) = next(iter(self._kept.items()))
            if until > now:
                self._expiring = self._clock.callLater(until - now, self._expire)
                return
            self._forget(*key)

    def _forget(self, group: Hashable, partition: int) -> tuple[OwnedPartition, int, float] | None:
        found = self._kept.pop((group, partition), None)
        if found is not None:
            self._bytes -= found[1]
        return found


class Rebalancing:
    """Whether a group's partitions were taken away a moment ago and may be back in another."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._until = float("-inf")
        self._waiting: list[Deferred[None]] = []

    def __bool__(self) -> bool:
        return self._clock.seconds() < self._until

    def begin(self) -> None:
        self._until = self._clock.seconds() + AWAY_SECONDS

    def end(self) -> None:
        """Some are back, or none will come."""
        self._until = float("-inf")
        waiting, self._waiting = self._waiting, []
        for back in waiting:
            back.callback(None)

    def over(self) -> Deferred[None]:
        """Fires when it has ended, or after ``AWAY_SECONDS``."""
        back: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(back)
        return back.addTimeout(
            max(self._until - self._clock.seconds(), 0), self._clock, lambda _failure, _seconds: None
        )
