"""Commits that Kafka stores and whose answers are lost: the partition goes on in order once the session is renewed."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

sys.path.append(str(Path(__file__).parents[1] / "edge"))

from gateways import Client, RunningGateway, config, eventually

from kateway.config.schema import DeliveryConfig, KafkaStorageConfig

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka

SETTLE_SECONDS = 1.0
REQUEST_TIMEOUT_SECONDS = 4.0
SESSION_SECONDS = 8.0
"""Two commits fail before it is over."""


@pytest.fixture(scope="module")
def cluster(kafka_cluster: Callable[..., KafkaCluster]) -> KafkaCluster:
    return kafka_cluster(proxied=True)


@pytest_twisted.async_yield_fixture
async def gateway(tmp_path: Path, cluster: KafkaCluster) -> AsyncIterator[RunningGateway]:
    store = KafkaStorageConfig(
        driver="kafka", brokers=tuple(cluster.addresses), request_timeout_seconds=REQUEST_TIMEOUT_SECONDS
    )
    delivery = DeliveryConfig(
        settle_seconds=SETTLE_SECONDS, session_timeout_seconds=SESSION_SECONDS, commit_interval_seconds=0.05
    )
    settings = attrs.evolve(config(tmp_path / "data"), storage={"default": store}, delivery=delivery)
    running = RunningGateway(settings, "hot")
    await running.start()
    yield running
    await running.stop()


@here
async def test_open_response_goes_on_in_order_where_the_first_of_two_failed_commits_was_stored(
    gateway: RunningGateway, cluster: KafkaCluster, topic_name: str
) -> None:
    proxy = cluster.proxies[1]
    oracle = Oracle(cluster.direct)
    await deferToThread(oracle.create_topic, topic_name, 1)
    client = await Client.connect(gateway.port)
    accept = "Accept: application/x-ndjson\r\n"
    client.send(f"GET /v1/topics/{topic_name}/g?follow=1 HTTP/1.1\r\nHost: x\r\n{accept}\r\n")

    def offsets() -> list[int]:
        return [int(found) for found in re.findall(rb'"offset":(\d+)', client.received)]

    async def deliver(count: int) -> None:
        had = len(offsets())
        await deferToThread(oracle.produce, topic_name, [b"x"] * count, partition=0)
        await eventually(lambda: len(offsets()) >= had + count, 30)

    async def stored() -> int:
        return (await deferToThread(oracle.committed, "g", topic_name)).get(0, (-1, ""))[0]

    await deliver(10)
    await deferLater(reactor, SETTLE_SECONDS * 0.6)
    await deliver(10)
    proxy.drop_responses()
    while await stored() != 10:
        await deferLater(reactor, 0.05)
    # the commit of the second ten does not get there
    proxy.blackhole()
    membership = next(iter(gateway.service.parts.groups._groups.values()))
    await eventually(lambda: not membership.dispatch.all, 30)
    assert await stored() == 10
    proxy.cut()
    proxy.pass_through()
    await eventually(lambda: bool(membership.dispatch.all), 30)
    await deliver(10)
    assert offsets() == list(range(30))
    assert not client.lost
    client.close()
