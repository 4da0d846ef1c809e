"""Three gateways behind HAProxy and nginx as they are shipped: one is killed and one is stopped under load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from history.fleet import Fleet
from history.run import wait_until
from servers.daemon import Daemon
from servers.kafka import KafkaCluster
from servers.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.system, pytest.mark.kafka, pytest.mark.zookeeper]

PUBLISHERS = 4


@pytest.fixture(params=["haproxy", "nginx"])
def fleet(
    request: pytest.FixtureRequest,
    daemon: Callable[..., Daemon],
    tmp_path: Path,
    kafka_4: KafkaCluster,
    zookeeper: ZooKeeperServer,
    unique_name: Callable[[str], str],
) -> Iterator[Fleet]:
    topic = unique_name("topic")
    made = Fleet(request.param, daemon, tmp_path, kafka_4, zookeeper, unique_name("root"), topic=topic)
    yield made
    made.traffic.close()
    made.close()


def test_gateways_killed_and_stopped_behind_a_balancer_lose_nothing(fleet: Fleet, kafka_4: KafkaCluster) -> None:
    traffic = fleet.traffic
    traffic.subscribe(1)
    traffic.publish(PUBLISHERS, keyed=True)
    traffic.publish(PUBLISHERS, keyed=False)
    wait_until(lambda: all(traffic.read.values()), 60, "every form of reader")
    assert traffic.failures == []

    fleet.kill(0)
    time.sleep(3)
    failed = list(traffic.failures)
    # at most the requests that were in it: one a connection
    assert len(failed) <= 2 * PUBLISHERS, failed
    fleet.start(0)
    time.sleep(3)

    # with drain_delay_seconds nothing is refused, and nothing that was under way is cut
    assert fleet.gateways[1].terminate() in (0, -15)
    time.sleep(1)
    stopped = traffic.failures[len(failed) :]
    assert stopped == []

    traffic.end_writing()
    wait_until(lambda: not any(traffic.missing().values()), 60, f"{traffic.missing()} of each form")
    traffic.close()
    for gateway in fleet.gateways:
        gateway.terminate()  # which writes the rest of its log
    assert fleet.peers() == traffic.sources
