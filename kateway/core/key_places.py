"""Where the keys of an elastic topic go: by its placement in the registry, in each state of a change."""

from __future__ import annotations

from typing import NamedTuple

from kateway.registry.interface import KeyHash, Placement
from kateway.storage.partitioner import by_jump, by_key


class KeyPlace(NamedTuple):
    """How keys are placed: by a hash, over so many partitions."""

    hash: KeyHash
    partitions: int

    def of(self, key: bytes) -> int:
        """Returns a key's partition."""
        return by_jump(key, self.partitions) if self.hash == "jump" else by_key(key, self.partitions)


class Going(NamedTuple):
    """A placement as publishes use it: where keys are placed, and where they will be, or were, by the other side of a
    change that is under way. A key that the two place differently moves, and is held back.
    """

    now: KeyPlace
    after: KeyPlace | None = None

    def place(self, key: bytes) -> int | None:
        """Returns a key's partition; ``None``: it moves."""
        partition = self.now.of(key)
        return partition if self.after is None or self.after.of(key) == partition else None


def going(placement: Placement) -> Going:
    """Returns the use of a placement."""
    now = KeyPlace(placement.hash, placement.partitions)
    if placement.state == "settled":
        return Going(now)
    return Going(now, target(placement))


def target(placement: Placement) -> KeyPlace:
    """Returns what a placement goes over to."""
    return KeyPlace(placement.next_hash, placement.next_partitions)


def announced_by(placement: Placement | None) -> int:
    """Returns the generation that announced the change under way; 0: none is."""
    if placement is None or placement.state == "settled":
        return 0
    return placement.generation if placement.state == "announced" else placement.generation - 1


def earlier_places(placement: Placement, key: bytes, now_ms: int, window_ms: int) -> frozenset[int]:
    """Returns the partitions in which a record with a key may have been placed within a window, where they changed."""
    if placement.state == "settled" and placement.changed <= now_ms - window_ms:
        return frozenset()
    most = max(placement.partitions, placement.next_partitions)
    found = {by_jump(key, fewer) for fewer in range(1, most + 1)}
    found.update(by_key(key, fewer) for fewer in range(1, placement.murmur2_partitions + 1))
    return frozenset(found)
