"""Fetches from one broker, in one request at a time, the partitions that it leads."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from kateway.backoff import Backoff
from kateway.storage.kafka.consumer.fetch_session import FetchSession
from kateway.storage.kafka.consumer.prefetch import Prefetch

MAX_WAIT_MS = 500
SHORT_WAIT_MS = 20
IDLE_WAIT_MS = 2000
"""To where the wait of a poll grows that brings nothing. Of 200 idle groups with four members each two thirds of all
requests were such polls; one that is under way when something else is wanted is cut off.
"""
RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 1.0


class Way(NamedTuple):
    """Where a partition is fetched: of which broker, ``None`` while its leader is not known, and in which request."""

    node: int | None
    share: int


NOWHERE = Way(None, 0)


class Lane:
    """One way: its partitions, and the request under way."""

    def __init__(self, way: Way, former_session: int) -> None:
        self.way = way
        self.buffers: dict[int, Prefetch] = {}
        self.changes: set[int] = set()
        """Of partitions that may have to be asked for differently than last time."""
        self.session = FetchSession(former_session)
        self.under_way: Deferred[bytes] | None = None
        self.waiting: IDelayedCall | None = None
        self.backoff = Backoff(RETRY_SECONDS, MAX_RETRY_SECONDS)
        self.short_wait_ms = SHORT_WAIT_MS
        self.wait_ms = MAX_WAIT_MS
        """Of a poll for all of its partitions."""

    def misses(self, held: Collection[int]) -> bool:
        """Whether a partition is wanted, and not ``held``, that the request under way is not for, or not for its next
        records.
        """
        asked = self.session.asked
        for partition in self.changes:
            buffer = self.buffers.get(partition)
            if buffer is None or partition in held or not buffer.wants:
                continue
            before = asked.get(partition)
            if before is None or before.offset != buffer.next_fetch:
                return True
        return False
