"""Publishing to real Kafka: librdkafka reads what we write and we what it writes; failures touch only their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import pytest_twisted
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from kateway.config.schema import KafkaStorageConfig
from kateway.errors import InvalidRecord, Overloaded, PartitionNotFound, TooLarge, TopicNotFound, Unavailable
from kateway.model import Message, Receipt, Record
from kateway.storage.interface import Outcome
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.producer.producer import Producer
from kateway.storage.kafka.protocol import record_batches as records
from kateway.storage.kafka.protocol.requests import FETCH

reactor: Any = _reactor
pytestmark = pytest.mark.kafka
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


class Writer:
    """A producer and its client."""

    def __init__(self, brokers: Sequence[str], **options: Any) -> None:
        config = KafkaStorageConfig(driver="kafka", brokers=tuple(brokers), **options)
        self.client = Client(reactor, config)
        self.producer = Producer(self.client, config, reactor)
        self.client.start()

    def publish(self, topic: str, *messages: Message, acks: int = -1, seconds: float = 10) -> Deferred[list[Outcome]]:
        return self.producer.publish(topic, messages, acks, reactor.seconds() + seconds)

    async def close(self) -> None:
        await self.producer.stop(0)
        await self.client.stop()


@pytest_twisted.async_yield_fixture
async def writer(kafka: KafkaCluster) -> AsyncIterator[Writer]:
    made = Writer(kafka.addresses)
    yield made
    await made.close()


def receipts(outcomes: Sequence[Outcome]) -> list[Receipt]:
    assert all(isinstance(outcome, Receipt) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Receipt)]


@pytest.mark.both_kafkas
@pytest_twisted.ensureDeferred
async def test_librdkafka_reads_what_we_write(
    kafka: KafkaCluster, oracle: Oracle, unique_name: Callable[[str], str]
) -> None:
    for codec in CODECS:
        topic = unique_name(f"codec-{codec}")
        await deferToThread(oracle.create_topic, topic, 1)
        made = Writer(kafka.addresses, compression=codec)
        sent = [
            Message(b"a" * 100, b"key", (("content-type", b"text/plain"), ("none", None), ("content-type", b""))),
            Message(None, b"tombstone"),
            Message(b"", b""),
            Message(b"\x00\xff" * 70000, timestamp=1500000000000),
        ]
        try:
            got = receipts(await made.publish(topic, *sent))
        finally:
            await made.close()
        assert got == [Receipt(0, offset) for offset in range(4)]
        seen = await deferToThread(oracle.records, topic)
        assert [(r.value, r.key, r.headers) for r in seen] == [(m.value, m.key, m.headers) for m in sent]
        assert seen[3].timestamp == 1500000000000
        assert abs(seen[0].timestamp - reactor.seconds() * 1000) < 60000


@pytest.mark.both_kafkas
@pytest_twisted.ensureDeferred
async def test_we_read_what_librdkafka_writes(
    kafka: KafkaCluster, oracle: Oracle, writer: Writer, unique_name: Callable[[str], str]
) -> None:
    values = [b"%d" % n * 50 for n in range(300)]
    for codec in CODECS:
        topic = unique_name(f"read-{codec}")
        await deferToThread(oracle.create_topic, topic, 1)
        await deferToThread(
            oracle.produce, topic, values, partition=0, headers=[("h", b"v"), ("n", None)], compression_type=codec
        )
        found = await fetch_all(writer, topic, len(values))
        assert [record.value for record in found] == values
        assert [record.offset for record in found] == list(range(len(values)))
        assert {record.headers for record in found} == {(("h", b"v"), ("n", None))}


async def fetch_all(writer: Writer, topic: str, count: int) -> list[Record]:
    """A plain Fetch v4 loop, apart from the driver's own reading."""
    from struct import pack, unpack_from

    await writer.client.refresh()
    pool = writer.client.pool("test")
    found: list[Record] = []
    name = topic.encode()
    while len(found) < count:
        node = writer.client.leader(topic, 0)
        assert node is not None
        body = pack(">iiiibi", -1, 500, 1, 1 << 20, 0, 1) + pack(">h", len(name)) + name
        body += pack(">iiqi", 1, 0, len(found), 1 << 20)
        answer = await pool.request(node, FETCH, 4, body, timeout_seconds=5)
        at = 4 + 4 + 2 + len(name) + 4 + 4 + 2 + 8 + 8
        (aborted,) = unpack_from(">i", answer, at)
        (size,) = unpack_from(">i", answer, at + 4 + 16 * max(aborted, 0))
        for batch in records.batches(answer[len(answer) - size :]):
            found += records.decode(batch, len(found))
    await pool.close()
    return found


@pytest_twisted.ensureDeferred
async def test_keys_go_where_librdkafka_s_murmur2_puts_them(
    oracle: Oracle, writer: Writer, topic_name: str, unique_name: Callable[[str], str]
) -> None:
    keys = [b"key-%d" % n for n in range(60)] + [b"", b"\xff", "schlüssel".encode()]
    await deferToThread(oracle.create_topic, topic_name, 7)
    theirs = await deferToThread(oracle.produce, topic_name, keys, keys=keys, partitioner="murmur2")
    ours = receipts(await writer.publish(topic_name, *(Message(b"v", key) for key in keys)))
    assert [receipt.partition for receipt in ours] == [partition for partition, _ in theirs]


@pytest_twisted.ensureDeferred
async def test_a_bad_record_does_not_touch_its_neighbours(oracle: Oracle, writer: Writer, topic_name: str) -> None:
    await deferToThread(oracle.create_topic, topic_name, 2, 1, {"max.message.bytes": "20000"})
    sent = [Message(b"%d" % n, partition=n % 2) for n in range(40)]
    sent[11] = Message(b"x" * 30000, partition=1)
    sent[20] = Message(b"x", partition=7)
    outcomes = await writer.publish(topic_name, *sent)
    assert isinstance(outcomes[11], TooLarge)
    assert isinstance(outcomes[20], PartitionNotFound)
    receipts([outcome for n, outcome in enumerate(outcomes) if n not in (11, 20)])
    seen = await deferToThread(oracle.records, topic_name)
    for partition in (0, 1):
        expected = [m.value for n, m in enumerate(sent) if m.partition == partition and n != 11]
        assert [record.value for record in seen if record.partition == partition] == expected


@pytest_twisted.ensureDeferred
async def test_receipts_name_the_offsets_that_records_have(oracle: Oracle, writer: Writer, topic_name: str) -> None:
    await deferToThread(oracle.create_topic, topic_name, 3)
    waiting = [writer.publish(topic_name, Message(b"%d" % n)) for n in range(500)]
    got = [receipts(await each)[0] for each in waiting]
    seen = await deferToThread(oracle.records, topic_name)
    assert {(r.partition, r.offset): r.value for r in seen} == {receipt: b"%d" % n for n, receipt in enumerate(got)}
    assert writer.producer.held_bytes == 0


@pytest_twisted.ensureDeferred
async def test_a_topic_that_does_not_exist_is_refused_and_not_made(
    oracle: Oracle, writer: Writer, topic_name: str
) -> None:
    start = reactor.seconds()
    (outcome,) = await writer.publish(topic_name, Message(b"v"))
    assert isinstance(outcome, TopicNotFound)
    assert reactor.seconds() - start < 5
    assert topic_name not in await deferToThread(oracle.topics)


@pytest.mark.both_kafkas
@pytest_twisted.ensureDeferred
async def test_acks_0_and_1_are_written_too(oracle: Oracle, writer: Writer, topic_name: str) -> None:
    await deferToThread(oracle.create_topic, topic_name, 1)
    assert await writer.publish(topic_name, Message(b"one"), acks=1) == [Receipt(0, 0)]
    assert await writer.publish(topic_name, Message(b"none"), acks=0) == [Receipt(0, None)]
    assert await writer.publish(topic_name, Message(b"all"), Message(b"more")) != []
    seen = await deferToThread(oracle.records, topic_name)
    assert {record.value for record in seen} == {b"one", b"none", b"all", b"more"}


@pytest_twisted.ensureDeferred
async def test_a_partition_that_was_just_added_is_found(oracle: Oracle, writer: Writer, topic_name: str) -> None:
    await deferToThread(oracle.create_topic, topic_name, 1)
    receipts(await writer.publish(topic_name, Message(b"v")))
    await deferToThread(oracle.add_partitions, topic_name, 3)
    assert receipts(await writer.publish(topic_name, Message(b"v", partition=2)))[0].partition == 2


@pytest.mark.both_kafkas
@pytest_twisted.ensureDeferred
async def test_a_topic_made_anew_is_written_to(oracle: Oracle, writer: Writer, topic_name: str) -> None:
    await deferToThread(oracle.create_topic, topic_name, 1)
    for n in range(5):
        receipts(await writer.publish(topic_name, Message(b"%d" % n)))
    await deferToThread(oracle.delete_topic, topic_name)
    await deferToThread(oracle.create_topic, topic_name, 1)
    receipts(await writer.publish(topic_name, Message(b"new")))
    seen = await deferToThread(oracle.records, topic_name)
    assert [record.value for record in seen] == [b"new"]


@pytest_twisted.ensureDeferred
async def test_publish_beyond_the_bound_is_refused_at_once(
    kafka: KafkaCluster, oracle: Oracle, topic_name: str
) -> None:
    await deferToThread(oracle.create_topic, topic_name, 1)
    made = Writer(kafka.addresses, max_inflight_bytes=1048576)
    try:
        waiting = [made.publish(topic_name, Message(b"x" * 100000)) for _ in range(20)]
        assert sum(bool(each.called) for each in waiting) == 10
        outcomes = [(await each)[0] for each in waiting]
        assert [isinstance(outcome, Overloaded) for outcome in outcomes] == [False] * 10 + [True] * 10
    finally:
        await made.close()


@pytest_twisted.ensureDeferred
async def test_without_a_broker_nothing_is_sent_and_the_deadline_is_kept() -> None:
    made = Writer(["127.0.0.1:1"])
    try:
        start = reactor.seconds()
        (outcome,) = await made.publish("any", Message(b"v"), seconds=0.3)
        assert isinstance(outcome, Unavailable)
        assert not outcome.maybe_written
        assert 0.25 < reactor.seconds() - start < 5
        assert made.producer.held_bytes == 0
    finally:
        await made.close()


@pytest_twisted.ensureDeferred
async def test_cancelling_a_publish_does_nothing(oracle: Oracle, writer: Writer, topic_name: str) -> None:
    await deferToThread(oracle.create_topic, topic_name, 1)
    publishing = writer.publish(topic_name, Message(b"v"))
    publishing.cancel()
    assert await publishing == [Receipt(0, 0)]


@pytest.mark.both_kafkas
@pytest_twisted.ensureDeferred
async def test_record_that_the_broker_refuses_does_not_take_its_neighbours_along(
    kafka: KafkaCluster, oracle: Oracle, writer: Writer, topic_name: str
) -> None:
    await deferToThread(oracle.create_topic, topic_name, 1, 1, {"cleanup.policy": "compact"})
    answers = [
        writer.publish(topic_name, Message(b"%d" % number, None if number % 50 == 7 else b"k%d" % number, partition=0))
        for number in range(400)
    ]
    outcomes = [(await answer)[0] for answer in answers]
    refused = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, InvalidRecord)]
    assert refused == [number for number in range(400) if number % 50 == 7]
    assert len(receipts([outcome for number, outcome in enumerate(outcomes) if number % 50 != 7])) == 392
    found = [record.value for record in await deferToThread(oracle.records, topic_name)]
    assert found == [b"%d" % number for number in range(400) if number % 50 != 7]
    many = await writer.publish(topic_name, Message(b"a", b"a"), Message(b"b"), Message(b"c", b"c"))
    assert [type(outcome) for outcome in many] == [Receipt, InvalidRecord, Receipt]
