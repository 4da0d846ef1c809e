"""The handoff before a real Kafka that goes and comes back: 201 and 202 are both kept, once and in order."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def cluster(kafka_cluster: Cluster) -> KafkaCluster:
    return kafka_cluster(version="4.3.1")


@pytest_twisted.async_yield_fixture
async def gateway(cluster: KafkaCluster, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """A gateway whose breaker opens after 3 s and ten failures, with a handoff."""
    store = KafkaStorageConfig(
        driver="kafka",
        brokers=(cluster.direct,),
        create_topics=True,
        partitions=3,
        breaker_open_after_seconds=3.0,
        breaker_minimum_requests=10,
        handoff=True,
    )
    running = RunningGateway(
        attrs.evolve(config(tmp_path / "data"), storage={"default": store}, data_directory=str(tmp_path / "data")),
        "hot",
    )
    await running.start()
    yield running
    await running.stop()


def status(gateway: RunningGateway) -> dict[str, Any]:
    return gateway.service.parts.storing.handoffs["default"].status()


async def values(cluster: KafkaCluster, topic: str) -> list[bytes | None]:
    return [record.value for record in await deferToThread(Oracle(cluster.direct).records, topic)]


@here
async def test_records_that_are_published_while_the_cluster_is_away_are_written_once_in_order_when_it_is_back(
    cluster: KafkaCluster, gateway: RunningGateway, topic_name: str
) -> None:
    answers: Counter[str] = Counter()
    kept: dict[int, list[bytes]] = {name: [] for name in range(16)}
    unknown: set[bytes] = set()
    over = False

    async def publisher(name: int) -> None:
        number = 0
        while not over:
            value = b"%d-%d" % (name, number)
            number += 1
            answer = await gateway.request("POST", f"/v1/topics/{topic_name}?timeout=15&key={name}", value)
            answers[str(answer.status)] += 1
            if answer.status in {201, 202}:
                kept[name].append(value)
            elif answer.status == 504:
                unknown.add(value)
            if answer.status == 202:
                assert (answer.header("kateway-handoff"), answer.json()) == ("stored", {"handoff": "stored"})
                await deferLater(reactor, 0.02)  # type: ignore[arg-type]

    publishers = [gateway.spawn(publisher(name)) for name in kept]
    await eventually(lambda: answers["201"] > 200)
    await deferToThread(cluster.kill, 1)
    await eventually(lambda: answers["202"] > 1000, 40)
    assert answers["503"] == 0
    await deferToThread(cluster.restart, 1)
    await eventually(lambda: status(gateway)["records"] == 0, 60)
    before = answers["201"]
    await eventually(lambda: answers["201"] > before + 200, 30)
    over = True
    await gatherResults(publishers)
    await eventually(lambda: status(gateway)["records"] == 0, 30)
    found = await values(cluster, topic_name)
    times = Counter(found)
    assert [value for each in kept.values() for value in each if times[value] != 1] == []
    assert set(times) <= {value for each in kept.values() for value in each} | unknown
    order = {value: at for at, value in enumerate(found)}
    for each in kept.values():
        assert [order[value] for value in each] == sorted(order[value] for value in each)


@here
async def test_client_can_refuse_the_handoff_and_topics_that_were_never_seen_are_not_taken(
    cluster: KafkaCluster, gateway: RunningGateway, topic_name: str
) -> None:
    path = f"/v1/topics/{topic_name}"
    assert (await gateway.request("POST", path, b"a")).status == 201
    gateway.service.parts.storing.breakers.set_by_hand("default", "open")
    assert (await gateway.request("POST", f"{path}?handoff=0", b"no")).code == "store-unavailable"
    assert (await gateway.request("POST", path, b"b")).status == 202
    assert (await gateway.request("POST", f"{path}?handoff=0", b"no")).code == "store-unavailable"
    assert (await gateway.request("POST", path, b"no", headers={"Idempotency-Key": "k"})).status == 503
    assert (await gateway.request("POST", f"{path}-unseen", b"no")).code == "store-unavailable"
    batch = await gateway.request(
        "POST", f"{path}?batch=1", b"c\nd\n", headers={"Content-Type": "application/x-ndjson"}
    )
    assert (batch.status, batch.header("kateway-handoff")) == (202, "stored")
    assert batch.json() == {"results": [{"handoff": "stored"}] * 2}
    gateway.service.parts.storing.breakers.set_by_hand("default", "closed")
    await eventually(lambda: status(gateway)["records"] == 0, 20)
    assert sorted(await values(cluster, topic_name)) == [b"a", b"b", b"c", b"d"]  # type: ignore[type-var]


@here
async def test_records_of_a_topic_that_is_deleted_meanwhile_are_listed_with_the_reason_and_can_be_written_again(
    cluster: KafkaCluster, gateway: RunningGateway, topic_name: str
) -> None:
    path = f"/v1/topics/{topic_name}"
    assert (await gateway.request("POST", path, b"a")).status == 201
    gateway.service.parts.storing.breakers.set_by_hand("default", "open")
    assert (await gateway.request("POST", f"{path}?key=k", b"b")).status == 202
    await deferToThread(Oracle(cluster.direct).delete_topic, topic_name)
    gateway.service.parts.storing.breakers.set_by_hand("default", "closed")
    handoff = gateway.service.parts.storing.handoffs["default"]
    await eventually(lambda: status(gateway)["refused"] == 1, 40)
    (refused,) = await handoff.list_refused(0, 10)
    assert (refused.topic, refused.key, refused.reason) == (topic_name, b"k", "there is no such topic any more")
    await deferToThread(Oracle(cluster.direct).create_topic, topic_name, 2)
    assert await handoff.retry_refused() == 1
    await eventually(lambda: status(gateway)["records"] == 0, 20)
    assert await values(cluster, topic_name) == [b"b"]
