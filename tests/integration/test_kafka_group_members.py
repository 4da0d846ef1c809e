"""A group's members, as its coordinator names them: of the classic protocol, and of the one in which it assigns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import pytest_twisted
from confluent_kafka import Consumer
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from kateway.config.schema import KafkaStorageConfig
from kateway.storage.interface import GroupMember
from kateway.storage.kafka.driver import KafkaStore

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka


@pytest.mark.both_kafkas
@here
async def test_members_of_librdkafka_are_named_with_their_partitions(
    kafka: KafkaCluster, oracle: Oracle, topic_name: str
) -> None:
    await deferToThread(oracle.create_topic, topic_name, 3)
    newer = await deferToThread(knows_the_newer_protocol, kafka)
    store = KafkaStore(KafkaStorageConfig(driver="kafka", brokers=(kafka.bootstrap,)), reactor)
    await store.start()
    try:
        await store.topic(topic_name)
        assert list(await asked(store, f"{topic_name}-none")) == []
        for protocol in ("classic", "consumer")[: 1 + newer]:
            group = f"{topic_name}-{protocol}"
            found: Sequence[GroupMember] = []
            consumer = Consumer(
                {
                    "bootstrap.servers": kafka.direct,
                    "group.id": group,
                    "group.protocol": protocol,
                    "client.id": f"client-{protocol}",
                    "log_level": 0,
                }
            )
            try:
                consumer.subscribe([topic_name])
                for _ in range(100):
                    await deferToThread(consumer.poll, 0.1)
                    found = await asked(store, group)
                    if found and found[0].assigned and found[0].settled:
                        break
                    await deferLater(reactor, 0.05)
            finally:
                await deferToThread(consumer.close)
            (member,) = found
            assert member.settled
            assert member.client_id == f"client-{protocol}"
            assert member.topics == {topic_name}
            assert {topic: sorted(mine) for topic, mine in member.assigned.items()} == {topic_name: [0, 1, 2]}
    finally:
        await store.stop(1)


@here
async def test_members_are_unsettled_while_a_partition_is_between_two_of_them(
    kafka: KafkaCluster, oracle: Oracle, topic_name: str
) -> None:
    await deferToThread(oracle.create_topic, topic_name, 2)
    store = KafkaStore(KafkaStorageConfig(driver="kafka", brokers=(kafka.bootstrap,)), reactor)
    await store.start()
    settings = {"bootstrap.servers": kafka.direct, "group.id": topic_name, "group.protocol": "consumer", "log_level": 0}
    consumers = [Consumer(settings), Consumer(settings)]
    unsettled = 0
    try:
        await store.topic(topic_name)
        for number, consumer in enumerate(consumers, 1):
            consumer.subscribe([topic_name])
            for _ in range(1000):
                for each in consumers[:number]:
                    await deferToThread(each.poll, 0.01)
                found = await asked(store, topic_name)
                named = [partition for member in found for partition in member.assigned.get(topic_name, ())]
                (settled,) = {member.settled for member in found} or {True}
                unsettled += not settled
                if settled and len(found) == number:
                    assert sorted(named) == [0, 1]
                    if all(member.assigned for member in found):
                        break
        assert [len(member.assigned[topic_name]) for member in found] == [1, 1]
        assert unsettled > 0
    finally:
        for consumer in consumers:
            await deferToThread(consumer.close)
        await store.stop(1)


def asked(store: KafkaStore, group: str) -> Deferred[Sequence[GroupMember]]:
    return Deferred.fromCoroutine(store.members(group))


def knows_the_newer_protocol(kafka: KafkaCluster) -> bool:
    return kafka.version.startswith("4")
