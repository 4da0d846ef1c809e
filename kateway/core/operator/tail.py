"""Follows the end of a topic without a group: each look gives a bounded number of its newest records, and counts those
that it leaves out. A look costs one question for the ends and the records that are shown, however much is written.
"""

from __future__ import annotations

from typing import NamedTuple

from twisted.internet.interfaces import IReactorTime

from kateway.core.access.control import Place
from kateway.core.gateway import Gateway
from kateway.core.operator.peek import Bounds, peek
from kateway.core.reads import Start
from kateway.errors import TopicNotFound
from kateway.model import Record


class Looked(NamedTuple):
    """Records that were written since the look before, and how many there were beside them."""

    records: list[tuple[int, Record]]
    dropped: int


class Tail:
    """One follower. The first look finds the ends and gives nothing."""

    def __init__(self, gateway: Gateway, place: Place, clock: IReactorTime) -> None:
        self._gateway = gateway
        self._place = place
        self._clock = clock
        self._next: dict[int, int] | None = None

    async def look(self, most: int, bounds: Bounds) -> Looked:
        """Returns at most ``most`` records: of those that were written to a partition the newest."""
        try:
            ends = await self._place.store.offsets(self._place.topic, "latest")
        except TopicNotFound:
            # of open mode: its first record makes it
            ends = {}
        before, self._next = self._next, dict(ends)
        if before is None:
            return Looked([], 0)
        # a partition that was not there has new records only; one of a topic that was made anew begins again
        new = {partition: max(0, end - before.get(partition, 0)) for partition, end in ends.items()}
        written, room = sum(new.values()), most
        records: list[tuple[int, Record]] = []
        for partition, count in sorted(new.items()):
            wanted = min(count, room, -(-most * count // written)) if count else 0
            if not wanted:
                continue
            room -= wanted
            end = ends[partition]
            reading = self._gateway.read(self._place, partition, Start("offset", end - wanted))
            peeked = await peek(reading, lambda _record: True, wanted, bounds, self._clock)
            records += [(each, record) for each, record in peeked.found if record.offset < end]
        records.sort(key=lambda found: found[1].timestamp)
        return Looked(records, written - len(records))
