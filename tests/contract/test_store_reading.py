"""Reading without a group, and where a partition's ends are. For every driver of the store."""

from __future__ import annotations

import pytest
import pytest_twisted
from recorder import turn
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred

from kateway.core.reads import MergedRead, NewestRead
from kateway.errors import OffsetOutOfRange, PartitionNotFound
from kateway.model import Message
from kateway.storage.interface import Fetched

here = pytest_twisted.ensureDeferred


@pytest.mark.both_kafkas
@here
async def test_reading_goes_on_where_it_ended(store, make_topic, written):
    topic = await make_topic()
    await written(topic, *[b"%05d" % number for number in range(5000)])
    records, offset = [], 0
    while offset < 5000:
        fetched = await store.read(topic, 0, offset, max_bytes=4000, wait_seconds=5)
        assert fetched.records
        assert sum(len(record.value) for record in fetched.records) <= 4000
        assert fetched.end == 5000
        assert fetched.records[0].offset == offset
        records += fetched.records
        offset = fetched.next_offset
    assert [record.offset for record in records] == list(range(5000))
    assert [record.value for record in records] == [b"%05d" % number for number in range(5000)]


@here
async def test_reading_begins_at_any_offset(store, make_topic, written):
    topic = await make_topic()
    for start in range(0, 60, 20):
        await written(topic, *[b"%d" % number for number in range(start, start + 20)])
    for offset in (0, 1, 19, 20, 37, 59):
        fetched = await store.read(topic, 0, offset, max_bytes=1 << 20, wait_seconds=5)
        assert fetched.records[0].offset == offset
        assert fetched.records[0].value == b"%d" % offset


@here
async def test_a_record_larger_than_the_bound_is_read_alone(store, make_topic, written):
    topic = await make_topic()
    await written(topic, b"x" * 50_000, b"y" * 50_000)
    fetched = await store.read(topic, 0, 0, max_bytes=100, wait_seconds=5)
    assert [record.value for record in fetched.records] == [b"x" * 50_000]
    assert fetched.next_offset == 1
    assert fetched.end == 2


@here
async def test_at_the_end_nothing_is_found_at_once_where_no_wait_is_asked_for(store, make_topic, written):
    topic = await make_topic()
    assert await store.read(topic, 0, 0, max_bytes=1000, wait_seconds=0) == Fetched([], 0, 0)
    await written(topic, b"x")
    assert await store.read(topic, 0, 1, max_bytes=1000, wait_seconds=0) == Fetched([], 1, 1)


@here
async def test_at_the_end_it_waits_as_long_as_asked(store, make_topic):
    topic = await make_topic()
    began = reactor.seconds()
    assert await store.read(topic, 0, 0, max_bytes=1000, wait_seconds=0.5) == Fetched([], 0, 0)
    assert reactor.seconds() - began >= 0.45


@pytest.mark.both_kafkas
@here
async def test_a_reader_that_waits_at_the_end_gets_what_is_published(store, make_topic, written):
    topic = await make_topic(partitions=2)
    waiting = Deferred.fromCoroutine(store.read(topic, 1, 0, max_bytes=1000, wait_seconds=20))
    await turn(0.2)
    assert not waiting.called
    await written(topic, Message(b"other", partition=0))
    await written(topic, Message(b"mine", partition=1))
    fetched = await waiting
    assert [record.value for record in fetched.records] == [b"mine"]


@here
async def test_a_reader_that_waits_can_be_cancelled(store, make_topic):
    topic = await make_topic()
    waiting = Deferred.fromCoroutine(store.read(topic, 0, 0, max_bytes=1000, wait_seconds=60))
    await turn(0.1)
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting


@pytest.mark.both_kafkas
@here
async def test_beyond_the_ends_is_out_of_range(store, make_topic, written):
    topic = await make_topic()
    await written(topic, b"x")
    for offset in (2, 1000):
        with pytest.raises(OffsetOutOfRange):
            await store.read(topic, 0, offset, max_bytes=1000, wait_seconds=1)


@here
async def test_a_partition_that_does_not_exist_cannot_be_read(store, make_topic):
    topic = await make_topic(partitions=2)
    for partition in (2, 1000):
        with pytest.raises(PartitionNotFound):
            await store.read(topic, partition, 0, max_bytes=1000, wait_seconds=1)


@pytest.mark.both_kafkas
@here
async def test_the_ends_of_every_partition(store, make_topic, written):
    topic = await make_topic(partitions=3)
    await written(topic, *[Message(b"x", partition=number) for number in (0, 0, 2)])
    assert await store.offsets(topic, "earliest") == {0: 0, 1: 0, 2: 0}
    assert await store.offsets(topic, "latest") == {0: 2, 1: 0, 2: 1}


@pytest.mark.both_kafkas
@here
async def test_a_time_is_the_first_record_at_or_after_it_and_the_end_where_all_are_older(store, make_topic, written):
    topic = await make_topic(partitions=2)
    for number in range(300):
        await written(topic, Message(b"x" * 100, partition=0, timestamp=1_700_000_000_000 + number * 1000))
    start = 1_700_000_000_000
    for at, expected in (
        (0, 0),
        (start, 0),
        (start + 1, 1),
        (start + 100_000, 100),
        (start + 100_001, 101),
        (start + 299_000, 299),
        (start + 299_001, 300),
    ):
        assert await store.offsets(topic, at) == {0: expected, 1: 0}


@here
async def test_a_time_is_found_where_timestamps_do_not_grow(store, make_topic, written):
    topic = await make_topic()
    times = [5000, 1000, 9000, 2000, 9500]
    await written(topic, *[Message(b"x", timestamp=time) for time in times])
    assert await store.offsets(topic, 4000) == {0: 0}
    assert await store.offsets(topic, 6000) == {0: 2}
    assert await store.offsets(topic, 9001) == {0: 4}


@here
async def test_all_partitions_are_read_merged_by_time(store, make_topic, written):
    topic = await make_topic(partitions=3)
    for number in range(12):
        await written(topic, Message(b"%d" % number, partition=number % 3, timestamp=1000 + number))

    async def everything(read):
        found = []
        run = await read.first(5.0, 1 << 20)
        while run is not None:
            found += [int(record.value) for record in run[1]]
            run = await read.next(1 << 20)
        return found

    assert await everything(MergedRead(store, topic, 1003, reactor)) == list(range(3, 12))
    assert await everything(NewestRead(store, topic, 5, reactor)) == list(range(7, 12))
    assert await everything(NewestRead(store, topic, 50, reactor)) == list(range(12))
