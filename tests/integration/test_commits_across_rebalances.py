"""Commits of a group that rebalances at the same moment, on a real Kafka: refused ones are made again."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from servers.kafka import KafkaCluster
from twisted.internet import reactor
from twisted.internet.task import deferLater

sys.path.append(str(Path(__file__).parents[1] / "edge"))

from gateways import Client, RunningGateway, config, eventually

from kateway.config.schema import DeliveryConfig, KafkaStorageConfig

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka

Make = Callable[..., RunningGateway]


@pytest_twisted.async_yield_fixture
async def gateways(tmp_path: Path, kafka_3_9: KafkaCluster) -> AsyncIterator[Make]:
    """Makes gateways in open mode on a Kafka, with the intervals of a real one."""
    made: list[RunningGateway] = []
    cluster = KafkaStorageConfig(driver="kafka", brokers=(kafka_3_9.bootstrap,), create_topics=True)

    def make(**delivery: Any) -> RunningGateway:
        settings = attrs.evolve(
            config(tmp_path / "data"), storage={"default": cluster}, delivery=DeliveryConfig(**delivery)
        )
        made.append(RunningGateway(settings, "hot"))
        return made[-1]

    yield make
    for each in made:
        await each.stop()


async def lag(gateway: RunningGateway, topic: str) -> int:
    return int((await gateway.request("GET", f"/v1/topics/{topic}/g/lag")).json()["lag"])


async def no_lag(gateway: RunningGateway, topic: str, seconds: float) -> bool:
    deadline = reactor.seconds() + seconds
    while await lag(gateway, topic):
        if reactor.seconds() > deadline:
            return False
        await deferLater(reactor, 0.1)
    return True


@here
@pytest.mark.parametrize("after", [0.0, 0.2, 0.5, 0.8, 1.2, 1.8])
async def test_record_settled_while_another_topic_joins_its_group_is_committed(
    gateways: Make, topic_name: str, after: float
) -> None:
    gateway = gateways()
    await gateway.start()
    a, b = f"{topic_name}-a", f"{topic_name}-b"
    for topic in (a, b):
        assert (await gateway.request("POST", f"/v1/topics/{topic}?timeout=20", b"x")).status == 201
    client = await Client.connect(gateway.port)
    client.send(f"GET /v1/topics/{a}/g?timeout=20 HTTP/1.1\r\nHost: x\r\n\r\n")
    await client.until(b"\r\n\r\nx")
    await deferLater(reactor, after)
    assert (await gateway.request("GET", f"/v1/topics/{b}/g?timeout=20")).body == b"x"
    assert await no_lag(gateway, a, 8.0)
    assert await no_lag(gateway, b, 8.0)
    client.close()


async def until_left(gateway: RunningGateway) -> None:
    await eventually(lambda: not gateway.service.parts.groups.groups, 20)


@here
async def test_poll_from_latest_that_got_nothing_is_where_the_group_goes_on(gateways: Make, topic_name: str) -> None:
    gateway = gateways(linger_seconds=0.1)
    await gateway.start()
    topic = f"/v1/topics/{topic_name}"
    assert (await gateway.request("POST", f"{topic}?partition=0&timeout=20", b"old")).status == 201
    poll = f"{topic}/g?offset=latest&timeout=1"
    assert (await gateway.request("GET", poll)).status == 204
    await until_left(gateway)
    assert (await gateway.request("POST", f"{topic}?partition=0", b"new")).status == 201
    assert (await gateway.request("GET", poll)).body == b"new"


@here
async def test_group_that_began_at_latest_reads_a_partition_added_later_from_its_beginning(
    gateways: Make, topic_name: str, kafka_3_9: KafkaCluster
) -> None:
    gateway = gateways(linger_seconds=0.1)
    await gateway.start()
    topic = f"/v1/topics/{topic_name}"
    assert (await gateway.request("POST", f"{topic}?partition=0&timeout=20", b"old")).status == 201
    poll = f"{topic}/g?offset=latest&timeout=1"
    assert (await gateway.request("GET", poll)).status == 204
    await until_left(gateway)
    store = gateway.service.parts.storing.stores["default"]
    count = store.partitions(topic_name) or 0
    await store.add_partitions(topic_name, count + 1)
    assert (await gateway.request("POST", f"{topic}?partition={count}&timeout=20", b"new")).status == 201
    assert (await gateway.request("GET", f"{topic}/g?offset=latest&timeout=5")).body == b"new"
