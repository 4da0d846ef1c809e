"""The real servers themselves: what the other tests rely on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from servers.ports import Ports
from servers.zookeeper import ZooKeeperServer


@pytest.mark.both_kafkas
@pytest.mark.kafka
def test_records_of_the_oracle_are_read_back(kafka: KafkaCluster, oracle: Oracle, topic_name: str) -> None:
    oracle.create_topic(topic_name, partitions=2)
    places = oracle.produce(topic_name, [b"a", None, b""], keys=[b"k", b"k", None], headers=[("h", b"1")])
    seen = {(record.partition, record.offset): record for record in oracle.records(topic_name)}
    assert [seen[place].value for place in places] == [b"a", None, b""]
    assert [seen[place].key for place in places] == [b"k", b"k", None]
    assert seen[places[0]].headers == (("h", b"1"),)
    oracle.commit("group", topic_name, {0: 1}, "note")
    assert oracle.committed("group", topic_name) == {0: (1, "note")}


@pytest.mark.kafka
def test_a_proxied_cluster_is_reached_only_through_its_proxies(kafka_cluster: Callable[..., KafkaCluster]) -> None:
    cluster = kafka_cluster(brokers=1, proxied=True)
    through, direct = Oracle(cluster.bootstrap), Oracle(cluster.direct)
    direct.create_topic("proxied")
    assert through.produce("proxied", [b"one"]) == [(0, 0)]
    before = cluster.proxies[1].connections_made
    assert before > 0
    assert [record.value for record in direct.records("proxied")] == [b"one"]
    cluster.proxies[1].drop_responses()
    cluster.proxies[1].cut()
    with pytest.raises(KafkaException):
        Oracle(cluster.bootstrap).admin.list_topics(timeout=1)
    assert "proxied" in direct.topics()


@pytest.mark.kafka
def test_three_brokers_survive_the_death_of_one(kafka_cluster: Callable[..., KafkaCluster]) -> None:
    cluster = kafka_cluster(brokers=3)
    oracle = Oracle(cluster.direct)
    oracle.create_topic("replicated", partitions=1, replicas=3)
    oracle.produce("replicated", [b"before"])
    leader = oracle.leaders("replicated")[0]
    cluster.kill(leader)
    oracle.produce("replicated", [b"after"])
    cluster.restart(leader)
    assert [record.value for record in oracle.records("replicated")] == [b"before", b"after"]


@pytest.mark.zookeeper
def test_zookeeper_keeps_its_data_over_a_restart(zookeeper_server: ZooKeeperServer) -> None:
    assert "standalone" in zookeeper_server.command("srvr")
    zookeeper_server.freeze()
    zookeeper_server.thaw()
    zookeeper_server.restart()
    assert zookeeper_server.command("ruok") == "imok"


def test_a_server_dies_with_the_tests_that_started_it(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from servers.process import Process;"
        "command = [sys.executable, '-c', 'import time; time.sleep(60)'];"
        "print(Process(command, log=Path(sys.argv[1])).pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "log")],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    assert done.returncode == -signal.SIGKILL
    while _runs(int(done.stdout)):
        pass


def _runs(pid: int) -> bool:
    try:
        # a zombie has ended; its parent has not collected it yet
        return not Path(f"/proc/{pid}/stat").read_text().split(") ")[1].startswith("Z")
    except OSError:
        return False


def test_a_proxy_loses_answers_after_the_request_arrived() -> None:
    from servers.proxy import Proxy

    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(listener.getsockname()[1])
        try:
            with socket.create_connection(("127.0.0.1", proxy.port)) as client:
                upstream, _ = listener.accept()
                client.sendall(b"request")
                assert upstream.recv(100) == b"request"
                upstream.sendall(b"answer")
                assert client.recv(100) == b"answer"
                proxy.drop_responses()
                upstream.sendall(b"lost")
                proxy.cut()
                upstream.close()
                with pytest.raises(ConnectionResetError):
                    client.recv(100)
        finally:
            proxy.close()


def test_a_proxy_cuts_after_so_many_response_bytes() -> None:
    from servers.proxy import Proxy

    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(listener.getsockname()[1])
        proxy.cut_after_response_bytes(3)
        try:
            with socket.create_connection(("127.0.0.1", proxy.port)) as client:
                upstream, _ = listener.accept()
                upstream.sendall(b"answer")
                # the reset may overtake what came before it
                received = _until_reset(client)
                assert received == b"ans"[: len(received)]
                upstream.close()
        finally:
            proxy.close()


def _until_reset(client: socket.socket) -> bytes:
    received = b""
    while True:
        try:
            more = client.recv(100)
        except ConnectionResetError:
            return received
        assert more, "the connection was closed, not reset"
        received += more


PORTS_UNTIL_NONE = """
import sys
from pathlib import Path
from servers.ports import Ports
ports, held = Ports(Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[3]))), []
try:
    while True:
        held.append(ports.hold())
except RuntimeError:
    print(*held, flush=True)
sys.stdin.read()
"""


def test_ports_of_two_runs_at_once_are_all_different(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PORTS_UNTIL_NONE, str(tmp_path / "ports"), "14000", "14100"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    pipe = subprocess.PIPE
    runs = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env) for _ in range(2)]
    lines = [run.stdout.readline() for run in runs if run.stdout]
    for run in runs:
        run.communicate("")
    held = [int(port) for line in lines for port in line.split()]
    assert sorted(held) == sorted(set(held))
    assert len(held) > 90


def test_ports_of_a_run_that_ended_are_there_for_the_next(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PORTS_UNTIL_NONE, str(tmp_path / "ports"), "14100", "14110"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    first, second = (
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, check=True).stdout
        for _ in range(2)
    )
    assert sorted(first.split()) == sorted(second.split()) != []


def test_port_in_use_by_another_program_is_not_held(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        with pytest.raises(RuntimeError, match="end the test runs"):
            Ports(tmp_path / "ports", range(taken, taken + 1)).hold()
