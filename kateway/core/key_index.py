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
SCOPE_HEADER = "idempotency-scope"
"""Which application, topic and version the key is of; a record without it matches each."""
LEEWAY_MS = 300_000
"""How long before now a record may be dated; a window is read from so much earlier on."""
DROPPED_FOR_EACH = 4
"""For each key that may be kept so many dropped ones are remembered by their hash: about 70 bytes each."""
ONE_READ_BYTES = 1 << 20
HIDDEN_WAIT_SECONDS = 2.0
"""For so long a look waits for records that are in the log and cannot be read yet: mostly they get to all replicas."""
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
    """No later than when it was written: the newest time of all records up to it, or when it was surely not there."""
    digest: Digest
    scope: bytes | None


class _Partition:
    """Keys of one partition, from an offset on up to another."""

    def __init__(self) -> None:
        self.covers: int | None = None
        """Every record of the window from here to ``read_to`` with a key is in ``keys``; ``None``: nothing was read."""
        self.read_to = 0
        self.newest = 0
        """The newest time of the records that were read."""
        self.evicted = False
        """Keys of the window before ``covers`` were dropped for want of room."""
        self.dropped: set[int] = set()
        self.dropped_before: set[int] = set()
        """Hashes of the dropped keys, of this window and the one before: only these may be found before ``covers``."""
        self.turned_ms = 0
        self.blind = False
        """More were dropped than can be remembered: each unknown key has to be looked for."""
        self.keys: OrderedDict[bytes, list[_Seen]] = OrderedDict()
        """By the order of their first record."""
        self.reading = False
        self.waiting: list[Deferred[None]] = []
        """Callers that came while it was read: for them it is read once more, up to the end that it has then."""

    def dropped_one_like(self, key: bytes) -> bool:
        """Whether the key may be one of those that were dropped."""
        return self.blind or hash(key) in self.dropped or hash(key) in self.dropped_before

    def forget_dropped(self) -> None:
        """Begins anew, with no key dropped."""
        self.evicted = self.blind = False
        self.dropped.clear()
        self.dropped_before.clear()


class KeyIndex:
    """The keys of all partitions that were asked for. ``most``: keys kept; ``max_bytes``: read for one answer."""

    def __init__(self, now_ms: Callable[[], int], *, window_ms: int, most: int, max_bytes: int) -> None:
        self._now_ms = now_ms
        self._window_ms = window_ms
        self._most = most
        self._max_bytes = max_bytes
        self._count = 0
        self._partitions: OrderedDict[tuple[str, str, int], _Partition] = OrderedDict()

    async def find(self, place: Place, partition: int, key: str, scope: bytes, *, dated: bool = False) -> Offsets:
        """Returns the offsets of the window's records with a key and its scope, by their digest, as of the present end.
        ``dated``: they may be dated up to ``LEEWAY_MS`` before they were written.

        ``Unavailable`` where records are there that cannot be read yet (an open transaction), and where more must be
        read than ``max_bytes``: the next attempt goes on from there.
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
        if part.evicted and part.dropped_one_like(raw):
            # also one that is known by a later record
            known = [*await self._look_back(place, partition, part, raw), *(known or ())]
        oldest = self._since() if dated else self._since() + LEEWAY_MS
        found: dict[Digest, dict[int, None]] = {}
        for seen in known or ():
            if seen.timestamp >= oldest and (seen.scope is None or seen.scope == scope):
                found.setdefault(seen.digest, {})[seen.offset] = None
        return {digest: list(offsets) for digest, offsets in found.items()}

    def _since(self) -> int:
        return self._now_ms() - self._window_ms - LEEWAY_MS

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
        position = (await place.store.offsets(place.topic, self._since()))[partition]
        if position >= part.covers:
            part.forget_dropped()
        found: list[_Seen] = []
        budget = self._max_bytes
        while position < part.covers:
            if budget <= 0:
                raise Unavailable("too many Idempotency-Keys are in use to know whether this one was; repeat it later")
            try:
                fetched = await place.store.read(
                    place.topic, partition, position, max_bytes=ONE_READ_BYTES, wait_seconds=0
                )
            except OffsetOutOfRange:
                position = await _earliest(place, partition, position)
                continue
            for record in fetched.records:
                budget -= _weight(record)
                if (HEADER, key) in record.headers and record.offset < part.covers:
                    found.append(_seen(record, record.timestamp))
            if fetched.next_offset <= position:
                raise Unavailable(_HIDDEN)
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
        began_ms, since = self._now_ms(), self._since()
        self._forget(part, since)
        end = (await store.offsets(topic, "latest"))[partition]
        if part.covers is None or part.read_to > end:
            # never read, or a topic that was made anew
            self._count -= len(part.keys)
            part.keys.clear()
            part.forget_dropped()
            part.newest = since
            part.covers = part.read_to = min((await store.offsets(topic, since))[partition], end)
        left = await self._read_up_to(place, partition, part, end, began_ms, self._max_bytes)
        # one with the key may lie behind the records of an open transaction
        end = await _log_end(place, partition, part.read_to)
        await self._read_up_to(place, partition, part, end, began_ms, left)
        # the next one that is read is written after now
        part.newest = max(part.newest, began_ms)

    async def _read_up_to(
        self, place: Place, partition: int, part: _Partition, end: int, began_ms: int, budget: int
    ) -> int:
        """Reads on up to an offset; returns the bytes that may be read yet."""
        store, topic, wait_seconds = place.store, place.topic, 0.0
        while part.read_to < end:
            if budget <= 0:
                raise Unavailable(
                    f"more than {self._max_bytes} bytes must be read to know whether this Idempotency-Key was used; "
                    "repeat it: reading goes on from here"
                )
            try:
                fetched = await store.read(
                    topic, partition, part.read_to, max_bytes=ONE_READ_BYTES, wait_seconds=wait_seconds
                )
            except OffsetOutOfRange:
                # retention took the records before: they are out of the window as well
                part.read_to = await _earliest(place, partition, part.read_to)
                continue
            for record in fetched.records:
                budget -= _weight(record)
                part.newest = min(max(part.newest, record.timestamp), began_ms)
                for header, value in record.headers:
                    if header == HEADER and value is not None:
                        self._add(part, value, _seen(record, part.newest))
            if fetched.next_offset > part.read_to:
                part.read_to = fetched.next_offset
                wait_seconds = 0.0
            elif wait_seconds:
                # such a record may carry the key, and is there for good when its transaction ends
                raise Unavailable(_HIDDEN)
            else:
                wait_seconds = HIDDEN_WAIT_SECONDS
        return budget

    def _add(self, part: _Partition, key: bytes, seen: _Seen) -> None:
        known = part.keys.get(key)
        if known is None:
            known = part.keys[key] = []
            self._count += 1
        known.append(seen)
        if self._count > self._most:
            largest = max(self._partitions.values(), key=lambda each: len(each.keys))
            self._drop(largest, max(len(largest.keys) // 16, 1))

    def _drop(self, part: _Partition, count: int) -> None:
        """Drops the oldest keys of a partition: their part of the window is read again where one is asked for."""
        for _ in range(min(count, len(part.keys) - 1)):
            key, gone = part.keys.popitem(last=False)
            self._count -= 1
            part.covers = max(part.covers or 0, gone[-1].offset + 1)
            part.evicted = True
            part.dropped.add(hash(key))
        if sum(len(each.dropped) for each in self._partitions.values()) > DROPPED_FOR_EACH * self._most:
            part.blind = True
            part.dropped.clear()

    def _forget(self, part: _Partition, since: int) -> None:
        """Forgets keys whose window is over."""
        now_ms = self._now_ms()
        if now_ms - part.turned_ms > self._window_ms + LEEWAY_MS:
            part.turned_ms = now_ms
            part.dropped_before, part.dropped = part.dropped, set()
        while part.keys:
            key, seen = next(iter(part.keys.items()))
            if seen[-1].timestamp >= since:
                return
            del part.keys[key]
            self._count -= 1


_HIDDEN = (
    "an open transaction hides records of this partition, so it is not known whether this Idempotency-Key was used; "
    "repeat it when the transaction has ended"
)


async def _earliest(place: Place, partition: int, position: int) -> int:
    """Returns the offset to read on from where retention took the records that were to be read."""
    earliest = (await place.store.offsets(place.topic, "earliest"))[partition]
    if earliest <= position:
        raise Unavailable("the topic was made anew while it was read for the Idempotency-Key; repeat it")
    return earliest


async def _log_end(place: Place, partition: int, end: int) -> int:
    """Returns the end of the log, from the end of the records that can be read. Kafka tells only the latter to readers
    of committed records, and an open transaction holds it back; but reads that begin beyond the former are out of
    range. So it is searched for by doubling and halving; mostly the first read says that nothing is hidden.
    """

    async def reaches(offset: int) -> bool:
        try:
            await place.store.read(place.topic, partition, offset, max_bytes=ONE_READ_BYTES, wait_seconds=0)
        except OffsetOutOfRange:
            return False
        return True

    step = 1
    while await reaches(end + step):
        step *= 2
    low, high = end + step // 2, end + step
    while high - low > 1:
        middle = (low + high) // 2
        if await reaches(middle):
            low = middle
        else:
            high = middle
    return low


def _seen(record: Record, timestamp: int) -> _Seen:
    # the last: a client's own headers come before the gateway's
    scope = next((value for header, value in reversed(record.headers) if header == SCOPE_HEADER), None)
    return _Seen(record.offset, timestamp, digest_of(record.value, record.key), scope)


def _weight(record: Record) -> int:
    """About its size on the wire."""
    return len(record.value or b"") + len(record.key or b"") + 64
