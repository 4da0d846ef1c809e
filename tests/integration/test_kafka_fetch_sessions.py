"""Fetch sessions on real Kafka: many partitions are read through one, and it may be lost at any time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_twisted
from kafka_reader import Reader, until
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from twisted.internet import reactor

from kateway.config.schema import KafkaStorageConfig
from kateway.model import Message
from kateway.storage.kafka.consumer.fetcher import SESSION_PARTITIONS
from kateway.storage.kafka.driver import KafkaStore
from kateway.storage.kafka.protocol.requests import FETCH, FETCH_VERSION, SESSIONLESS, decode_fetch, encode_fetch

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka

PARTITIONS = SESSION_PARTITIONS + 4
EMPTY = {"max_wait_ms": 0, "min_bytes": 0, "max_bytes": 1000}


@pytest_twisted.async_yield_fixture
async def store(kafka: KafkaCluster) -> AsyncIterator[KafkaStore]:
    config = KafkaStorageConfig(driver="kafka", brokers=tuple(kafka.addresses), metadata_refresh_seconds=1.0)
    made = KafkaStore(config, reactor)
    await made.start()
    yield made
    await made.stop(5.0)


class Broker:
    """The one broker, asked on a connection of the test's own."""

    def __init__(self, store: KafkaStore, topic: str) -> None:
        self._client = store._client
        self._pool = store._client.pool("test")
        self._topic = topic

    async def fetch(self, session: int, epoch: int) -> int:
        """A request of another client's session in which nothing has changed; returns its error."""
        node = self._client.leader(self._topic, 0)
        assert node is not None
        body = encode_fetch(self._topic, [], **EMPTY, session=session, epoch=epoch)
        answer = await self._pool.request(node, FETCH, FETCH_VERSION, body, timeout_seconds=10)
        return decode_fetch(answer)[0]


async def write(store: KafkaStore, topic: str, count: int = 2 * PARTITIONS) -> None:
    messages = [Message(b"%d" % number, partition=number % PARTITIONS) for number in range(count)]
    await store.publish(topic, messages, -1, reactor.seconds() + 10)


@pytest.mark.both_kafkas
@here
async def test_a_session_that_is_lost_begins_anew_and_no_record_is(
    store: KafkaStore, oracle: Oracle, topic_name: str, unique_name: Callable[[str], str]
) -> None:
    oracle.create_topic(topic_name, partitions=PARTITIONS)
    await write(store, topic_name)
    reader = Reader(store, unique_name("group"), topic_name)
    await until(lambda: len(reader.seen) == 2 * PARTITIONS)
    broker = Broker(store, topic_name)
    (lane,) = [lane for lane in reader.subscription._fetcher._lanes.values() if lane.buffers]
    await until(lambda: lane.session.epoch > 1)
    first = lane.session.id
    assert first

    # another request takes the place of the reader's next one
    while await broker.fetch(first, lane.session.epoch + (lane.under_way is not None)):
        assert lane.session.id == first
    await until(lambda: lane.session.epoch > 1 and lane.session.id != first)
    await write(store, topic_name)
    await until(lambda: len(reader.seen) == 4 * PARTITIONS)
    assert await broker.fetch(first, 1) == 70, "the former one was ended"

    # the broker throws it out
    second = lane.session.id
    await broker.fetch(second, SESSIONLESS)
    await until(lambda: lane.session.epoch > 1 and lane.session.id != second)
    await write(store, topic_name)
    await until(lambda: len(reader.seen) == 6 * PARTITIONS)

    assert len(set(reader.seen)) == 6 * PARTITIONS
    assert reader.errors == []
    for partition in range(PARTITIONS):
        assert [offset for number, offset in reader.seen if number == partition] == list(range(6))
    await reader.subscription.close()


@here
async def test_in_a_session_partitions_come_and_go(
    store: KafkaStore, oracle: Oracle, topic_name: str, unique_name: Callable[[str], str]
) -> None:
    oracle.create_topic(topic_name, partitions=PARTITIONS)
    reader = Reader(store, unique_name("group"), topic_name)
    await until(lambda: len(reader.owned) == PARTITIONS)
    await write(store, topic_name)
    await until(lambda: len(reader.seen) == 2 * PARTITIONS)
    subscription = reader.subscription
    subscription.pause(3)
    subscription.seek(5, 0)
    await until(lambda: len(reader.seen) == 2 * PARTITIONS + 2)
    assert reader.seen[-2:] == [(5, 0), (5, 1)]
    await write(store, topic_name)
    await until(lambda: len(reader.seen) == 4 * PARTITIONS)
    assert subscription.position(3) == 2
    assert subscription.lag(7) == 0
    assert subscription.take(3, 10, 1 << 20) == []
    await until(lambda: len(reader.seen) == 4 * PARTITIONS + 2)
    assert reader.seen[-2:] == [(3, 2), (3, 3)]
    subscription.seek(9, 999)  # beyond the end: the reset rule, from the beginning
    await until(lambda: len(reader.seen) == 4 * PARTITIONS + 6)
    await reader.subscription.close()
