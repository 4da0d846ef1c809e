"""Finds slots of shared memory by name: a name has the same one in every process, whatever else they have seen."""

from __future__ import annotations

from hashlib import blake2b

SLOT_BYTES = 8
"""A name's fingerprint."""
SLOTS_A_PRINCIPAL = 8
"""Four quotas are rates; a table that is half full is searched in one or two steps."""
_PROBES = 64


def slots_for(max_tracked: int) -> int:
    """How many slots so many principals need: a power of two."""
    return 1 << (max_tracked * SLOTS_A_PRINCIPAL - 1).bit_length()


def find_slot(names: memoryview[int], name: str) -> int | None:
    """Finds a name's slot, or takes one for it; ``None`` where there is no room."""
    slots = len(names)
    fingerprint = int.from_bytes(blake2b(name.encode("utf-8", "replace"), digest_size=8).digest(), "little") or 1
    for step in range(_PROBES):
        slot = (fingerprint + step) & (slots - 1)
        if names[slot] == 0:
            names[slot] = fingerprint
            # another process may have taken it for another name in the same moment: then this one goes on
        if names[slot] == fingerprint:
            return slot
    return None
