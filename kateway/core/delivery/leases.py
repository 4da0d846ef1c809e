"""The records of a partition that are tracked by themselves, in the order of their offsets."""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop
from math import inf

from kateway.core.delivery.batch import Lease, State
from kateway.model import Record


class Leases:
    """Items by offset, how many bytes they keep, and which of them wait for a reader."""

    __slots__ = ("bytes", "due", "dying", "items", "max_deliveries", "ready", "unread")

    def __init__(self, max_deliveries: int = 0) -> None:
        self.max_deliveries = max_deliveries
        """Hand a record out so often at most, with ``ack=explicit``; 0: without end."""
        self.items: OrderedDict[int, Lease] = OrderedDict()
        self.unread: OrderedDict[int, Lease] = OrderedDict()
        """Those of them that the last owner left, in the same order, until their records are read from the store."""
        self.bytes = 0
        """Of the items' keys and values."""
        self.ready: list[int] = []
        """A heap of the offsets of items that may be READY; stale ones are skipped when they come up."""
        self.due = inf
        """No lease and no delay ends before this."""
        self.dying: list[Lease] = []
        """To be written to the dead-letter queue by the owner of the leases."""

    def has_ready(self) -> bool:
        """Whether records that came back wait for a reader."""
        return self.next_ready() is not None

    def track(self, lease: Lease) -> None:
        items = self.items
        out_of_order = bool(items) and next(reversed(items)) > lease.record.offset
        items[lease.record.offset] = lease
        self.bytes += lease.size
        if not lease.read:
            self.unread[lease.record.offset] = lease
        if out_of_order:
            # a batch came back below records that are tracked already: rare, and never more than one window
            self.items = OrderedDict(sorted(items.items()))

    def drop(self, lease: Lease) -> None:
        del self.items[lease.record.offset]
        self.bytes -= lease.size
        if not lease.read:
            self.unread.pop(lease.record.offset, None)

    def handed_out(self) -> int:
        """How many were with a client at least once."""
        return sum(1 for lease in self.items.values() if lease.deliveries)

    def first_unread(self, end: int) -> Lease | None:
        """The first one below ``end`` whose record was not read."""
        lease = next(iter(self.unread.values()), None)
        return lease if lease is not None and lease.record.offset < end else None

    def read(self, lease: Lease, record: Record) -> None:
        """Keeps the record of one that the last owner left."""
        del self.unread[record.offset]
        lease.record = record
        lease.size = len(record.value or b"") + len(record.key or b"")
        lease.read = True
        self.bytes += lease.size

    def passed(self, lease: Lease) -> None:
        """Looks no more for the record of one among those that are read."""
        del self.unread[lease.record.offset]

    def end(self) -> int:
        """The offset behind the last item; 0 where there is none."""
        return next(reversed(self.items)) + 1 if self.items else 0

    def from_offset(self, offset: int) -> list[Lease]:
        """Those at or above an offset; none, at no cost, where the last one lies below."""
        found: list[Lease] = []
        if self.end() > offset:
            for lease in reversed(self.items.values()):
                if lease.record.offset < offset:
                    break
                found.append(lease)
        found.reverse()
        return found

    def around(self, start: int, end: int) -> list[tuple[int, int]]:
        """A range of offsets without the tiles of items in it: leases that stayed out when reading was rewound."""
        pieces = []
        for lease in self.from_offset(start):
            if lease.start >= end:
                break
            if lease.start > start:
                pieces.append((start, lease.start))
            start = max(start, lease.record.offset + 1)
        if start < end:
            pieces.append((start, end))
        return pieces

    def drop_all(self) -> None:
        self.items.clear()
        self.unread.clear()
        self.ready.clear()
        self.dying.clear()
        self.bytes = 0
        self.due = inf

    def exhausted(self, lease: Lease) -> bool:
        if not self.max_deliveries or lease.attempts < self.max_deliveries:
            return False
        self.doom(lease, "max-deliveries")
        return True

    def doom(self, lease: Lease, reason: str) -> None:
        lease.state = State.DYING
        lease.until = inf
        lease.reason = reason
        self.dying.append(lease)

    def next_ready(self) -> Lease | None:
        ready = self.ready
        while ready:
            lease = self.items.get(ready[0])
            if lease is not None and lease.state is State.READY:
                return lease
            heappop(ready)
        return None
