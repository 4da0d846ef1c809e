"""What a gateway on a real Kafka counts: requests to the brokers, lag as last heard, and the handoff."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from servers.kafka import KafkaCluster
from twisted.internet.threads import deferToThread

sys.path.append(str(Path(__file__).parents[1] / "edge"))

from gateways import RunningGateway, config, eventually
from metrics import Metrics, metrics

from kateway.config.schema import KafkaStorageConfig

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka

Cluster = Callable[..., KafkaCluster]


@pytest.fixture(scope="module")
def cluster(kafka_cluster: Cluster) -> KafkaCluster:
    return kafka_cluster(version="4.3.1")


@pytest_twisted.async_yield_fixture
async def gateway(cluster: KafkaCluster, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    store = KafkaStorageConfig(
        driver="kafka", brokers=(cluster.direct,), create_topics=True, partitions=1, handoff=True
    )
    data = tmp_path / "data"
    running = RunningGateway(attrs.evolve(config(data), storage={"default": store}, data_directory=str(data)), "hot")
    await running.start()
    yield running
    await running.stop()


@here
async def test_requests_to_brokers_lag_and_handoff_are_shown(
    cluster: KafkaCluster, gateway: RunningGateway, topic_name: str
) -> None:
    topic = f"/v1/topics/{topic_name}"
    for value in (b"a", b"b", b"c"):
        assert (await gateway.request("POST", f"{topic}?timeout=20", value)).status == 201
    leased = await gateway.request("GET", f"{topic}/g?ack=explicit&timeout=20&limit=2")
    assert leased.status == 200
    found = await metrics(gateway)
    names = {"application": "default", "topic": topic_name, "version": "v1"}
    group = {**names, "group": "g", "reader_application": "default"}
    assert found.get("publish_records_total", **names) == 3
    for request in ("produce", "fetch", "metadata", "api-versions", "find-coordinator"):
        assert found.get("store_request_duration_seconds_count", cluster="default", request=request), request
    assert found.get("store_queue_seconds_count", cluster="default", request="produce") == 3
    assert found.get("group_lag_records", **group) == 3
    assert found.get("group_unacknowledged_records", **group) == 2
    oldest = found.get("group_oldest_seconds", **group)
    assert oldest is not None
    assert 0 <= oldest < 60
    assert found.get("store_handoff_records", cluster="default") == 0
    await deferToThread(cluster.kill, 1)
    try:
        assert (await gateway.request("POST", f"{topic}?timeout=2", b"d")).status in {202, 503, 504}
        assert (await gateway.request("POST", f"{topic}?timeout=2", b"e")).status in {202, 503}

        async def shown() -> Metrics:
            return await metrics(gateway)

        found = await shown()
        assert found.labels("store_errors_total")
        await eventually(lambda: not gateway.service.parts.storing.stores["default"].health().healthy)
        assert (await shown()).get("store_up", cluster="default") == 0
        kept = gateway.service.parts.storing.handoffs["default"].status()["records"]
        assert (await shown()).get("store_handoff_records", cluster="default") == kept
        assert found.get("publish_handoff_records_total", cluster="default") == kept
    finally:
        await deferToThread(cluster.restart, 1)
