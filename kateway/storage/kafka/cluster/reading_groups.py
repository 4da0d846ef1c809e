"""Finds the groups that read a topic: each broker lists those that it coordinates, and says what their members read."""

from __future__ import annotations

from collections.abc import Callable

from kateway.errors import Unavailable
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.cluster.connection import RequestFailed
from kateway.storage.kafka.cluster.coordinators import NOT_HERE
from kateway.storage.kafka.cluster.group_members import Members
from kateway.storage.kafka.cluster.pool import Pool
from kateway.storage.kafka.protocol import group_members
from kateway.storage.kafka.protocol import requests as wire
from kateway.storage.kafka.protocol.errors import error_for
from kateway.storage.kafka.protocol.group_requests import PROTOCOL_TYPE, decode_metadata
from kateway.storage.kafka.protocol.primitives import MalformedResponse

GROUPS_AT_ONCE = 100
"""Described in one request."""


class ReadingGroups:
    """Asks all brokers; of groups whose broker assigns (KIP-848) their coordinators."""

    def __init__(self, client: Client, pool: Pool, members: Members) -> None:
        self._client = client
        self._pool = pool
        self._members = members

    async def of(self, topic: str) -> frozenset[str]:
        """Returns the groups that have a member which reads the topic, or which says nothing while it joins.
        ``Unavailable`` where a broker does not answer: its groups would be taken for none.
        """
        found: set[str] = set()
        for node in list(self._client.view.brokers):
            try:
                found |= await self._of_broker(node, topic)
            except (RequestFailed, MalformedResponse) as error:
                raise Unavailable(f"the groups of broker {node} are not known just now: {error}") from error
        return frozenset(found)

    async def committed(self, wanted: Callable[[str], bool]) -> dict[str, frozenset[str]]:
        """Returns the topics that each group that is ``wanted`` has committed a place in. ``Unavailable`` where a
        broker does not answer, or none is known yet.
        """
        found: dict[str, frozenset[str]] = {}
        brokers = list(self._client.view.brokers)
        if not brokers:
            raise Unavailable("no broker is known yet")
        for node in brokers:
            try:
                for group in filter(wanted, await self._listed(node)):
                    body = wire.encode_offset_fetch_all(group)
                    answer = await self._ask(node, wire.OFFSET_FETCH, wire.OFFSET_FETCH_ALL_VERSION, body)
                    error, topics = wire.decode_offset_fetch_all(answer)
                    if error in NOT_HERE:
                        raise Unavailable(f"the coordinator of group {group} is moving (Kafka: error {error})")
                    if topics and not error:
                        found[group] = topics
            except (RequestFailed, MalformedResponse) as error:
                raise Unavailable(f"the groups of broker {node} are not known just now: {error}") from error
        return found

    async def _listed(self, node: int) -> list[str]:
        error, listed = wire.decode_list_groups(await self._ask(node, wire.LIST_GROUPS, wire.LIST_GROUPS_VERSION, b""))
        if error in NOT_HERE:
            raise Unavailable(f"broker {node} is loading its groups (Kafka: error {error})")
        if error:
            raise error_for(error, "listing the groups")
        return [group for group, kind in listed if kind in {PROTOCOL_TYPE, ""}]

    async def _of_broker(self, node: int, topic: str) -> set[str]:
        groups = await self._listed(node)
        found = set()
        for start in range(0, len(groups), GROUPS_AT_ONCE):
            body = group_members.encode_describe(groups[start : start + GROUPS_AT_ONCE])
            answer = await self._ask(node, group_members.DESCRIBE_GROUPS, group_members.DESCRIBE_GROUPS_VERSION, body)
            for described in group_members.decode_describe(answer):
                if described.error in NOT_HERE:
                    raise Unavailable(f"the coordinator of group {described.group} is moving")
                if described.state == group_members.DEAD:
                    # so a broker describes a group of the other protocol that it has just listed
                    members = await self._members.of(described.group)
                    reads = members is None or any(not each.topics or topic in each.topics for each in members)
                else:
                    reads = any(_may_read(each.metadata, topic) for each in described.members)
                if reads:
                    found.add(described.group)
        return found

    async def _ask(self, node: int, key: int, version: int, body: bytes) -> bytes:
        seconds = self._client.config.request_timeout_seconds
        return await self._pool.request(node, key, version, body, timeout_seconds=seconds)


def _may_read(metadata: bytes, topic: str) -> bool:
    if not metadata:
        return True
    try:
        return topic in decode_metadata(metadata).topics
    except MalformedResponse:
        return True
