"""Kafka's brokers found through ZooKeeper, from nodes as Kafka 3.9 and older ones write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import pytest_twisted
from kazoo.client import KazooClient
from servers.process import free_port
from servers.zookeeper import ZooKeeperServer
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from kateway.errors import Unavailable
from kateway.registry.brokers import kafka_brokers

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
        await kafka_brokers(reactor, f"127.0.0.1:{free_port()}", timeout_seconds=0.3)
