"""Upgrades on a real Kafka: new processes go on as the members that the old ones were, without a rebalance."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from servers.daemon import Daemon
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from servers.ports import held_port

pytestmark = [pytest.mark.system, pytest.mark.kafka]
Gateways = Callable[..., Daemon]
PARTITIONS = 4


@pytest.fixture(scope="module")
def cluster(kafka_cluster: Callable[..., KafkaCluster]) -> KafkaCluster:
    return kafka_cluster(version="4.3.1")


@pytest.fixture
def oracle(cluster: KafkaCluster) -> Oracle:
    return Oracle(cluster.direct)


@pytest.fixture
def topic(oracle: Oracle, topic_name: str) -> str:
    oracle.create_topic(topic_name, PARTITIONS)
    return topic_name


@pytest.fixture
def gateway(daemon: Gateways, cluster: KafkaCluster, tmp_path: Path) -> Gateways:
    def start(count: int, protocol: str, name: str = "gateway", more: str = "") -> Daemon:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        path = folder / "gateway.toml"
        path.write_text(
            f'data_directory = "{folder}/data"\n[process]\ncount = {count}\n'
            f'[storage.default]\ndriver = "kafka"\nbrokers = {json.dumps(cluster.addresses)}\n'
            # a process whose partitions clients of the other have read would leave for want of readers of its own
            f'group_protocol = "{protocol}"\n[delivery]\nlinger_seconds = 600\n'
            # a process on a busy machine takes seconds to start; the brokers' own protocol has their session
            f"session_timeout_seconds = 60\n{more}"
        )
        started = daemon("--config", str(path), name=name).start()
        if count > 1:
            started.process.wait_until(lambda: f"all {count} processes serve" in started.log, 60)
        started.wait_for_ready()
        return started

    return start


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Accept": "application/json"})
        response = connection.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else None
    finally:
        connection.close()


def processes(gateway: Daemon) -> dict[int, dict[str, Any]]:
    try:
        status, told = ask(gateway.admin_port, "GET", "/admin/v1/processes")
    except (OSError, http.client.HTTPException):
        return {}
    return {row["index"]: row for row in told["items"]} if status == 200 else {}


def upgraded(gateway: Daemon, generation: int) -> None:
    gateway.process.signal(signal.SIGUSR2)
    gateway.process.wait_until(lambda: {row["generation"] for row in processes(gateway).values()} == {generation}, 60)


def members(oracle: Oracle, group: str) -> dict[str, list[int]]:
    """The partitions of each member."""
    found = oracle.admin.describe_consumer_groups([group])[group].result(10).members
    return {each.member_id: sorted(place.partition for place in each.assignment.topic_partitions) for each in found}


def settled_members(gateway: Daemon, oracle: Oracle, group: str) -> dict[str, list[int]]:
    """The same when nothing moves any more: a cooperative member gives up in steps."""
    found: list[dict[str, list[int]]] = []

    def settled() -> bool:
        found.append(members(oracle, group))
        if sum(map(len, found[-1].values())) != PARTITIONS:
            return False
        time.sleep(2.5)
        return members(oracle, group) == found[-1]

    gateway.process.wait_until(settled, 60)
    return found[-1]


class Stream:
    """Publishes a record each few milliseconds, and notes when a client that follows the group has it."""

    def __init__(self, port: int, topic: str, group: str) -> None:
        self._port, self._topic, self._group = port, topic, group
        self.got: Counter[str] = Counter()
        self.faults: list[str] = []
        self.written: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self._going = self._publishing = True
        self._following: socket.socket | None = None
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._publish, self._follow)]
        for each in self._threads:
            each.start()

    def _publish(self) -> None:
        while self._publishing:
            try:
                with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)) as connection:
                    while self._publishing and self._publish_one(connection):
                        time.sleep(0.005)
            except (OSError, http.client.HTTPException) as error:
                self.faults.append(f"publish {error!r}")

    def _publish_one(self, connection: http.client.HTTPConnection) -> bool:
        """Whether the connection may be used again."""
        value = str(len(self.written))
        self.written[value] = time.monotonic()
        connection.request("POST", f"/v1/topics/{self._topic}", value.encode())
        with connection.getresponse() as response:
            response.read()
            if response.status != 201:
                self.faults.append(f"publish {response.status}")
            return not response.will_close

    def _follow(self) -> None:
        while self._going:
            try:
                with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)) as connection:
                    while self._going and self._follow_one(connection):
                        pass
            except (OSError, http.client.HTTPException) as error:
                if self._going:
                    self.faults.append(f"stream {error!r}")

    def _follow_one(self, connection: http.client.HTTPConnection) -> bool:
        connection.request("GET", f"/v1/topics/{self._topic}/{self._group}?follow=1&limit=1000000")
        self._following = connection.sock
        with connection.getresponse() as response:
            if response.status != 200:
                self.faults.append(f"stream {response.status}")
            for line in response:
                value = line.decode().strip()
                if value:
                    self.got[value] += 1
                    if value in self.written:
                        self.seconds.setdefault(value, time.monotonic() - self.written[value])
            return not response.will_close

    def missing(self) -> set[str]:
        return set(self.written) - set(self.got)

    def stop(self, patience_seconds: float = 60) -> None:
        """Waits until everything has come."""
        self._publishing = False
        self._threads[0].join(60)
        end = time.monotonic() + patience_seconds
        while self.missing() and time.monotonic() < end:
            time.sleep(0.05)
        self._going = False
        if self._following is not None:
            with suppress(OSError):
                self._following.shutdown(socket.SHUT_RDWR)
        self._threads[1].join(60)

    def check(self, what: str) -> None:
        assert self.faults == []
        assert not self.missing()
        assert [value for value, count in self.got.items() if count > 1] == []
        print(f"{what}: the slowest of {len(self.seconds)} records took {max(self.seconds.values()) * 1000:.0f} ms")


@pytest.fixture
def stream() -> Iterator[Callable[[int, str, str], Stream]]:
    """Starts streams, which end with the test."""
    made: list[Stream] = []

    def start(port: int, topic: str, group: str) -> Stream:
        made.append(Stream(port, topic, group))
        return made[-1]

    yield start
    for each in made:
        each.stop(0)


def lease(gateway: Daemon, topic: str, count: int) -> list[dict[str, Any]]:
    found: dict[tuple[int, int], dict[str, Any]] = {}
    while len(found) < count:
        path = f"/v1/topics/{topic}/leased-{topic}?ack=explicit&limit=1&timeout=5&ack_timeout=120"
        status, records = ask(gateway.public_port, "GET", path)
        assert status in {200, 204}
        for record in records or ():
            place = record["partition"], record["offset"]
            assert place not in found
            found[place] = record
    return list(found.values())


def acknowledge(gateway: Daemon, topic: str, record: dict[str, Any]) -> None:
    ack = json.dumps([{name: record[name] for name in ("partition", "offset", "lease")}])
    status, told = ask(gateway.public_port, "POST", f"/v1/topics/{topic}/leased-{topic}/acks", ack.encode())
    assert status == 200, told
    assert told["results"][0]["status"] == 200, told


@pytest.mark.parametrize("protocol", ["auto", "classic"])
@pytest.mark.parametrize("count", [1, 2])
def test_upgrades_keep_members_assignments_streams_and_leases(
    gateway: Gateways,
    oracle: Oracle,
    topic: str,
    stream: Callable[[int, str, str], Stream],
    count: int,
    protocol: str,
) -> None:
    up = gateway(count, protocol)
    for number in range(40):
        path = f"/v1/topics/{topic}?partition={number % PARTITIONS}"
        assert ask(up.public_port, "POST", path, b"leased-%d" % number)[0] == 201
    leases = lease(up, topic, 40)
    followed, leased = f"followed-{topic}", f"leased-{topic}"
    client = stream(up.public_port, topic, followed)
    up.process.wait_until(lambda: len(client.got) > 100, 60)
    pids = {row["pid"] for row in processes(up).values()}
    before = {group: settled_members(up, oracle, group) for group in (followed, leased)}
    for generation in (2, 3):
        upgraded(up, generation)
        acknowledge(up, topic, leases.pop())
        so_far = len(client.got)
        up.process.wait_until(lambda n=so_far: len(client.got) > n + 100, 60)
        up.process.wait_until(lambda g=generation: up.log.count("memberships were taken over") >= count * (g - 1), 60)
        time.sleep(2.5)  # a rebalance would be heard of by now
        assert {group: members(oracle, group) for group in before} == before
    client.stop()
    # the followed group's client has also had what was leased in the other
    for value in [value for value in client.got if value.startswith("leased")]:
        del client.got[value]
    client.check(f"{count} processes, {protocol}")
    for record in leases:
        acknowledge(up, topic, record)
    assert (pids == {row["pid"] for row in processes(up).values()}) is (count == 1)


@pytest.mark.parametrize("protocol", ["auto", "classic"])
def test_client_of_another_gateway_reads_on_while_the_home_of_its_group_is_upgraded(
    gateway: Gateways,
    oracle: Oracle,
    unique_name: Callable[[str], str],
    stream: Callable[[int, str, str], Stream],
    tmp_path: Path,
    protocol: str,
) -> None:
    secret = tmp_path / "cluster.secret"
    secret.write_text("a-secret-of-many-characters")
    secret.chmod(0o600)
    home, other = (
        gateway(
            count,
            protocol,
            name,
            f'[cluster]\nendpoint = "tcp:{held_port()}:interface=127.0.0.1"\nsecret_file = "{secret}"\n',
        )
        for name, count in (("home", 2), ("other", 1))
    )
    # one partition: the other gateway would get none, so its clients read at the home
    topic, group = unique_name("topic"), unique_name("group")
    oracle.create_topic(topic, 1)
    assert ask(home.public_port, "POST", f"/v1/topics/{topic}", b"first")[0] == 201
    assert ask(home.public_port, "GET", f"/v1/topics/{topic}/{group}?timeout=20")[0] == 200
    client = stream(other.public_port, topic, group)
    other.process.wait_until(lambda: len(client.got) > 100, 60)
    before = members(oracle, group)
    assert len(before) == 1
    for generation in (2, 3):
        upgraded(home, generation)
        so_far = len(client.got)
        other.process.wait_until(lambda n=so_far: len(client.got) > n + 100, 60)
        time.sleep(2.5)
        assert members(oracle, group) == before
    client.stop()
    client.got.pop("first", None)
    client.check(f"at another gateway, {protocol}")


def test_member_of_a_process_that_dies_behind_an_upgrade_is_left_on_its_behalf(
    gateway: Gateways, oracle: Oracle, topic: str
) -> None:
    up = gateway(2, "classic")
    for number in range(40):
        path = f"/v1/topics/{topic}?partition={number % PARTITIONS}"
        assert ask(up.public_port, "POST", path, b"%d" % number)[0] == 201
    lease(up, topic, 20)
    up.process.wait_until(lambda: len(members(oracle, f"leased-{topic}")) == 2, 30)
    upgraded(up, 2)
    up.process.wait_until(lambda: "memberships were taken over" in up.log, 30)
    os.kill(processes(up)[1]["pid"], signal.SIGKILL)
    up.process.wait_until(lambda: "groups were left for process 1" in up.log, 8)
    up.process.wait_until(lambda: sum(map(len, members(oracle, f"leased-{topic}").values())) == PARTITIONS, 30)
