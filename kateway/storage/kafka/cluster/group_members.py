"""Names a group's members and their partitions, whichever protocol the group is in."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.task import deferLater

from kateway.backoff import Backoff
from kateway.errors import Unavailable
from kateway.storage.interface import GroupMember, OwnMember
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.cluster.connection import RequestFailed
from kateway.storage.kafka.cluster.coordinators import NOT_HERE, Coordinators
from kateway.storage.kafka.cluster.pool import Pool
from kateway.storage.kafka.protocol import consumer_group_requests as consumer_wire
from kateway.storage.kafka.protocol import group_members as wire
from kateway.storage.kafka.protocol import group_requests as group_wire
from kateway.storage.kafka.protocol.errors import error_for
from kateway.storage.kafka.protocol.group_requests import decode_assignment, decode_metadata
from kateway.storage.kafka.protocol.primitives import MalformedResponse

STABLE = "Stable"
REBALANCING = frozenset({"PreparingRebalance", "CompletingRebalance"})
NO_MEMBERS = frozenset({69, 35})
"""Not found, and not supported: what a broker answers that knows of such groups and has them switched off."""
FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 1.0


class Members:
    """Asks groups' coordinators."""

    def __init__(self, client: Client, pool: Pool, coordinators: Coordinators) -> None:
        self._client = client
        self._pool = pool
        self._coordinators = coordinators
        self._timeout_seconds = client.config.request_timeout_seconds

    async def of(self, group: str) -> Sequence[GroupMember] | None:
        """All members, ``None`` while the group rebalances. ``Unavailable``."""
        deadline = self._client.reactor.seconds() + self._timeout_seconds
        backoff = Backoff(FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS)
        while True:
            try:
                return await self._ask(group)
            except (RequestFailed, MalformedResponse, Unavailable) as error:
                pause = backoff.next()
                if self._client.reactor.seconds() + pause > deadline or not self._client.health().healthy:
                    raise Unavailable(f"the coordinator of group {group} does not name its members: {error}") from error
            self._coordinators.forget(group)
            await deferLater(self._client.reactor, pause)

    async def leave_for(self, member: OwnMember) -> None:
        """Leaves a group on behalf of a member that is gone. ``Unavailable``."""
        group = member.group
        try:
            node = await self._coordinators.find(group)
            if member.by_consumer_protocol:
                await self._request(
                    node,
                    consumer_wire.CONSUMER_GROUP_HEARTBEAT,
                    consumer_wire.CONSUMER_GROUP_HEARTBEAT_VERSION,
                    consumer_wire.encode_leave(group, member.member, consumer_wire.LEAVING, None),
                )
            else:
                body = group_wire.encode_leave(group, member.member)
                await self._request(node, group_wire.LEAVE_GROUP, group_wire.LEAVE_GROUP_VERSION, body)
        except (RequestFailed, MalformedResponse) as error:
            self._coordinators.forget(group)
            raise Unavailable(f"the group {group} could not be left: {error}") from error

    async def _ask(self, group: str) -> Sequence[GroupMember] | None:
        node = await self._coordinators.find(group)
        body = await self._request(
            node, wire.DESCRIBE_GROUPS, wire.DESCRIBE_GROUPS_VERSION, wire.encode_describe([group])
        )
        described = next(iter(wire.decode_describe(body)), wire.DescribedGroup(group, 0, wire.DEAD, []))
        self._check(group, described.error)
        if described.state == STABLE:
            return [_classic(member) for member in described.members]
        if described.state in REBALANCING:
            return None
        if described.state != wire.DEAD or not await self._coordinators.describes_consumer_groups(node):
            return []
        body = await self._request(
            node,
            wire.CONSUMER_GROUP_DESCRIBE,
            wire.CONSUMER_GROUP_DESCRIBE_VERSION,
            wire.encode_consumer_describe(group),
        )
        error, state, consumers = wire.decode_consumer_describe(body)
        self._check(group, error)
        return [
            GroupMember(each.client_id, frozenset(each.topics), each.assigned, settled=state == STABLE)
            for each in consumers
        ]

    async def _request(self, node: int, key: int, version: int, body: bytes) -> bytes:
        return await self._pool.request(node, key, version, body, timeout_seconds=self._timeout_seconds)

    def _check(self, group: str, error: int) -> None:
        if error in NOT_HERE:
            raise Unavailable(f"the coordinator of group {group} is moving (Kafka: error {error})")
        if error and error not in NO_MEMBERS:
            raise error_for(error, f"group {group}")


def _classic(member: wire.ClassicMember) -> GroupMember:
    try:
        topics = decode_metadata(member.metadata).topics
        return GroupMember(member.client_id, frozenset(topics), decode_assignment(member.assignment))
    except MalformedResponse:
        # of another protocol than the consumers'
        return GroupMember(member.client_id, frozenset(), {})
