"""Group membership while brokers are killed, frozen and brought back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_twisted
from kafka_reader import Reader, until
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from kateway.config.schema import KafkaStorageConfig
from kateway.errors import Conflict, Unavailable
from kateway.model import Committed
from kateway.storage.kafka.driver import KafkaStore

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka


@pytest_twisted.async_yield_fixture
async def make_store() -> AsyncIterator[Callable[[KafkaCluster], Awaitable[KafkaStore]]]:
    """Makes started stores; they are stopped with the test."""
    made: list[KafkaStore] = []

    async def make(cluster: KafkaCluster) -> KafkaStore:
        config = KafkaStorageConfig(driver="kafka", brokers=tuple(cluster.addresses), request_timeout_seconds=5.0)
        store = KafkaStore(config, reactor, session_timeout_seconds=6.0)
        made.append(store)
        await store.start()
        return store

    yield make
    for store in made:
        await store.stop(5.0)


def numbered(first: int, count: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


@here
async def test_a_reader_goes_on_after_its_only_broker_was_killed(kafka_cluster, make_store):
    cluster = await deferToThread(kafka_cluster)
    oracle = Oracle(cluster.direct)
    await deferToThread(oracle.create_topic, "topic", 2)
    await deferToThread(oracle.produce, "topic", numbered(0, 20), partition=0)
    store = await make_store(cluster)
    reader = Reader(store, "group", "topic")
    await until(lambda: len(reader.values) == 20)
    await reader.commit()
    cluster.kill(1)
    await until(lambda: not store.health().healthy)
    with pytest.raises(Unavailable):
        await store.offsets("topic", "latest")
    await deferToThread(cluster.restart, 1)
    await until(lambda: store.health().healthy)
    await deferToThread(oracle.produce, "topic", numbered(20, 20), partition=0)
    await until(lambda: len(set(reader.values)) == 40)
    # the broker may have lost its session: then what was not committed may come again, what was committed does not
    assert reader.values[:40] == numbered(0, 40)
    await reader.commit()
    assert (await deferToThread(oracle.committed, "group", "topic"))[0][0] == 40


@here
async def test_partitions_are_lost_when_the_session_cannot_be_kept_and_come_back(kafka_cluster, make_store):
    cluster = await deferToThread(kafka_cluster)
    oracle = Oracle(cluster.direct)
    await deferToThread(oracle.create_topic, "topic", 2)
    await deferToThread(oracle.produce, "topic", numbered(0, 5), partition=1)
    store = await make_store(cluster)
    reader = Reader(store, "group", "topic")
    await until(lambda: len(reader.values) == 5)
    await reader.commit()
    cluster.freeze(1)
    try:
        await until(lambda: not store.health().healthy)
        await until(lambda: "lost" in reader.heard)
        assert reader.owned == set()
        with pytest.raises(Conflict):
            await reader.subscription.commit({1: Committed(5)})
    finally:
        cluster.thaw(1)
    await until(lambda: store.health().healthy)
    await until(lambda: reader.owned == {0, 1})
    assert reader.begun[1] is not None
    assert reader.begun[1].offset == 5
    await deferToThread(oracle.produce, "topic", numbered(5, 5), partition=1)
    await until(lambda: len(reader.values) == 10)
    assert reader.values == numbered(0, 10)
    assert "revoked" not in reader.heard


@here
async def test_whose_connection_breaks_while_its_join_is_held_back_joins_as_the_same_member(kafka_cluster, make_store):
    cluster = await deferToThread(kafka_cluster, proxied=True)
    oracle = Oracle(cluster.direct)
    await deferToThread(oracle.create_topic, "topic", 2)
    store = await make_store(cluster)
    other = oracle.member("group", ["topic"])
    try:
        while not other.assignment():
            await deferToThread(other.poll)
        reader = Reader(store, "group", "topic")
        # it only joins again when it polls: until then our join is held back
        await until(lambda: oracle.members("group") == 2)
        for _ in range(3):
            made = cluster.proxies[1].connections_made
            cluster.proxies[1].cut()
            await until(lambda before=made: cluster.proxies[1].connections_made > before)
            await deferLater(reactor, 1)
        assert oracle.members("group") == 2
        while len(reader.owned) != 1:
            await deferToThread(other.poll)
        assert len(other.assignment()) == 1
    finally:
        await deferToThread(other.close)


@here
async def test_readers_go_on_while_each_of_three_brokers_is_killed_in_turn(kafka_cluster, make_store):
    cluster = await deferToThread(kafka_cluster, brokers=3)
    oracle = Oracle(cluster.direct)
    await deferToThread(oracle.create_topic, "topic", 3, 3)
    store, other_store = await make_store(cluster), await make_store(cluster)
    readers = [Reader(store, "group", "topic"), Reader(other_store, "group", "topic")]
    await until(lambda: all(reader.owned for reader in readers))

    def seen() -> set[bytes | None]:
        return {value for reader in readers for value in reader.values}

    expected: set[bytes] = set()
    for node in cluster.nodes:
        values = numbered(len(expected), 300)
        expected |= set(values)
        cluster.kill(node)
        for partition in range(3):
            await deferToThread(oracle.produce, "topic", values[partition::3], partition=partition)
        await until(lambda so_far=frozenset(expected): seen() == so_far)
        assert store.health().healthy
        await deferToThread(cluster.restart, node)
    assert seen() == expected
