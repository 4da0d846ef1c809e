"""What is known of the records of partitions that are not ours just now, in case they come back as they went.

In the group protocol each member that comes or goes takes all partitions from everybody for a moment; a group that
nobody reads is left after a while. Leases, delays and counts of attempts are known to nobody else. A partition that
comes back with the committed place that it went with has not been moved on by others in between: then it goes on as if
nothing had been. Whatever others have delivered of it meanwhile comes twice at most.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kateway.core.delivery.ledger import Delivery
from kateway.model import Committed

AWAY_SECONDS = 5.0
"""How long an acknowledgement waits for a partition that was taken away: a rebalance where all members live."""
KEPT_SECONDS = 300.0
MOST_BYTES = 64 << 20
"""Of the records of all that is kept; the oldest goes first."""


class RetainedState:
    """Deliveries by group and partition."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._kept: OrderedDict[tuple[Hashable, int], tuple[Delivery, int, float]] = OrderedDict()
        # with the bytes that it counts for, and until when
        self._bytes = 0
        self._expiring: IDelayedCall | None = None

    def keep(self, group: Hashable, delivery: Delivery) -> None:
        """A partition has gone. What is on its way to ``ack=auto`` readers comes again from the committed offset."""
        self._forget(group, delivery.partition)
        if delivery.flights or not (delivery.items or delivery.repeats):
            return
        self._kept[group, delivery.partition] = (delivery, delivery.bytes, self._clock.seconds() + KEPT_SECONDS)
        self._bytes += delivery.bytes
        if self._expiring is None:
            self._expiring = self._clock.callLater(KEPT_SECONDS, self._expire)
        while self._bytes > MOST_BYTES:
            self._forget(*next(iter(self._kept)))

    def take_back(self, group: Hashable, partition: int, committed: Committed | None) -> Delivery | None:
        """What was kept of a partition that is ours again; ``None`` where that does not hold any more."""
        found = self._forget(group, partition)
        if found is None:
            return None
        delivery = found[0]
        if committed is None or committed not in {delivery.committed, delivery.place()}:
            return None
        delivery.come_back(committed)
        return delivery

    def forget(self, group: Hashable) -> None:
        """A group was moved, or its topic is gone."""
        for key in [key for key in self._kept if key[0] == group]:
            self._forget(*key)

    def stop(self) -> None:
        """Keeps nothing any more."""
        self._kept.clear()
        self._bytes = 0
        if self._expiring is not None:
            self._expiring.cancel()
            self._expiring = None

    def _expire(self) -> None:
        self._expiring = None
        now = self._clock.seconds()
        while self._kept:
            key, (_delivery, _bytes, until) = next(iter(self._kept.items()))
            if until > now:
                self._expiring = self._clock.callLater(until - now, self._expire)
                return
            self._forget(*key)

    def _forget(self, group: Hashable, partition: int) -> tuple[Delivery, int, float] | None:
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
