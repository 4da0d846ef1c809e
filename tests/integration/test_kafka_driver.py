"""The Kafka driver as a whole: started without a broker, cut off, watched, and never in its own way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import confluent_kafka
import pytest
import pytest_twisted
from kafka_reader import until
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from servers.ports import held_port
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.threads import deferToThread

from kateway.config.schema import KafkaStorageConfig
from kateway.core.reads import NewestRead, PartitionRead, Read, Start
from kateway.errors import ConfigError, OutcomeUnknown, Unavailable
from kateway.model import TopicInfo
from kateway.storage.interface import FOR_EVER
from kateway.storage.kafka.driver import KafkaStore

here = pytest_twisted.ensureDeferred


@pytest_twisted.async_yield_fixture
async def make_store() -> AsyncIterator[Callable[..., Awaitable[KafkaStore]]]:
    """Makes started stores; they are stopped with the test."""
    made: list[KafkaStore] = []

    async def make(*addresses: str, **options: Any) -> KafkaStore:
        options = {"request_timeout_seconds": 3.0, **options}
        store = KafkaStore(KafkaStorageConfig(driver="kafka", brokers=addresses, **options), reactor)
        made.append(store)
        await store.start()
        return store

    yield make
    for store in made:
        await store.stop(5.0)


@here
async def test_a_store_whose_broker_cannot_be_reached_starts_and_says_so(make_store):
    address = f"127.0.0.1:{held_port()}"
    store = await make_store(address)
    assert not store.health().healthy
    began = reactor.seconds()
    with pytest.raises(Unavailable, match="refused"):
        await store.topic("any")
    assert reactor.seconds() - began < 5.0
    assert address in store.health().reason


def test_an_address_that_is_none_is_a_configuration_error():
    with pytest.raises(ConfigError, match="port"):
        KafkaStore(KafkaStorageConfig(driver="kafka", brokers=("host:port",)), reactor)


@pytest.mark.kafka
@here
async def test_server_that_is_not_kafka_is_named(zookeeper, make_store):
    store = await make_store(zookeeper.hosts)
    await until(lambda: "without an answer" in store.health().reason or "plain Kafka" in store.health().reason)
    assert not store.health().healthy


@pytest.mark.kafka
@here
async def test_health_follows_the_broker_within_five_seconds(kafka_cluster, make_store):
    cluster: KafkaCluster = await deferToThread(kafka_cluster, proxied=True)
    proxy = cluster.proxies[1]
    store = await make_store(cluster.address(1))
    await until(lambda: store.health().healthy)
    for fault in (proxy.blackhole, proxy.refuse):
        fault()
        proxy.cut()
        await until(lambda: not store.health().healthy)
        proxy.pass_through()
        await until(lambda: store.health().healthy)
    proxy.drop_responses()
    await until(lambda: not store.health().healthy)
    proxy.pass_through()
    proxy.cut()
    await until(lambda: store.health().healthy)


@pytest.mark.kafka
@here
async def test_a_change_that_got_no_answer_may_have_been_made(kafka_cluster, make_store):
    cluster: KafkaCluster = await deferToThread(kafka_cluster, proxied=True)
    store = await make_store(cluster.address(1))
    await store.topics()
    cluster.proxies[1].drop_responses()
    with pytest.raises(OutcomeUnknown):
        await store.create_topic("half-known", partitions=1)
    cluster.proxies[1].pass_through()
    cluster.proxies[1].cut()
    await until(lambda: store.health().healthy)
    assert await store.topic("half-known") == TopicInfo("half-known", 1)


@pytest.mark.kafka
@here
async def test_a_topic_keeps_its_records_for_as_long_as_it_is_told(kafka, oracle, make_store, topic_name):
    store = await make_store(*kafka.addresses)
    await store.create_topic(topic_name, partitions=1, retention_ms=FOR_EVER)
    assert await deferToThread(oracle.setting, topic_name, "retention.ms") == "-1"
    other = await deferToThread(oracle.setting, topic_name, "cleanup.policy")
    await store.set_retention(topic_name, 3_600_000)
    assert await deferToThread(oracle.setting, topic_name, "retention.ms") == "3600000"
    assert await deferToThread(oracle.setting, topic_name, "cleanup.policy") == other


@pytest.mark.kafka
@here
async def test_a_topic_grown_by_others_is_noticed_within_the_metadata_refresh(kafka, oracle, make_store, topic_name):
    await deferToThread(oracle.create_topic, topic_name, 1)
    store = await make_store(*kafka.addresses, metadata_refresh_seconds=1.0)
    assert await store.topic(topic_name) == TopicInfo(topic_name, 1)
    await deferToThread(oracle.add_partitions, topic_name, 3)
    await until(lambda: store.partitions(topic_name) == 3)


@pytest.mark.kafka
@here
async def test_reads_that_wait_at_the_end_delay_no_other(kafka, oracle: Oracle, make_store, topic_name):
    await deferToThread(oracle.create_topic, topic_name, 1)
    await deferToThread(oracle.produce, topic_name, [b"one"], partition=0)
    store = await make_store(*kafka.addresses)

    def read(offset: int, wait_seconds: float) -> Deferred[Any]:
        return Deferred.fromCoroutine(store.read(topic_name, 0, offset, max_bytes=1000, wait_seconds=wait_seconds))

    waiting = [read(1, 20.0) for _ in range(20)]
    began = reactor.seconds()
    assert [record.value for record in (await read(0, 20.0)).records] == [b"one"]
    assert await store.offsets(topic_name, "latest") == {0: 1}
    assert reactor.seconds() - began < 3.0
    cancelled = waiting.pop()
    cancelled.cancel()
    with pytest.raises(CancelledError):
        await cancelled
    await deferToThread(oracle.produce, topic_name, [b"two"], partition=0)
    for found in await gatherResults(waiting):
        assert [record.value for record in found.records] == [b"two"]
    assert reactor.seconds() - began < 15.0


@pytest.mark.kafka
@here
async def test_a_topic_of_kafkas_own_is_not_listed(kafka, oracle, make_store, topic_name):
    await deferToThread(oracle.create_topic, topic_name, 1)
    await deferToThread(oracle.commit, "any", topic_name, {0: 0})
    store = await make_store(*kafka.addresses)
    assert "__consumer_offsets" in await deferToThread(oracle.topics)
    listed = await store.topics()
    assert topic_name in listed
    assert "__consumer_offsets" not in listed


@pytest.mark.kafka
@here
async def test_last_records_of_a_topic_that_ends_with_a_transactions_marker(
    kafka: KafkaCluster, topic_name: str
) -> None:
    await deferToThread(Oracle(kafka.direct).create_topic, topic_name)

    def transactions() -> None:
        producer = confluent_kafka.Producer({"bootstrap.servers": kafka.direct, "transactional.id": topic_name})
        producer.init_transactions()
        for values, commits in (((b"a", b"b"), True), ((b"x", b"y"), False), ((b"c",), True)):
            producer.begin_transaction()
            for value in values:
                producer.produce(topic_name, value)
            producer.flush()
            (producer.commit_transaction if commits else producer.abort_transaction)()

    await deferToThread(transactions)
    store = KafkaStore(KafkaStorageConfig(driver="kafka", brokers=(kafka.direct,)), reactor)
    await store.start()

    async def values(read: Read) -> list[bytes | None]:
        found: list[bytes | None] = []
        run = await read.first(5.0, 1 << 20)
        while run is not None:
            found += [record.value for record in run[1]]
            run = await read.next(1 << 20)
        return found

    for count, expected in ((1, [b"c"]), (2, [b"b", b"c"]), (9, [b"a", b"b", b"c"])):
        assert await values(NewestRead(store, topic_name, count, reactor)) == expected
        assert await values(PartitionRead(store, topic_name, 0, Start("last", count))) == expected
    await store.stop(1.0)
