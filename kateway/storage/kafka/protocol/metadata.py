"""Decodes the metadata of a cluster: Metadata v4 and ApiVersions v0, and the immutable view made of them.

Metadata v4 is the first that can be asked not to create the topics it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs

from kateway.config.addresses import Address
from kateway.model import TopicInfo
from kateway.storage.kafka.protocol.primitives import ByteReader, i32

METADATA = 3
METADATA_VERSION = 4
API_VERSIONS = 18
API_VERSIONS_VERSION = 0

PRODUCE, FETCH = 0, 1
FLOOR = {PRODUCE: 7, FETCH: 10, METADATA: METADATA_VERSION}
"""The versions that are spoken: brokers have them all from 2.1 on."""

_NO_AUTO_CREATION = b"\x00"
ALL_TOPICS = i32(-1) + _NO_AUTO_CREATION
NO_TOPICS = i32(0) + _NO_AUTO_CREATION


@attrs.frozen
class TopicView:
    """A topic as the cluster has it: the leader of each partition, ``None`` where there is none just now."""

    leaders: tuple[int | None, ...]
    internal: bool = False
    error: int = 0
    replicas: int = 1
    """Of the partition that has the fewest."""

    @property
    def complete(self) -> bool:
        """Every partition has a leader."""
        return bool(self.leaders) and None not in self.leaders


@attrs.frozen
class ClusterView:
    """Brokers, controller and topics at one moment."""

    brokers: Mapping[int, Address] = MappingProxyType({})
    controller: int | None = None
    topics: Mapping[str, TopicView] = MappingProxyType({})

    def infos(self) -> dict[str, TopicInfo]:
        """The topics that are not Kafka's own business."""
        return {
            name: TopicInfo(name, len(topic.leaders), topic.replicas)
            for name, topic in self.topics.items()
            if not topic.internal and topic.leaders
        }


def decode_metadata(body: bytes) -> ClusterView:
    """Metadata response v4."""
    read = ByteReader(body)
    read.i32()  # throttle time

    def broker() -> tuple[int, Address]:
        node_id, address = read.i32(), Address(read.string(), read.i32())
        read.nullable_string()  # rack
        return node_id, address

    brokers = dict(read.array(broker))
    read.nullable_string()  # cluster id
    controller = read.i32()

    def partition() -> tuple[int, tuple[int, int]]:
        read.i16()  # error: said by the leader being -1
        index, leader = read.i32(), read.i32()
        replicas = read.array(read.i32)
        read.array(read.i32)  # in-sync replicas
        return index, (leader, len(replicas))

    def topic() -> tuple[str, TopicView]:
        error, name, internal = read.i16(), read.string(), read.boolean()
        found = dict(read.array(partition))
        leaders = [found.get(index, (-1, 0))[0] for index in range(max(found, default=-1) + 1)]
        in_order = tuple(leader if leader in brokers else None for leader in leaders)
        replicas = min((count for _, count in found.values()), default=1)
        return name, TopicView(in_order, internal, error, max(1, replicas))

    topics = dict(read.array(topic))
    return ClusterView(
        MappingProxyType(brokers), controller if controller in brokers else None, MappingProxyType(topics)
    )


def decode_api_versions(body: bytes) -> dict[int, tuple[int, int]]:
    """ApiVersions response v0: api key → (lowest, highest version); empty where the broker refused to say."""
    read = ByteReader(body)
    if read.i16() != 0:
        return {}

    def api() -> tuple[int, tuple[int, int]]:
        return read.i16(), (read.i16(), read.i16())

    return dict(read.array(api))


def too_old(versions: Mapping[int, tuple[int, int]]) -> bool:
    """Whether a broker lacks something from before the floor (2.1)."""
    return any(not low <= wanted <= high for key, wanted in FLOOR.items() for low, high in [versions.get(key, (0, -1))])
