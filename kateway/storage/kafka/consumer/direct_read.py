"""Reads without a group: one fetch at a time on a connection of its own."""

from __future__ import annotations

from twisted.internet.task import deferLater

from kateway.errors import KatewayError, Overloaded, PartitionNotFound, Unavailable
from kateway.model import Record
from kateway.storage.interface import Fetched
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.cluster.connection import RequestFailed
from kateway.storage.kafka.cluster.offsets import Offsets, as_unavailable
from kateway.storage.kafka.cluster.pool import Pool
from kateway.storage.kafka.consumer.prefetch import Prefetch
from kateway.storage.kafka.protocol.errors import REROUTE, error_for
from kateway.storage.kafka.protocol.primitives import MalformedResponse
from kateway.storage.kafka.protocol.requests import (
    FETCH,
    FETCH_VERSION,
    FetchedPartition,
    Wanted,
    decode_fetch,
    encode_fetch,
)

MAX_WAIT_SECONDS = 5.0
"""Of one poll; longer waits are several."""
RETRY_SECONDS = 0.1
MAX_IDLE_POOLS = 4
MAX_READS = 1000


class Reads:
    """Connections for reads: as many as there are reads at once, a few kept for the next."""

    def __init__(self, client: Client, offsets: Offsets) -> None:
        self._client = client
        self._offsets = offsets
        self._idle: list[Pool] = []
        self._under_way = 0

    async def read(self, topic: str, partition: int, offset: int, max_bytes: int, wait_seconds: float) -> Fetched:
        """Reads from ``offset`` on; waits at the end. Cancelling closes the connection that was used."""
        count = await self._offsets.partitions(topic)
        if not 0 <= partition < count:
            raise PartitionNotFound(f"topic {topic} has no partition {partition}")
        if self._under_way >= MAX_READS:
            raise Overloaded(f"{MAX_READS} reads are under way")
        pool = self._idle.pop() if self._idle else self._client.pool("reading")
        self._under_way += 1
        whole = False
        try:
            fetched = await self._until_something(pool, topic, partition, offset, max_bytes, wait_seconds)
            whole = True
            return fetched
        except KatewayError:
            whole = True
            raise
        finally:
            self._under_way -= 1
            if whole and len(self._idle) < MAX_IDLE_POOLS:
                self._idle.append(pool)
            else:
                self._client.let_go(pool)

    async def _until_something(
        self, pool: Pool, topic: str, partition: int, offset: int, max_bytes: int, wait_seconds: float
    ) -> Fetched:
        seconds = self._client.reactor.seconds
        until = seconds() + wait_seconds
        give_up = seconds() + max(wait_seconds, self._client.config.request_timeout_seconds)
        ask = min(max(max_bytes, 1), self._client.config.fetch_max_bytes)
        while True:
            wait = max(0.0, min(until - seconds(), MAX_WAIT_SECONDS))
            try:
                found = await self._fetch(pool, topic, Wanted(partition, offset, ask), wait)
            except (RequestFailed, MalformedResponse, Unavailable) as error:
                if seconds() + RETRY_SECONDS > give_up or not self._client.health().healthy:
                    raise as_unavailable(error) from error
                await deferLater(self._client.reactor, RETRY_SECONDS)
                await self._client.refresh()
                await self._offsets.partitions(topic)  # it may be gone
                continue
            buffer = Prefetch(partition, ask, ask)
            buffer.start_at(offset)
            buffer.fetched(found.records, found.aborted)
            records: list[Record] = []
            if buffer.readable:
                records = buffer.take(1 << 31, max_bytes)
            assert buffer.position is not None
            moved, offset = buffer.position > offset, buffer.position
            if records or (seconds() >= until and not (moved and offset < found.end)):
                return Fetched(records, offset, found.end)

    async def _fetch(self, pool: Pool, topic: str, wanted: Wanted, wait_seconds: float) -> FetchedPartition:
        leader = self._client.leader(topic, wanted.partition)
        if leader is None:
            raise Unavailable(f"topic {topic} partition {wanted.partition} has no leader just now")
        body = encode_fetch(
            topic, [wanted], max_wait_ms=int(wait_seconds * 1000), min_bytes=1, max_bytes=wanted.max_bytes
        )
        timeout = wait_seconds + self._client.config.request_timeout_seconds
        answer = await pool.request(leader, FETCH, FETCH_VERSION, body, timeout_seconds=timeout)
        error, _session, partitions = decode_fetch(answer)
        found = partitions[0] if partitions else None
        error = error or (found.error if found is not None else 0)
        about = f"topic {topic} partition {wanted.partition}"
        if error in REROUTE:
            raise Unavailable(f"{about}: the leader is moving")
        if error:
            raise error_for(error, f"{about} at offset {wanted.offset}")
        if found is None:
            raise MalformedResponse("a fetch was answered without its partition")
        return found
