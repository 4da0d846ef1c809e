"""What several integration tests need."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from group_members import SESSION_SECONDS, JavaMember, LibrdkafkaMember
from servers.certificate import self_signed
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from twisted.internet import reactor

from kateway.config.schema import GroupProtocol, KafkaStorageConfig
from kateway.storage.kafka.driver import KafkaStore

KafkaStores = Callable[..., Awaitable[KafkaStore]]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A folder with a self-signed certificate and its key: ``cert.pem`` and ``key.pem``."""
    return self_signed(tmp_path)


@pytest_twisted.async_yield_fixture
async def kafka_store() -> AsyncIterator[KafkaStores]:
    """Makes started stores that look at the topics every second; they are stopped with the test.

    ``await kafka_store(kafka, name="one", protocol="classic")``
    """
    made: list[KafkaStore] = []

    async def make(
        cluster: KafkaCluster,
        *,
        name: str = "",
        protocol: GroupProtocol = "auto",
        session_timeout_seconds: float = SESSION_SECONDS,
        **settings: Any,
    ) -> KafkaStore:
        options = {"metadata_refresh_seconds": 1.0, "request_timeout_seconds": 5.0, **settings}
        config = KafkaStorageConfig(
            driver="kafka", brokers=tuple(cluster.addresses), group_protocol=protocol, **options
        )
        store = KafkaStore(config, reactor, session_timeout_seconds=session_timeout_seconds, instance_name=name)
        made.append(store)
        await store.start()
        return store

    yield make
    for store in made:
        await store.stop(5.0)


@pytest.fixture
def topic(oracle: Oracle, topic_name: str) -> str:
    """A topic of four partitions."""
    oracle.create_topic(topic_name, partitions=4)
    return topic_name


@pytest.fixture
def group(unique_name: Callable[[str], str]) -> str:
    """A group that no other test has."""
    return unique_name("group")


@pytest_twisted.async_yield_fixture
async def librdkafka_member(oracle: Oracle) -> AsyncIterator[Callable[..., LibrdkafkaMember]]:
    """Starts librdkafka members, which end with the test: ``librdkafka_member(group, [topic], **settings)``."""
    made: list[LibrdkafkaMember] = []

    def make(group: str, topics: list[str], **settings: Any) -> LibrdkafkaMember:
        made.append(LibrdkafkaMember(oracle, group, topics, **settings))
        return made[-1]

    yield make
    for each in made:
        await each.stop()


@pytest.fixture
def java_member(tmp_path: Path) -> Iterator[Callable[..., JavaMember]]:
    """Starts Java members: ``java_member(kafka, group, topic, JAVA_CONSUMER)``. They end with the test."""
    made: list[JavaMember] = []

    def make(cluster: KafkaCluster, group: str, topic: str, settings: dict[str, str]) -> JavaMember:
        made.append(JavaMember(cluster, group, topic, tmp_path / f"java-{len(made)}.out", settings))
        return made[-1]

    yield make
    for each in made:
        each.stop()
