"""Keeps a small document in memory that several processes of one host share, and that outlives each of them.

Two places take turns: a document is written to the one that is not in force, and then its number is. So a process that
is killed while it writes leaves the one before in force.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from zlib import crc32

PLACE_BYTES = 8 << 20
"""Of the largest document. What is not used takes no memory."""
LOCK_TRIES = 20
LOCK_PAUSE_SECONDS = 0.001
_NUMBER = struct.Struct("<Q")
_HEAD = struct.Struct("<QII")
"""The document's number, its size, its checksum."""
_FIRST = mmap.PAGESIZE


def shared_memory(name: str) -> int:
    """Makes the memory of one document; gives its descriptor."""
    descriptor = os.memfd_create(f"kateway-{name}", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, _FIRST + 2 * PLACE_BYTES)
    return descriptor


class SharedDocument:
    """The document as one process sees it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, _FIRST + 2 * PLACE_BYTES)
        self._seen = 0

    def news(self) -> bytes | None:
        """The document, where it is another than this process has read or written last."""
        number = self._number()
        if number == self._seen:
            return None
        found = self._read(number)
        if found is not None:
            self._seen = number
        return found

    def write(self, document: bytes) -> bool:
        """Puts a document in force; ``False`` where it is too large. To be called with ``changing`` held."""
        if len(document) > PLACE_BYTES - _HEAD.size:
            return False
        number = self._number() + 1
        start = _FIRST + number % 2 * PLACE_BYTES
        self._map[start : start + _HEAD.size] = _HEAD.pack(number, len(document), crc32(document))
        self._map[start + _HEAD.size : start + _HEAD.size + len(document)] = document
        self._map[: _NUMBER.size] = _NUMBER.pack(number)
        self._seen = number
        return True

    @contextmanager
    def changing(self, refresh: Callable[[], object]) -> Iterator[None]:
        """Keeps the others from writing meanwhile, and calls ``refresh`` first, so that no change of theirs is lost."""
        for _ in range(LOCK_TRIES):
            # writing takes microseconds: one that has the lock for longer stands still, and must not hold up the others
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(LOCK_PAUSE_SECONDS)
        try:
            refresh()
            yield
        finally:
            with suppress(OSError):
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _number(self) -> int:
        number: int = _NUMBER.unpack(self._map[: _NUMBER.size])[0]
        return number

    def _read(self, number: int) -> bytes | None:
        start = _FIRST + number % 2 * PLACE_BYTES
        written, size, checksum = _HEAD.unpack(self._map[start : start + _HEAD.size])
        document = self._map[start + _HEAD.size : start + _HEAD.size + size]
        # another may be written at this moment: it is read the next time
        return document if written == number and crc32(document) == checksum else None
