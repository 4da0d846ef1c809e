"""An independent Kafka client (librdkafka): what it writes we must read, what we write it must read.

Blocking, and quiet. Nothing here uses our own code.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic

Headers = tuple[tuple[str, bytes | None], ...]

_ELECTION_SECONDS = 15.0
_ELECTING = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_LEADER_EPOCH)


@dataclass(frozen=True)
class Seen:
    """A record as librdkafka tells it."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: Headers


class Oracle:
    """A second opinion on the cluster at ``bootstrap`` (give it ``cluster.direct``)."""

    def __init__(self, bootstrap: str, **settings: Any) -> None:
        self._settings = {
            "bootstrap.servers": bootstrap,
            "log_level": 0,
            "error_cb": lambda _error: None,
            "topic.metadata.refresh.interval.ms": 1000,
            **settings,
        }
        self.admin = AdminClient(self._settings)

    # --- topics ---

    def create_topic(
        self, topic: str, partitions: int = 1, replicas: int = 1, config: Mapping[str, str] | None = None
    ) -> None:
        """Makes a topic and waits until a leader answers for every partition."""
        wanted = NewTopic(topic, partitions, replicas, config=dict(config or {}))
        self.admin.create_topics([wanted])[topic].result(30)
        self.wait_for_partitions(topic, partitions)

    def add_partitions(self, topic: str, total: int) -> None:
        self.admin.create_partitions([NewPartitions(topic, total)])[topic].result(30)
        self.wait_for_partitions(topic, total)

    def setting(self, topic: str, name: str) -> str:
        """One of a topic's settings, as it is in force."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        (asked,) = self.admin.describe_configs([resource]).values()
        return str(asked.result(30)[name].value)

    def delete_topic(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result(30)

    def wait_for_partitions(self, topic: str, count: int, timeout_seconds: float = 30.0) -> None:
        end = time.monotonic() + timeout_seconds
        while len([leader for leader in self.leaders(topic).values() if leader >= 0]) != count:
            if time.monotonic() > end:
                raise TimeoutError(f"{topic} does not have {count} partitions with leaders")
            time.sleep(0.05)

    def topics(self) -> dict[str, int]:
        """How many partitions each topic has. Creates none."""
        listing = self.admin.list_topics(timeout=10).topics
        return {name: len(topic.partitions) for name, topic in listing.items()}

    def leaders(self, topic: str) -> dict[int, int]:
        """partition → node that leads it, −1 for none."""
        found = self.admin.list_topics(timeout=10).topics.get(topic)
        return {} if found is None else {number: partition.leader for number, partition in found.partitions.items()}

    # --- records ---

    def produce(
        self,
        topic: str,
        values: Iterable[bytes | None],
        *,
        keys: Sequence[bytes | None] | None = None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        timestamp: int = 0,
        **settings: Any,
    ) -> list[tuple[int, int]]:
        """Writes and waits; gives partition and offset of each in order. ``settings``: ``compression_type="lz4"`` …"""
        options = {name.replace("_", "."): value for name, value in settings.items()}
        producer = Producer({**self._settings, "linger.ms": 5, "partitioner": "murmur2_random", **options})
        written: dict[int, tuple[int, int]] = {}
        failures: list[KafkaError] = []
        count = 0
        for number, value in enumerate(values):

            def delivered(error: KafkaError | None, message: Message, number: int = number) -> None:
                if error is not None:
                    failures.append(error)
                else:
                    written[number] = (message.partition(), message.offset())

            arguments: dict[str, Any] = {"key": keys[number] if keys else None, "on_delivery": delivered}
            if partition is not None:
                arguments["partition"] = partition
            if headers is not None:
                arguments["headers"] = list(headers)
            if timestamp:
                arguments["timestamp"] = timestamp
            while True:
                try:
                    producer.produce(topic, value, **arguments)
                    break
                except BufferError:
                    producer.poll(0.1)
            count += 1
        producer.flush(60)
        if failures:
            raise KafkaException(failures[0])
        return [written[number] for number in range(count)]

    def records(self, topic: str, partition: int | None = None, *, timeout_seconds: float = 30.0) -> list[Seen]:
        """Everything that is in a topic (or one partition of it) now, partition by partition, in order of offset."""
        consumer = Consumer(
            {
                **self._settings,
                "group.id": "oracle",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            }
        )
        try:
            partitions = sorted(self.leaders(topic)) if partition is None else [partition]
            ends = {number: self.ends(topic, number)[1] for number in partitions}
            starts = {number: self.ends(topic, number)[0] for number in partitions}
            waiting = {number for number in partitions if ends[number] > starts[number]}
            consumer.assign([TopicPartition(topic, number, starts[number]) for number in waiting])
            seen: dict[int, list[Seen]] = {number: [] for number in partitions}
            limit = time.monotonic() + timeout_seconds
            while waiting:
                if time.monotonic() > limit:
                    raise TimeoutError(f"{topic}: partitions {sorted(waiting)} were not read to their ends")
                for message in consumer.consume(1000, timeout=0.5):
                    if message.error() is None:
                        seen[message.partition()].append(_seen(message))
                        finished = message.offset() >= ends[message.partition()] - 1
                    else:
                        # the end of a partition; transaction markers at the end have offsets and no records
                        finished = message.error().code() == KafkaError._PARTITION_EOF
                    if finished:
                        waiting.discard(message.partition())
            return [record for number in partitions for record in seen[number]]
        finally:
            consumer.close()

    def ends(self, topic: str, partition: int = 0) -> tuple[int, int]:
        """The earliest offset and the one next to be written. Waits for a leader that is just being elected."""
        consumer = Consumer({**self._settings, "group.id": "oracle"})
        limit = time.monotonic() + _ELECTION_SECONDS
        try:
            while True:
                try:
                    low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
                except KafkaException as error:
                    if error.args[0].code() not in _ELECTING or time.monotonic() > limit:
                        raise
                    time.sleep(0.1)
                else:
                    return low, high
        finally:
            consumer.close()

    # --- groups ---

    def committed(self, group: str, topic: str) -> dict[int, tuple[int, str]]:
        """partition → (offset next to read, metadata), for those where something is committed."""
        found = self._committed(group, topic)
        return {each.partition: (each.offset, each.metadata or "") for each in found}

    def committed_offsets(self, group: str, topic: str) -> dict[int, int]:
        """As ``committed``, the offsets alone: long metadata is not always read (``UnicodeDecodeError``)."""
        return {each.partition: each.offset for each in self._committed(group, topic)}

    def _committed(self, group: str, topic: str) -> list[TopicPartition]:
        consumer = Consumer({**self._settings, "group.id": group})
        try:
            wanted = [TopicPartition(topic, number) for number in sorted(self.leaders(topic))]
            return [each for each in consumer.committed(wanted, timeout=10) if each.offset >= 0]
        finally:
            consumer.close()

    def commit(self, group: str, topic: str, offsets: Mapping[int, int], metadata: str = "") -> None:
        """Commits for a group that has no members."""
        consumer = Consumer({**self._settings, "group.id": group, "enable.auto.commit": False})
        try:
            places = [TopicPartition(topic, number, offset, metadata) for number, offset in offsets.items()]
            consumer.commit(offsets=places, asynchronous=False)
        finally:
            consumer.close()

    def member(self, group: str, topics: Sequence[str], **settings: Any) -> Member:
        """Another client's member of a group. Close it."""
        options = {name.replace("_", "."): value for name, value in settings.items()}
        return Member(Consumer, {**self._settings, "group.id": group, **options}, topics)

    def members(self, group: str) -> int:
        """How many members the group has."""
        return len(self.admin.describe_consumer_groups([group])[group].result(10).members)


class Member:
    """A librdkafka member of a consumer group; ``poll`` it, or it leaves."""

    def __init__(self, kind: type[Consumer], settings: dict[str, Any], topics: Sequence[str]) -> None:
        defaults = {
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 500,
        }
        if settings.get("group.protocol") == "consumer":
            # these two are the brokers' then
            del defaults["session.timeout.ms"], defaults["heartbeat.interval.ms"]
        self.consumer = kind({**defaults, **settings})
        self.consumer.subscribe(list(topics))

    def poll(self, count: int = 1000, timeout_seconds: float = 0.5) -> list[Seen]:
        """Returns the records that have come; raises the error."""
        found = []
        for message in self.consumer.consume(count, timeout=timeout_seconds):
            if message.error() is not None:
                raise KafkaException(message.error())
            found.append(_seen(message))
        return found

    def assignment(self) -> set[tuple[str, int]]:
        return {(each.topic, each.partition) for each in self.consumer.assignment()}

    def commit(self) -> None:
        """Commits the polled records."""
        self.consumer.commit(asynchronous=False)

    def close(self) -> None:
        self.consumer.close()


def _seen(message: Message) -> Seen:
    return Seen(
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        message.timestamp()[1],
        tuple((name, value) for name, value in message.headers() or ()),
    )
