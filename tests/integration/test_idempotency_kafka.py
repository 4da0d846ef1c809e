"""An Idempotency-Key before a real Kafka that freezes: whatever the answers were, there is one record."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import confluent_kafka
import pytest
import pytest_twisted
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from twisted.internet.threads import deferToThread

sys.path.append(str(Path(__file__).parents[1] / "edge"))

from gateways import Answer, RunningGateway, config

from kateway.config.schema import KafkaStorageConfig

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka

Cluster = Callable[..., KafkaCluster]
Make = Callable[[], RunningGateway]


@pytest.fixture(scope="module")
def cluster(kafka_cluster: Cluster) -> KafkaCluster:
    return kafka_cluster(version="4.3.1")


@pytest_twisted.async_yield_fixture
async def make(cluster: KafkaCluster, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes gateways before the cluster, not started."""
    made: list[RunningGateway] = []

    def make() -> RunningGateway:
        store = KafkaStorageConfig(driver="kafka", brokers=(cluster.direct,), create_topics=True, partitions=2)
        folder = tmp_path / f"data{len(made)}"
        made.append(RunningGateway(attrs.evolve(config(folder), storage={"default": store}), "hot"))
        return made[-1]

    yield make
    for each in made:
        await each.stop()


async def send(gateway: RunningGateway, topic: str, key: str, seconds: float) -> Answer:
    path = f"/v1/topics/{topic}?timeout={seconds:g}&retry=0"
    return await gateway.request("POST", path, key.encode(), headers={"Idempotency-Key": key})


@here
async def test_record_of_unknown_outcome_is_written_once_however_often_it_is_repeated(
    cluster: KafkaCluster, make: Make, topic_name: str
) -> None:
    gateway = make()
    await gateway.start()
    assert (await send(gateway, topic_name, "first", 20)).status == 201
    store = gateway.service.parts.storing.stores["default"]
    publish = store.publish

    def frozen(*arguments: Any) -> Any:
        cluster.freeze(1)
        return publish(*arguments)

    store.publish = frozen  # type: ignore[method-assign]
    try:
        assert (await send(gateway, topic_name, "k", 2.0)).status == 504
        store.publish = publish  # type: ignore[method-assign]
        # 503 would say that nothing was written
        assert [(await send(gateway, topic_name, "k", 0.5)).status for _ in range(2)] == [409, 409]
    finally:
        cluster.thaw(1)
    answer = await send(gateway, topic_name, "k", 30)
    assert answer.status == 201
    assert (await send(gateway, topic_name, "k", 30)).header("idempotency-replayed") == "true"
    found = [record.value for record in await deferToThread(Oracle(cluster.direct).records, topic_name)]
    assert sorted(found) == [b"first", b"k"]


@here
async def test_another_gateway_finds_the_key_in_the_records(cluster: KafkaCluster, make: Make, topic_name: str) -> None:
    one, two = make(), make()
    await one.start()
    await two.start()
    for number in range(20):
        assert (await send(one, topic_name, f"k{number}", 20)).status == 201
    for number in range(30):
        answer = await send(two, topic_name, f"k{number}", 20)
        assert (answer.status, answer.header("idempotency-replayed")) == (201, "true" if number < 20 else None)
    for number in range(30):
        assert (await send(one, topic_name, f"k{number}", 20)).header("idempotency-replayed") == "true"
    found = [record.value for record in await deferToThread(Oracle(cluster.direct).records, topic_name)]
    assert sorted(found) == sorted(b"k%d" % number for number in range(30))


@here
async def test_record_behind_an_open_transaction_is_not_written_again_by_another_gateway(
    cluster: KafkaCluster, make: Make, topic_name: str
) -> None:
    one, two = make(), make()
    await one.start()
    await two.start()
    await deferToThread(Oracle(cluster.direct).create_topic, topic_name, 1)
    producer = confluent_kafka.Producer({"bootstrap.servers": cluster.direct, "transactional.id": topic_name})

    def begin() -> None:
        producer.init_transactions(30)
        producer.begin_transaction()
        for _ in range(5):
            producer.produce(topic_name, b"foreign", partition=0)
        producer.flush(30)

    store = one.service.parts.storing.stores["default"]
    publish = store.publish

    def behind(*arguments: Any) -> Any:
        # the key was looked for when nothing was hidden yet
        return deferToThread(begin).addCallback(lambda _: publish(*arguments))

    store.publish = behind  # type: ignore[method-assign]
    assert (await send(one, topic_name, "k", 20)).status == 201
    assert (await send(two, topic_name, "k", 20)).status == 503
    await deferToThread(producer.commit_transaction, 30)
    assert (await send(two, topic_name, "k", 20)).header("idempotency-replayed") == "true"
    found = [record.value for record in await deferToThread(Oracle(cluster.direct).records, topic_name)]
    assert sorted(found) == [b"foreign"] * 5 + [b"k"]
