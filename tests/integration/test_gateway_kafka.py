"""A whole gateway on a real Kafka: brokers found through ZooKeeper, and what a wrong password leads to."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_twisted
from kazoo.client import KazooClient
from servers.fixtures import skipping_where_missing
from servers.kafka import KafkaCluster
from servers.zookeeper import ZooKeeperServer
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import formatEvent, globalLogPublisher

sys.path.append(str(Path(__file__).parents[1] / "edge"))

import attrs
from gateways import RunningGateway, config, eventually

from kateway.config.schema import DeliveryConfig, KafkaStorageConfig, SaslConfig
from kateway.storage.kafka.consumer.fetcher import LET_GO_SECONDS

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka
MODULE = "org.apache.kafka.common.security"

Make = Callable[[KafkaStorageConfig], RunningGateway]


@pytest_twisted.async_yield_fixture
async def gateways(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes gateways in open mode on a Kafka, not started yet."""
    made: list[RunningGateway] = []

    def make(cluster: KafkaStorageConfig) -> RunningGateway:
        made.append(RunningGateway(attrs.evolve(config(tmp_path / "data"), storage={"default": cluster}), "hot"))
        return made[-1]

    yield make
    for each in made:
        await each.stop()


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """The lines logged as warnings by the Kafka client."""
    lines: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        if "kafka" in event.get("log_namespace", "") and event["log_level"].name in {"warn", "error", "critical"}:
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def enter(hosts: str, root: str, address: str) -> None:
    """Writes what a broker of Kafka 3.9 writes of itself."""
    client = KazooClient(hosts)
    client.start()
    host, _, port = address.partition(":")
    node = {
        "features": {},
        "listener_security_protocol_map": {"PLAINTEXT": "PLAINTEXT"},
        "endpoints": [f"PLAINTEXT://{address}"],
        "jmx_port": -1,
        "port": int(port),
        "host": host,
        "version": 5,
        "timestamp": "1732269600000",
    }
    client.create(f"{root}/brokers/ids/1", orjson.dumps(node), makepath=True)
    client.stop()
    client.close()


async def reason(gateway: RunningGateway) -> str:
    ready = await gateway.request("GET", "/ready")
    assert ready.status == 503
    return str(ready.json()["parts"]["storage.default"]["reason"])


@here
async def test_brokers_are_found_through_zookeeper_once_it_is_there(
    kafka_3_9: KafkaCluster, zookeeper_server: ZooKeeperServer, gateways: Make, topic_name: str, warnings: list[str]
) -> None:
    hosts = f"{zookeeper_server.direct}/kafka"
    await deferToThread(enter, zookeeper_server.direct, "/kafka", kafka_3_9.bootstrap.split(",")[0])
    await deferToThread(zookeeper_server.kill)
    gateway = gateways(KafkaStorageConfig(driver="kafka", brokers_from_zookeeper=hosts, create_topics=True))
    await gateway.start()
    await eventually(lambda: bool(warnings), 10)
    assert "ZooKeeper at" in warnings[0]
    assert "ZooKeeper at" in await reason(gateway)
    await deferToThread(zookeeper_server.restart)
    await eventually(lambda: gateway.service.parts.storing.stores["default"].health().healthy, 20)
    assert (await gateway.request("POST", f"/v1/topics/{topic_name}", b"x")).status == 201
    assert len(warnings) == 1
    # what was found stays, whatever becomes of ZooKeeper
    await deferToThread(zookeeper_server.kill)
    assert (await gateway.request("GET", f"/v1/topics/{topic_name}/g")).body == b"x"


@here
async def test_leases_hold_while_the_same_group_begins_to_read_another_topic(
    kafka_3_9: KafkaCluster, gateways: Make, topic_name: str
) -> None:
    gateway = gateways(KafkaStorageConfig(driver="kafka", brokers=(kafka_3_9.bootstrap,), create_topics=True))
    await gateway.start()
    group = f"/v1/topics/{topic_name}/g"
    for value in (b"a", b"b"):
        sent = await gateway.request("POST", f"/v1/topics/{topic_name}?partition=0&timeout=20", value)
        assert sent.status == 201
    leased = await gateway.request("GET", f"{group}?ack=explicit&ack_timeout=60&timeout=20")
    assert leased.body == b"a"
    # a member more in Kafka's group: all partitions change hands
    assert (await gateway.request("GET", f"{group}?queue=dead&timeout=5")).status == 204
    ack = orjson.dumps([{"partition": 0, "offset": 0, "lease": leased.header("x-lease")}])
    answer = await gateway.request("POST", f"{group}/acks?sync=1", ack)
    assert answer.json()["results"] == [{"partition": 0, "offset": 0, "status": 200}]
    assert (await gateway.request("GET", f"{group}?ack=explicit&timeout=20")).body == b"b"


@here
async def test_a_poll_that_does_not_wait_finds_what_was_let_go_of_since_the_last(
    kafka_3_9: KafkaCluster, gateways: Make, topic_name: str
) -> None:
    gateway = gateways(KafkaStorageConfig(driver="kafka", brokers=(kafka_3_9.bootstrap,), create_topics=True))
    await gateway.start()
    gateway.service.parts.groups.config = DeliveryConfig(linger_seconds=30.0)
    gateway.service.parts.edges.subscriptions.least_look_seconds = 10.0  # a busy machine
    topic = f"/v1/topics/{topic_name}"
    for value in (b"a", b"b"):
        assert (await gateway.request("POST", f"{topic}?partition=0&timeout=20", value)).status == 201
    assert (await gateway.request("GET", f"{topic}/g?timeout=20")).body == b"a"
    await deferLater(reactor, LET_GO_SECONDS * 2.5)  # type: ignore[arg-type]
    assert (await gateway.request("GET", f"{topic}/g?timeout=0")).body == b"b"


@pytest.fixture(scope="module")
def secured() -> Iterator[KafkaCluster]:
    settings = {
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:SASL_PLAINTEXT,DIRECT:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.plaintext.plain.sasl.jaas.config": f'{MODULE}.plain.PlainLoginModule required user_me="right";',
    }
    with skipping_where_missing():
        cluster = KafkaCluster("3.9.2", settings=settings)
    try:
        yield cluster.start()
    finally:
        cluster.close()


@here
async def test_a_wrong_password_is_one_line_and_the_reason_why_it_is_not_ready(
    secured: KafkaCluster, gateways: Make, tmp_path: Path, warnings: list[str]
) -> None:
    password = tmp_path / "password"
    password.write_text("wrong-and-not-to-be-told\n")
    sasl = SaslConfig(mechanism="PLAIN", username="me", password_file=str(password))
    gateway = gateways(KafkaStorageConfig(driver="kafka", brokers=(secured.bootstrap,), sasl=sasl))
    await gateway.start()
    await eventually(lambda: bool(warnings), 10)
    await deferLater(reactor, 3)  # type: ignore[arg-type]
    assert len(warnings) == 1, warnings
    assert "uthentication" in warnings[0] or "password" in warnings[0], warnings
    assert "wrong-and-not-to-be-told" not in warnings[0]
    assert "uthentication" in await reason(gateway)
    answer = await gateway.request("POST", "/v1/topics/foo?timeout=0.5", b"x")
    assert answer.status == 503
