"""Decodes groups and their members: DescribeGroups v0, and ConsumerGroupDescribe v0 for groups whose coordinator
assigns (KIP-848; brokers from 4.0 on).

Source: https://kafka.apache.org/protocol; ConsumerGroupDescribeResponse.json in Kafka's clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from kateway.storage.kafka.protocol.primitives import (
    NO_TAGS,
    ByteReader,
    array,
    compact_array,
    compact_string,
    i8,
    string,
)

DESCRIBE_GROUPS, DESCRIBE_GROUPS_VERSION = 15, 0
CONSUMER_GROUP_DESCRIBE, CONSUMER_GROUP_DESCRIBE_VERSION = 69, 0
DEAD = "Dead"
"""The state of a group that there is not, and of one of the other protocol."""


class ClassicMember(NamedTuple):
    """A member in the answer to DescribeGroups: its client id, its metadata (empty while it joins), its assignment."""

    client_id: str
    metadata: bytes
    assignment: bytes


class DescribedGroup(NamedTuple):
    """A group in the answer to DescribeGroups."""

    group: str
    error: int
    state: str
    members: list[ClassicMember]


class ConsumerMember(NamedTuple):
    """A member in the answer to ConsumerGroupDescribe."""

    member: str
    instance: str | None
    """The name that it has itself."""
    client_id: str
    topics: list[str]
    assigned: Mapping[str, Sequence[int]]


def encode_describe(groups: Iterable[str]) -> bytes:
    """DescribeGroups v0."""
    return array(map(string, groups))


def decode_describe(body: bytes) -> list[DescribedGroup]:
    """DescribeGroups answer v0."""
    read = ByteReader(body)

    def member() -> ClassicMember:
        read.string()  # member id
        client_id = read.string()
        read.string()  # host
        return ClassicMember(client_id, read.data(), read.data())

    def described() -> DescribedGroup:
        error, group, state = read.i16(), read.string(), read.string()
        read.string()  # protocol type
        read.string()  # protocol
        return DescribedGroup(group, error, state, read.array(member))

    return read.array(described)


def encode_consumer_describe(group: str) -> bytes:
    """ConsumerGroupDescribe v0 of one group, without what we may do with it."""
    return NO_TAGS + compact_array([compact_string(group)]) + i8(0) + NO_TAGS


def decode_consumer_describe(body: bytes) -> tuple[int, str, list[ConsumerMember]]:
    """ConsumerGroupDescribe answer v0 of one group: error, state, members."""
    read = ByteReader(body)
    read.skip_tags()
    read.i32()  # throttle time

    def of_topic() -> tuple[str, list[int]]:
        read.uuid()
        found = read.compact_string(), read.compact_array(read.i32)
        read.skip_tags()
        return found

    def assignment() -> dict[str, list[int]]:
        found = dict(read.compact_array(of_topic))
        read.skip_tags()
        return found

    def member() -> ConsumerMember:
        name, instance = read.compact_string(), read.compact_nullable_string()
        read.compact_nullable_string()  # rack
        read.i32()  # epoch
        client_id = read.compact_string()
        read.compact_string()  # host
        topics = read.compact_array(read.compact_string)
        read.compact_nullable_string()  # regular expression
        now = assignment()
        assignment()  # the one that is aimed at
        read.skip_tags()
        return ConsumerMember(name, instance, client_id, topics, now)

    def described() -> tuple[int, str, list[ConsumerMember]]:
        error = read.i16()
        read.compact_nullable_string()  # message
        read.compact_string()  # group
        state = read.compact_string()
        read.i32()  # epoch
        read.i32()  # the assignment's epoch
        read.compact_string()  # assignor
        members = read.compact_array(member)
        read.i32()  # operations
        read.skip_tags()
        return error, state, members

    found = read.compact_array(described)
    return found[0] if len(found) == 1 else (0, DEAD, [])
