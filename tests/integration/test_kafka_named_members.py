"""Members with names of their own (KIP-345) on real Kafka: a gateway that stops and comes back moves no partition."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import pytest_twisted
from group_members import SESSION_SECONDS
from kafka_reader import Reader, until
from servers.kafka import KafkaCluster
from twisted.internet import reactor

from kateway.model import Committed
from kateway.storage.kafka.driver import KafkaStore

here = pytest_twisted.ensureDeferred
pytestmark = [pytest.mark.kafka, pytest.mark.both_kafkas]

NewStore = Callable[[KafkaCluster, str], Awaitable[KafkaStore]]


@pytest.fixture
def start(kafka_store: Callable[..., Awaitable[KafkaStore]]) -> NewStore:
    """Starts stores under names."""
    return lambda cluster, name: kafka_store(cluster, name=name)


@here
async def test_gateway_that_is_back_within_its_session_reads_on_and_no_other_member_notices(
    kafka, oracle, start, topic, group
):
    first_store, second_store = await start(kafka, "one"), await start(kafka, "two")
    first = Reader(first_store, group, topic)
    await until(lambda: len(first.owned) == 4)
    second = Reader(second_store, group, topic)
    await until(lambda: len(first.owned) == 2 and len(second.owned) == 2)
    for partition in range(4):
        oracle.produce(topic, [b"a"] * 10, partition=partition)
    await until(lambda: len(first.seen) == 20 and len(second.seen) == 20)
    of_first, heard = set(first.owned), list(second.heard)
    await first_store.stop(5.0)
    assert "lost" not in first.heard
    again = Reader(await start(kafka, "one"), group, topic)
    await until(lambda: again.owned == of_first, SESSION_SECONDS / 2)
    assert again.begun == dict.fromkeys(of_first, Committed(10))
    for partition in range(4):
        oracle.produce(topic, [b"b"] * 10, partition=partition)
    await until(lambda: len(again.seen) == 20 and len(second.seen) == 40)
    await again.commit()
    assert second.heard == heard
    assert oracle.members(group) == 2


@here
async def test_partitions_that_are_added_after_a_gateway_came_back_are_read(kafka, oracle, start, topic, group):
    store = await start(kafka, "one")
    reader = Reader(store, group, topic)
    await until(lambda: len(reader.owned) == 4)
    await store.stop(5.0)
    again = Reader(await start(kafka, "one"), group, topic)
    await until(lambda: len(again.owned) == 4)
    oracle.add_partitions(topic, 6)
    await until(lambda: len(again.owned) == 6)
    assert "lost" not in again.heard


@here
async def test_others_take_over_from_a_gateway_that_does_not_come_back_once_its_session_is_over(
    kafka, oracle, start, topic, group
):
    first_store, second_store = await start(kafka, "one"), await start(kafka, "two")
    first, second = Reader(first_store, group, topic), Reader(second_store, group, topic)
    await until(lambda: len(first.owned) == 2 and len(second.owned) == 2)
    await first_store.stop(5.0)
    since = reactor.seconds()
    await until(lambda: len(second.owned) == 4)
    assert reactor.seconds() - since > SESSION_SECONDS / 2


@here
async def test_others_take_over_at_once_where_a_gateway_leaves_a_group_that_it_has_no_readers_of(
    kafka, oracle, start, topic, group
):
    first_store, second_store = await start(kafka, "one"), await start(kafka, "two")
    first, second = Reader(first_store, group, topic), Reader(second_store, group, topic)
    await until(lambda: len(first.owned) == 2 and len(second.owned) == 2)
    await first.subscription.close()
    await until(lambda: len(second.owned) == 4, SESSION_SECONDS / 2)


@here
async def test_gateway_whose_name_another_one_takes_goes_on_without_a_name(kafka, oracle, start, topic, group):
    first = Reader(await start(kafka, "one"), group, topic)
    await until(lambda: len(first.owned) == 4)
    second = Reader(await start(kafka, "one"), group, topic)
    await until(lambda: len(first.owned) == 2 and len(second.owned) == 2)
    assert first.owned | second.owned == {0, 1, 2, 3}
    assert "lost" in first.heard
    assert oracle.members(group) == 2
    for partition in range(4):
        oracle.produce(topic, [b"%d" % partition] * 10, partition=partition)
    await until(lambda: len(first.seen) == 20 and len(second.seen) == 20)


@pytest.mark.parametrize("protocol", ["auto", "classic"])
@here
async def test_named_and_unnamed_members_of_a_group_come_and_go_without_each_other(
    kafka, oracle, kafka_store, topic, group, protocol
):
    named_store = await kafka_store(kafka, name="one", protocol=protocol)
    named = Reader(named_store, group, topic)
    unnamed = Reader(await kafka_store(kafka, protocol=protocol), group, topic)
    await until(lambda: len(named.owned) == 2 and len(unnamed.owned) == 2)
    of_named, heard = set(named.owned), list(unnamed.heard)
    await named_store.stop(5.0)
    named = Reader(await kafka_store(kafka, name="one", protocol=protocol), group, topic)
    await until(lambda: named.owned == of_named, SESSION_SECONDS / 2)
    assert unnamed.heard == heard
    await unnamed.subscription.close()
    await until(lambda: len(named.owned) == 4, SESSION_SECONDS / 2)
    again = Reader(await kafka_store(kafka, protocol=protocol), group, topic)
    await until(lambda: len(named.owned) == 2 and len(again.owned) == 2)
    for partition in range(4):
        oracle.produce(topic, [b"%d" % partition] * 10, partition=partition)
    await until(lambda: len(named.seen) == 20 and len(again.seen) == 20)
    assert "lost" not in named.heard + unnamed.heard + again.heard
