"""Publishing: receipts, partitions, acks, and errors of single messages. For every driver of the store."""

from __future__ import annotations

import time

import pytest
import pytest_twisted
from twisted.internet import reactor

from kateway.errors import KatewayError, PartitionNotFound, Unavailable
from kateway.model import Message, Receipt
from kateway.storage.partitioner import by_key

here = pytest_twisted.ensureDeferred


async def read_all(store, topic, partition=0):
    end = (await store.offsets(topic, "latest"))[partition]
    records, offset = [], (await store.offsets(topic, "earliest"))[partition]
    while offset < end:
        fetched = await store.read(topic, partition, offset, max_bytes=1 << 20, wait_seconds=5)
        records += fetched.records
        offset = fetched.next_offset
    return records


@pytest.mark.both_kafkas
@here
async def test_receipts_count_up_from_zero_in_the_order_of_the_call(store, make_topic, written):
    topic = await make_topic()
    first = await written(topic, *[b"%d" % number for number in range(10)])
    assert first == [Receipt(0, number) for number in range(10)]
    assert await written(topic, b"10") == [Receipt(0, 10)]
    assert [record.value for record in await read_all(store, topic)] == [b"%d" % number for number in range(11)]


@here
async def test_calls_under_way_at_once_keep_their_order_in_a_partition(store, make_topic):
    topic = await make_topic()
    deadline = reactor.seconds() + 20
    answers = [store.publish(topic, [Message(b"%d" % number)], -1, deadline) for number in range(300)]
    outcomes = [(await answer)[0] for answer in answers]
    assert outcomes == [Receipt(0, number) for number in range(300)]
    assert [record.value for record in await read_all(store, topic)] == [b"%d" % number for number in range(300)]


@here
async def test_an_empty_call_is_answered_with_nothing(publish, make_topic):
    assert await publish(await make_topic()) == []


@here
async def test_a_named_partition_is_the_one_written_to(store, make_topic, written):
    topic = await make_topic(partitions=3)
    receipts = await written(topic, *[Message(b"%d" % number, partition=number) for number in (2, 0, 1, 2)])
    assert receipts == [Receipt(2, 0), Receipt(0, 0), Receipt(1, 0), Receipt(2, 1)]
    assert [record.value for record in await read_all(store, topic, 2)] == [b"2", b"2"]


@here
async def test_a_key_goes_where_the_java_client_sends_it(make_topic, written):
    topic = await make_topic(partitions=7)
    keys = [
        b"",
        b"21",
        b"foobar",
        b"a-little-bit-long-string",
        b"\x00\xff",
        *[b"key-%d" % number for number in range(20)],
    ]
    receipts = await written(topic, *[Message(b"v", key) for key in keys])
    assert [receipt.partition for receipt in receipts] == [by_key(key, 7) for key in keys]


@here
async def test_messages_without_a_key_reach_every_partition(store, make_topic, written):
    topic = await make_topic(partitions=4)
    for _ in range(20):
        await written(topic, *[b"x" * 100] * 20)
    ends = await store.offsets(topic, "latest")
    assert sum(ends.values()) == 400
    assert all(ends.values())


@pytest.mark.both_kafkas
@pytest.mark.parametrize("value", [b"", b"text", b"\x00\xff\n" * 1000, None], ids=["empty", "text", "bytes", "null"])
@pytest.mark.parametrize("key", [None, b"", b"key"], ids=["no key", "empty key", "key"])
@here
async def test_null_and_empty_differ(store, make_topic, written, key, value):
    topic = await make_topic()
    await written(topic, Message(value, key))
    (record,) = await read_all(store, topic)
    assert (record.key, record.value, record.headers) == (key, value, ())


@pytest.mark.both_kafkas
@here
async def test_headers_keep_order_repeats_null_and_empty(store, make_topic, written):
    topic = await make_topic()
    headers = (("b", b"1"), ("a", None), ("b", b""), ("b", b"1"), ("Ünïcode", b"\x00\xff"), ("", b"nameless"))
    await written(topic, Message(b"v", b"k", headers), Message(b"w"))
    first, second = await read_all(store, topic)
    assert first.headers == headers
    assert second.headers == ()


@pytest.mark.both_kafkas
@here
async def test_a_timestamp_is_kept_and_its_absence_means_now(store, make_topic, written):
    topic = await make_topic()
    before = time.time_ns() // 1_000_000
    await written(topic, Message(b"then", timestamp=1_700_000_000_123), b"now", Message(b"zero", timestamp=0))
    after = time.time_ns() // 1_000_000
    then, now, zero = await read_all(store, topic)
    assert then.timestamp == 1_700_000_000_123
    assert before <= now.timestamp <= after
    assert zero.timestamp == 0


@pytest.mark.both_kafkas
@here
async def test_without_acks_the_receipt_has_no_offset_and_the_record_arrives(store, make_topic, publish):
    topic = await make_topic()
    (outcome,) = await publish(topic, b"fire and forget", acks=0)
    assert outcome == Receipt(0, None)
    fetched = await store.read(topic, 0, 0, max_bytes=1000, wait_seconds=10)
    assert [record.value for record in fetched.records] == [b"fire and forget"]


@here
async def test_the_leaders_ack_alone_gives_an_offset_too(make_topic, publish):
    topic = await make_topic()
    assert await publish(topic, b"x", acks=1) == [Receipt(0, 0)]


@here
async def test_one_message_for_a_missing_partition_does_not_touch_its_neighbours(store, make_topic, publish):
    topic = await make_topic(partitions=2)
    began = reactor.seconds()
    outcomes = await publish(
        topic,
        Message(b"a", partition=0),
        Message(b"b", partition=2),
        Message(b"c", partition=-1),
        Message(b"d", partition=0),
    )
    assert reactor.seconds() - began < 9
    assert outcomes[0] == Receipt(0, 0)
    assert isinstance(outcomes[1], PartitionNotFound)
    assert isinstance(outcomes[2], PartitionNotFound)
    assert outcomes[3] == Receipt(0, 1)
    assert [record.value for record in await read_all(store, topic)] == [b"a", b"d"]
    assert store.partitions(topic) == 2


@here
async def test_publish_that_could_not_begin_by_its_deadline_is_not_written(store, make_topic):
    topic = await make_topic()
    (outcome,) = await store.publish(topic, [Message(b"late")], -1, reactor.seconds() - 1)
    assert isinstance(outcome, Unavailable)
    assert outcome.retriable
    assert not outcome.maybe_written
    assert await store.publish(topic, [Message(b"next")], -1, reactor.seconds() + 10) == [Receipt(0, 0)]
    assert [record.value for record in await read_all(store, topic)] == [b"next"]


@here
async def test_cancelling_a_publish_does_nothing(store, make_topic):
    topic = await make_topic()
    answer = store.publish(topic, [Message(b"x")], -1, reactor.seconds() + 10)
    answer.cancel()
    assert await answer == [Receipt(0, 0)]
    assert [record.value for record in await read_all(store, topic)] == [b"x"]


@here
async def test_a_large_call_over_all_partitions_is_written_once_and_in_order(store, make_topic, written):
    topic = await make_topic(partitions=3)
    messages = [Message(b"%d:" % number + b"x" * (number % 700), b"%d" % (number % 50)) for number in range(3000)]
    receipts = await written(topic, *messages)
    for partition in range(3):
        records = await read_all(store, topic, partition)
        mine = [
            (receipt.offset, message.key, message.value)
            for receipt, message in zip(receipts, messages, strict=True)
            if receipt.partition == partition
        ]
        assert [(record.offset, record.key, record.value) for record in records] == mine


@here
async def test_a_store_that_has_stopped_says_so_for_each_message(make_store, unique_name):
    store = make_store()
    await store.start()
    topic = unique_name("topic")
    await store.create_topic(topic, partitions=1)
    await store.stop(5.0)
    outcomes = await store.publish(topic, [Message(b"a"), Message(b"b")], -1, reactor.seconds() + 5)
    assert len(outcomes) == 2
    assert all(isinstance(outcome, KatewayError) and outcome.retriable for outcome in outcomes)


@here
async def test_stopping_lets_publishes_under_way_finish(make_store, unique_name):
    store = make_store()
    await store.start()
    topic = unique_name("topic")
    await store.create_topic(topic, partitions=1)
    answers = [store.publish(topic, [Message(b"x")], -1, reactor.seconds() + 10) for _ in range(20)]
    await store.stop(10.0)
    assert [(await answer)[0] for answer in answers] == [Receipt(0, number) for number in range(20)]
