"""Sets of offsets as ranges, and their compact form in a commit's metadata string.

What a group has done with beyond its committed offset survives a restart as text in the commit itself: the distances
between the ranges' boundaries as varints, deflated where that is shorter, in base 64. Ten thousand records
acknowledged in random order take about 2,300 characters so.
"""

from __future__ import annotations

import binascii
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import pairwise

from kateway.core.delivery.metadata_text import MAX_DECODED_BYTES, bytes_of, put, text_of

PLAIN = "kw1:"
DEFLATED = "kw1z:"


class Ranges:
    """A set of integers as sorted, disjoint, half-open ranges that never touch each other."""

    __slots__ = ("_bounds",)

    def __init__(self) -> None:
        # start, end, start, end, …: an offset is in the set if an odd number of bounds lies at or below it
        self._bounds: list[int] = []

    def __len__(self) -> int:
        return len(self._bounds) // 2

    def __iter__(self) -> Iterator[tuple[int, int]]:
        bounds = iter(self._bounds)
        return zip(bounds, bounds, strict=True)

    def __contains__(self, offset: int) -> bool:
        return bisect_right(self._bounds, offset) & 1 == 1

    def __repr__(self) -> str:
        return f"Ranges({list(self)})"

    def add(self, start: int, end: int) -> None:
        """Adds ``start`` up to and without ``end``; nothing where ``end`` is not above ``start``."""
        if start >= end:
            return
        bounds = self._bounds
        left = bisect_left(bounds, start)
        right = bisect_right(bounds, end)
        between = []
        if not left & 1:
            between.append(start)
        if not right & 1:
            between.append(end)
        bounds[left:right] = between

    def end(self) -> int | None:
        """Where the last range ends."""
        return self._bounds[-1] if self._bounds else None

    def absorb(self, floor: int) -> int:
        """Forgets everything below ``floor`` and the range that holds it; answers the lowest offset not in the set."""
        bounds = self._bounds
        if not bounds or bounds[0] > floor:
            return floor
        below = bisect_right(bounds, floor)
        if below & 1:
            floor = bounds[below]
            below += 1
        del bounds[:below]
        return floor

    def clear(self) -> None:
        self._bounds.clear()

    def encode(self, floor: int, max_chars: int) -> str:
        """The ranges above ``floor`` as text; the last ones are left out where all do not fit ``max_chars``."""
        if not self._bounds:
            return ""
        text = _encode(floor, self._bounds)
        if len(text) <= max_chars:
            return text
        low, high = 0, len(self)
        while low < high - 1:
            middle = (low + high) // 2
            if len(_encode(floor, self._bounds[: 2 * middle])) <= max_chars:
                low = middle
            else:
                high = middle
        return _encode(floor, self._bounds[: 2 * low]) if low else ""

    def packed(self, floor: int) -> bytes:
        """The distances between the bounds above ``floor``, as varints."""
        return _packed(floor, self._bounds)

    @classmethod
    def decode(cls, floor: int, text: str) -> Ranges:
        """Reads what ``encode`` wrote; foreign or damaged text holds no ranges."""
        ranges = cls()
        try:
            bounds = _decode(floor, text)
        except (ValueError, binascii.Error, zlib.error):
            return ranges
        if len(bounds) % 2 == 0 and all(low < high for low, high in pairwise(bounds)):
            ranges._bounds = bounds
        return ranges


def _packed(floor: int, bounds: list[int]) -> bytes:
    data = bytearray()
    last = floor
    for bound in bounds:
        distance = bound - last
        last = bound
        put(data, distance)
    return bytes(data)


def _encode(floor: int, bounds: list[int]) -> str:
    data = _packed(floor, bounds)
    deflated = zlib.compress(data, 6, -15)
    if len(deflated) < len(data):
        return DEFLATED + text_of(deflated)
    return PLAIN + text_of(data)


def _decode(floor: int, text: str) -> list[int]:
    prefix, colon, body = text.partition(":")
    data = bytes_of(body)
    if prefix + colon == DEFLATED:
        inflate = zlib.decompressobj(-15)
        data = inflate.decompress(data, MAX_DECODED_BYTES)
        if inflate.unconsumed_tail or not inflate.eof:
            raise ValueError("too long or cut off")
    elif prefix + colon != PLAIN:
        raise ValueError("not ours")
    bounds = []
    value = shift = 0
    last = floor
    for byte in data:
        value |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            continue
        last += value
        bounds.append(last)
        value = shift = 0
    if shift:
        raise ValueError("cut off")
    return bounds
