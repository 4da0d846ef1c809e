"""Commits that are too long for a coordinator as a whole, or of which a broker does not store all metadata."""

from __future__ import annotations

import random
import string
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_twisted
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from kafka_reader import Reader, until
from servers.kafka import KafkaCluster
from servers.oracle import Oracle

from kateway.model import Committed
from kateway.storage.interface import MetadataRefused
from kateway.storage.kafka.driver import KafkaStore

here = pytest_twisted.ensureDeferred
# the two refuse by different codes
pytestmark = [pytest.mark.kafka, pytest.mark.both_kafkas]
KafkaStores = Callable[..., Awaitable[KafkaStore]]
PARTITIONS = 20
LONGEST_BATCH = 30_000


def limit(oracle: Oracle, kind: AlterConfigOpType) -> None:
    entry = ConfigEntry("max.message.bytes", str(LONGEST_BATCH), incremental_operation=kind)
    resource = ConfigResource(ResourceType.TOPIC, "__consumer_offsets", incremental_configs=[entry])
    for done in oracle.admin.incremental_alter_configs([resource]).values():
        done.result(30)


@pytest_twisted.async_fixture
async def store(kafka: KafkaCluster, kafka_store: KafkaStores) -> KafkaStore:
    return await kafka_store(kafka)


@pytest_twisted.async_yield_fixture
async def reader(store: KafkaStore, oracle: Oracle, topic_name: str, group: str) -> AsyncIterator[Reader]:
    """A member of a group whose coordinator stores 30 kB at once."""
    oracle.create_topic(topic_name, partitions=PARTITIONS)
    made = Reader(store, group, topic_name)
    await until(lambda: len(made.owned) == PARTITIONS)
    limit(oracle, AlterConfigOpType.SET)
    yield made
    limit(oracle, AlterConfigOpType.DELETE)


def text(length: int) -> str:
    """Compression would make another text short."""
    return "".join(random.Random(length).choices(string.ascii_letters + string.digits, k=length))


@here
async def test_commit_that_the_coordinator_refuses_as_too_long_is_stored_whole_in_parts(
    reader: Reader, store: KafkaStore, topic_name: str, group: str
) -> None:
    metadata = text(4000)
    await reader.subscription.commit({each: Committed(each, metadata) for each in range(PARTITIONS)})
    assert await store.committed(group, topic_name) == {each: Committed(each, metadata) for each in range(PARTITIONS)}
    # one partition's text is longer than a broker keeps: the others are committed
    refused: list[object] = []
    places = {each: Committed(each + 1, text(4200) if each == 7 else "short") for each in range(PARTITIONS)}
    await reader.subscription.commit(places).addErrback(lambda failure: refused.append(failure.value))
    (error,) = refused
    assert isinstance(error, MetadataRefused)
    assert error.partitions == {7}
    places[7] = Committed(7, metadata)
    assert await store.committed(group, topic_name) == places
