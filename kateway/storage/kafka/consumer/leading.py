"""Leads a group of the classic protocol: assigns partitions to its members, sees whether its topics have changed."""

from __future__ import annotations

from collections.abc import Mapping

from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.consumer.assignors import STRATEGIES
from kateway.storage.kafka.consumer.cooperative import Claim, assign_cooperatively, keep
from kateway.storage.kafka.protocol import group_requests as wire

COOPERATIVE = "cooperative-sticky"
PROTOCOLS = (COOPERATIVE, *STRATEGIES)
"""By their names, in our order of preference. The broker chooses among those that all members know."""


class Leading:
    """One member's. Each generation has a leader anew."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._counts: dict[str, int] = {}
        """Of the topics that were looked at for the present generation, by their names."""

    def begin(self, topics: list[str]) -> None:
        """Another generation begins; these topics are looked at, whichever member leads it."""
        self._counts = {topic: self._client.partition_count(topic) or 0 for topic in topics}

    @property
    def counts(self) -> dict[str, int]:
        """The topics that are looked at, with how many partitions each had."""
        return dict(self._counts)

    async def go_on(self, counts: Mapping[str, int]) -> None:
        """Looks at these topics, as the process did that was this member before."""
        if any(self._client.partition_count(topic) is None for topic in counts):
            await self._client.refresh()
        self._counts = dict(counts)

    async def assign(self, joined: wire.Joined) -> dict[str, bytes]:
        """What each member gets, for the broker's protocol of choice."""
        claims: dict[str, Claim] = {}
        for member, body in joined.members:
            said = wire.decode_metadata(body)
            owned = [(topic, partition) for topic, mine in said.owned.items() for partition in mine]
            claims[member] = Claim(said.topics, owned, said.generation)
        topics = {topic for claim in claims.values() for topic in claim.topics}
        if any(self._client.partition_count(topic) is None for topic in topics):
            await self._client.refresh()
        counts = {topic: self._client.partition_count(topic) or 0 for topic in topics}
        self._counts = counts
        if joined.protocol == COOPERATIVE:
            assigned = assign_cooperatively(claims, counts)
        elif any(claim.owned for claim in claims.values()):
            assigned = keep(claims, counts)
        else:
            subscriptions = {member: claim.topics for member, claim in claims.items()}
            assigned = STRATEGIES[joined.protocol](subscriptions, counts)
        return {member: wire.encode_assignment(topics) for member, topics in assigned.items()}

    def changed(self) -> bool:
        """Whether this member has to have partitions assigned anew."""
        return any((self._client.partition_count(topic) or 0) != count for topic, count in self._counts.items())
