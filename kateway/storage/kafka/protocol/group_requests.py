"""Encodes and decodes group membership: JoinGroup v2, v4 and v5, SyncGroup v0, Heartbeat v0, LeaveGroup v0, and the
consumer protocol.

JoinGroup v2 because 4.0.0 has none lower, and because it has a rebalance timeout apart from the session's. From v4 on,
of the same shape, a coordinator tells a new member its id before it holds its join back (KIP-394; brokers from 2.2
on): a member whose connection breaks meanwhile joins again as the same member, instead of leaving one without an owner,
and for which each rebalance waits until its session is over. From v5 on (KIP-345; brokers from 2.3 on) a member may
bear a name of its own, which the coordinator knows it by when it comes back as another process. No other request has to
say that name: each process gets a member id of its own under it, and the former one's is unknown from then on.

The consumer protocol (member metadata up to version 2, assignments version 0) is the one that librdkafka and the Java
client speak too: from version 1 on (KIP-429) a member says what it holds, from version 2 on (KIP-792) since which
generation.

Source: https://kafka.apache.org/protocol and, for the consumer protocol, ConsumerProtocolSubscription.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kateway.storage.kafka.protocol.primitives import ByteReader, array, data, i16, i32, string

JOIN_GROUP = 11
JOIN_GROUP_VERSION, NAMING_JOIN_GROUP_VERSION, STATIC_JOIN_GROUP_VERSION = 2, 4, 5
HEARTBEAT, HEARTBEAT_VERSION = 12, 0
LEAVE_GROUP, LEAVE_GROUP_VERSION = 13, 0
SYNC_GROUP, SYNC_GROUP_VERSION = 14, 0

PROTOCOL_TYPE = "consumer"
METADATA_VERSION = 2


class Joined(NamedTuple):
    """The answer to JoinGroup; ``members`` (id, metadata) is filled for the leader only."""

    error: int
    generation: int
    protocol: str
    leader: str
    member: str
    members: list[tuple[str, bytes]]


def encode_join(
    version: int,
    group: str,
    session_timeout_ms: int,
    rebalance_timeout_ms: int,
    member: str,
    instance: str | None,
    protocols: Mapping[str, bytes],
) -> bytes:
    """JoinGroup v2 to v5; ``protocols`` in order of preference, ``instance`` from v5 on."""
    return (
        string(group)
        + i32(session_timeout_ms)
        + i32(rebalance_timeout_ms)
        + string(member)
        + (string(instance) if version >= STATIC_JOIN_GROUP_VERSION else b"")
        + string(PROTOCOL_TYPE)
        + array(string(name) + data(metadata) for name, metadata in protocols.items())
    )


def decode_join(version: int, body: bytes) -> Joined:
    """JoinGroup answer v2 to v5."""
    read = ByteReader(body)
    read.i32()  # throttle time

    def member() -> tuple[str, bytes]:
        name = read.string()
        if version >= STATIC_JOIN_GROUP_VERSION:
            read.nullable_string()  # the member's own name
        return name, read.data()

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


class Metadata(NamedTuple):
    """What a member says of itself; ``owned`` is what it holds, ``generation`` the last one that it was a member in,
    -1 where it does not say.
    """

    topics: list[str]
    owned: dict[str, list[int]]
    generation: int


def encode_metadata(topics: Sequence[str], owned: Mapping[str, Sequence[int]], generation: int) -> bytes:
    """Encodes a member's metadata, consumer protocol version 2. The generation is in the user data, too, where Java
    clients before version 2 of the metadata look for it.
    """
    return (
        i16(METADATA_VERSION)
        + array(map(string, sorted(topics)))
        + data(i32(generation))
        + _partitions(owned)
        + i32(generation)
    )


def decode_metadata(body: bytes) -> Metadata:
    """Returns a member's metadata of any version; additions of versions after 2 are ignored."""
    read = ByteReader(body)
    version = read.i16()
    topics, user_data = read.array(read.string), read.nullable_data()
    owned: dict[str, list[int]] = {}
    generation = -1
    if version >= 1:
        owned = _read_partitions(read)
        if version >= METADATA_VERSION:
            generation = read.i32()
        elif user_data is not None and len(user_data) == 4:
            generation = ByteReader(user_data).i32()
    return Metadata(topics, owned, generation)


def _partitions(of_topics: Mapping[str, Sequence[int]]) -> bytes:
    return array(string(topic) + array(map(i32, partitions)) for topic, partitions in sorted(of_topics.items()))


def _read_partitions(read: ByteReader) -> dict[str, list[int]]:
    def topic() -> tuple[str, list[int]]:
        return read.string(), read.array(read.i32)

    return dict(read.array(topic))


def encode_assignment(assigned: Mapping[str, Sequence[int]]) -> bytes:
    """A member's assignment, consumer protocol version 0."""
    return i16(0) + _partitions(assigned) + data(b"")


def decode_assignment(body: bytes) -> dict[str, list[int]]:
    """Returns a member's assignment; empty where the assignment is empty."""
    if not body:
        return {}
    read = ByteReader(body)
    read.i16()  # version
    return _read_partitions(read)
