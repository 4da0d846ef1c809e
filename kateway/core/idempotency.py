"""Idempotency keys: a publish that is repeated under its key is written once, and answered as the first time.

An entry in memory has the outcome of a key that this gateway has handled. Any other key is looked for in the records:
each carries its key in the header ``idempotency-key``, and lies in a partition that follows from the record's key, else
from the idempotency key. So before a key that is not known here is written, its partition's window is read for it
(``key_index``), and from then on only the records that were added since.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from kateway.core.access.control import Place
from kateway.core.elastic_topic import ElasticTopic
from kateway.core.former_partitions import FormerPartitions
from kateway.core.key_index import HEADER, LEEWAY_MS, SCOPE_HEADER, KeyIndex, digest_of
from kateway.errors import IdempotencyKeyInUse, IdempotencyKeyReused, InvalidParameter, KatewayError, Unavailable
from kateway.model import Message, Receipt
from kateway.storage.interface import Outcome
from kateway.storage.partitioner import by_key

LOOK_SECONDS = 0.1
"""How often is looked whether a publish of unknown outcome has been decided."""

MOST_LOOKS = 64
"""Entries that are looked at to make room for one: where all of them are under way, the next publish goes on."""


class Use(NamedTuple):
    """A key as one request uses it: the caller's application, topic and version, the key, a digest of the request."""

    application: str
    topic: str
    version: str
    key: str
    fingerprint: bytes


@attrs.define(eq=False)
class _Entry:
    fingerprint: bytes
    until: float
    outcomes: list[Outcome] | None = None
    """``None`` while the first request is under way and nothing is known yet."""
    waiting: list[Deferred[None]] | None = attrs.field(factory=list)
    """Repeats that wait for the request under way; ``None`` where none is under way."""


class Answered(NamedTuple):
    """One outcome a message; ``replayed``: nothing was written for this request."""

    outcomes: list[Outcome]
    replayed: bool


Write = Callable[[Sequence[Message]], Awaitable[list[Outcome]]]


def fingerprint(messages: Sequence[Message], acks: int, batch: bool) -> bytes:
    """A digest of everything that a request asks to be written, and how."""
    return blake2b(repr((acks, batch, [tuple(each) for each in messages])).encode(), digest_size=16).digest()


class Idempotency:
    """The keys in use. ``evicted`` counts outcomes that were dropped for want of room before their window was over."""

    def __init__(
        self,
        clock: IReactorTime,
        now_ms: Callable[[], int],
        *,
        window_seconds: float = 3600.0,
        max_entries: int = 100_000,
        scan_max_bytes: int = 268_435_456,
    ) -> None:
        self.evicted = 0
        self._clock = clock
        self._now_ms = now_ms
        self._window_seconds = window_seconds
        self._max_entries = max_entries
        self._index = KeyIndex(
            now_ms, window_ms=round(window_seconds * 1000), most=max_entries, max_bytes=scan_max_bytes
        )
        self._former = FormerPartitions(now_ms, round(window_seconds * 1000) + LEEWAY_MS)
        self._entries: OrderedDict[tuple[str, str, str, str], _Entry] = OrderedDict()
        """Oldest first."""

    async def publish(
        self,
        use: Use,
        place: Place,
        partitions: int,
        messages: Sequence[Message],
        deadline: float,
        write: Write,
        elastic: ElasticTopic | None = None,
    ) -> Answered:
        """Writes messages that are not written under this key yet. ``IdempotencyKeyReused``, ``IdempotencyKeyInUse``;
        ``Unavailable`` where it cannot be known whether they are. ``elastic``: the topic, where the registry says where
        its keys go; the caller has entered it.
        """
        keys = _Keys(partitions, elastic)
        name = use[:4]
        entry = await self._claim(name, use.fingerprint, deadline)
        outcomes = entry.outcomes
        first_open = outcomes is not None
        if outcomes is not None and all(isinstance(outcome, Receipt) for outcome in outcomes):
            return Answered(outcomes, True)
        try:
            placed = _placed(use, messages, keys)
            looking = Deferred.fromCoroutine(self._known(place, keys, use, messages, placed, deadline))
            left = max(deadline - self._clock.seconds(), 0.0)
            try:
                known = await looking.addTimeout(left, self._clock, _not_known)
            except Unavailable as error:
                if not first_open:
                    raise
                # not 503: that would say that nothing was written, and the first request may be written yet
                raise _still_under_way() from error
            missing = [index for index, receipt in enumerate(known) if receipt is None]
            found: list[Outcome | None] = list(known)
            if missing:
                self._check_dates([placed[index] for index in missing])
                written = await write([placed[index] for index in missing])
                for index, outcome in zip(missing, written, strict=True):
                    found[index] = outcome
            entry.outcomes = [outcome for outcome in found if outcome is not None]
            return Answered(entry.outcomes, not missing)
        finally:
            self._end(name, entry)

    def replay(self, use: Use) -> Answered | None:
        """Returns the answer to a key whose publish is known here to be written, whatever became of the store since.
        ``IdempotencyKeyReused``.
        """
        entry = self._entries.get(use[:4])
        if entry is None or entry.waiting is not None or entry.until <= self._clock.seconds():
            return None
        outcomes = entry.outcomes
        if outcomes is None or not all(isinstance(outcome, Receipt) for outcome in outcomes):
            return None
        if entry.fingerprint != use.fingerprint:
            raise _reused()
        return Answered(outcomes, True)

    async def _claim(self, name: tuple[str, str, str, str], fingerprint: bytes, deadline: float) -> _Entry:
        """Returns the key's entry: with every outcome, or as that of the request under way, which must end it."""
        while True:
            now = self._clock.seconds()
            entry = self._entries.get(name)
            if entry is None or (entry.waiting is None and entry.until <= now):
                self._make_room(now)
                entry = _Entry(fingerprint, now + self._window_seconds)
                self._entries[name] = entry
                self._entries.move_to_end(name)
                return entry
            if entry.fingerprint != fingerprint:
                raise _reused()
            if entry.waiting is None:
                if entry.outcomes is None or not all(isinstance(each, Receipt) for each in entry.outcomes):
                    entry.waiting = []
                return entry
            ended: Deferred[None] = Deferred()
            entry.waiting.append(ended)
            if now >= deadline:
                raise _still_under_way()
            ended.addTimeout(deadline - now, self._clock, _in_use)
            await ended

    def _end(self, name: tuple[str, str, str, str], entry: _Entry) -> None:
        waiting, entry.waiting = entry.waiting, None
        outcomes = entry.outcomes
        kept = outcomes is not None and any(
            not isinstance(outcome, KatewayError) or outcome.maybe_written for outcome in outcomes
        )
        if not kept and self._entries.get(name) is entry:
            # refused, or surely not written: the key is free
            del self._entries[name]
        for ended in waiting or ():
            if not ended.called:
                ended.callback(None)

    def _make_room(self, now: float) -> None:
        for _ in range(MOST_LOOKS):
            if not self._entries:
                return
            name, oldest = next(iter(self._entries.items()))
            if oldest.waiting is not None:
                if len(self._entries) < self._max_entries:
                    return
                self._entries.move_to_end(name)  # under way; bounded by the requests that may be
            elif oldest.until <= now:
                del self._entries[name]
            elif len(self._entries) >= self._max_entries:
                # its records still tell
                self.evicted += 1
                del self._entries[name]
            else:
                return

    def _check_dates(self, messages: Sequence[Message]) -> None:
        """Refuses messages that would not be found again (``InvalidParameter``). Only those that are to be written: a
        repeat is answered though its date has grown old meanwhile.
        """
        oldest = self._now_ms() - LEEWAY_MS
        if any(message.timestamp is not None and message.timestamp < oldest for message in messages):
            raise InvalidParameter(
                "a record with an Idempotency-Key is found again by its time: "
                f"date it no more than {LEEWAY_MS // 1000} s before now, or leave its timestamp or the key out"
            )

    # --- the records tell --------------------------------------------------------------------------------------

    async def _known(
        self,
        place: Place,
        keys: _Keys,
        use: Use,
        messages: Sequence[Message],
        placed: Sequence[Message],
        deadline: float,
    ) -> list[Receipt | None]:
        """Finds the messages that are written already, one receipt each. ``placed`` are ``messages`` as they would be
        written now; those that were may lie where they had been placed while the topic had fewer partitions.
        """
        receipts: list[Receipt | None] = [None] * len(messages)
        # the write says where there is no such partition
        where = [{each.partition} if (each.partition or 0) < keys.partitions else set() for each in placed]
        for index, message in enumerate(messages):
            if message.partition is None:
                where[index] |= await self._earlier(place, keys, _placing(use, message))
        dated = any(message.timestamp is not None for message in messages)
        digests = [digest_of(message.value, message.key) for message in placed]
        for partition in dict.fromkeys(partition for each in where for partition in each if partition is not None):
            while place.store.undecided(place.topic, partition):
                # one of an earlier request may still be written: it must not be written beside it
                if self._clock.seconds() >= deadline:
                    raise Unavailable("the outcome of an earlier publish to this partition is not known yet; repeat it")
                await deferLater(self._clock, LOOK_SECONDS)
            found = await self._index.find(place, partition, use.key, scope(use), dated=dated)
            if any(digest not in digests for digest in found):
                raise _reused()
            at = {digest: iter(offsets) for digest, offsets in found.items()}
            for index, digest in enumerate(digests):
                if partition in where[index] and receipts[index] is None and digest in at:
                    offset = next(at[digest], None)
                    receipts[index] = None if offset is None else Receipt(partition, offset)
        return receipts

    async def _earlier(self, place: Place, keys: _Keys, key: bytes) -> frozenset[int]:
        """Returns the partitions, besides that of now, in which a record with a key may lie."""
        if keys.elastic is None or not keys.elastic.placed:
            return await self._former.of(place, key, keys.partitions)
        window_ms = round(self._window_seconds * 1000) + LEEWAY_MS
        return keys.elastic.earlier_places(key, keys.partitions, self._now_ms(), window_ms)


class _Keys(NamedTuple):
    """How keys are placed: over so many partitions, and by the registry where the topic is elastic."""

    partitions: int
    elastic: ElasticTopic | None

    def partition_of(self, key: bytes) -> int:
        if self.elastic is None:
            return by_key(key, self.partitions)
        return self.elastic.partition_of(key, self.partitions)


def _not_known(_failure: object, _seconds: float) -> list[Receipt | None]:
    raise Unavailable("whether this Idempotency-Key was used could not be read in time; repeat it")


def _in_use(_failure: object, _seconds: float) -> None:
    raise _still_under_way()


def _still_under_way() -> IdempotencyKeyInUse:
    return IdempotencyKeyInUse("a request with this Idempotency-Key is still under way; repeat it later")


def _reused() -> IdempotencyKeyReused:
    return IdempotencyKeyReused("the Idempotency-Key was used for another request; take a new one")


def scope(use: Use) -> bytes:
    """Tells the keys of applications and versions apart that share a topic; it lies in each record beside the key."""
    name = "\0".join((use.application, use.topic, use.version))
    return blake2b(name.encode(), digest_size=8).hexdigest().encode()


def placing_keys(use: Use, messages: Sequence[Message]) -> list[bytes]:
    """Returns the bytes that messages are placed by, those that name a partition left out."""
    return [_placing(use, message) for message in messages if message.partition is None]


def _placing(use: Use, message: Message) -> bytes:
    """Returns the bytes that a message is placed by."""
    return use.key.encode() if message.key is None else message.key


def _placed(use: Use, messages: Sequence[Message], keys: _Keys) -> list[Message]:
    """Gives every message its partition, and the headers that find it again."""
    raw = use.key.encode()
    added = ((HEADER, raw), (SCOPE_HEADER, scope(use)))
    placed = []
    for message in messages:
        partition = message.partition
        if partition is None:
            partition = keys.partition_of(_placing(use, message))
        placed.append(message._replace(partition=partition, headers=(*message.headers, *added)))
    return placed
