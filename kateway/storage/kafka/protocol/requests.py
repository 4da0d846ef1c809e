"""Encodes requests and decodes answers of the consuming and administrating side: values to bytes and back. Pure.

Fetch v10, ListOffsets v2, OffsetCommit v2, OffsetFetch v1, FindCoordinator v0 (v4 from 3.0 on), CreateTopics v2,
CreatePartitions v1, DeleteTopics v1, DescribeGroups v0, ListGroups v0: every broker from 2.1 to 4.x speaks them.
Groups' own requests are in ``groupwire``, Metadata in ``metadata``, Produce in ``produce_wire``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from kateway.model import Committed
from kateway.storage.kafka.protocol.primitives import (
    NO_TAGS,
    ByteReader,
    array,
    compact_array,
    compact_string,
    i8,
    i16,
    i32,
    i64,
    string,
)

FETCH, FETCH_VERSION = 1, 10
LIST_OFFSETS, LIST_OFFSETS_VERSION = 2, 2
OFFSET_COMMIT, OFFSET_COMMIT_VERSION = 8, 2
OFFSET_FETCH, OFFSET_FETCH_VERSION = 9, 1
OFFSET_FETCH_ALL_VERSION = 2
"""The first in which no topic need be named."""
FIND_COORDINATOR, FIND_COORDINATOR_VERSION = 10, 0
FIND_COORDINATORS_VERSION = 4
"""From Kafka 3.0 on: many groups in one request."""
LIST_GROUPS, LIST_GROUPS_VERSION = 16, 0
CREATE_TOPICS, CREATE_TOPICS_VERSION = 19, 2
DELETE_TOPICS, DELETE_TOPICS_VERSION = 20, 1
CREATE_PARTITIONS, CREATE_PARTITIONS_VERSION = 37, 1
ALTER_CONFIGS, ALTER_CONFIGS_VERSION = 44, 0

EARLIEST, LATEST = -2, -1
"""Timestamps of ListOffsets that stand for the ends of a partition."""

SESSION_BEGINS, SESSIONLESS = 0, -1
"""Epochs of a fetch request that names everything: the broker may keep it as a session, or shall not."""

READ_COMMITTED = i8(1)
_CONSUMER = i32(-1)
_TOPIC = i8(2)
_SET = i8(0)
_NO_EPOCH = i32(-1)
_FOLLOWER_ONLY = i64(-1)
_OF_GROUPS = 0


class Wanted(NamedTuple):
    """A partition in a fetch request."""

    partition: int
    offset: int
    max_bytes: int


class FetchedPartition(NamedTuple):
    """A partition in a fetch answer."""

    partition: int
    error: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    aborted: list[tuple[int, int]]
    """(Producer id, first offset) of the aborted transactions in ``records``."""
    records: bytes

    @property
    def end(self) -> int:
        """The end that a reader of committed records sees."""
        return self.last_stable_offset if self.last_stable_offset >= 0 else self.high_watermark


def encode_fetch(
    topic: str,
    wanted: Sequence[Wanted],
    *,
    max_wait_ms: int,
    min_bytes: int,
    max_bytes: int,
    session: int = 0,
    epoch: int = SESSIONLESS,
    forgotten: Sequence[int] = (),
) -> bytes:
    """Fetch v10, committed records only. One batch comes even if it is over ``max_bytes``. In a fetch session
    ``wanted`` are the partitions that changed, and ``forgotten`` those that are not wanted any more.
    """
    return b"".join(
        (
            _CONSUMER,
            i32(max_wait_ms),
            i32(min_bytes),
            i32(max_bytes),
            READ_COMMITTED,
            i32(session),
            i32(epoch),
            i32(1) + string(topic) if wanted else i32(0),
            array(
                i32(partition) + _NO_EPOCH + i64(offset) + _FOLLOWER_ONLY + i32(most)
                for partition, offset, most in wanted
            )
            if wanted
            else b"",
            i32(1) + string(topic) + array(map(i32, forgotten)) if forgotten else i32(0),
        )
    )


def decode_fetch(body: bytes) -> tuple[int, int, list[FetchedPartition]]:
    """Fetch answer v10: the error of the whole, the session, the partitions of all its topics (one was asked for)."""
    read = ByteReader(body)
    read.i32()  # throttle time
    error = read.i16()
    session = read.i32()

    def transaction() -> tuple[int, int]:
        return read.i64(), read.i64()

    def partition() -> FetchedPartition:
        return FetchedPartition(
            read.i32(), read.i16(), read.i64(), read.i64(), read.i64(), read.array(transaction), read.data()
        )

    def topic() -> list[FetchedPartition]:
        read.string()
        return read.array(partition)

    return error, session, [found for topic_found in read.array(topic) for found in topic_found]


def encode_list_offsets(topic: str, timestamps: Mapping[int, int]) -> bytes:
    """ListOffsets v2, of committed records. ``timestamps``: partition → ms since the epoch, or an end."""
    wanted = array(i32(partition) + i64(timestamp) for partition, timestamp in timestamps.items())
    return _CONSUMER + READ_COMMITTED + i32(1) + string(topic) + wanted


def decode_list_offsets(body: bytes) -> dict[int, tuple[int, int]]:
    """ListOffsets answer v2: partition → (error, offset); offset -1 where no record is that late."""
    read = ByteReader(body)
    read.i32()  # throttle time
    found: dict[int, tuple[int, int]] = {}

    def partition() -> None:
        index, error = read.i32(), read.i16()
        read.i64()  # timestamp
        found[index] = error, read.i64()

    _each_topic(read, partition)
    return found


def encode_offset_commit(
    group: str, generation: int, member: str, topic: str, offsets: Mapping[int, Committed]
) -> bytes:
    """OffsetCommit v2. Generation -1 and no member: by hand, which works while the group has no members."""
    committed = array(
        i32(partition) + i64(position.offset) + string(position.metadata) for partition, position in offsets.items()
    )
    broker_retention = i64(-1)
    return string(group) + i32(generation) + string(member) + broker_retention + i32(1) + string(topic) + committed


def decode_offset_commit(body: bytes) -> dict[int, int]:
    """OffsetCommit answer v2: partition → error."""
    read = ByteReader(body)
    found: dict[int, int] = {}

    def partition() -> None:
        index = read.i32()
        found[index] = read.i16()

    _each_topic(read, partition)
    return found


def encode_offset_fetch(group: str, topic: str, partitions: Iterable[int]) -> bytes:
    """OffsetFetch v1."""
    return string(group) + i32(1) + string(topic) + array(map(i32, partitions))


def decode_offset_fetch(body: bytes) -> dict[int, tuple[int, Committed | None]]:
    """Decodes OffsetFetch v1: partition → (error, committed offset and metadata)."""
    read = ByteReader(body)
    found: dict[int, tuple[int, Committed | None]] = {}

    def partition() -> None:
        index, offset, metadata, error = read.i32(), read.i64(), read.string(), read.i16()
        found[index] = error, Committed(offset, metadata) if offset >= 0 else None

    _each_topic(read, partition)
    return found


def encode_offset_fetch_all(group: str) -> bytes:
    """OffsetFetch v2 of all topics."""
    return string(group) + i32(-1)


def decode_offset_fetch_all(body: bytes) -> tuple[int, frozenset[str]]:
    """Decodes OffsetFetch v2: the error, and the topics in which the group has committed something."""
    read = ByteReader(body)
    topics = set()

    def topic() -> None:
        name = read.string()

        def partition() -> None:
            _index, offset, _metadata, error = read.i32(), read.i64(), read.string(), read.i16()
            if offset >= 0 and not error:
                topics.add(name)

        read.array(partition)

    read.array(topic)
    return read.i16(), frozenset(topics)


def _each_topic(read: ByteReader, partition: object) -> None:
    def topic() -> None:
        read.string()
        read.array(partition)  # type: ignore[arg-type]

    read.array(topic)


def encode_find_coordinator(group: str) -> bytes:
    """FindCoordinator v0."""
    return string(group)


def decode_find_coordinator(body: bytes) -> tuple[int, int]:
    """FindCoordinator answer v0: error and node id."""
    read = ByteReader(body)
    return read.i16(), read.i32()


def encode_find_coordinators(groups: Iterable[str]) -> bytes:
    """FindCoordinator v4, of many groups at once."""
    return NO_TAGS + i8(_OF_GROUPS) + compact_array(map(compact_string, groups)) + NO_TAGS


def decode_find_coordinators(body: bytes) -> dict[str, tuple[int, int]]:
    """FindCoordinator answer v4: group → error and node id."""
    read = ByteReader(body)
    read.skip_tags()
    read.i32()  # throttle time

    def coordinator() -> tuple[str, tuple[int, int]]:
        group, node = read.compact_string(), read.i32()
        read.compact_string()  # host
        read.i32()  # port
        error = read.i16()
        read.compact_nullable_string()
        read.skip_tags()
        return group, (error, node)

    return dict(read.compact_array(coordinator))


def decode_list_groups(body: bytes) -> tuple[int, list[tuple[str, str]]]:
    """ListGroups answer v0: error, and each group of this broker with its protocol type."""
    read = ByteReader(body)
    return read.i16(), read.array(lambda: (read.string(), read.string()))


# --- topics ----------------------------------------------------------------------------------------------------


def encode_create_topic(
    topic: str, partitions: int, replicas: int, settings: Mapping[str, str], timeout_ms: int
) -> bytes:
    """CreateTopics v2 of one topic, for real (``validate_only`` false)."""
    assignments = i32(0)
    configs = array(string(name) + string(value) for name, value in settings.items())
    return i32(1) + string(topic) + i32(partitions) + i16(replicas) + assignments + configs + i32(timeout_ms) + i8(0)


def decode_create_topic(body: bytes) -> tuple[int, str]:
    """CreateTopics answer v2 of one topic, or CreatePartitions answer v1: error and the broker's own words."""
    read = ByteReader(body)
    read.i32()  # throttle time
    if read.i32() != 1:
        return -1, "the broker answered for another number of topics"
    read.string()
    return read.i16(), read.string()


def encode_create_partitions(topic: str, total: int, timeout_ms: int) -> bytes:
    """CreatePartitions v1 of one topic; the broker chooses the replicas."""
    return i32(1) + string(topic) + i32(total) + i32(-1) + i32(timeout_ms) + i8(0)


decode_create_partitions = decode_create_topic


def encode_topic_setting(topic: str, name: str, value: str) -> bytes:
    """IncrementalAlterConfigs v0: one setting of one topic; its others stay as they are."""
    setting = string(name) + _SET + string(value)
    return array([_TOPIC + string(topic) + array([setting])]) + i8(0)


def decode_topic_setting(body: bytes) -> tuple[int, str]:
    """IncrementalAlterConfigs answer v0 of one topic: error and the broker's words for it."""
    read = ByteReader(body)
    read.i32()  # throttle time
    read.i32()  # one resource
    return read.i16(), read.nullable_string() or ""


def encode_delete_topic(topic: str, timeout_ms: int) -> bytes:
    """DeleteTopics v1 of one topic."""
    return array([string(topic)]) + i32(timeout_ms)


def decode_delete_topic(body: bytes) -> int:
    """DeleteTopics answer v1 of one topic: error."""
    read = ByteReader(body)
    read.i32()  # throttle time
    if read.i32() != 1:
        return -1
    read.string()
    return read.i16()
