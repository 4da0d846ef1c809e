"""Measures the load of a topic by its store: the ends of its partitions count every writer's records, of any gateway.

Ends count records, not bytes. So some of the newest records are read now and then, for the size of a record.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from kateway.errors import KatewayError
from kateway.model import Record
from kateway.storage.interface import Store

RECORDS_READ = 32
MOST_READ_BYTES = 65_536
"""Of each sample: one small read."""
WEIGHT_OF_NEW = 0.3
"""Of a new record's size against those from before."""


def record_bytes(record: Record) -> int:
    """Returns the bytes of a record's key, value and headers."""
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


@attrs.define
class TopicLoad:
    """The load of one topic, from one sample to the next."""

    store: Store
    topic: str
    _ends: Mapping[int, int] = attrs.field(factory=dict)
    _at: float = 0.0
    _record_bytes: float | None = None

    async def bytes_per_second(self, now: float) -> float | None:
        """Returns the mean since the last call; ``None`` at the first one, and where the store does not say."""
        try:
            ends = await self.store.offsets(self.topic, "latest")
            before, since = self._ends, self._at
            self._ends, self._at = ends, now
            if not before or now <= since or any(ends.get(each, 0) < end for each, end in before.items()):
                # the first look, or the topic was made anew
                return None
            # a partition that is new began at 0
            added = {partition: end - before.get(partition, 0) for partition, end in ends.items()}
            records = sum(added.values())
            if not records:
                return 0.0
            await self._weigh(max(added, key=lambda partition: added[partition]), ends)
        except KatewayError:
            return None
        return None if self._record_bytes is None else records * self._record_bytes / (now - since)

    async def _weigh(self, partition: int, ends: Mapping[int, int]) -> None:
        start = max(ends[partition] - RECORDS_READ, 0)
        earliest = (await self.store.offsets(self.topic, "earliest"))[partition]
        found = await self.store.read(
            self.topic, partition, max(start, earliest), max_bytes=MOST_READ_BYTES, wait_seconds=0
        )
        if found.records:
            size = sum(map(record_bytes, found.records)) / len(found.records)
            former = self._record_bytes
            self._record_bytes = size if former is None else former + WEIGHT_OF_NEW * (size - former)
