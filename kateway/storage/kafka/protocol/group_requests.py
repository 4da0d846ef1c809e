"""Group membership on the wire: JoinGroup v2 and v4, SyncGroup v0, Heartbeat v0, LeaveGroup v0, and the consumer
protocol.

JoinGroup v2 because 4.0.0 has none lower, and because it has a rebalance timeout apart from the session's. From v4 on,
of the same shape, a coordinator tells a new member its name before it holds its join back (KIP-394; brokers from 2.2
on): a member whose connection breaks meanwhile joins again as the same member, instead of leaving one without an owner,
and for which each rebalance waits until its session is over. The
consumer protocol (member metadata and assignments, version 0) is the one that librdkafka and the Java client speak too.
Source: https://kafka.apache.org/protocol and, for the consumer protocol, ConsumerProtocolSubscription.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kateway.storage.kafka.protocol.primitives import ByteReader, array, data, i16, i32, string

JOIN_GROUP, JOIN_GROUP_VERSION, NAMING_JOIN_GROUP_VERSION = 11, 2, 4
HEARTBEAT, HEARTBEAT_VERSION = 12, 0
LEAVE_GROUP, LEAVE_GROUP_VERSION = 13, 0
SYNC_GROUP, SYNC_GROUP_VERSION = 14, 0

PROTOCOL_TYPE = "consumer"


class Joined(NamedTuple):
    """The answer to JoinGroup; ``members`` (id, metadata) is filled for the leader only."""

    error: int
    generation: int
    protocol: str
    leader: str
    member: str
    members: list[tuple[str, bytes]]


def encode_join(
    group: str, session_timeout_ms: int, rebalance_timeout_ms: int, member: str, protocols: Mapping[str, bytes]
) -> bytes:
    """JoinGroup v2 to v4; ``protocols`` in order of preference."""
    return (
        string(group)
        + i32(session_timeout_ms)
        + i32(rebalance_timeout_ms)
        + string(member)
        + string(PROTOCOL_TYPE)
        + array(string(name) + data(metadata) for name, metadata in protocols.items())
    )


def decode_join(body: bytes) -> Joined:
    """JoinGroup answer v2 to v4."""
    read = ByteReader(body)
    read.i32()  # throttle time

    def member() -> tuple[str, bytes]:
        return read.string(), read.data()

    return Joined(read.i16(), read.i32(), read.string(), read.string(), read.string(), read.array(member))


def encode_sync(group: str, generation: int, member: str, assignments: Mapping[str, bytes]) -> bytes:
    """SyncGroup v0; ``assignments`` (member → assignment) from the leader only."""
    return (
        string(group)
        + i32(generation)
        + string(member)
        + array(string(name) + data(assigned) for name, assigned in assignments.items())
    )


def decode_sync(body: bytes) -> tuple[int, bytes]:
    """SyncGroup answer v0: error and this member's assignment."""
    read = ByteReader(body)
    return read.i16(), read.data()


def encode_heartbeat(group: str, generation: int, member: str) -> bytes:
    """Heartbeat v0."""
    return string(group) + i32(generation) + string(member)


def encode_leave(group: str, member: str) -> bytes:
    """LeaveGroup v0."""
    return string(group) + string(member)


def decode_error(body: bytes) -> int:
    """The answers to Heartbeat v0 and LeaveGroup v0 are an error code each."""
    return ByteReader(body).i16()


def encode_metadata(topics: Sequence[str]) -> bytes:
    """Encodes a member's metadata, consumer protocol version 0: the topics that it subscribes to."""
    return i16(0) + array(map(string, sorted(topics))) + data(b"")


def decode_metadata(body: bytes) -> list[str]:
    """Returns the topics that a member subscribes to; additions of later versions behind them are ignored."""
    read = ByteReader(body)
    read.i16()  # version
    return read.array(read.string)


def encode_assignment(assigned: Mapping[str, Sequence[int]]) -> bytes:
    """A member's assignment, consumer protocol version 0."""
    topics = array(string(topic) + array(map(i32, partitions)) for topic, partitions in sorted(assigned.items()))
    return i16(0) + topics + data(b"")


def decode_assignment(body: bytes) -> dict[str, list[int]]:
    """Returns a member's assignment; empty where the assignment is empty."""
    if not body:
        return {}
    read = ByteReader(body)
    read.i16()  # version

    def topic() -> tuple[str, list[int]]:
        return read.string(), read.array(read.i32)

    return dict(read.array(topic))
