"""Leases in a commit's metadata: the last commit before a planned move tells the next owner which records are leased.

The text is that of the ranges done beyond the committed offset (``offset_ranges``), deflated, and behind it a second
deflated block with the leases. A gateway that does not know of leases stops at the end of the first block, so it reads
the ranges, ignores the leases and delivers their records again.

Columns deflate better than rows: a thousand records that were leased one by one take about 2,000 characters so, a
thousand that were leased together 100. A lease's end is told as the time that was left when the commit was made, and
when that was: a clock of the next owner that is slow prolongs no lease by more than it had left, one that is fast
ends it early.
"""

from __future__ import annotations

import binascii
import re
import zlib
from collections.abc import Iterator, Sequence
from enum import IntEnum
from math import ceil
from typing import NamedTuple

from kateway.core.delivery.metadata_text import MAX_DECODED_BYTES, bytes_of, put, text_of
from kateway.core.delivery.offset_ranges import DEFLATED, Ranges

STEPS_A_SECOND = 10
"""To which the end of a lease is rounded, upwards."""
MAX_LEFT_SECONDS = 3600.0
"""The longest ``ack_timeout``, and the longest delay."""
MOST_LEASES = 100_000
"""Of one partition, in one commit: a text that claims more is not ours."""
_VERSION = 1
_TOKEN = re.compile(r"(.{8})([1-9a-f][0-9a-f]{0,14})", re.ASCII)


class Kind(IntEnum):
    """Of what a record that was handed out waits for."""

    LEASED = 0
    """For its client, or for its next reader where its lease has ended."""
    PUT_OFF = 1
    REJECTED = 2
    """To be written to the dead letters."""


class MovedLease(NamedTuple):
    """A record that the last owner had handed out. ``left``: seconds until its lease or its delay ends."""

    offset: int
    token: str
    left: float
    attempts: int
    kind: Kind = Kind.LEASED


class Moved(NamedTuple):
    """The leases of a commit, made at ``at_ms`` since the epoch by a group with so many deliveries at most."""

    at_ms: int
    max_deliveries: int
    leases: Sequence[MovedLease]

    def since(self, now_ms: float) -> list[MovedLease]:
        """Returns the leases with what is left of them now."""
        gone = max(now_ms - self.at_ms, 0) / 1000
        return [lease._replace(left=max(lease.left - gone, 0.0)) for lease in self.leases]


NONE = Moved(0, 0, ())
_KINDS = tuple(Kind)


class _Run(NamedTuple):
    """Leases of offsets that follow each other without a gap, and differ in nothing else."""

    start: int
    length: int
    token: str
    steps: int
    attempts: int
    kind: Kind


def encode(floor: int, done: Ranges, moved: Moved, max_chars: int) -> tuple[str, int]:
    """Returns a commit's metadata, and how many leases are not in it: those that still hold come before those that have
    ended, and the lower offsets before the higher.
    """
    ranges = zlib.compress(done.packed(floor), 6, -15)
    runs = list(_runs(moved.leases[:MOST_LEASES]))
    for chosen in (runs, [run for run in runs if run.steps or run.kind is Kind.REJECTED]):
        text = _text(ranges, floor, moved, chosen)
        if len(text) <= max_chars:
            return text, len(moved.leases) - _count(chosen)
    # each try costs milliseconds on the loop's thread: the next one is reckoned from how much too long the last one was
    fits = len(chosen)
    while fits and len(text) > max_chars:
        fits = int(fits * 0.98 * max_chars / len(text))
        text = _text(ranges, floor, moved, chosen[:fits])
    if not fits:
        return done.encode(floor, max_chars), len(moved.leases)
    return text, len(moved.leases) - _count(chosen[:fits])


def decode(floor: int, text: str) -> Moved:
    """Reads what ``encode`` wrote; text without leases, foreign or damaged text holds none."""
    if not text.startswith(DEFLATED):
        return NONE
    try:
        ranges = zlib.decompressobj(-15)
        ranges.decompress(bytes_of(text.removeprefix(DEFLATED)), MAX_DECODED_BYTES)
        if not ranges.eof or not ranges.unused_data:
            return NONE
        inflate = zlib.decompressobj(-15)
        data = inflate.decompress(ranges.unused_data, MAX_DECODED_BYTES)
        if not inflate.eof:
            return NONE
        return _unpacked(floor, data)
    except (ValueError, IndexError, binascii.Error, zlib.error):
        return NONE


def without_leases(text: str) -> str:
    """Returns a commit's metadata with the ranges alone; empty where it holds no leases, or is foreign or damaged."""
    if not text.startswith(DEFLATED):
        return ""
    try:
        data = bytes_of(text.removeprefix(DEFLATED))
        ranges = zlib.decompressobj(-15)
        packed = ranges.decompress(data, MAX_DECODED_BYTES)
    except (ValueError, zlib.error):
        return ""
    if not ranges.eof or not ranges.unused_data or not packed:
        return ""
    return DEFLATED + text_of(data[: -len(ranges.unused_data)])


def _count(runs: Sequence[_Run]) -> int:
    return sum(run.length for run in runs)


def _runs(leases: Sequence[MovedLease]) -> Iterator[_Run]:
    """Leases in the order of their offsets, as runs."""
    run: _Run | None = None
    for offset, token, left, attempts, kind in leases:
        steps = min(ceil(left * STEPS_A_SECOND), int(MAX_LEFT_SECONDS * STEPS_A_SECOND))
        if run is not None:
            longer = run._replace(length=run.length + 1)
            if longer == (run.start, offset + 1 - run.start, token, steps, attempts, kind):
                run = longer
                continue
            yield run
        run = _Run(offset, 1, token, steps, attempts, kind)
    if run is not None:
        yield run


def _text(ranges: bytes, floor: int, moved: Moved, runs: Sequence[_Run]) -> str:
    leases = zlib.compress(_packed(floor, moved, runs), 9, -15)
    return DEFLATED + text_of(ranges + leases)


def _packed(floor: int, moved: Moved, runs: Sequence[_Run]) -> bytes:
    prefixes: dict[str, int] = {}
    numbers = []
    for run in runs:
        # a token is most often its process's eight characters and a number that counts up
        parts = _TOKEN.fullmatch(run.token)
        prefix, number = (parts[1], int(parts[2], 16)) if parts is not None else (run.token, 0)
        numbers.append((prefixes.setdefault(prefix, len(prefixes)), number))
    data = bytearray([_VERSION])
    for value in (moved.at_ms, moved.max_deliveries, len(prefixes)):
        put(data, value)
    for prefix in prefixes:
        encoded = prefix.encode()
        put(data, len(encoded))
        data += encoded
    put(data, len(runs))
    last = floor
    for run in runs:
        put(data, run.start - last)
        last = run.start + run.length
    for run in runs:
        put(data, run.length - 1)
    for index, _number in numbers:
        put(data, index)
    last = 0
    for _index, number in numbers:
        put(data, _zigzag(number - last))
        last = number
    last = 0
    for run in runs:
        put(data, _zigzag(run.steps - last))
        last = run.steps
    for run in runs:
        put(data, run.attempts)
    for run in runs:
        put(data, run.kind)
    return bytes(data)


def _unpacked(floor: int, data: bytes) -> Moved:
    numbers = _Reader(data)
    if numbers.next() != _VERSION:
        return NONE
    at_ms, max_deliveries, count = numbers.next(), numbers.next(), numbers.next()
    prefixes = [numbers.text() for _ in range(_at_most(count))]
    count = _at_most(numbers.next())
    left = numbers.all()
    if len(left) != 7 * count:
        raise ValueError("not seven columns")
    columns = [left[column * count : (column + 1) * count] for column in range(7)]
    leases: list[MovedLease] = []
    offset, number, steps = floor, 0, 0
    for gap, more, prefix, number_step, steps_step, attempts, kind in zip(*columns, strict=True):
        offset += gap
        number += _unzigzag(number_step)
        steps += _unzigzag(steps_step)
        _at_most(len(leases) + more)
        token = f"{prefixes[prefix]}{number:x}" if number else prefixes[prefix]
        seconds = min(max(steps / STEPS_A_SECOND, 0.0), MAX_LEFT_SECONDS)
        waits_for = _KINDS[kind]
        for _ in range(more + 1):
            leases.append(MovedLease(offset, token, seconds, attempts, waits_for))
            offset += 1
    return Moved(at_ms, max_deliveries, leases)


def _at_most(count: int) -> int:
    if count > MOST_LEASES:
        raise ValueError("too many")
    return count


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _unzigzag(value: int) -> int:
    return -((value + 1) >> 1) if value & 1 else value >> 1


class _Reader:
    """Reads numbers and texts; ``IndexError`` or ``ValueError`` where they are cut off."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def next(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("not a number of 64 bits")

    def all(self) -> list[int]:
        """The numbers that are left."""
        found = []
        value = shift = 0
        for byte in self._data[self._at :]:
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                found.append(value)
                value = shift = 0
            else:
                shift += 7
                if shift > 63:
                    raise ValueError("not a number of 64 bits")
        return found

    def text(self) -> str:
        length = self.next()
        end = self._at + length
        if end > len(self._data):
            raise ValueError("cut off")
        text = self._data[self._at : end].decode()
        self._at = end
        return text
