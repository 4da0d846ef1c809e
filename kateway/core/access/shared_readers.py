"""Counts open readers that several processes of one host share, in one memory and without a lock.

Each process has a row of counters and writes no other, so that no count is lost, and the row of one that has died is
emptied as a whole. A reader is counted before the sum is looked at: of two that come for the last place at the same
moment both may be refused, and never are both let in.
"""

from __future__ import annotations

import mmap
import os

from kateway.core.access.shared_names import SLOT_BYTES, find_slot, slots_for

COUNTER_BYTES = 4
PAGE_SLOTS = mmap.PAGESIZE // COUNTER_BYTES
"""At least: rows are whole pages."""
GENERATIONS = 2
"""Of an upgrade both have readers."""


def shared_memory(max_tracked: int, processes: int) -> int:
    """Makes the memory for so many principals and processes; gives its descriptor. What is not used takes no memory."""
    descriptor = os.memfd_create("kateway-readers", os.MFD_CLOEXEC)
    slots = max(slots_for(max_tracked), PAGE_SLOTS)
    os.ftruncate(descriptor, slots * (SLOT_BYTES + COUNTER_BYTES * GENERATIONS * processes))
    return descriptor


class SharedReaders:
    """The memory as one process sees it; ``processes`` is how many there are, ``row`` this one's own."""

    def __init__(self, descriptor: int, processes: int, row: int) -> None:
        size = os.fstat(descriptor).st_size
        rows = GENERATIONS * processes
        self._slots = size // (SLOT_BYTES + COUNTER_BYTES * rows)
        self._map = mmap.mmap(descriptor, size)
        whole = memoryview(self._map)
        self._names = whole[: self._slots * SLOT_BYTES].cast("Q")
        self._counts = whole[self._slots * SLOT_BYTES :].cast("I")
        self._rows = range(rows)
        self._row = row

    def of(self, name: str) -> SharedCount | None:
        """Finds the counters of a name; ``None`` where there is no room: it is then counted by each process alone."""
        slot = find_slot(self._names, name)
        return None if slot is None else SharedCount(self, slot)

    def add(self, slot: int, change: int) -> None:
        """Counts this process's readers: never below none, should the row have been emptied meanwhile."""
        place = self._row * self._slots + slot
        self._counts[place] = max(self._counts[place] + change, 0)

    def others(self, slot: int) -> int:
        """The readers of all other processes."""
        counts, slots = self._counts, self._slots
        return sum(counts[row * slots + slot] for row in self._rows if row != self._row)

    def clear(self, row: int) -> None:
        """Gives back the readers of a process that has ended, and the memory that they were counted in."""
        size = self._slots * COUNTER_BYTES
        self._map.madvise(mmap.MADV_REMOVE, self._slots * SLOT_BYTES + row * size, size)


class SharedCount:
    """The readers of one name."""

    __slots__ = ("_memory", "_slot")

    def __init__(self, memory: SharedReaders, slot: int) -> None:
        self._memory = memory
        self._slot = slot

    def add(self, change: int) -> None:
        """Counts this process's."""
        self._memory.add(self._slot, change)

    def others(self) -> int:
        """Those of all other processes."""
        return self._memory.others(self._slot)


def row_of(index: int, generation: int) -> int:
    """Which row a process has."""
    return GENERATIONS * index + generation % GENERATIONS
