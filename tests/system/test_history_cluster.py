"""In front of three brokers (three replicas, two in sync) nothing is lost, doubled or out of order when leaders and
coordinators are killed under load, and when a fourth broker takes partitions over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import NewPartitions
from history.check import check
from history.final import ends, from_oracle
from history.run import Run, settings, wait_until
from history.wire import ask
from servers.daemon import Daemon
from servers.kafka import KafkaCluster
from servers.oracle import Oracle

pytestmark = [pytest.mark.system, pytest.mark.kafka]


@pytest.fixture(scope="module")
def cluster(kafka_cluster: Callable[..., KafkaCluster]) -> KafkaCluster:
    return kafka_cluster(brokers=3)


@pytest.fixture
def oracle(cluster: KafkaCluster) -> Oracle:
    return Oracle(cluster.direct)


@pytest.fixture
def gateway(daemon: Callable[..., Daemon], cluster: KafkaCluster, tmp_path: Path) -> Callable[[], Daemon]:
    def start() -> Daemon:
        brokers = json.dumps(cluster.addresses)
        store = f'driver = "kafka"\nbrokers = {brokers}\nmetadata_refresh_seconds = 2\nrequest_timeout_seconds = 5'
        path = settings(tmp_path / "kateway.toml", store, "session_timeout_seconds = 6\nsettle_seconds = 1")
        started = daemon("--config", str(path)).start()
        started.wait_for_ready()
        return started

    return start


def coordinator(oracle: Oracle, group: str) -> int:
    """The node that keeps a group's offsets."""
    found: list[int] = []

    def asked() -> bool:
        try:
            found.append(int(oracle.admin.describe_consumer_groups([group])[group].result(20).coordinator.id))
        except KafkaException as error:
            if not error.args[0].retriable() and error.args[0].code() != KafkaError.NOT_COORDINATOR:
                raise
            # else it moves just now
        return bool(found)

    wait_until(asked, 30, "a coordinator")
    return found[0]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("killed", ["leader", "coordinator"])
def test_brokers_killed_under_load_lose_double_and_disorder_nothing(
    cluster: KafkaCluster, oracle: Oracle, gateway: Callable[[], Daemon], topic_name: str, killed: str
) -> None:
    oracle.create_topic(topic_name, 3, 3)
    up = gateway()
    with Run(topic_name, [up], group=topic_name, seed=killed) as run:
        run.write(3, batch=10, timeout_seconds=30, pause_seconds=0.002)
        run.read(2, query="limit=100&timeout=1&idle=0.1")
        for _ in range(5):
            before, read = run.acknowledged(), len(run.history.delivered)
            wait_until(lambda before=before: run.acknowledged() > before + 100, 60, "load")
            wait_until(lambda read=read: len(run.history.delivered) > read + 100, 60, "deliveries")
            node = coordinator(oracle, run.group) if killed == "coordinator" else oracle.leaders(topic_name)[0]
            with run.outage(f"kill -9 of the {killed}", recovery_seconds=10):
                cluster.kill(node)
                time.sleep(1)
                cluster.restart(node)
        run.stop_writing()
        run.drain()
    final = from_oracle(oracle, topic_name, run.group, drained=True)
    report = check(run.history, final, outages=run.outages, commit_seconds=2)
    print(report.row())
    assert report.faults() == {}
    assert report.acknowledged == report.present == report.delivered, report.row()
    assert final.committed == ends(final)


def test_dead_letters_have_as_many_partitions_and_replicas_as_their_topic(
    cluster: KafkaCluster, oracle: Oracle, gateway: Callable[[], Daemon], topic_name: str
) -> None:
    oracle.create_topic(topic_name, 3, 3)
    up = gateway()
    target = f"/v1/topics/{topic_name}"
    assert ask(up.public_port, "POST", f"{target}?partition=2", b"poison").status == 201
    assert ask(up.public_port, "GET", f"{target}/g?ack=explicit").body == b"poison"
    dead = b'[{"partition":2,"offset":0,"outcome":"dead"}]'
    done = ask(up.public_port, "POST", f"{target}/g/acks?sync=1", dead, Content_Type="application/json")
    assert [each["status"] for each in json.loads(done.body)["results"]] == [200], done
    letter = ask(up.public_port, "GET", f"{target}/g?queue=dead")
    assert letter.body == b"poison", letter
    queue = oracle.admin.list_topics(timeout=10).topics[f"{topic_name}.g.dead"]
    assert [len(partition.replicas) for partition in queue.partitions.values()] == [3, 3, 3]
    assert [record.partition for record in oracle.records(queue.topic)] == [2]


@pytest.mark.timeout(240)
def test_a_broker_added_under_load_takes_partitions_over_and_loses_doubles_and_disorders_nothing(
    cluster: KafkaCluster, oracle: Oracle, gateway: Callable[[], Daemon], topic_name: str
) -> None:
    oracle.create_topic(topic_name, 3, 3)
    up = gateway()
    with Run(topic_name, [up], group=topic_name, seed="added") as run:
        run.write(3, batch=10, timeout_seconds=30, pause_seconds=0.002, keyed=False)
        run.read(2, query="limit=100&timeout=1&idle=0.1")

        def read_of(partition: int, since: int) -> bool:
            return any(each.place and each.place.partition == partition for each in run.history.delivered[since:])

        wait_until(lambda: len(run.history.delivered) > 100, 60, "deliveries")
        added = cluster.add()
        leader = oracle.leaders(topic_name)[0]
        others = [node for node in cluster.nodes if node not in (leader, added)]
        cluster.reassign(topic_name, 0, [added, *others])
        wait_until(lambda: oracle.leaders(topic_name)[0] == added, 60, "the move")
        since = len(run.history.delivered)
        wait_until(lambda: read_of(0, since), 60, "records of the partition that moved")
        grown = NewPartitions(topic_name, 4, replica_assignment=[[added, *others]])
        oracle.admin.create_partitions([grown])[topic_name].result(30)
        wait_until(lambda: read_of(3, since), 60, "records of the partition that was added there")
        with run.outage("kill -9 of the broker that was added", recovery_seconds=10):
            cluster.kill(added)
            wait_until(lambda: oracle.leaders(topic_name)[0] in others, 60, "another leader")
            since = len(run.history.delivered)
            wait_until(lambda: read_of(0, since) and read_of(3, since), 60, "records of both without it")
        run.stop_writing()
        run.drain()
    final = from_oracle(oracle, topic_name, run.group, drained=True)
    report = check(run.history, final, outages=run.outages, commit_seconds=2)
    print(report.row())
    assert report.faults() == {}
    assert report.acknowledged == report.present == report.delivered, report.row()
    assert final.committed == ends(final)
