"""The records of a partition that are tracked by themselves, in the order of their offsets."""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop
from math import inf

from kateway.core.delivery.batch import Item, State


class Items:
    """Items by offset, how many bytes they keep, and which of them wait for a reader."""

    __slots__ = ("bytes", "due", "dying", "items", "max_deliveries", "ready")

    def __init__(self, max_deliveries: int = 0) -> None:
        self.max_deliveries = max_deliveries
        """Hand a record out so often at most, with ``ack=explicit``; 0: without end."""
        self.items: OrderedDict[int, Item] = OrderedDict()
        self.bytes = 0
        """Of the items' keys and values."""
        self.ready: list[int] = []
        """A heap of the offsets of items that may be READY; stale ones are skipped when they come up."""
        self.due = inf
        """No lease and no delay ends before this."""
        self.dying: list[Item] = []
        """To be written to the dead-letter queue by whoever owns this."""

    def has_ready(self) -> bool:
        """Whether records that came back wait for a reader."""
        return self._next_ready() is not None

    def _track(self, item: Item) -> None:
        items = self.items
        out_of_order = bool(items) and next(reversed(items)) > item.record.offset
        items[item.record.offset] = item
        self.bytes += item.size
        if out_of_order:
            # a batch came back below records that are tracked already: rare, and never more than one window
            self.items = OrderedDict(sorted(items.items()))

    def _drop(self, item: Item) -> None:
        del self.items[item.record.offset]
        self.bytes -= item.size

    def _items_end(self) -> int:
        """The offset behind the last item; 0 where there is none."""
        return next(reversed(self.items)) + 1 if self.items else 0

    def _items_from(self, offset: int) -> list[Item]:
        """Those at or above an offset; none, at no cost, where the last one lies below."""
        found: list[Item] = []
        if self._items_end() > offset:
            for item in reversed(self.items.values()):
                if item.record.offset < offset:
                    break
                found.append(item)
        found.reverse()
        return found

    def _around_items(self, start: int, end: int) -> list[tuple[int, int]]:
        """A range of offsets without the tiles of items in it: leases that stayed out when reading was rewound."""
        pieces = []
        for item in self._items_from(start):
            if item.start >= end:
                break
            if item.start > start:
                pieces.append((start, item.start))
            start = max(start, item.record.offset + 1)
        if start < end:
            pieces.append((start, end))
        return pieces

    def _drop_all(self) -> None:
        self.items.clear()
        self.ready.clear()
        self.dying.clear()
        self.bytes = 0
        self.due = inf

    def _exhausted(self, item: Item) -> bool:
        if not self.max_deliveries or item.attempts < self.max_deliveries:
            return False
        self._doom(item, "max-deliveries")
        return True

    def _doom(self, item: Item, reason: str) -> None:
        item.state = State.DYING
        item.until = inf
        item.reason = reason
        self.dying.append(item)

    def _next_ready(self) -> Item | None:
        ready = self.ready
        while ready:
            item = self.items.get(ready[0])
            if item is not None and item.state is State.READY:
                return item
            heappop(ready)
        return None
