"""Implements the storage contract on Kafka: puts the parts together, and calls their errors by our names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from kateway.config.schema import KafkaStorageConfig
from kateway.model import Committed, Health, Message, TopicInfo
from kateway.observe.store import StoreCells
from kateway.storage.interface import At, Fetched, GroupMember, Listener, Outcome, OwnMember, Reset
from kateway.storage.kafka.cluster.bootstrap import Discover
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.cluster.connection import EndpointFactory
from kateway.storage.kafka.cluster.coordinators import Coordinators
from kateway.storage.kafka.cluster.group_members import Members
from kateway.storage.kafka.cluster.offsets import Offsets
from kateway.storage.kafka.cluster.reading_groups import ReadingGroups
from kateway.storage.kafka.cluster.sasl import endpoint_factory as configured_endpoints
from kateway.storage.kafka.cluster.topics import Topics
from kateway.storage.kafka.cluster.waiting import at_most
from kateway.storage.kafka.consumer.direct_read import Reads
from kateway.storage.kafka.consumer.protocol_choice import fits
from kateway.storage.kafka.consumer.subscription import KafkaSubscription
from kateway.storage.kafka.producer.prepared import PreparedBatches
from kateway.storage.kafka.producer.producer import Producer
from kateway.storage.passed_member import PassedMember

DEFAULT_SESSION_TIMEOUT_SECONDS = 10.0
MOST_NAME_CHARS = 249
"""Of a member's own name in a group, as of a topic's."""


class KafkaStore:
    """One Kafka cluster. ``name`` is its name in the configuration; ``discover`` finds its brokers
    where they are not configured. ``instance_name``: this process's own name in its groups, by which it keeps its
    place when it stops and comes back; empty: it leaves them. ``member_label``: what its members append to their
    client id.

    ``ConfigError`` for an address that is none, and for a certificate or secret that cannot be read.
    """

    def __init__(
        self,
        config: KafkaStorageConfig,
        reactor: Any,
        *,
        session_timeout_seconds: float = DEFAULT_SESSION_TIMEOUT_SECONDS,
        name: str = "default",
        instance_name: str = "",
        member_label: Callable[[], str] | None = None,
        endpoint_factory: EndpointFactory | None = None,
        discover: Discover | None = None,
        cells: StoreCells | None = None,
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._session_timeout_seconds = session_timeout_seconds
        self._instance_name = instance_name
        self._client_id = f"kateway-{name}"
        self._member_label = member_label
        endpoint_factory = endpoint_factory or configured_endpoints(config)
        self._client = Client(
            reactor,
            config,
            client_id=self._client_id,
            endpoint_factory=endpoint_factory,
            discover=discover,
            cells=cells,
        )
        admin = self._client.pool("admin")
        self._coordinators = Coordinators(self._client, admin)
        self._offsets = Offsets(self._client, admin, self._coordinators)
        self._members = Members(self._client, admin, self._coordinators)
        self._reading = ReadingGroups(self._client, admin, self._members)
        self._topics = Topics(self._client, admin)
        self._reads = Reads(self._client, self._offsets)
        queued = None if cells is None else cells.queue("produce")
        self._producer = Producer(self._client, config, reactor, queued=queued)
        self.prepared = PreparedBatches(self._client, config)
        """Writes what a handoff has kept."""
        self._subscriptions: set[KafkaSubscription] = set()

    async def start(self) -> None:
        """Begins to look after the cluster; ``health`` reports brokers that cannot be reached."""
        self._client.start()

    async def stop(self, grace_seconds: float) -> None:
        """Publishes finish, groups are left, connections close."""
        closing: Deferred[Any] = gatherResults(
            [
                Deferred.fromCoroutine(self._producer.stop(grace_seconds)),
                *(subscription.close(returning=True) for subscription in list(self._subscriptions)),
            ],
            consumeErrors=True,
        )
        await at_most(self._reactor, grace_seconds + self._session_timeout_seconds, closing)
        await self._client.stop()

    def health(self) -> Health:
        """Whether a broker answers, as of the last seconds."""
        return self._client.health()

    def bytes_in_flight(self) -> int:
        """Bytes of records that are held."""
        return self._producer.held_bytes

    def partitions(self, topic: str) -> int | None:
        """The topic's partition count as last heard."""
        return self._client.partition_count(topic)

    async def topics(self) -> Mapping[str, TopicInfo]:
        """All topics that are not Kafka's own."""
        return await self._topics.all()

    async def topic(self, topic: str) -> TopicInfo:
        """One topic."""
        return await self._topics.one(topic)

    async def create_topic(
        self, topic: str, *, partitions: int, replicas: int = 1, retention_ms: int | None = None
    ) -> TopicInfo:
        """Makes a topic."""
        return await self._topics.create(topic, partitions, replicas, retention_ms)

    async def add_partitions(self, topic: str, total: int) -> TopicInfo:
        """Grows a topic."""
        return await self._topics.grow(topic, total)

    async def set_retention(self, topic: str, retention_ms: int) -> None:
        """How long records are kept."""
        await self._topics.retain(topic, retention_ms)

    async def delete_topic(self, topic: str) -> None:
        """Deletes a topic."""
        await self._topics.delete(topic)

    def publish(self, topic: str, messages: Sequence[Message], acks: int, deadline: float) -> Deferred[list[Outcome]]:
        """Writes messages."""
        return self._producer.publish(topic, messages, acks, deadline)

    def undecided(self, topic: str, partition: int) -> bool:
        """Whether a publish of unknown outcome may still be written."""
        return self._producer.undecided(topic, partition)

    def fail_unsent(self) -> None:
        """Fails publishes that wait and were never sent."""
        self._producer.fail_unsent()

    async def offsets(self, topic: str, at: At) -> Mapping[int, int]:
        """The offset of ``at`` in each partition."""
        return await self._offsets.at(topic, at)

    async def committed(self, group: str, topic: str) -> Mapping[int, Committed | None]:
        """Returns a group's committed offsets."""
        return await self._offsets.committed(group, topic)

    async def reading_groups(self, topic: str) -> frozenset[str]:
        """Returns the groups with a member that reads the topic."""
        return await self._reading.of(topic)

    async def committed_groups(self, wanted: Callable[[str], bool]) -> Mapping[str, frozenset[str]]:
        """Returns the topics in which each group that is wanted has committed a place."""
        return await self._reading.committed(wanted)

    async def members(self, group: str) -> Sequence[GroupMember] | None:
        """Names a group's members and what each has."""
        return await self._members.of(group)

    def own_members(self) -> Sequence[OwnMember]:
        """This process's members of groups."""
        if self._instance_name:
            return []  # their names keep their places
        members = (subscription.own_member() for subscription in self._subscriptions)
        return [member for member in members if member is not None]

    async def leave_for(self, member: OwnMember) -> None:
        """Leaves a group on behalf of a process that has died."""
        await self._members.leave_for(member)

    async def reset(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Moves a group by hand."""
        await self._offsets.reset(group, topic, offsets)

    async def read(self, topic: str, partition: int, offset: int, *, max_bytes: int, wait_seconds: float) -> Fetched:
        """Reads without a group."""
        return await self._reads.read(topic, partition, offset, max_bytes, wait_seconds)

    def subscribe(self, group: str, topic: str, listener: Listener, reset: Reset) -> KafkaSubscription:
        """Makes this process a member of a group."""
        instance = member_name(self._instance_name, topic) if self._instance_name else None
        return self._subscribe(group, topic, listener, reset, instance)

    def go_on(self, passed: PassedMember, listener: Listener) -> KafkaSubscription | None:
        """Goes on as a member that another process was; ``None`` where the configuration asks for another one."""
        own = self._instance_name and member_name(self._instance_name, passed.topic)
        if (own and own != passed.instance) or not fits(
            self._config.group_protocol, passed, self._session_timeout_seconds
        ):
            return None
        reset: Reset = "latest" if passed.reset == "latest" else "earliest"
        return self._subscribe(passed.group, passed.topic, listener, reset, passed.instance, passed)

    def _subscribe(
        self,
        group: str,
        topic: str,
        listener: Listener,
        reset: Reset,
        instance: str | None,
        passed: PassedMember | None = None,
    ) -> KafkaSubscription:
        subscription = KafkaSubscription(
            self._client,
            self._coordinators,
            self._offsets,
            listener,
            group=group,
            topic=topic,
            reset=reset,
            session_timeout_seconds=self._session_timeout_seconds,
            instance=instance,
            # the one text of a member that DescribeGroups and ConsumerGroupDescribe both give
            client_id=f"{self._client_id}{self._member_label()}" if self._member_label is not None else "",
            passed=passed,
            closed=self._subscriptions.discard,
        )
        self._subscriptions.add(subscription)
        return subscription


def member_name(instance_name: str, topic: str) -> str:
    """Returns a member's own name in a group: each topic that a process reads in the group is a member of its own."""
    name = f"{instance_name}.{topic}"
    if len(name) <= MOST_NAME_CHARS:
        return name
    return f"{instance_name}.{sha256(topic.encode()).hexdigest()}"
