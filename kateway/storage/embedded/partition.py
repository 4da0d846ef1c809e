"""Holds a topic's and its partitions' state, known without asking the disk; changed on the reactor's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.logger import Logger

from kateway.storage.embedded.database import Loaded, Row, row_id
from kateway.storage.partitioner import Partitioner

TAIL_BYTES = 8000
"""A row that fits on one page: appended to by rewriting it, which costs no more than a new row there would."""
ROW_BYTES = 16384


_goes_on = Logger().failureHandler("a reader of the embedded store broke; writing goes on")


class Tail:
    """The last row of a partition's log, to be appended to."""

    __slots__ = ("base", "count", "data", "position")

    def __init__(self, base: int, count: int, position: int, data: bytes) -> None:
        self.base = base
        self.count = count
        self.position = position
        self.data = data


class Partition:
    """A partition's ends, and the records about to be written to it."""

    __slots__ = (
        "dropped",
        "earliest",
        "end",
        "expiring",
        "followers",
        "id",
        "newest",
        "number",
        "pending",
        "pending_newest",
        "size",
        "tail",
    )

    def __init__(self, loaded: Loaded) -> None:
        self.id = loaded.id
        self.number = loaded.number
        self.earliest = loaded.earliest
        self.end = loaded.end
        """The offset of the next record; pending ones are not counted."""
        self.size = loaded.size
        """Bytes ever written to it."""
        self.newest = loaded.newest
        """The latest timestamp that it ever had."""
        self.tail: Tail | None = None
        self.pending: list[bytes] = []
        """Encoded records of the transaction under way."""
        self.pending_newest = 0
        self.followers: set[Callable[[int, int, bytes], None]] = set()
        """Called after each write with the first offset, the count, and the encoded records."""
        self.dropped = False
        """Its topic is deleted."""
        self.expiring = False
        """Its oldest rows are being removed, maybe the last one too: not to be appended to."""

    def rows(self) -> tuple[list[Row], Tail | None, bytes]:
        """Returns the pending records as rows of the log, the last row as it will then be, and the encoded records."""
        pending, newest = self.pending, self.pending_newest
        added = b"".join(pending)
        tail = None if self.expiring else self.tail
        if tail is not None and len(tail.data) + len(added) <= TAIL_BYTES:
            tail = Tail(tail.base, tail.count + len(pending), tail.position, tail.data + added)
            return [Row(row_id(self.id, tail.base), tail.count, tail.position, newest, tail.data)], tail, added
        if len(added) <= ROW_BYTES:
            tail = Tail(self.end, len(pending), self.size, added)
            return [Row(row_id(self.id, tail.base), tail.count, tail.position, newest, added)], tail, added
        rows = list(self._split(pending, newest))
        return rows, None, added

    def _split(self, pending: list[bytes], newest: int) -> Iterator[Row]:
        base, position = self.end, self.size
        parts: list[bytes] = []
        size = 0
        for entry in pending:
            if parts and size + len(entry) > ROW_BYTES:
                yield Row(row_id(self.id, base), len(parts), position, newest, b"".join(parts))
                base += len(parts)
                position += size
                parts, size = [], 0
            parts.append(entry)
            size += len(entry)
        yield Row(row_id(self.id, base), len(parts), position, newest, b"".join(parts))

    def written(self, tail: Tail | None, added: bytes) -> None:
        """The pending records are on disk."""
        first, count = self.end, len(self.pending)
        self.pending = []
        self.end = first + count
        self.size += len(added)
        self.newest = self.pending_newest
        self.tail = None if self.expiring else tail
        for follower in tuple(self.followers):
            with _goes_on:
                follower(first, count, added)

    def wake(self) -> None:
        """Has its followers look again, though nothing was written."""
        for follower in tuple(self.followers):
            with _goes_on:
                follower(self.end, 0, b"")


class TopicState:
    """A topic and its partitions, by number."""

    __slots__ = ("id", "name", "partitioner", "partitions", "retention_ms")

    def __init__(self, id: int, name: str, retention_ms: int | None, loaded: list[Loaded]) -> None:
        self.id = id
        self.name = name
        self.retention_ms = retention_ms
        self.partitions = [Partition(each) for each in loaded]
        self.partitioner = Partitioner()

    def grow(self, loaded: list[Loaded]) -> None:
        """Takes on the partitions that are not known yet."""
        self.partitions.extend(Partition(each) for each in loaded[len(self.partitions) :])
