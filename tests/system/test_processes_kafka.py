"""Several processes answer as one gateway on a real Kafka: one is killed, one hangs, all of them are upgraded."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers.daemon import Daemon
from servers.kafka import KafkaCluster
from servers.keepalive import KeepAliveLoad
from servers.oracle import Oracle
from servers.ports import held_port

from kateway.registry.secrets import hash_secret

pytestmark = [pytest.mark.system, pytest.mark.kafka]
Gateways = Callable[..., Daemon]


@pytest.fixture(scope="module")
def cluster(kafka_cluster: Callable[..., KafkaCluster]) -> KafkaCluster:
    return kafka_cluster(version="4.3.1")


@pytest.fixture
def gateway(daemon: Gateways, cluster: KafkaCluster, oracle_topic: str, tmp_path: Path) -> Gateways:
    def start(count: int, hang_seconds: float = 30, more: str = "", name: str = "") -> Daemon:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        path = folder / "gateway.toml"
        path.write_text(
            f'data_directory = "{folder}/data"\n[process]\ncount = {count}\nhang_seconds = {hang_seconds}\n'
            f'[storage.default]\ndriver = "kafka"\nbrokers = {json.dumps(cluster.addresses)}\n{more}'
        )
        started = daemon("--config", str(path), name=name or "gateway").start()
        started.process.wait_until(lambda: f"all {count} processes serve" in started.log, 60)
        started.wait_for_ready()
        return started

    return start


@pytest.fixture
def oracle_topic(cluster: KafkaCluster, topic_name: str) -> str:
    Oracle(cluster.direct).create_topic(topic_name, 4)
    return topic_name


def admin(gateway: Daemon, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=120)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def processes(gateway: Daemon) -> dict[int, dict[str, Any]]:
    status, body = admin(gateway, "GET", "/admin/v1/processes")
    return {row["index"]: row for row in json.loads(body)["items"]} if status == 200 else {}


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_processes_answer_as_one_gateway(gateway: Gateways, oracle_topic: str, tmp_path: Path) -> None:
    up = gateway(2)
    load = KeepAliveLoad(up.public_port, oracle_topic, publishers=8, streams=0, idle=0).start()
    wait_until(lambda: len(load.written) > 50)
    load.stop()
    assert not load.faults

    def published() -> bool:
        lines = admin(up, "GET", "/metrics")[1].decode().splitlines()
        found = [line for line in lines if line.startswith("kateway_publish_records_total{")]
        return [line.rpartition(" ")[2] for line in found] == [str(len(load.written))]

    wait_until(published)
    figures = admin(up, "GET", "/metrics")[1].decode()
    assert 'kateway_store_up{cluster="default",process="1"} 1' in figures
    assert "process 0: " in up.log
    assert "process 1: " in up.log
    before = processes(up)
    assert {row["generation"] for row in before.values()} == {1}

    settings = tmp_path / "gateway.toml"
    whole = settings.read_text()
    settings.write_text(whole + "[http]\nmax_body_bytes = -1\n")
    status, body = admin(up, "POST", "/admin/v1/reload")
    assert (status, json.loads(body)["problems"][0].partition(":")[0]) == (422, "http.max_body_bytes")
    status, body = admin(up, "POST", "/admin/v1/upgrade")
    assert (status, json.loads(body)["problems"][0].partition(":")[0]) == (422, "http.max_body_bytes")
    settings.write_text(whole + "[http]\nmax_body_bytes = 5\n")
    up.hangup()
    wait_until(lambda: up.log.count("were reloaded: generation 2") == 2)
    for _ in range(8):
        connection = http.client.HTTPConnection("127.0.0.1", up.public_port, timeout=30)
        connection.request("POST", f"/v1/topics/{oracle_topic}", b"123456")
        assert connection.getresponse().status == 413
        connection.close()
    assert {index: row["pid"] for index, row in processes(up).items()} == {
        index: row["pid"] for index, row in before.items()
    }
    assert up.terminate() in (0, -15)
    assert not any(alive(row["pid"]) for row in before.values())


def test_a_killed_and_a_hanging_process_are_replaced_and_others_are_not_disturbed(
    gateway: Gateways, oracle_topic: str
) -> None:
    up = gateway(4, hang_seconds=2)
    before = processes(up)
    load = KeepAliveLoad(up.public_port, oracle_topic, publishers=32, streams=4, idle=0).start()
    wait_until(lambda: len(load.written) > 200)
    with_it = processes(up)[1]["connections"]
    os.kill(before[1]["pid"], signal.SIGKILL)
    wait_until(lambda: processes(up).get(1, before[1])["pid"] != before[1]["pid"])
    os.kill(before[2]["pid"], signal.SIGSTOP)
    wait_until(lambda: processes(up).get(2, before[2])["pid"] != before[2]["pid"])
    after = processes(up)
    assert [after[index]["pid"] for index in (0, 3)] == [before[index]["pid"] for index in (0, 3)]
    assert "gives no sign of life" in up.log
    assert "most recent call first" in up.log
    load.stop()
    assert load.lost() == 0
    # what was in the two processes; no connection of another
    assert sum(load.faults.values()) <= with_it + before[2]["connections"] + 40
    assert not [fault for fault in load.faults if fault.startswith("status")]


def test_process_that_cannot_come_back_has_its_connections_accepted_by_another(
    gateway: Gateways, oracle_topic: str, tmp_path: Path
) -> None:
    registry = tmp_path / "registry.toml"
    whole = REGISTRY.replace("SECRET_HASH", hash_secret("s3cret")).replace("TOPIC", oracle_topic)
    whole += '[[applications.app1.keys]]\nkey = "pub1"\nkind = "pub"\nsecret_hash = "' + hash_secret("s3cret") + '"\n'
    registry.write_text(whole)
    up = gateway(2, more=f'[registry]\ndriver = "file"\npath = "{registry}"\n')

    def answered(count: int) -> None:
        for number in range(count):
            connection = http.client.HTTPConnection("127.0.0.1", up.public_port, timeout=10)
            connection.request("POST", "/v1/topics/t?timeout=5", b"%d" % number, {"Pubkey": "pub1", "Secret": "s3cret"})
            response = connection.getresponse()
            assert (response.status, response.read() is None) == (201, False)
            connection.close()

    before = processes(up)
    # a fault in the file that was never in force keeps no process from its place
    settings = tmp_path / "gateway.toml"
    settings.write_text(settings.read_text() + "nonsense = 1\n")
    os.kill(before[1]["pid"], signal.SIGKILL)
    answered(20)
    wait_until(lambda: processes(up).get(1, before[1])["pid"] != before[1]["pid"])
    # process 0 has the administrators' listener as well
    registry.write_text(whole + "nonsense = 1\n")
    before = processes(up)
    os.kill(before[0]["pid"], signal.SIGKILL)
    wait_until(lambda: "ends again and again" in up.log)
    answered(40)
    wait_until(lambda: json.loads(admin(up, "GET", "/ready")[1] or b"{}").get("ready") is True)
    part = json.loads(admin(up, "GET", "/ready")[1])["parts"]["processes"]
    assert (part["healthy"], part["degraded"]) == (False, True)
    assert part["reason"].startswith("process 0: it ended with exit code 1; ")
    assert "nonsense" in part["reason"]
    registry.write_text(whole)
    wait_until(lambda: processes(up).get(0, before[0])["pid"] != before[0]["pid"])
    answered(20)
    wait_until(lambda: "processes" not in json.loads(admin(up, "GET", "/ready")[1] or b"{}").get("parts", {}))
    assert up.terminate() in (0, -15)
    assert not list((tmp_path / "data" / "run").glob("*"))


def test_upgrades_under_load_refuse_reset_and_lose_nothing(gateway: Gateways, oracle_topic: str) -> None:
    up = gateway(2)
    first = {row["pid"] for row in processes(up).values()}
    load = KeepAliveLoad(up.public_port, oracle_topic, publishers=64, streams=16, idle=200).start()
    wait_until(lambda: load.streams_begun == 16 and len(load.written) > 200)
    for generation in (2, 3):
        if generation == 2:
            assert admin(up, "POST", "/admin/v1/upgrade") == (200, b'{"generation":2}')
        else:
            up.process.signal(signal.SIGUSR2)
        begun = load.streams_begun
        wait_until(lambda g=generation: {row["generation"] for row in processes(up).values()} == {g})
        wait_until(lambda b=begun, g=generation: load.streams_begun >= max(b, 16 * g))
    load.stop()
    assert dict(load.faults) == {}
    assert load.lost() == 0
    assert load.repeated() == 0
    wait_until(lambda: not any(alive(pid) for pid in first))


def test_leases_hold_through_an_upgrade(gateway: Gateways, oracle_topic: str) -> None:
    """With a name in its groups, which the new processes may not take from those that still serve."""
    ack_timeout = 15.0
    running = gateway(2, more='[delivery]\ninstance_name = "gw"\n')
    for number in range(60):
        assert public(running, "POST", f"/v1/topics/{oracle_topic}?partition={number % 4}", str(number))[0] == 201
    group = f"/v1/topics/{oracle_topic}/g1"

    def lease(count: int, limit: int, timeout: float) -> dict[tuple[int, int], dict[str, Any]]:
        found: dict[tuple[int, int], dict[str, Any]] = {}
        while len(found) < count:
            query = f"ack=explicit&limit={limit}&timeout=5&ack_timeout={timeout:g}"
            status, records = public(running, "GET", f"{group}?{query}")
            assert status in {200, 204}
            for record in records or ():
                place = record["partition"], record["offset"]
                assert place not in found
                found[place] = record
        return found

    def acknowledged(records: list[dict[str, Any]]) -> None:
        for record in records:
            ack = json.dumps([{name: record[name] for name in ("partition", "offset", "lease")}])
            status, told = public(running, "POST", f"{group}/acks", ack)
            assert status == 200, told
            assert told["results"][0]["status"] == 200, told

    began = time.monotonic()
    leases = [*lease(50, 1, ack_timeout).values()]
    assert admin(running, "POST", "/admin/v1/upgrade")[0] == 200
    # while the processes of the generation before drain and leave, and when they have
    acknowledged(leases[:20])
    wait_until(lambda: {row["generation"] for row in processes(running).values()} == {2})
    acknowledged(leases[20:40])
    del leases[:40]
    others = lease(10, 10, 60)
    assert time.monotonic() - began < ack_timeout, "too slow to tell"
    assert not others.keys() & {(record["partition"], record["offset"]) for record in leases}
    again = lease(10, 10, 60)
    assert time.monotonic() - began > ack_timeout
    assert again.keys() == {(record["partition"], record["offset"]) for record in leases}
    assert {record["attempt"] for record in again.values()} == {2}
    acknowledged([*others.values(), *again.values()])


def public(gateway: Daemon, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    """One request on a connection of its own: the kernel chooses the process."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.public_port, timeout=60)
    try:
        connection.request(method, path, body, {"Accept": "application/json"})
        response = connection.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else None
    finally:
        connection.close()


def test_lease_of_one_process_is_acknowledged_at_whichever_takes_the_connection(
    gateway: Gateways, oracle_topic: str
) -> None:
    running = gateway(2)
    for number in range(40):
        assert public(running, "POST", f"/v1/topics/{oracle_topic}?partition={number % 4}", str(number))[0] == 201
    group = f"/v1/topics/{oracle_topic}/g1"
    found: dict[tuple[int, int], str] = {}
    while len(found) < 40:
        status, records = public(running, "GET", f"{group}?ack=explicit&limit=10&timeout=5")
        assert status in {200, 204}
        for record in records or ():
            place = record["partition"], record["offset"]
            assert place not in found
            found[place] = record["value"]
            ack = json.dumps([{"partition": place[0], "offset": place[1]}])
            status, told = public(running, "POST", f"{group}/acks?sync=1", ack)
            assert (status, [each["status"] for each in told["results"]]) == (200, [200])
    assert sorted(map(int, found.values())) == list(range(40))
    for _ in range(6):
        status, lag = public(running, "GET", f"{group}/lag")
        assert (status, lag["lag"], sum(each["unacked"] for each in lag["partitions"])) == (200, 0, 0)


def told(gateway: Daemon, method: str, path: str, body: str | None = None) -> Any:
    """What the admin API answers."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.admin_port, timeout=60)
    try:
        connection.request(method, f"/admin/v1{path}", body, {"Accept": "application/json"})
        response = connection.getresponse()
        content = response.read()
        assert response.status == 200, content
        return json.loads(content)
    finally:
        connection.close()


def test_operators_are_answered_for_all_processes_and_told_which_did_not_answer(
    gateway: Gateways, oracle_topic: str
) -> None:
    up = gateway(2)
    for number in range(40):
        assert public(up, "POST", f"/v1/topics/{oracle_topic}?partition={number % 4}", str(number))[0] == 201
    for _ in range(40):
        assert public(up, "GET", f"/v1/topics/{oracle_topic}/g1/lag?unknown=1")[0] == 400
    (errors,) = told(up, "GET", "/errors")["items"]
    assert errors["count"] == 40
    assert {change["process"] for change in told(up, "GET", "/events?kind=start")["items"]} == {0, 1}
    (producer,) = told(up, "GET", f"/producers?topic=default/{oracle_topic}/v1")["items"]
    assert producer["records"] == 40

    # a lease in each process: each has two of the partitions
    leased: set[tuple[int, int]] = set()
    while {partition for partition, _ in leased} != {0, 1, 2, 3}:
        _, records = public(up, "GET", f"/v1/topics/{oracle_topic}/g1?ack=explicit&limit=10&timeout=2")
        leased |= {(record["partition"], record["offset"]) for record in records or ()}
    group = told(up, "GET", f"/groups/default/{oracle_topic}/v1/g1")
    assert sum(each["leased"] for each in group["partitions"]) == group["unacknowledged_records"] == len(leased)
    assert group["lag"] == 40

    def listed() -> tuple[int | None, int]:
        # groups of other tests have places in the store, too
        (row,) = [
            row for row in told(up, "GET", f"/groups?contains={oracle_topic}")["items"] if row["topic"] == oracle_topic
        ]
        return row["lag"], row["unacknowledged_records"]

    # the list asks no store: where a partition ends is known from the first fetch on
    wait_until(lambda: listed() == (40, len(leased)))
    for partition, offset in leased:
        record = told(up, "GET", f"/records/default/{oracle_topic}/v1/{partition}/{offset}?group=g1")
        assert (record["state"], record["read_here"]) == ("leased", True)

    profile = told(up, "POST", "/profile", '{"seconds":0.2}')
    assert {each["name"].rpartition(" ")[0] for each in profile["profiles"] if "MainThread" in each["name"]} == {
        "process 0",
        "process 1",
    }
    told(up, "POST", "/breakers/default", '{"state":"open"}')
    assert [public(up, "POST", f"/v1/topics/{oracle_topic}", "x")[0] for _ in range(12)] == [503] * 12

    before = processes(up)
    os.kill(before[1]["pid"], signal.SIGSTOP)
    assert told(up, "GET", "/errors")["unanswered_processes"] == [1]
    os.kill(before[1]["pid"], signal.SIGKILL)
    wait_until(lambda: processes(up).get(1, before[1])["pid"] != before[1]["pid"])
    # what was done by hand holds in the process that was started since
    assert [public(up, "POST", f"/v1/topics/{oracle_topic}", "x")[0] for _ in range(12)] == [503] * 12
    assert told(up, "POST", "/breakers/default", '{"state":"closed"}')["state"] == "closed"
    assert "unanswered_processes" not in told(up, "GET", "/errors")
    wait_until(lambda: 'kateway_process_up{process="1"} 1' in admin(up, "GET", "/metrics")[1].decode())
    assert up.terminate() in (0, -15)


REGISTRY = """
[applications.app1]
quota = { readers = 3 }
[[applications.app1.keys]]
key = "sub1"
kind = "sub"
secret_hash = "SECRET_HASH"
[topics."app1/t/v1"]
cluster = "default"
storage_name = "TOPIC"
"""


def test_sessions_outlive_process_0_and_readers_are_counted_over_all(
    gateway: Gateways, oracle_topic: str, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-many-characters")
    token.chmod(0o600)
    registry = REGISTRY.replace("SECRET_HASH", hash_secret("s3cret")).replace("TOPIC", oracle_topic)
    (tmp_path / "registry.toml").write_text(registry)
    up = gateway(
        2,
        more=f'[admin]\ntoken_file = "{token}"\n[registry]\ndriver = "file"\npath = "{tmp_path}/registry.toml"\n',
    )
    signed_in = http.client.HTTPConnection("127.0.0.1", up.admin_port, timeout=60)
    signed_in.request("POST", "/admin/v1/session", json.dumps({"token": token.read_text()}))
    response = signed_in.getresponse()
    halves = {
        "Cookie": str(response.headers["Set-Cookie"]).partition(";")[0],
        "Kateway-Session": json.loads(response.read())["session"],
    }
    signed_in.close()

    def listed() -> dict[int, int]:
        connection = http.client.HTTPConnection("127.0.0.1", up.admin_port, timeout=60)
        try:
            connection.request("GET", "/admin/v1/processes", headers=halves)
            response = connection.getresponse()
            content = json.loads(response.read())
            assert response.status == 200, content
            return {row["index"]: row["pid"] for row in content["items"]}
        except OSError:
            return {}
        finally:
            connection.close()

    streams: list[tuple[http.client.HTTPConnection, http.client.HTTPResponse]] = []

    def stream() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", up.public_port, timeout=60)
        connection.request("GET", "/v1/topics/t/g1?follow=1", headers={"Subkey": "sub1", "Secret": "s3cret"})
        response = connection.getresponse()
        if response.status == 200:
            streams.append((connection, response))
        else:
            connection.close()
        return response.status

    pids = listed()
    # whichever process each of them comes to
    assert [stream() for _ in range(12)] == [200] * 3 + [429] * 9
    os.kill(pids[0], signal.SIGKILL)
    # another process answers meanwhile, and knows the session too
    wait_until(lambda: listed() == {1: pids[1]})
    wait_until(lambda: listed().get(0, pids[0]) != pids[0])
    for connection, _ in streams:
        connection.close()
    streams.clear()
    wait_until(lambda: stream() == 200 and len(streams) == 3)
    assert {stream() for _ in range(8)} == {429}
    for connection, _ in streams:
        connection.close()


def test_group_of_two_gateways_with_two_processes_each_is_read_and_acknowledged_at_all_and_survives_a_kill(
    gateway: Gateways, oracle_topic: str, tmp_path: Path
) -> None:
    secret = tmp_path / "cluster.secret"
    secret.write_text("a-secret-of-many-characters")
    secret.chmod(0o600)
    ups = []
    for name in ("first", "second"):
        endpoint = f"tcp:{held_port()}:interface=127.0.0.1"
        cluster = f'[cluster]\nendpoint = "{endpoint}"\nsecret_file = "{secret}"\n'
        ups.append(gateway(2, name=name, more=cluster))
    for number in range(80):
        assert (
            public(ups[number % 2], "POST", f"/v1/topics/{oracle_topic}?partition={number % 4}", str(number))[0] == 201
        )
    group = f"/v1/topics/{oracle_topic}/g1"
    settled: set[tuple[int, int]] = set()
    homes: set[str] = set()
    turn = 0

    def read_some() -> None:
        """Each poll and each acknowledgement at another gateway, on a connection of its own."""
        nonlocal turn
        turn += 1
        connection = http.client.HTTPConnection("127.0.0.1", ups[turn % 2].public_port, timeout=60)
        try:
            connection.request("GET", f"{group}?ack=explicit&limit=3&timeout=2", headers={"Accept": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except OSError:
            return  # it was in the process that is killed
        finally:
            connection.close()
        assert response.status in {200, 204, 503}, content
        homes.add(response.headers.get("Kateway-Gateway", ""))
        for record in json.loads(content) if response.status == 200 else ():
            place = record["partition"], record["offset"]
            ack = json.dumps([{"partition": place[0], "offset": place[1]}])
            try:
                status, told = public(ups[(turn + 1) % 2], "POST", f"{group}/acks?sync=1", ack)
            except OSError:
                continue
            if status == 200 and told["results"][0]["status"] == 200:
                settled.add(place)

    # process 1 of the first gateway, which is about to die, has a group to be left
    wait_until(lambda: read_some() or (len(settled) >= 30 and processes(ups[0])[1]["groups"] > 0))
    assert len(homes) >= 3, "the group is read at several processes of both"
    entries = told(ups[0], "GET", "/gateways")["items"]
    assert all("/" not in entry["cluster"] for entry in entries)

    victim = processes(ups[0])[1]["pid"]
    os.kill(victim, signal.SIGKILL)
    # another process leaves the group for it: its partitions do not wait for the end of its session
    wait_until(lambda: "groups were left for process 1" in ups[0].log)
    wait_until(lambda: read_some() or len(settled) == 80)
    for up in ups * 2:
        wait_until(lambda up=up: public(up, "GET", f"{group}/lag")[1]["lag"] == 0)
