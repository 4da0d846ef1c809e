"""The daemon starts, says what keeps it from starting, and ends, as OPERATING-API.md has it."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers.daemon import Daemon, Installation
from servers.kafka import KafkaCluster
from servers.ports import held_port

pytestmark = pytest.mark.system

Daemons = Callable[..., Daemon]
T = "/v1/topics/foobar"


@contextmanager
def connection(gateway: Daemon) -> Iterator[http.client.HTTPConnection]:
    made = http.client.HTTPConnection("127.0.0.1", gateway.public_port, timeout=30)
    try:
        yield made
    finally:
        made.close()


def ask(gateway: Daemon, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    with connection(gateway) as made:
        made.request(method, path, body)
        response = made.getresponse()
        return response.status, response.read()


def kateway(installed: Installation, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [installed.command("twistd"), "-n", "--pidfile=", "kateway", *options],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=60,
    )


def test_records_and_committed_offsets_survive_a_restart(daemon: Daemons) -> None:
    gateway = daemon().start()
    for value in (b"a", b"b", b"c"):
        assert ask(gateway, "POST", f"{T}?partition=0", value)[0] == 201
    assert ask(gateway, "GET", f"{T}/group1?limit=2") == (200, b"a\nb\n")
    gateway.terminate()
    gateway.start()
    assert ask(gateway, "GET", f"{T}/group1?limit=9&idle=0.2") == (200, b"c\n")


def test_a_taken_port_is_one_clear_line(daemon: Daemons) -> None:
    first = daemon(name="first").start()
    second = daemon(name="second", public_port=first.public_port).launch()
    second.process.wait_until(lambda: second.process.exit_code is not None, 30)
    assert second.process.exit_code == 1
    assert f"cannot listen on tcp:{first.public_port}" in second.log
    assert "Traceback" not in second.log


def test_a_data_directory_in_use_is_one_clear_line(daemon: Daemons) -> None:
    first = daemon(name="first").start()
    second = daemon("--data", str(first.data), name="second").launch()
    second.process.wait_until(lambda: second.process.exit_code is not None, 30)
    assert second.process.exit_code == 1
    assert str(first.data) in second.log
    assert str(first.pid) in second.log
    assert "Traceback" not in second.log
    assert first.status("/ready") == 200


def test_a_configuration_is_checked_and_every_problem_named(installed: Installation, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(
        '[http]\nmax_body = 1\ndrain_seconds = -1\n[storage.main]\ndriver = "kafka"\nbrokers = ["nowhere"]\n'
    )
    done = kateway(installed, tmp_path / "run", "--config", str(bad), "--check")
    assert done.returncode == 1
    assert "http.max_body: there is no such option" in done.stderr
    assert "http.drain_seconds: must be from 0" in done.stderr
    assert "Traceback" not in done.stderr
    good = tmp_path / "good.toml"
    good.write_text('[storage.default]\npath = "elsewhere"\n')
    done = kateway(installed, tmp_path / "run", "--config", str(good), "--check")
    assert (done.returncode, done.stdout) == (0, "kateway: the configuration is fine\n")
    assert not (tmp_path / "run" / "elsewhere").exists()


def test_a_configuration_that_is_not_there_or_not_toml_is_said_so(installed: Installation, tmp_path: Path) -> None:
    done = kateway(installed, tmp_path / "run", "--config", str(tmp_path / "none.toml"))
    assert done.returncode == 1
    assert "No such file" in done.stderr
    (tmp_path / "odd.toml").write_text("[http\n")
    done = kateway(installed, tmp_path / "run", "--config", str(tmp_path / "odd.toml"))
    assert done.returncode == 1
    assert "line 1" in done.stderr


def test_the_version_is_told(installed: Installation, tmp_path: Path) -> None:
    done = kateway(installed, tmp_path / "run", "--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "kateway")


def test_terminating_ends_a_long_poll_with_what_it_has(daemon: Daemons) -> None:
    gateway = daemon().start()
    ask(gateway, "POST", f"{T}?partition=0", b"a")
    with connection(gateway) as polling, connection(gateway) as waiting:
        polling.request("GET", f"{T}/group1?limit=100000&timeout=60")
        response = polling.getresponse()
        assert response.read(2) == b"a\n"
        waiting.request("GET", "/v1/topics/empty/group1?timeout=60")
        time.sleep(0.5)  # until the daemon has the second request; nothing shows it
        started = time.monotonic()
        code = gateway.terminate()
        assert code in (0, -15)
        assert time.monotonic() - started < 20
        assert response.read() == b""  # the last chunk came: the response is whole
        assert waiting.getresponse().status == 204
    gateway.start()
    assert ask(gateway, "GET", f"{T}/group1?timeout=0.5") == (204, b"")


def test_logs_are_json_lines_where_asked_for(daemon: Daemons, tmp_path: Path) -> None:
    settings = tmp_path / "json.toml"
    settings.write_text(f'[log]\nformat = "json"\n[storage.default]\npath = "{tmp_path / "data"}"\n')
    gateway = daemon("--config", str(settings)).start()
    assert ask(gateway, "POST", f"{T}?key=secret-key", b"secret-value")[0] == 201
    gateway.terminate()
    events = [json.loads(line) for line in gateway.log.splitlines()]
    (request,) = [event for event in events if event.get("event") == "request" and event["method"] == "POST"]
    assert (request["status"], request["path"]) == (201, T)
    assert any("is up" in event.get("message", "") for event in events)
    assert "secret" not in gateway.log


def test_tls_is_an_endpoint_string(daemon: Daemons, tmp_path: Path) -> None:
    import ssl

    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    port = held_port()
    gateway = daemon(
        "--public", f"ssl:{port}:interface=127.0.0.1:privateKey={tmp_path}/key.pem:certKey={tmp_path}/cert.pem"
    ).start()
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    made = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
    made.request("POST", f"{T}?partition=0", b"over tls")
    assert made.getresponse().read() == b'{"partition":0,"offset":0}'
    made.request("GET", f"{T}/group1")
    assert made.getresponse().read() == b"over tls"
    made.close()
    assert gateway.status("/live") == 200


@pytest.mark.kafka
def test_a_kafka_that_cannot_be_reached_is_said_by_ready_and_is_not_fatal(daemon: Daemons) -> None:
    gateway = daemon("--kafka", f"127.0.0.1:{held_port()}").start()
    assert gateway.status("/ready") == 503
    started = time.monotonic()
    status, body = ask(gateway, "POST", f"{T}?timeout=1", b"x")
    assert (status, json.loads(body)["retriable"]) == (503, True)
    assert time.monotonic() - started < 3
    assert "Traceback" not in gateway.log


@pytest.mark.kafka
def test_ready_follows_the_broker_and_publishing_comes_back_by_itself(
    daemon: Daemons, kafka_cluster: Callable[..., KafkaCluster], topic_name: str
) -> None:
    from servers.oracle import Oracle

    cluster = kafka_cluster()
    Oracle(cluster.direct).create_topic(topic_name, 2, 1)
    gateway = daemon("--kafka", cluster.bootstrap).start()
    gateway.wait_for_ready()
    path = f"/v1/topics/{topic_name}"
    assert ask(gateway, "POST", path, b"before")[0] == 201
    cluster.kill(1)
    gateway.wait_for_ready(503, 5)
    status, body = ask(gateway, "POST", f"{path}?timeout=1", b"during")
    assert status in (503, 504)
    assert json.loads(body)["maybe_written"] is (status == 504)
    cluster.restart(1)
    gateway.wait_for_ready(200, 30)
    assert ask(gateway, "POST", f"{path}?timeout=10", b"after")[0] == 201
    assert b"before" in ask(gateway, "GET", f"{path}/group1?limit=3&idle=1&timeout=20")[1]
