"""Encodes and decodes consumer groups whose coordinator assigns (KIP-848): ConsumerGroupHeartbeat v1, OffsetCommit v9,
Metadata v12 of one topic, DescribeConfigs v1 of a group. Brokers have them all from 4.0 on.

ConsumerGroupHeartbeat v1, in which a member chooses its id itself (KIP-1082): v0, which 3.7 to 3.9 list as a preview,
would leave a member without an owner where the answer to the first heartbeat is lost.

OffsetCommit up to v9 names topics, not their ids; v9 is the first that a member of such a group may use.

Source: ConsumerGroupHeartbeatRequest.json and its like in Kafka's clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kateway.model import Committed
from kateway.storage.kafka.protocol.primitives import (
    NO_TAGS,
    ByteReader,
    array,
    compact_array,
    compact_string,
    i8,
    i32,
    i64,
    string,
)

CONSUMER_GROUP_HEARTBEAT, CONSUMER_GROUP_HEARTBEAT_VERSION = 68, 1
CONSUMER_OFFSET_COMMIT_VERSION = 9
TOPIC_ID_METADATA_VERSION = 12
DESCRIBE_CONFIGS, DESCRIBE_CONFIGS_VERSION = 32, 1

JOINING, LEAVING, LEAVING_FOR_A_WHILE = 0, -1, -2
"""Member epochs that stand for something else."""

SESSION_TIMEOUT = "consumer.session.timeout.ms"
_GROUP_RESOURCE = 32
_NO_ID = bytes(16)

Place = tuple[bytes, int]
"""A partition by its topic's id: a topic that is made anew under its name has another one."""


class Heard(NamedTuple):
    """The answer to a heartbeat; ``assigned`` is ``None`` where the coordinator does not repeat it."""

    error: int
    message: str
    epoch: int
    interval_ms: int
    assigned: frozenset[Place] | None


def encode_heartbeat(
    group: str,
    member: str,
    epoch: int,
    instance: str | None,
    rebalance_timeout_ms: int,
    topics: Iterable[str],
    owned: Iterable[Place],
) -> bytes:
    """ConsumerGroupHeartbeat v1 that says all; it is answered with the whole assignment."""
    by_topic: dict[bytes, list[int]] = {}
    for topic, partition in sorted(owned):
        by_topic.setdefault(topic, []).append(partition)
    no_rack = no_regex = no_assignor = compact_string(None)
    return b"".join(
        (
            NO_TAGS,
            compact_string(group),
            compact_string(member),
            i32(epoch),
            compact_string(instance),
            no_rack,
            i32(rebalance_timeout_ms),
            compact_array(map(compact_string, topics)),
            no_regex,
            no_assignor,
            compact_array(topic + compact_array(map(i32, mine)) + NO_TAGS for topic, mine in by_topic.items()),
            NO_TAGS,
        )
    )


def encode_leave(group: str, member: str, epoch: int, instance: str | None) -> bytes:
    """ConsumerGroupHeartbeat v1 of a member that goes: ``LEAVING`` or ``LEAVING_FOR_A_WHILE``."""
    return encode_heartbeat(group, member, epoch, instance, -1, (), ())


def decode_heartbeat(body: bytes) -> Heard:
    """ConsumerGroupHeartbeat answer v1."""
    read = ByteReader(body)
    read.skip_tags()
    read.i32()  # throttle time
    error, message = read.i16(), read.compact_string()
    read.compact_nullable_string()  # member id, which is ours
    epoch, interval_ms = read.i32(), read.i32()
    if read.i8() < 0:
        return Heard(error, message, epoch, interval_ms, None)

    def topic() -> list[Place]:
        of_topic = read.uuid()
        partitions = read.compact_array(read.i32)
        read.skip_tags()
        return [(of_topic, partition) for partition in partitions]

    assigned = frozenset(place for places in read.compact_array(topic) for place in places)
    return Heard(error, message, epoch, interval_ms, assigned)


def encode_offset_commit(group: str, epoch: int, member: str, topic: str, offsets: Mapping[int, Committed]) -> bytes:
    """OffsetCommit v9."""
    no_instance, no_leader_epoch = compact_string(None), i32(-1)
    committed = compact_array(
        i32(partition) + i64(place.offset) + no_leader_epoch + compact_string(place.metadata) + NO_TAGS
        for partition, place in offsets.items()
    )
    topics = compact_array([compact_string(topic) + committed + NO_TAGS])
    return NO_TAGS + compact_string(group) + i32(epoch) + compact_string(member) + no_instance + topics + NO_TAGS


def decode_offset_commit(body: bytes) -> dict[int, int]:
    """OffsetCommit answer v9: partition → error."""
    read = ByteReader(body)
    read.skip_tags()
    read.i32()  # throttle time
    found: dict[int, int] = {}

    def partition() -> None:
        index = read.i32()
        found[index] = read.i16()
        read.skip_tags()

    def topic() -> None:
        read.compact_string()
        read.compact_array(partition)
        read.skip_tags()

    read.compact_array(topic)
    return found


def encode_topic_id(topic: str) -> bytes:
    """Metadata v12 of one topic, which is not made where it is not there."""
    return NO_TAGS + compact_array([_NO_ID + compact_string(topic) + NO_TAGS]) + i8(0) + i8(0) + NO_TAGS


def decode_topic_id(body: bytes) -> bytes | None:
    """Metadata answer v12 of one topic: its id, ``None`` where the broker knows none."""
    read = ByteReader(body)
    read.skip_tags()
    read.i32()  # throttle time

    def broker() -> None:
        read.i32()
        read.compact_string()
        read.i32()
        read.compact_nullable_string()  # rack
        read.skip_tags()

    read.compact_array(broker)
    read.compact_nullable_string()  # cluster
    read.i32()  # controller
    if read.uvarint() != 2:  # one topic
        return None
    read.i16()
    read.compact_nullable_string()
    found = read.uuid()
    return None if found == _NO_ID else found


def encode_group_session(group: str) -> bytes:
    """DescribeConfigs v1: how long a group's sessions are."""
    return array([i8(_GROUP_RESOURCE) + string(group) + array([string(SESSION_TIMEOUT)])]) + i8(0)


def decode_group_session(body: bytes) -> float | None:
    """DescribeConfigs answer v1: seconds; ``None`` where the broker does not say, as to those without the right."""
    read = ByteReader(body)
    read.i32()  # throttle time
    found: dict[str, str] = {}

    def synonym() -> None:
        read.string()
        read.nullable_string()
        read.i8()

    def config() -> None:
        name = read.string()
        found[name] = read.string()
        read.boolean()  # read only
        read.i8()  # source
        read.boolean()  # sensitive
        read.array(synonym)

    def resource() -> None:
        read.i16()  # error: nothing is said then
        read.nullable_string()
        read.i8()
        read.string()
        read.array(config)

    read.array(resource)
    value = found.get(SESSION_TIMEOUT, "")
    return int(value) / 1000 if value.isdigit() else None
