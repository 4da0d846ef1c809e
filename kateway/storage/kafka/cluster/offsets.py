"""Offsets of topics and of groups: the ends, by time, committed, moved by hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

from twisted.internet.task import deferLater

from kateway.backoff import Backoff
from kateway.errors import (
    GroupBusy,
    KatewayError,
    OutcomeUnknown,
    PartitionNotFound,
    TooLarge,
    TopicNotFound,
    Unavailable,
)
from kateway.model import Committed
from kateway.storage.interface import At
from kateway.storage.kafka.cluster.client import Client, Pool
from kateway.storage.kafka.cluster.connection import NeverSent, RequestFailed
from kateway.storage.kafka.cluster.coordinators import NOT_HERE, Coordinators
from kateway.storage.kafka.protocol import requests as wire
from kateway.storage.kafka.protocol.errors import REROUTE, error_for
from kateway.storage.kafka.protocol.primitives import MalformedResponse

T = TypeVar("T")

RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 1.0
EMPTY_STATES = frozenset({"Empty", "Dead"})
_REBALANCED = frozenset({22, 25, 27})
_METADATA_TOO_LARGE = 12


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
    ) -> set[int]:
        """Commits and returns the broker's codes that only the caller can judge: of 22, 25, 27."""
        body = wire.encode_offset_commit(group, generation, member, topic, offsets)

        async def send() -> set[int]:
            node = await self._coordinators.find(group)
            answer = await self._request(node, wire.OFFSET_COMMIT, wire.OFFSET_COMMIT_VERSION, body, pool)
            errors = set(wire.decode_offset_commit(answer).values())
            self._check(group, errors - _REBALANCED)
            return errors & _REBALANCED

        return await self._again_and_again(send, self._elsewhere(group))

    async def reset(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Moves a group by hand; ``GroupBusy`` while it has members."""
        count = await self.partitions(topic)
        for partition in offsets:
            if not 0 <= partition < count:
                raise PartitionNotFound(f"topic {topic} has no partition {partition}")

        async def describe() -> tuple[str, int]:
            node = await self._coordinators.find(group)
            body = wire.encode_describe_groups(group)
            answer = await self._request(node, wire.DESCRIBE_GROUPS, wire.DESCRIBE_GROUPS_VERSION, body)
            error, state, members = wire.decode_describe_groups(answer)
            self._check(group, {error})
            return state, members

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
            if error == _METADATA_TOO_LARGE:
                raise TooLarge(f"the commit of group {group} carries more than the broker keeps")
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
