"""A broker that does not take the daemon's password: said once, not tried in a hot loop, and mended in place."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.daemon import Daemon
from servers.kafka import KafkaCluster
from servers.oracle import Oracle

pytestmark = [pytest.mark.system, pytest.mark.kafka]

PASSWORD, WRONG = "the-right-password", "a-wrong-password"
MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule"
WATCHED_SECONDS = 5
SETTINGS = {
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:SASL_PLAINTEXT,DIRECT:PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "listener.name.plaintext.plain.sasl.jaas.config": f'{MODULE} required user_me="{PASSWORD}";',
}


def ask(gateway: Daemon, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    made = http.client.HTTPConnection("127.0.0.1", gateway.public_port, timeout=30)
    try:
        made.request(method, path, body)
        response = made.getresponse()
        return response.status, response.read()
    finally:
        made.close()


def test_a_wrong_password_is_one_line_and_few_attempts_until_its_file_has_the_right_one(
    daemon: Callable[..., Daemon], kafka_cluster: Callable[..., KafkaCluster], topic_name: str, tmp_path: Path
) -> None:
    cluster = kafka_cluster(proxied=True, settings=SETTINGS)
    Oracle(cluster.direct).create_topic(topic_name, 1, 1)
    secret, config = tmp_path / "password", tmp_path / "kateway.toml"
    secret.write_text(WRONG)
    config.write_text(
        f'[storage.default]\ndriver = "kafka"\nbrokers = ["{cluster.bootstrap}"]\n'
        f'[storage.default.sasl]\nmechanism = "PLAIN"\nusername = "me"\npassword_file = "{secret}"\n'
    )
    publish = f"/v1/topics/{topic_name}"
    gateway = daemon("--config", str(config)).start()
    gateway.process.wait_until(lambda: "uthentication failed" in gateway.log, 30)
    before = cluster.proxies[1].connections_made
    end = time.monotonic() + WATCHED_SECONDS
    while time.monotonic() < end:
        # a request meanwhile makes it no worse
        assert ask(gateway, "POST", f"{publish}?timeout=1", b"x")[0] == 503
        status, body = ask(gateway, "GET", "/ready")
        assert (status, "uthentication failed" in json.loads(body)["parts"]["storage.default"]["reason"]) == (503, True)
        time.sleep(0.2)
    assert cluster.proxies[1].connections_made - before <= 4
    complaints = [line for line in gateway.log.splitlines() if "uthentication failed" in line]
    assert len(complaints) == 1, complaints
    assert cluster.address(1) in complaints[0]
    secret.write_text(PASSWORD + "\n")
    gateway.wait_for_ready(200, 10)
    assert ask(gateway, "POST", publish, b"x")[0] == 201
    assert gateway.terminate() in (0, -15)
    assert "Traceback" not in gateway.log
    assert not any(word in gateway.log for word in (PASSWORD, WRONG))
