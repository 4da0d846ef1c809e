"""In front of one Kafka broker the gateway keeps the delivery promise while the broker, its answers, the topic, the
group or the gateway itself break.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from history.check import check
from history.final import committed, ends, from_oracle
from history.member import OtherMember
from history.record import Ident
from history.run import Run, settings, wait_until
from history.wire import ask
from servers.daemon import Daemon
from servers.kafka import KafkaCluster
from servers.oracle import Oracle

pytestmark = [pytest.mark.system, pytest.mark.kafka]
Gateways = Callable[..., Daemon]
RECOVERY_SECONDS = 10.0
"""Until a member of a group has found its coordinator again and could commit."""


on_both = pytest.mark.parametrize("version", ["3.9.2", "4.3.1"])
"""What depends on the broker; the others run on the newer."""


@pytest.fixture(scope="module")
def clusters(kafka_cluster: Callable[..., KafkaCluster]) -> Callable[[str], KafkaCluster]:
    """One broker of each version, made when it is first asked for."""
    return cache(lambda version: kafka_cluster(version=version, proxied=True))


@pytest.fixture
def version() -> str:
    return "4.3.1"


@pytest.fixture
def cluster(clusters: Callable[[str], KafkaCluster], version: str) -> KafkaCluster:
    return clusters(version)


@pytest.fixture
def oracle(cluster: KafkaCluster) -> Oracle:
    return Oracle(cluster.direct)


@pytest.fixture
def gateway(daemon: Callable[..., Daemon], cluster: KafkaCluster, tmp_path: Path) -> Gateways:
    """Starts a gateway that looks at the topics every second and is given up by its group after six."""

    def start(name: str = "gateway", delivery: str = "") -> Daemon:
        brokers = json.dumps(cluster.addresses)
        store = f'driver = "kafka"\nbrokers = {brokers}\nmetadata_refresh_seconds = 1\nrequest_timeout_seconds = 5'
        path = settings(
            tmp_path / f"{name}.toml", store, f"session_timeout_seconds = 6\nsettle_seconds = 1\n{delivery}"
        )
        started = daemon("--config", str(path), name=name).start()
        started.wait_for_ready()
        return started

    return start


@on_both
def test_lost_answers_make_no_duplicates_and_lose_nothing(
    cluster: KafkaCluster, oracle: Oracle, gateway: Gateways, topic_name: str
) -> None:
    oracle.create_topic(topic_name, 3)
    up, proxy, chosen = gateway(), cluster.proxies[1], random.Random(3)
    with Run(topic_name, [up], group=topic_name, seed=3) as run:
        run.write(4, batch=10, timeout_seconds=20)
        run.read(2, query="limit=100&timeout=1&idle=0.1")
        try:
            for _ in range(4):
                before = run.acknowledged()
                wait_until(lambda before=before: run.acknowledged() > before + 50, what="load")
                with run.outage("answers are lost", RECOVERY_SECONDS):
                    proxy.drop_responses()
                    time.sleep(0.2 + chosen.random() * 0.3)
                    proxy.cut()
                    proxy.pass_through()
        finally:
            proxy.pass_through()
        run.stop_writing()
        run.drain()
    final = from_oracle(oracle, topic_name, topic_name, drained=True)
    report = check(run.history, final, outages=run.outages, commit_seconds=2)
    print(report.row())
    assert report.faults() == {}
    assert report.acknowledged == report.present == report.delivered


def test_a_dead_broker_is_told_in_time_and_honestly_and_all_goes_on_with_its_return(
    cluster: KafkaCluster, oracle: Oracle, gateway: Gateways, topic_name: str
) -> None:
    oracle.create_topic(topic_name, 3)
    up = gateway()
    with Run(topic_name, [up], group=topic_name, seed=4) as run:
        run.write(4, timeout_seconds=2)
        run.read(1, query="limit=100&timeout=1&idle=0.1")
        wait_until(lambda: run.acknowledged() > 100, what="load")
        with run.outage("broker killed", RECOVERY_SECONDS):
            cluster.kill(1)
            time.sleep(5)
            cluster.restart(1)
        back = time.monotonic()
        wait_until(lambda: all(writer.last_success_at > back for writer in run.writers), 30, "every writer")
        resumed = max(min(each.at for each in run.history.published if each.at > back and each.status == 201), back)
        run.stop_writing()
        run.drain()
        slowest = max(writer.slowest_seconds for writer in run.writers)
    report = check(
        run.history, from_oracle(oracle, topic_name, topic_name, drained=True), outages=run.outages, commit_seconds=2
    )
    print(report.row())
    assert report.faults() == {}
    assert {each.status for each in run.history.published} <= {201, 503, 504}
    assert resumed - back < 10
    assert slowest < 2 + 5


def test_killing_the_gateway_under_load_loses_nothing(oracle: Oracle, gateway: Gateways, topic_name: str) -> None:
    oracle.create_topic(topic_name, 3)
    up = gateway()
    with Run(topic_name, [up], group=topic_name, seed=5) as run:
        run.write(3, batch=10)
        run.read(2, query="limit=100&timeout=1&idle=0.1")
        for _ in range(2):
            before, read = run.acknowledged(), len(run.history.delivered)
            wait_until(lambda before=before: run.acknowledged() > before + 100, what="load")
            wait_until(lambda read=read: len(run.history.delivered) > read + 50, what="deliveries")
            with run.outage("kill -9 of the gateway"):
                up.kill()
                up.start()
        run.stop_writing()
        run.drain()
    final = from_oracle(oracle, topic_name, topic_name, drained=True)
    report = check(run.history, final, outages=run.outages, commit_seconds=1.5)
    print(report.row())
    assert report.faults() == {}
    assert report.delivered == report.present
    assert final.committed == ends(final)


@on_both
def test_gateways_with_names_that_are_restarted_in_turn_lose_nothing_and_no_member_ever_leaves(
    oracle: Oracle, gateway: Gateways, topic_name: str
) -> None:
    oracle.create_topic(topic_name, 6)
    both = [gateway(name, f'instance_name = "{name}"') for name in ("first", "second")]
    with Run(topic_name, both, group=topic_name, seed=8) as run:
        run.write(2, pause_seconds=0.005, keyed=False)
        run.read(2, query="limit=100&timeout=1&idle=0.1")
        wait_until(lambda: run.history.delivered, what="a first delivery")
        wait_until(lambda: oracle.members(run.group) == 2, what="both members")
        for up in both:
            read = len(run.history.delivered)
            wait_until(lambda read=read: len(run.history.delivered) > read + 100, what="deliveries")
            with run.outage("a gateway is restarted", RECOVERY_SECONDS):
                up.terminate()
                assert oracle.members(run.group) == 2
                up.start()
            assert "joins without the name" not in up.log
        run.stop_writing()
        run.drain()
        assert oracle.members(run.group) == 2
    final = from_oracle(oracle, topic_name, topic_name, drained=True)
    report = check(run.history, final, outages=run.outages, commit_seconds=2)
    print(report.row())
    assert report.faults() == {}
    assert report.delivered == report.present >= report.acknowledged


@on_both
def test_members_that_come_and_go_lose_nothing(oracle: Oracle, gateway: Gateways, topic_name: str) -> None:
    oracle.create_topic(topic_name, 6)
    first, second = gateway("first"), gateway("second")
    stop = threading.Event()
    with Run(topic_name, [first, second], group=topic_name, seed=6) as run:
        run.write(2, pause_seconds=0.005, keyed=False)
        run.read(2, query="limit=100&timeout=1&idle=0.1")
        for _ in range(2):
            other = OtherMember(run.history, oracle, topic_name, run.group, stop)
            other.start()
            time.sleep(3)
            with run.outage("a gateway leaves, comes back, and librdkafka leaves", RECOVERY_SECONDS):
                second.terminate()
                time.sleep(2)
                second.start()
                stop.set()
                other.join(30)
                stop.clear()
            assert other.count > 0
        run.stop_writing()
        run.drain()
    final = from_oracle(oracle, topic_name, topic_name, drained=True)
    report = check(run.history, final, outages=run.outages, commit_seconds=2)
    print(report.row())
    assert report.faults() == {}
    assert report.delivered == report.present >= report.acknowledged


def test_an_added_partition_is_written_and_read_within_the_metadata_refresh(
    oracle: Oracle, gateway: Gateways, topic_name: str
) -> None:
    oracle.create_topic(topic_name, 1)
    up = gateway()
    with Run(topic_name, [up], group=topic_name, seed=7) as run:
        run.write(2, pause_seconds=0.01, keyed=False)
        (reader,) = run.read(1, query="follow=1")
        wait_until(lambda: reader.count > 20, what="the first partition")
        oracle.add_partitions(topic_name, 3)
        wait_until(
            lambda: {each.place.partition for each in list(run.history.delivered) if each.place} == {0, 1, 2},
            30,
            "records of the added partitions",
        )
        run.stop_writing()
        run.drain()
    report = check(run.history, from_oracle(oracle, topic_name, topic_name, drained=True))
    print(report.row())
    assert report.faults() == {}


def publish(up: Daemon, topic: str, *numbers: int) -> None:
    for number in numbers:
        answer = ask(up.public_port, "POST", f"/v1/topics/{topic}?partition=0&timeout=20", Ident("a", number).value())
        assert answer.status == 201, answer


def take(up: Daemon, topic: str, limit: int) -> list[int]:
    answer = ask(up.public_port, "GET", f"/v1/topics/{topic}/{topic}?limit={limit}&timeout=30&idle=1")
    return [int(line.split(b"/")[1]) for line in answer.body.splitlines()]


def test_a_topic_deleted_and_made_again_is_read_from_its_new_start(
    oracle: Oracle, gateway: Gateways, topic_name: str
) -> None:
    oracle.create_topic(topic_name, 1)
    up = gateway()
    publish(up, topic_name, 0, 1, 2)
    assert take(up, topic_name, 3) == [0, 1, 2]
    oracle.delete_topic(topic_name)
    wait_until(lambda: topic_name not in oracle.topics(), what="deletion")
    target = f"/v1/topics/{topic_name}?partition=0&timeout=5"
    wait_until(lambda: ask(up.public_port, "POST", target, b"x").status == 404, what="404")
    oracle.create_topic(topic_name, 1)
    wait_until(lambda: ask(up.public_port, "POST", target, Ident("a", 10).value()).status == 201, what="publishing")
    publish(up, topic_name, 11)
    found: list[int] = []
    wait_until(lambda: found.extend(take(up, topic_name, 2)) or len(found) >= 2, 60, "the new records")
    assert found == [10, 11]


def test_records_deleted_under_a_reader_are_passed(oracle: Oracle, gateway: Gateways, topic_name: str) -> None:
    oracle.create_topic(topic_name, 1)
    up = gateway()
    publish(up, topic_name, *range(10))
    assert take(up, topic_name, 2) == [0, 1]
    wait_until(lambda: committed(up.public_port, topic_name, topic_name).get(0) == 2, what="the commit")
    up.terminate()
    # retention: records before 7 are gone, and the group stands at 2
    oracle.admin.delete_records([TopicPartition(topic_name, 0, 7)])[TopicPartition(topic_name, 0, 7)].result(30)
    up.start().wait_for_ready()
    assert take(up, topic_name, 3) == [7, 8, 9]


def test_a_group_set_back_by_another_client_reads_again_from_there(
    oracle: Oracle, gateway: Gateways, topic_name: str
) -> None:
    oracle.create_topic(topic_name, 1)
    up = gateway()
    publish(up, topic_name, *range(10))
    assert take(up, topic_name, 10) == list(range(10))
    up.terminate()
    wait_until(lambda: oracle.members(topic_name) == 0, what="an empty group")
    assert oracle.committed(topic_name, topic_name)[0][0] == 10
    oracle.commit(topic_name, topic_name, {0: 4})
    up.start().wait_for_ready()
    assert take(up, topic_name, 6) == list(range(4, 10))
