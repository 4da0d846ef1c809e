"""In front of three brokers (three replicas, two in sync) nothing is lost, doubled or out of order when leaders and
coordinators are killed under load.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from history.check import check
from history.final import ends, from_oracle
from history.run import Run, settings, wait_until
from servers.daemon import Daemon
from servers.kafka import KafkaCluster
from servers.oracle import Oracle

pytestmark = [pytest.mark.system, pytest.mark.kafka]


@pytest.fixture(scope="module")
def cluster(kafka_cluster: Callable[..., KafkaCluster]) -> KafkaCluster:
    return kafka_cluster(brokers=3)


def coordinator(oracle: Oracle, group: str) -> int:
    """The node that keeps a group's offsets."""
    return int(oracle.admin.describe_consumer_groups([group])[group].result(20).coordinator.id)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("killed", ["leader", "coordinator"])
def test_brokers_killed_under_load_lose_double_and_disorder_nothing(
    cluster: KafkaCluster, daemon: Callable[..., Daemon], tmp_path: Path, topic_name: str, killed: str
) -> None:
    oracle = Oracle(cluster.direct)
    oracle.create_topic(topic_name, 3, 3)
    store = f'driver = "kafka"\nbrokers = {json.dumps(cluster.addresses)}\nrequest_timeout_seconds = 5'
    path = settings(tmp_path / "kateway.toml", store, "session_timeout_seconds = 6\nsettle_seconds = 1")
    up = daemon("--config", str(path)).start()
    up.wait_for_ready()
    with Run(topic_name, [up], group=topic_name, seed=killed) as run:
        run.write(3, batch=10, timeout_seconds=30, pause_seconds=0.002)
        run.read(2, query="limit=100&timeout=1&idle=0.1")
        for _ in range(2):
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
