"""The circuit breaker before a real Kafka that goes and comes back."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

sys.path.append(str(Path(__file__).parents[1] / "edge"))

from gateways import RunningGateway, config, eventually

from kateway.config.schema import KafkaStorageConfig

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka

Cluster = Callable[..., KafkaCluster]


@pytest_twisted.async_yield_fixture
async def gateway(kafka_cluster: Cluster, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """A gateway before a cluster of its own; the breaker opens after 3 s and ten failures."""
    cluster = await deferToThread(kafka_cluster, version="4.3.1")
    store = KafkaStorageConfig(
        driver="kafka",
        brokers=(cluster.direct,),
        create_topics=True,
        partitions=3,
        breaker_open_after_seconds=3.0,
        breaker_minimum_requests=10,
    )
    running = RunningGateway(attrs.evolve(config(tmp_path / "data"), storage={"default": store}), "hot")
    running.kafka = cluster  # type: ignore[attr-defined]
    await running.start()
    yield running
    await running.stop()


@here
async def test_breaker_opens_while_the_cluster_is_away_and_nothing_is_lost_or_doubled(
    gateway: RunningGateway, topic_name: str
) -> None:
    cluster: KafkaCluster = gateway.kafka  # type: ignore[attr-defined]
    breaker = gateway.service.parts.storing.breakers["default"]
    answers: Counter[str] = Counter()
    written: list[bytes] = []
    unknown: list[bytes] = []
    over = False

    async def publisher(name: int) -> None:
        number = 0
        while not over:
            value = b"%d-%d" % (name, number)
            number += 1
            answer = await gateway.request("POST", f"/v1/topics/{topic_name}?timeout=15", value)
            code = str(answer.status) if answer.status == 201 else answer.code
            answers[code] += 1
            if answer.status == 201:
                written.append(value)
            elif answer.status == 504:
                unknown.append(value)
            if code == "store-unavailable":
                assert answer.header("retry-after")
                await deferLater(reactor, 0.2)  # type: ignore[arg-type]

    publishers = [gateway.spawn(publisher(name)) for name in range(16)]
    await eventually(lambda: answers["201"] > 200)
    await deferToThread(cluster.kill, 1)
    await eventually(lambda: breaker.state == "open", 30)
    refused = answers["store-unavailable"]
    await eventually(lambda: answers["store-unavailable"] > refused + 50)
    ready = await gateway.request("GET", "/ready")
    assert ready.status == 503
    assert "breaker" in ready.json()["parts"]["storage.default"]["reason"]
    await deferToThread(cluster.restart, 1)
    await eventually(lambda: breaker.state == "closed", 60)
    before = answers["201"]
    await eventually(lambda: answers["201"] > before + 100, 30)
    over = True
    await gatherResults(publishers)
    found = Counter(record.value for record in await deferToThread(Oracle(cluster.direct).records, topic_name))
    assert [value for value in written if found[value] != 1] == []
    assert [value for value, times in found.items() if times > 1] == []
    assert set(found) <= set(written) | set(unknown)


@here
async def test_breaker_opened_by_hand_refuses_a_healthy_cluster_and_lets_it_go_on(
    gateway: RunningGateway, topic_name: str
) -> None:
    path = f"/v1/topics/{topic_name}"
    assert (await gateway.request("POST", path, b"a")).status == 201
    gateway.service.parts.storing.breakers.set_by_hand("default", "open")
    refused = await gateway.request("POST", path, b"b")
    assert (refused.status, refused.code) == (503, "store-unavailable")
    assert (await gateway.request("GET", f"{path}/g?timeout=20")).body == b"a"
    await gateway.service.reload()
    assert (await gateway.request("POST", path, b"b")).code == "store-unavailable"
    gateway.service.parts.storing.breakers.set_by_hand("default", "closed")
    assert (await gateway.request("POST", path, b"c")).status == 201
