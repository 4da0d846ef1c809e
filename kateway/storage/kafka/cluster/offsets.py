"""Finds offsets of topics (the ends, by time), and finds, commits and moves those of groups."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

from twisted.internet.task import deferLater

from kateway.backoff import Backoff
from kateway.errors import (
    GroupBusy,
    KatewayError,
    OutcomeUnknown,
    PartitionNotFound,
    TopicNotFound,
    Unavailable,
)
from kateway.model import Committed
from kateway.storage.interface import At, MetadataRefused
from kateway.storage.kafka.cluster import commit_requests
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.cluster.connection import NeverSent, RequestFailed
from kateway.storage.kafka.cluster.coordinators import NOT_HERE, Coordinators
from kateway.storage.kafka.cluster.pool import Pool
from kateway.storage.kafka.protocol import consumer_group_requests as consumer_wire
from kateway.storage.kafka.protocol import group_members
from kateway.storage.kafka.protocol import requests as wire
from kateway.storage.kafka.protocol.errors import REROUTE, error_for
from kateway.storage.kafka.protocol.primitives import MalformedResponse

T = TypeVar("T")

RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 1.0
EMPTY_STATES = frozenset({"Empty", "Dead"})
_REBALANCED = frozenset({22, 25, 27, 69, 110, 113})
_METADATA_TOO_LARGE = 12
_BATCH_TOO_LARGE = frozenset({-1, 10, 18, 28})
"""How a coordinator refuses offsets that are too long together; the first one may mean anything."""


class Offsets:
    """Asks leaders and coordinators, and asks again for as long as a request may take in all."""

    def __init__(self, client: Client, pool: Pool, coordinators: Coordinators) -> None:
        self._client = client
        self._pool = pool
        self._coordinators = coordinators
        self._timeout_seconds = client.config.request_timeout_seconds

    async def partitions(self, topic: str) -> int:
        """A topic's partition count; ``TopicNotFound`` after fresh looks."""
        count = self._client.partition_count(topic)
        if count is None:
            found = await self._client.look_for(topic)
            count = len(found.leaders) if found is not None else 0
        if not count:
            raise TopicNotFound(f"there is no topic {topic}")
        return count

    # --- of topics ---------------------------------------------------------------------------------------------

    async def at(self, topic: str, at: At, only: Iterable[int] | None = None) -> dict[int, int]:
        """For each partition (or ``only`` some) the offset of ``at``; the end where no record is that late."""
        partitions = list(range(await self.partitions(topic)) if only is None else only)
        timestamp = wire.EARLIEST if at == "earliest" else wire.LATEST if at == "latest" else at
        found = await self._list(topic, dict.fromkeys(partitions, timestamp))
        beyond = [partition for partition, offset in found.items() if offset < 0]
        if beyond:
            found.update(await self._list(topic, dict.fromkeys(beyond, wire.LATEST)))
        return {partition: found[partition] for partition in sorted(found)}

    async def _list(self, topic: str, timestamps: Mapping[int, int]) -> dict[int, int]:
        found: dict[int, int] = {}

        async def ask() -> dict[int, int]:
            by_node: dict[int, dict[int, int]] = {}
            for partition, timestamp in timestamps.items():
                if partition in found:
                    continue
                node = self._client.leader(topic, partition)
                if node is None:
                    if not 0 <= partition < (self._client.partition_count(topic) or 0):
                        raise PartitionNotFound(f"topic {topic} has no partition {partition}")
                    raise Unavailable(f"topic {topic} partition {partition} has no leader just now")
                by_node.setdefault(node, {})[partition] = timestamp
            for node, wanted in by_node.items():
                body = wire.encode_list_offsets(topic, wanted)
                answer = await self._request(node, wire.LIST_OFFSETS, wire.LIST_OFFSETS_VERSION, body)
                for partition, (error, offset) in wire.decode_list_offsets(answer).items():
                    if error in REROUTE:
                        raise Unavailable(f"the leader of {topic} partition {partition} is moving")
                    if error:
                        raise error_for(error, f"offsets of {topic} partition {partition}")
                    found[partition] = offset
            return found

        return await self._again_and_again(ask, self._look_again)

    async def _look_again(self) -> None:
        await self._client.refresh()

    # --- of groups ---------------------------------------------------------------------------------------------

    async def committed(self, group: str, topic: str, only: Iterable[int] | None = None) -> dict[int, Committed | None]:
        """Returns the group's committed offset in each partition (or ``only`` some)."""
        partitions = list(range(await self.partitions(topic)) if only is None else only)
        body = wire.encode_offset_fetch(group, topic, partitions)

        async def ask() -> dict[int, Committed | None]:
            node = await self._coordinators.find(group)
            answer = await self._request(node, wire.OFFSET_FETCH, wire.OFFSET_FETCH_VERSION, body)
            found = wire.decode_offset_fetch(answer)
            self._check(group, {error for error, _ in found.values()})
            return {partition: found[partition][1] if partition in found else None for partition in partitions}

        return await self._again_and_again(ask, self._elsewhere(group))

    async def commit(
        self,
        pool: Pool,
        group: str,
        topic: str,
        offsets: Mapping[int, Committed],
        *,
        generation: int = -1,
        member: str = "",
        by_consumer_protocol: bool = False,
    ) -> set[int]:
        """Commits, in as many requests as it takes, and returns the broker's codes that only the caller can judge: of
        ``_REBALANCED``. ``MetadataRefused`` where all is committed but some partitions, whose metadata is too long.
        ``by_consumer_protocol``: ``generation`` is a member epoch.
        """
        api = consumer_wire if by_consumer_protocol else wire
        version = consumer_wire.CONSUMER_OFFSET_COMMIT_VERSION if by_consumer_protocol else wire.OFFSET_COMMIT_VERSION

        async def send(part: Mapping[int, Committed]) -> Mapping[int, int]:
            body = api.encode_offset_commit(group, generation, member, topic, part)
            node = await self._coordinators.find(group)
            answer = await self._request(node, wire.OFFSET_COMMIT, version, body, pool)
            found: dict[int, int] = api.decode_offset_commit(answer)
            errors = set(found.values())
            if errors & _BATCH_TOO_LARGE and commit_requests.may_be_divided(group, topic, part):
                return found
            self._check(group, errors - _REBALANCED - {_METADATA_TOO_LARGE} - (_BATCH_TOO_LARGE - {-1}))
            return found

        refused: set[int] = set()
        waiting = deque(commit_requests.divide(group, topic, offsets))
        while waiting:
            part = waiting.popleft()
            found = await self._again_and_again(partial(send, part), self._elsewhere(group))
            errors = set(found.values())
            if errors & _REBALANCED:
                return errors & _REBALANCED
            if errors & _BATCH_TOO_LARGE and commit_requests.may_be_divided(group, topic, part):
                waiting.extendleft(reversed(commit_requests.halves(part)))
                continue
            refused.update(partition for partition, error in found.items() if error)
        if refused:
            raise MetadataRefused(
                f"group {group}: the broker does not store so much metadata of {len(refused)} partitions; raise its "
                "offset.metadata.max.bytes to 4096, and max.message.bytes of __consumer_offsets to 1048588",
                frozenset(refused),
            )
        return set()

    async def reset(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Moves a group by hand; ``GroupBusy`` while it has members."""
        count = await self.partitions(topic)
        for partition in offsets:
            if not 0 <= partition < count:
                raise PartitionNotFound(f"topic {topic} has no partition {partition}")

        async def describe() -> tuple[str, int]:
            node = await self._coordinators.find(group)
            body = group_members.encode_describe([group])
            describe = group_members.DESCRIBE_GROUPS, group_members.DESCRIBE_GROUPS_VERSION
            for described in group_members.decode_describe(await self._request(node, *describe, body)):
                self._check(group, {described.error})
                return described.state, len(described.members)
            return group_members.DEAD, 0

        state, members = await self._again_and_again(describe, self._elsewhere(group))
        if state not in EMPTY_STATES:
            raise GroupBusy(f"group {group} has {members} members ({state})")
        moved = {partition: Committed(offset) for partition, offset in offsets.items()}
        if moved and await self.commit(self._pool, group, topic, moved):
            raise GroupBusy(f"group {group} got a member meanwhile")

    def _check(self, group: str, errors: set[int]) -> None:
        for error in errors:
            if error in NOT_HERE:
                raise Unavailable(f"the coordinator of group {group} is moving (Kafka: error {error})")
            if error:
                raise error_for(error, f"group {group}")

    def _elsewhere(self, group: str) -> Callable[[], Awaitable[None]]:
        async def look() -> None:
            self._coordinators.forget(group)

        return look

    # --- asking again ------------------------------------------------------------------------------------------

    async def _request(self, node: int, key: int, version: int, body: bytes, pool: Pool | None = None) -> bytes:
        return await (pool or self._pool).request(node, key, version, body, timeout_seconds=self._timeout_seconds)

    async def _again_and_again(
        self, attempt: Callable[[], Awaitable[T]], before_the_next: Callable[[], Awaitable[None]]
    ) -> T:
        """Repeats a call within the request timeout while its failure may pass; each call here may be repeated."""
        deadline = self._client.reactor.seconds() + self._timeout_seconds
        backoff = Backoff(RETRY_SECONDS, MAX_RETRY_SECONDS)
        while True:
            try:
                return await attempt()
            except (RequestFailed, MalformedResponse, Unavailable, OutcomeUnknown) as error:
                pause = backoff.next()
                if self._client.reactor.seconds() + pause > deadline or not self._client.health().healthy:
                    raise as_unavailable(error) from error
            await deferLater(self._client.reactor, pause)
            await before_the_next()


def as_unavailable(error: Exception) -> KatewayError:
    """Of a request that changes nothing, or may be sent again: it did not succeed."""
    return error if isinstance(error, Unavailable) else Unavailable(str(error))


def as_outcome(error: RequestFailed | MalformedResponse) -> KatewayError:
    """Of a request that changes something: whether it may have."""
    return Unavailable(str(error)) if isinstance(error, NeverSent) else OutcomeUnknown(str(error))
