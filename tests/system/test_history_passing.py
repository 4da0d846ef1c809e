"""Several gateways before one Kafka keep the delivery promise where records and acknowledgements pass over links, while
clients end in every way and the gateway that holds the group is killed, frozen or restarted.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from history.check import check
from history.final import ends, from_oracle
from history.run import Run, settings, wait_until
from history.wire import ask
from servers.daemon import Daemon
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from servers.ports import held_port

pytestmark = [pytest.mark.system, pytest.mark.kafka]
RECOVERY_SECONDS = 10.0
Gateways = Callable[..., Daemon]


@pytest.fixture(scope="module")
def cluster(kafka_cluster: Callable[..., KafkaCluster]) -> KafkaCluster:
    return kafka_cluster(version="3.9.2")


@pytest.fixture
def oracle(cluster: KafkaCluster) -> Oracle:
    return Oracle(cluster.direct)


@pytest.fixture
def gateway(daemon: Callable[..., Daemon], cluster: KafkaCluster, tmp_path: Path) -> Gateways:
    """Starts a gateway that passes on, and is given up by its groups after six seconds."""
    secret = tmp_path / "secret"
    secret.write_text("a secret that all gateways know")

    def start(name: str, delivery: str = "settle_seconds = 1") -> Daemon:
        store = f'driver = "kafka"\nbrokers = {json.dumps(cluster.addresses)}\nmetadata_refresh_seconds = 1'
        path = settings(tmp_path / f"{name}.toml", store, f"session_timeout_seconds = 6\n{delivery}")
        links = f'endpoint = "tcp:{held_port()}:interface=127.0.0.1"\nsecret_file = "{secret}"\nsilence_seconds = 3'
        path.write_text(f"{path.read_text()}[cluster]\n{links}\nrequest_timeout_seconds = 3\n")
        started = daemon("--config", str(path), name=name).start()
        started.wait_for_ready()
        return started

    return start


def request(up: Daemon, method: str, target: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", up.public_port, timeout=20)) as connection:
        connection.request(method, target, body or None, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()


def poll(up: Daemon, run: Run, query: str = "timeout=0.5") -> int:
    return ask(up.public_port, "GET", f"{run.target}?{query}").status


def test_no_end_of_a_client_loses_a_record_that_came_over_a_link(
    oracle: Oracle, gateway: Gateways, topic_name: str
) -> None:
    oracle.create_topic(topic_name, 1)
    # a client that lives on without reading is held to have read what its TCP took: no check here waits for that long
    home, *others = [gateway(name, "settle_seconds = 4") for name in ("home", "second", "third")]
    with Run(topic_name, others, group=topic_name, seed=2) as run:
        poll(home, run, "timeout=10&idle=0.1")
        # there is something to read for every client, so that one that has gone is noticed
        run.write(3, pause_seconds=0.02, batch=5)
        run.visit(2, rounds=30)
        run.visited()
        statuses = Counter(status for visitor in run.visitors for status in visitor.statuses)
        run.stop_writing()
        run.read(1, query="limit=1000&timeout=1&idle=0.2")
        run.drain()
    final = from_oracle(oracle, topic_name, topic_name, drained=True)
    report = check(run.history, final)
    print(report.row(), statuses)
    assert report.faults() == {}
    assert report.delivered == report.present >= report.acknowledged
    assert report.redelivered > 0
    # two visitors before one partition: many are refused while the other follows
    assert statuses[200] + statuses[101] > 5
    assert final.committed == ends(final)
    assert not any("Traceback" in each.log for each in (home, *others))
    assert oracle.members(topic_name) == 1


@pytest.mark.parametrize("ack", ["", "each"])
def test_killing_the_home_under_load_loses_nothing(
    oracle: Oracle, gateway: Gateways, topic_name: str, ack: str
) -> None:
    oracle.create_topic(topic_name, 2)
    ups = [gateway(name) for name in ("first", "second", "third")]
    with Run(topic_name, ups, group=topic_name, seed=5) as run:
        run.write(3, batch=10, pause_seconds=0.01)
        run.read(3, query="limit=100&timeout=1&idle=0.1", ack=ack)
        for up in ups[:2]:
            before, read = run.acknowledged(), len(run.history.delivered)
            wait_until(lambda before=before: run.acknowledged() > before + 100, what="load")
            wait_until(lambda read=read: len(run.history.delivered) > read + 100, what="deliveries")
            with run.outage("kill -9 of a gateway", RECOVERY_SECONDS):
                up.kill()
                time.sleep(1)
                up.start()
        run.stop_writing()
        run.drain()
    final = from_oracle(oracle, topic_name, topic_name, drained=True)
    report = check(run.history, final, in_order=not ack, outages=run.outages, commit_seconds=1.5)
    print(report.row())
    assert report.faults() == {}
    assert report.delivered == report.present
    assert not any("Traceback" in each.log for each in ups)


def test_rolling_restart_under_load_delivers_no_record_again_before_its_lease_has_ended(
    oracle: Oracle, gateway: Gateways, topic_name: str
) -> None:
    ack_timeout = 10.0
    oracle.create_topic(topic_name, 4)
    ups = [gateway(name) for name in ("first", "second", "third")]
    with Run(topic_name, ups, group=topic_name, seed=6) as run:
        run.write(3, batch=5, pause_seconds=0.02)
        # one that is slow to acknowledge always has leases out
        run.read(3, query=f"limit=20&timeout=1&idle=0.1&ack_timeout={ack_timeout:g}", ack="each")
        run.read(3, query=f"limit=5&timeout=1&idle=0.1&ack_timeout={ack_timeout:g}", ack="each", pause_seconds=0.3)
        for up in ups:
            before, read = run.acknowledged(), len(run.history.delivered)
            wait_until(lambda before=before: run.acknowledged() > before + 50, what="load")
            wait_until(lambda read=read: len(run.history.delivered) > read + 50, what="deliveries")
            up.terminate()
            up.start()
        run.stop_writing()
        run.drain()
    final = from_oracle(oracle, topic_name, topic_name, drained=True)
    report = check(run.history, final, in_order=False)
    print(report.row())
    assert report.faults() == {}
    assert report.delivered == report.present
    had: dict[object, float] = {}
    gaps = []
    for each in run.history.delivered:
        if each.place in had:
            gaps.append(each.at - had[each.place])
        had[each.place] = each.at
    print(f"{len(gaps)} came again, the first after {min(gaps, default=0):.1f} s")
    # a client notes a record when it has read it, which is behind the beginning of its lease
    assert not [gap for gap in gaps if gap < ack_timeout - 1]
    assert not any("Traceback" in each.log for each in ups)


def test_requests_end_within_their_bounds_while_the_home_is_frozen_and_nothing_is_lost(
    oracle: Oracle, gateway: Gateways, topic_name: str
) -> None:
    oracle.create_topic(topic_name, 1)
    home, other = gateway("home"), gateway("other")
    with Run(topic_name, [other], group=topic_name, seed=7) as run:
        run.write(1, count=200, batch=50)
        run.written()
        first = ask(home.public_port, "GET", f"{run.target}?ack=explicit&timeout=10")
        assert first.status == 200
        home.freeze()
        acks = json.dumps([{"partition": 0, "offset": 0}]).encode()
        for method, path, body in (
            ("POST", "/acks", acks),
            ("GET", "/lag", b""),
            ("GET", "?ack=explicit&timeout=1", b""),
        ):
            began = time.monotonic()
            status, headers, answer = request(other, method, f"{run.target}{path}", body)
            seconds = time.monotonic() - began
            # within 3 s the gateway is given up; once Kafka gives it up, too, the other one has the group
            assert seconds < 5, (method, path, seconds)
            assert status == 503 or (method, path[:1]) == ("GET", "?"), (method, path, answer)
            if status == 503:
                assert int(headers["Retry-After"]) >= 1
                assert json.loads(answer)["type"] == "urn:kateway:error:gateway-unavailable"
        home.thaw()
        wait_until(lambda: ask(other.public_port, "POST", f"{run.target}/acks", acks).status == 200, 30, "an answer")
        run.read(1, query="limit=100&timeout=1&idle=0.1", ack="each")
        run.drain()
    final = from_oracle(oracle, topic_name, topic_name, drained=True)
    assert final.committed == ends(final)
    assert not any("Traceback" in each.log for each in (home, other))
