"""Topics: made, grown, deleted, listed, and never made by accident. For every driver of the store."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor

from kateway.errors import Conflict, InvalidTopic, TopicNotFound
from kateway.model import Message, TopicInfo

here = pytest_twisted.ensureDeferred


@here
async def test_a_started_store_is_healthy_and_a_stopped_one_is_not(make_store):
    store = make_store()
    assert not store.health().healthy
    await store.start()
    try:
        await store.topics()
        assert store.health().healthy
        assert store.health().reason == ""
    finally:
        await store.stop(5.0)
    assert not store.health().healthy
    assert store.health().reason


@pytest.mark.both_kafkas
@here
async def test_a_topic_is_there_once_it_is_made(store, topic_name):
    made = await store.create_topic(topic_name, partitions=3)
    assert made == TopicInfo(topic_name, 3)
    assert await store.topic(topic_name) == made
    assert store.partitions(topic_name) == 3
    assert (await store.topics())[topic_name] == made
    assert await store.offsets(topic_name, "earliest") == {0: 0, 1: 0, 2: 0}
    assert await store.offsets(topic_name, "latest") == {0: 0, 1: 0, 2: 0}


@here
async def test_a_topic_that_exists_is_not_made_again(store, make_topic):
    topic = await make_topic(partitions=2)
    with pytest.raises(Conflict):
        await store.create_topic(topic, partitions=3)
    assert (await store.topic(topic)).partitions == 2


@pytest.mark.parametrize("name", ["", ".", "..", "with space", "sl/ash", "a" * 250, "ümlaut"])
@here
async def test_a_name_outside_the_grammar_is_refused(store, name):
    with pytest.raises(InvalidTopic):
        await store.create_topic(name, partitions=1)


@pytest.mark.both_kafkas
@here
async def test_nothing_that_asks_for_an_unknown_topic_makes_it(store, topic_name):
    began = reactor.seconds()
    for ask in (
        lambda: store.topic(topic_name),
        lambda: store.offsets(topic_name, "earliest"),
        lambda: store.offsets(topic_name, "latest"),
        lambda: store.offsets(topic_name, 0),
        lambda: store.committed("group", topic_name),
        lambda: store.reset("group", topic_name, {0: 0}),
        lambda: store.read(topic_name, 0, 0, max_bytes=1000, wait_seconds=0),
        lambda: store.add_partitions(topic_name, 3),
        lambda: store.set_retention(topic_name, 1000),
        lambda: store.delete_topic(topic_name),
    ):
        with pytest.raises(TopicNotFound):
            await ask()
    (outcome,) = await store.publish(topic_name, [Message(b"x")], -1, reactor.seconds() + 10)
    assert isinstance(outcome, TopicNotFound)
    assert store.partitions(topic_name) is None
    assert topic_name not in await store.topics()
    # "quick": far below the deadline that was given, with room for a busy machine
    assert reactor.seconds() - began < 9


@pytest.mark.both_kafkas
@here
async def test_a_topic_grows_and_the_new_partitions_are_written_to_and_read(store, make_topic, written):
    topic = await make_topic(partitions=1)
    assert await store.add_partitions(topic, 3) == TopicInfo(topic, 3)
    assert store.partitions(topic) == 3
    (receipt,) = await written(topic, Message(b"new", partition=2))
    assert (receipt.partition, receipt.offset) == (2, 0)
    fetched = await store.read(topic, 2, 0, max_bytes=1000, wait_seconds=5)
    assert [record.value for record in fetched.records] == [b"new"]


@here
async def test_a_topic_may_be_grown_to_what_it_has_but_never_shrinks(store, make_topic):
    topic = await make_topic(partitions=3)
    assert await store.add_partitions(topic, 3) == TopicInfo(topic, 3)
    with pytest.raises(Conflict):
        await store.add_partitions(topic, 2)
    assert (await store.topic(topic)).partitions == 3


@pytest.mark.both_kafkas
@here
async def test_a_deleted_topic_is_gone_and_one_made_anew_is_empty(store, make_topic, written):
    topic = await make_topic(partitions=2)
    await written(topic, *[Message(b"old", partition=number % 2) for number in range(10)])
    await store.delete_topic(topic)
    assert topic not in await store.topics()
    with pytest.raises(TopicNotFound):
        await store.topic(topic)
    (outcome,) = await store.publish(topic, [Message(b"x")], -1, reactor.seconds() + 10)
    assert isinstance(outcome, TopicNotFound)
    await store.create_topic(topic, partitions=1)
    assert await store.offsets(topic, "latest") == {0: 0}
    (receipt,) = await written(topic, b"new")
    assert (receipt.partition, receipt.offset) == (0, 0)
