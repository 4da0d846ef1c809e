"""Counts rates that several processes of one host share, in one memory and without a lock.

A slot of 8 bytes is the moment at which its bucket is full again (GCRA, the generic cell rate algorithm): reading and
writing it is one load and one store, so nobody waits. Two processes that write it at the same time may let one request
too many through (0.4 % at worst when all cores do nothing else), and none is refused that should pass.
"""

from __future__ import annotations

import mmap
import os

from kateway.core.access.rate_limits import Bucket
from kateway.core.access.shared_names import SLOT_BYTES, find_slot, slots_for

MOMENT_BYTES = 8


def shared_memory(max_tracked: int) -> int:
    """Makes the memory for so many principals; gives its descriptor. What is not used takes no memory."""
    descriptor = os.memfd_create("kateway-quotas", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, slots_for(max_tracked) * (SLOT_BYTES + MOMENT_BYTES))
    return descriptor


class SharedRates:
    """The memory as one process sees it. A name has the same slot in each of them, whatever else they have seen."""

    def __init__(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        whole = memoryview(mmap.mmap(descriptor, size))
        self._slots = size // (SLOT_BYTES + MOMENT_BYTES)
        self._names = whole[: self._slots * 8].cast("Q")
        self.full_at = whole[self._slots * 8 :].cast("d")
        """By slot: when its bucket is full again."""

    def slot(self, name: str) -> int | None:
        """Finds a name's slot, or takes one for it; ``None`` where there is no room: it is then counted alone."""
        return find_slot(self._names, name)

    def bucket(self, name: str, rate: float, now: float) -> Bucket:
        """Makes a view on a name's bucket, which may be far from full."""
        slot = self.slot(name)
        return Bucket(rate, now) if slot is None else SharedBucket(self.full_at, slot, rate, now)


class SharedBucket(Bucket):
    """A bucket whose tokens are in shared memory."""

    __slots__ = ("_full_at", "_slot")

    def __init__(self, full_at: memoryview[float], slot: int, rate: float, now: float) -> None:
        self._full_at = full_at
        self._slot = slot
        self.rate = rate
        self.capacity = max(rate, 1.0)
        self.updated = now

    @property
    def tokens(self) -> float:
        """As of ``updated``."""
        missing = self._full_at[self._slot] - self.updated
        return self.capacity - missing * self.rate if missing > 0 else self.capacity

    @tokens.setter
    def tokens(self, tokens: float) -> None:
        self._full_at[self._slot] = self.updated + (self.capacity - tokens) / self.rate

    def level(self, now: float) -> float:
        self.updated = max(self.updated, now)
        return self.tokens

    def wait(self, units: float, now: float) -> float:
        self.updated = max(self.updated, now)
        tokens = self.tokens
        if tokens >= units:
            return 0.0
        missing = min(units, self.capacity) - tokens
        return missing / self.rate if missing > self.rate * 1e-9 else 0.0

    def retune(self, rate: float, now: float) -> None:
        self.updated = max(self.updated, now)
        # the seconds until it is full again stay: that is what the slot holds
        self.rate = rate
        self.capacity = max(rate, 1.0)
