"""Finds the records that carry an idempotency key, by reading a partition's window once and then its new records."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from kateway.core.access.control import Place
from kateway.errors import OffsetOutOfRange, Unavailable
from kateway.model import Record

HEADER = "idempotency-key"
ONE_READ_BYTES = 1 << 20
MOST_PARTITIONS = 10_000
"""Partitions with an index; beyond it the one that was unused for longest goes."""

Digest = bytes
Offsets = dict[Digest, list[int]]


def digest_of(value: bytes | None, key: bytes | None) -> Digest:
    """Tells records of one batch apart: of value and key, nulls told from empty ones."""
    both = blake2b(b"" if key is None else b"k" + key, digest_size=12)
    both.update(b"\x00" if value is None else b"\x01" + value)
    return both.digest()


class _Seen(NamedTuple):
    offset: int
    timestamp: int
    digest: Digest


class _Partition:
    """Keys of one partition, from an offset on up to another."""

    def __init__(self) -> None:
        self.covers: int | None = None
        """Every record of the window from here to ``read_to`` with a key is in ``keys``; ``None``: nothing was read."""
        self.read_to = 0
        self.evicted = False
        """Keys of the window before ``covers`` were dropped for want of room."""
        self.keys: OrderedDict[bytes, list[_Seen]] = OrderedDict()
        """By the order of their first record."""
        self.reading = False
        self.waiting: list[Deferred[None]] = []
        """Callers that came while it was read: for them it is read once more, up to the end that it has then."""


class KeyIndex:
    """The keys of all partitions that were asked for. ``most``: keys kept; ``max_bytes``: read for one answer."""

    def __init__(self, now_ms: Callable[[], int], *, window_ms: int, most: int, max_bytes: int) -> None:
        self._now_ms = now_ms
        self._window_ms = window_ms
        self._most = most
        self._max_bytes = max_bytes
        self._count = 0
        self._partitions: OrderedDict[tuple[str, str, int], _Partition] = OrderedDict()

    async def find(self, place: Place, partition: int, key: str) -> Offsets:
        """Returns the offsets of the records with a key, by their digest, as of the present end. ``Unavailable`` where
        more must be read than ``max_bytes``: the next attempt goes on from there.
        """
        name = (place.cluster, place.topic, partition)
        part = self._partitions.get(name)
        if part is None:
            part = self._partitions[name] = _Partition()
            self._make_room()
        self._partitions.move_to_end(name)
        raw = key.encode()
        await self._caught_up(place, partition, part)
        known = part.keys.get(raw)
        if known is None and part.evicted:
            known = await self._look_back(place, partition, part, raw)
        found: Offsets = {}
        for seen in known or ():
            found.setdefault(seen.digest, []).append(seen.offset)
        return found

    def _make_room(self) -> None:
        for name, part in list(self._partitions.items()):
            if len(self._partitions) <= MOST_PARTITIONS:
                return
            if not part.reading and not part.waiting and part.covers is not None:
                self._count -= len(part.keys)
                del self._partitions[name]

    async def _look_back(self, place: Place, partition: int, part: _Partition, key: bytes) -> list[_Seen]:
        """Reads the part of the window whose keys were dropped, for one key."""
        assert part.covers is not None
        position = (await place.store.offsets(place.topic, self._now_ms() - self._window_ms))[partition]
        part.evicted = position < part.covers
        found: list[_Seen] = []
        budget = self._max_bytes
        while position < part.covers:
            if budget <= 0:
                raise Unavailable("too many Idempotency-Keys are in use to know whether this one was; repeat it later")
            fetched = await place.store.read(place.topic, partition, position, max_bytes=ONE_READ_BYTES, wait_seconds=0)
            for record in fetched.records:
                budget -= _weight(record)
                if (HEADER, key) in record.headers:
                    found.append(_Seen(record.offset, record.timestamp, digest_of(record.value, record.key)))
            if fetched.next_offset <= position:
                break
            position = fetched.next_offset
        return found

    async def _caught_up(self, place: Place, partition: int, part: _Partition) -> None:
        """Waits until everything up to the present end was read; callers that come while one reads share the next."""
        waiter: Deferred[None] = Deferred()
        part.waiting.append(waiter)
        if not part.reading:
            self._begin(place, partition, part)
        await waiter

    def _begin(self, place: Place, partition: int, part: _Partition) -> None:
        waiting, part.waiting = part.waiting, []
        part.reading = True

        def ended(result: Failure | None) -> None:
            part.reading = False
            for waiter in waiting:
                if waiter.called:
                    continue  # cancelled
                if isinstance(result, Failure):
                    waiter.errback(result.value)
                else:
                    waiter.callback(None)
            if part.waiting and not part.reading:
                self._begin(place, partition, part)

        Deferred.fromCoroutine(self._read(place, partition, part)).addBoth(ended)

    async def _read(self, place: Place, partition: int, part: _Partition) -> None:
        store, topic = place.store, place.topic
        since = self._now_ms() - self._window_ms
        self._forget(part, since)
        end = (await store.offsets(topic, "latest"))[partition]
        if part.covers is None or part.read_to > end:
            # never read, or a topic that was made anew
            self._count -= len(part.keys)
            part.keys.clear()
            part.evicted = False
            part.covers = part.read_to = min((await store.offsets(topic, since))[partition], end)
        budget = self._max_bytes
        while part.read_to < end:
            if budget <= 0:
                raise Unavailable(
                    f"more than {self._max_bytes} bytes must be read to know whether this Idempotency-Key was used; "
                    "repeat it: reading goes on from here"
                )
            try:
                fetched = await store.read(topic, partition, part.read_to, max_bytes=ONE_READ_BYTES, wait_seconds=0)
            except OffsetOutOfRange:
                # retention took what lies before: it is out of the window as well
                part.read_to = max(part.read_to + 1, (await store.offsets(topic, "earliest"))[partition])
                continue
            for record in fetched.records:
                budget -= _weight(record)
                for header, value in record.headers:
                    if header == HEADER and value is not None and record.timestamp >= since:
                        self._add(
                            part, value, _Seen(record.offset, record.timestamp, digest_of(record.value, record.key))
                        )
            if fetched.next_offset <= part.read_to:
                break  # the rest is invisible: an open transaction
            part.read_to = fetched.next_offset

    def _add(self, part: _Partition, key: bytes, seen: _Seen) -> None:
        known = part.keys.get(key)
        if known is None:
            known = part.keys[key] = []
            self._count += 1
        known.append(seen)
        while self._count > self._most and len(part.keys) > 1:
            # the rest of the window must be read again where it is asked for
            _, gone = part.keys.popitem(last=False)
            self._count -= 1
            part.covers = gone[-1].offset + 1
            part.evicted = True

    def _forget(self, part: _Partition, since: int) -> None:
        """Drops keys whose window is over."""
        while part.keys:
            key, seen = next(iter(part.keys.items()))
            if seen[-1].timestamp >= since:
                return
            del part.keys[key]
            self._count -= 1


def _weight(record: Record) -> int:
    """About its size on the wire."""
    return len(record.value or b"") + len(record.key or b"") + 64
