"""Where a key's record lies that was written while its topic had fewer partitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kateway.bounded_cache import BoundedCache
from kateway.core.access.control import Place
from kateway.storage.partitioner import by_key

MOST_TOPICS = 10_000


class _Topic(NamedTuple):
    partitions: int
    until_ms: int
    """Until then records of the window may be from a time when there were fewer."""


class FormerPartitions:
    """Remembers since when topics have as many partitions as they have. ``window_ms``: older records do not matter."""

    def __init__(self, now_ms: Callable[[], int], window_ms: int) -> None:
        self._now_ms = now_ms
        self._window_ms = window_ms
        self._topics: BoundedCache[tuple[str, str], _Topic] = BoundedCache(MOST_TOPICS)

    async def of(self, place: Place, key: bytes, partitions: int) -> frozenset[int]:
        """Returns the partitions, besides that of now, in which a record with a key may have been placed within the
        window; none where the topic has surely had as many partitions for so long.
        """
        name = place.cluster, place.topic
        known = self._topics.get(name)
        if known is None or known.partitions != partitions:
            if known is None:
                # how many it had before this gateway saw it is nowhere written down
                grown = partitions > 1 and not await self._old(place, partitions)
            else:
                grown = partitions > known.partitions
            known = self._topics.keep(name, _Topic(partitions, self._now_ms() + self._window_ms if grown else 0))
        if self._now_ms() >= known.until_ms:
            return frozenset()
        return frozenset(by_key(key, fewer) for fewer in range(1, partitions)) - {by_key(key, partitions)}

    async def _old(self, place: Place, partitions: int) -> bool:
        """Whether the last partition has a record from before the window: then it was there all the time."""
        last = partitions - 1
        first_within = (await place.store.offsets(place.topic, self._now_ms() - self._window_ms))[last]
        return first_within > (await place.store.offsets(place.topic, "earliest"))[last]
