"""Kafka's brokers found through ZooKeeper: a real Kafka 3.9, and nodes as older ones write them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from kazoo.client import KazooClient
from servers.fixtures import skipping_where_missing
from servers.kafka_on_zookeeper import KafkaOnZooKeeper
from servers.ports import held_port
from servers.zookeeper import ZooKeeperServer
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

sys.path.append(str(Path(__file__).parents[1] / "edge"))

from gateways import RunningGateway, config, eventually

from kateway.config.schema import KafkaStorageConfig
from kateway.errors import Unavailable
from kateway.registry.zookeeper.kafka_brokers import kafka_brokers

pytestmark = pytest.mark.zookeeper

NODES = {
    "2": b'{"features":{},"listener_security_protocol_map":{"INSIDE":"PLAINTEXT","OUTSIDE":"SASL_SSL"},'
    b'"endpoints":["INSIDE://10.0.0.2:9092","OUTSIDE://kafka.example:9093"],"jmx_port":-1,"port":9092,'
    b'"host":"10.0.0.2","version":5,"timestamp":"1732269600000"}',
    "1": b'{"jmx_port":-1,"endpoints":["PLAINTEXT://[::1]:9092"],"host":"::1","version":2,"port":9092}',
    "3": b"spoilt",
    "4": b'{"endpoints":7}',
}


def write(hosts: str, root: str, nodes: dict[str, bytes]) -> None:
    client = KazooClient(hosts)
    client.start()
    client.ensure_path(f"{root}/brokers/ids")
    for name, content in nodes.items():
        client.create(f"{root}/brokers/ids/{name}", content)
    client.stop()
    client.close()


@pytest_twisted.ensureDeferred
async def test_the_live_brokers_listeners_of_a_protocol_are_found(
    zookeeper: ZooKeeperServer, unique_name: Callable[[str], str]
) -> None:
    root = f"/{unique_name('kafka')}/deep"
    await deferToThread(write, zookeeper.hosts, root, NODES)
    assert await kafka_brokers(reactor, f"{zookeeper.hosts}{root}") == ("[::1]:9092", "10.0.0.2:9092")
    found = await kafka_brokers(reactor, f"{zookeeper.hosts}{root}", protocol="SASL_SSL")
    assert found == ("kafka.example:9093",)
    with pytest.raises(Unavailable, match="no live broker with a SSL listener"):
        await kafka_brokers(reactor, f"{zookeeper.hosts}{root}", protocol="SSL")
    with pytest.raises(Unavailable, match="no /brokers/ids"):
        await kafka_brokers(reactor, f"{zookeeper.hosts}{root}/nowhere")


@pytest_twisted.ensureDeferred
async def test_a_zookeeper_that_is_away_is_waited_for_no_longer_than_told() -> None:
    with pytest.raises(Unavailable, match="did not say in time"):
        await kafka_brokers(reactor, f"127.0.0.1:{held_port()}", timeout_seconds=0.3)


@pytest.fixture
def kafka_on_zookeeper(zookeeper: ZooKeeperServer, unique_name: Callable[[str], str]) -> Iterator[KafkaOnZooKeeper]:
    with skipping_where_missing():
        cluster = KafkaOnZooKeeper(zookeeper, unique_name("kafka"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.mark.kafka
@pytest_twisted.ensureDeferred
async def test_a_gateway_finds_its_kafka_through_zookeeper_and_again_when_it_moves(
    kafka_on_zookeeper: KafkaOnZooKeeper, tmp_path: Path, topic_name: str
) -> None:
    store = KafkaStorageConfig(
        driver="kafka", brokers=("127.0.0.1:1",), brokers_from_zookeeper=kafka_on_zookeeper.connect, create_topics=True
    )
    gateway = RunningGateway(attrs.evolve(config(tmp_path), storage={"default": store}), "hot")
    await gateway.start()
    health = gateway.service.parts.storing.stores["default"].health
    try:
        await eventually(lambda: health().healthy)
        topic = f"/v1/topics/{topic_name}"
        assert (await gateway.request("POST", f"{topic}?partition=0", b"before")).status == 201
        assert (await gateway.request("GET", f"{topic}/g1")).body == b"before"
        address = kafka_on_zookeeper.address(1)
        await deferToThread(kafka_on_zookeeper.move)
        assert kafka_on_zookeeper.address(1) != address
        await eventually(lambda: health().healthy, 20)
        assert (await gateway.request("POST", f"{topic}?partition=0&timeout=20", b"after")).status == 201
        # what was read just before may not have been committed, and comes again then
        deadline = reactor.seconds() + 120
        seen = []
        while b"after" not in seen:
            assert reactor.seconds() < deadline, seen
            read = await gateway.request("GET", f"{topic}/g1?timeout=5")
            assert read.status in (200, 204), read
            seen += [read.body] if read.status == 200 else []
        assert set(seen) <= {b"before", b"after"}
    finally:
        await gateway.stop()
