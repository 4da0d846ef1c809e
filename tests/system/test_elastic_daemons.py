"""An elastic topic on a real Kafka grows under load, with gateways of one process and of two, while some are killed and
partitions have no leader.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from servers.daemon import Daemon
from servers.kafka import KafkaCluster
from servers.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.system, pytest.mark.kafka, pytest.mark.zookeeper, pytest.mark.timeout(420)]

KEYS = 10_000
PUBLISHERS = 4
BATCH = 100
TARGET = 40_000
"""Bytes a second of each partition; a record has about 100."""
LOW, HIGH = 1100.0, 2200.0
"""Records a second: above the target of 2 partitions and not of 4, then above that of 4 and not of 8."""

AWAY_SECONDS = 5.0
"""Shorter than ``handover_seconds``: in those the readers catch up, or keys may come out of order."""

CONFIG = """
data_directory = "{data}"
[process]
count = {processes}
[storage.default]
driver = "kafka"
brokers = ["{brokers}"]
[registry]
driver = "zookeeper"
hosts = "{hosts}"
session_timeout_seconds = 2
[delivery]
session_timeout_seconds = 6
[elastic]
sustained_seconds = 2
sample_seconds = 1
lease_seconds = 2
# no publish of the test is under way for longer than that when its gateway is killed
gone_seconds = 5
"""


def call(url: str, method: str = "GET", body: Any = None) -> Any:
    host = url.removeprefix("http://")
    address, _, path = host.partition("/")
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request(method, f"/{path}", None if body is None else json.dumps(body))
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status in {200, 201}, (answer.status, content)
        return json.loads(content)
    finally:
        connection.close()


def within(seconds: float, holds: Callable[[], Any]) -> Any:
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(0.1)
    return found


class Traffic:
    """Publishers that number the records of each of their keys, and readers of one group that note what comes."""

    def __init__(self, gateways: list[Daemon], publish_as: str, read_as: str) -> None:
        self.gateways = gateways
        self.records_per_second = LOW
        self.publishing = True
        self.reading = True
        self.killed: Daemon | None = None
        self.written: dict[str, int] = {}
        self.delivered: list[tuple[int, int, str, int]] = []
        self.faults: list[str] = []
        self._lock = threading.Lock()
        self._publish_as, self._read_as = publish_as, read_as
        self._publishers = [threading.Thread(target=self._guard, args=(self._publish, n)) for n in range(PUBLISHERS)]
        self._readers = [threading.Thread(target=self._guard, args=(self._read, n)) for n in range(3)]

    def start(self) -> None:
        for thread in (*self._readers, *self._publishers):
            thread.start()

    def end_publishing(self) -> None:
        self.publishing = False
        for thread in self._publishers:
            thread.join(60)
            assert not thread.is_alive()

    def end(self) -> None:
        self.publishing = self.reading = False
        for thread in (*self._publishers, *self._readers):
            thread.join(30)

    def _guard(self, work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        except Exception as error:
            self.faults.append(f"{work.__name__} {number}: {error!r}")

    def _gateway(self, number: int) -> Daemon:
        living = [gateway for gateway in self.gateways if gateway is not self.killed]
        return living[number % len(living)]

    # --- publishing ---------------------------------------------------------------------------------------------

    def _publish(self, number: int) -> None:
        """Keys of its own: half of each batch are a few that come again soon, half go round all of them."""
        own = [f"key-{each}" for each in range(number, KEYS, PUBLISHERS)]
        often, rest = own[:200], own[200:]
        numbers = dict.fromkeys(own, 0)
        turn = 0
        while self.publishing:
            began = time.monotonic()
            keys = [often[(turn * 50 + each) % len(often)] for each in range(BATCH // 2)]
            keys += [rest[(turn * 50 + each) % len(rest)] for each in range(BATCH // 2)]
            turn += 1
            left = keys
            while left:
                # what was not written is repeated before anything newer of its key
                left = self._write(number, left, numbers)
            for key in keys:
                numbers[key] += 1
            pause = BATCH * PUBLISHERS / self.records_per_second - (time.monotonic() - began)
            if pause > 0:
                time.sleep(pause)
        self.written.update(numbers)

    def _write(self, number: int, keys: list[str], numbers: dict[str, int]) -> list[str]:
        gateway = self._gateway(number)
        body = json.dumps([{"key": key, "value": f"{numbers[key]:06d}{'x' * 84}"} for key in keys])
        headers = {"Authorization": f"Basic {self._publish_as}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", gateway.public_port, timeout=30)
        try:
            connection.request("POST", "/v1/topics/grows?batch=1&timeout=20", body, headers)
            results = json.loads(connection.getresponse().read()).get("results")
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
            return keys
        finally:
            connection.close()
        if results is None:
            time.sleep(0.2)
            return keys
        return [key for key, result in zip(keys, results, strict=True) if "offset" not in result]

    # --- reading ------------------------------------------------------------------------------------------------

    def _read(self, number: int) -> None:
        headers = {"Authorization": f"Basic {self._read_as}", "Accept": "application/x-ndjson"}
        while self.reading:
            gateway = self._gateway(number)
            connection = http.client.HTTPConnection("127.0.0.1", gateway.public_port, timeout=3)
            with suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
                connection.request("GET", "/v1/topics/grows/g1?limit=100000&timeout=2&idle=1", headers=headers)
                answer = connection.getresponse()
                if answer.status == 200:
                    self._note(answer)
                else:
                    answer.read()
                    time.sleep(0.1)
            connection.close()

    def _note(self, answer: http.client.HTTPResponse) -> None:
        while line := answer.readline():
            record = json.loads(line)
            with self._lock:
                self.delivered.append((record["partition"], record["offset"], record["key"], int(record["value"][:6])))

    # --- what came ----------------------------------------------------------------------------------------------

    def complete(self) -> bool:
        """Whether every record that was written has been delivered."""
        with self._lock:
            seen = {(key, number) for _partition, _offset, key, number in self.delivered}
        return sum(self.written.values()) == len(seen)

    def disorder(self) -> list[str]:
        """Records that came behind a later one of their key; the same record again does not count."""
        found, newest, seen = [], dict[str, int](), set[tuple[int, int]]()
        for partition, offset, key, number in self.delivered:
            if (partition, offset) in seen:
                continue
            seen.add((partition, offset))
            if number < newest.get(key, 0):
                found.append(f"{key}: {number} behind {newest[key]}, partition {partition} offset {offset}")
            newest[key] = max(newest.get(key, 0), number)
        return found


@pytest.fixture(scope="module")
def cluster(kafka_cluster: Callable[..., KafkaCluster]) -> KafkaCluster:
    """Two brokers, of which the second one may be killed: it is no controller."""
    made = kafka_cluster(version="4.3.1")
    made.add()
    return made


def started(daemon: Callable[..., Daemon], cluster: KafkaCluster, hosts: str, folder: Path) -> list[Daemon]:
    """Two gateways, the first one of one process, the second one of two."""
    gateways = []
    for name, processes in (("first", 1), ("second", 2)):
        config = folder / f"{name}.toml"
        brokers = cluster.bootstrap.replace(",", '", "')
        data = folder / f"{name}-data"
        config.write_text(CONFIG.format(data=data, brokers=brokers, hosts=hosts, processes=processes))
        gateways.append(daemon("--config", str(config), name=name).launch())
    for gateway in gateways:
        gateway.wait_for_ready()
    return gateways


def test_topic_under_growing_load_grows_twice_and_keeps_the_order_of_its_keys_while_gateways_and_a_leader_are_killed(
    daemon: Callable[..., Daemon],
    cluster: KafkaCluster,
    zookeeper: ZooKeeperServer,
    unique_name: Callable[[str], str],
    tmp_path: Path,
) -> None:
    gateways = started(daemon, cluster, f"{zookeeper.hosts}/{unique_name('root')}", tmp_path)
    admin = f"{gateways[0].admin}/admin/v1"
    application = unique_name("app")
    call(f"{admin}/applications/{application}", "PUT", {})
    secrets = {}
    for kind in ("pub", "sub"):
        key = call(f"{admin}/applications/{application}/keys", "POST", {"kind": kind})
        secrets[kind] = base64.b64encode(f"{key['key']}:{key['secret']}".encode()).decode()
    elastic = {
        "max_partitions": 16,
        "target_bytes_per_second": TARGET,
        "target_readers_per_partition": None,
        "cooldown_seconds": 3,
        "handover_seconds": 60,
    }
    call(f"{admin}/topics/{application}/grows/v1", "PUT", {"partitions": 2, "elastic": elastic})

    def row(gateway: Daemon) -> Any:
        (found,) = call(f"{gateway.admin}/admin/v1/elastic")["items"]
        return found

    def is_at(gateway: Daemon, partitions: int) -> bool:
        found = row(gateway)
        return bool(found["partitions"]["in_force"] == partitions and found["state"] == "settled")

    within(20, lambda: call(f"{gateways[1].admin}/admin/v1/elastic")["items"])
    traffic = Traffic(gateways, secrets["pub"], secrets["sub"])
    traffic.start()
    try:
        within(40, lambda: is_at(gateways[0], 4))
        leader = call(f"{admin}/elastic")["gateway"]
        assert leader in {item["name"] for item in call(f"{admin}/gateways")["items"]}
        # one gateway, and one of the processes of the other
        traffic.killed, other = gateways
        traffic.killed.kill()
        rows = call(f"{other.admin}/admin/v1/processes")["items"]
        os.kill(next(each["pid"] for each in rows if each["index"] == 1), signal.SIGKILL)
        traffic.records_per_second = HIGH
        within(60, lambda: row(other)["state"] != "settled")
        cluster.kill(2)
        time.sleep(AWAY_SECONDS)
        cluster.restart(2)
        within(120, lambda: is_at(other, 8))
        time.sleep(6)
        assert is_at(other, 8), row(other)
        traffic.end_publishing()
        within(30, traffic.complete)
    finally:
        traffic.end()
    assert traffic.faults == []
    assert traffic.disorder() == []
    did = row(other)["did"]
    assert [(each["was"], each["now"], each["bound_hit"]) for each in did] == [(2, 4, False), (4, 8, False)]
    partitions = {partition for partition, _offset, _key, _number in traffic.delivered}
    assert partitions == set(range(8))
    assert other.terminate() in (0, -15)
    assert "Traceback" not in other.log
