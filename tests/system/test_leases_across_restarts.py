"""Leases of a gateway on the embedded store go on where it is stopped and started, or upgraded in place."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest
from servers.daemon import Daemon

pytestmark = pytest.mark.system
GROUP = "/v1/topics/foobar/g1"


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"Accept": "application/x-ndjson"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def leased(gateway: Daemon, query: str) -> list[dict[str, Any]]:
    status, body = ask(gateway.public_port, "GET", f"{GROUP}?ack=explicit&{query}")
    assert status in {200, 204}
    return [json.loads(line) for line in body.splitlines()]


def acknowledged(gateway: Daemon, *records: dict[str, Any]) -> list[int]:
    acks = [{name: record[name] for name in ("partition", "offset", "lease")} for record in records]
    status, body = ask(gateway.public_port, "POST", f"{GROUP}/acks?sync=1", json.dumps(acks).encode())
    return [each["status"] for each in json.loads(body)["results"]] if status == 200 else [status]


def processes(gateway: Daemon) -> int:
    """The generation that runs."""
    try:
        status, body = ask(gateway.admin_port, "GET", "/admin/v1/processes")
    except (OSError, http.client.HTTPException):
        return 0
    return int(json.loads(body)["items"][0]["generation"]) if status == 200 else 0


def test_lease_holds_through_a_restart_and_an_upgrade_in_place(daemon: Callable[..., Daemon]) -> None:
    gateway = daemon().start()
    for number in range(6):
        assert ask(gateway.public_port, "POST", "/v1/topics/foobar", b"%d" % number)[0] == 201
    one, two, three, four = (leased(gateway, "ack_timeout=60&timeout=5")[0] for _ in range(4))
    rejected = leased(gateway, "ack_timeout=60&timeout=5")[0]
    gateway.terminate()
    gateway.start()
    assert acknowledged(gateway, one) == [200]
    assert ask(gateway.admin_port, "POST", "/admin/v1/upgrade")[0] == 200
    gateway.process.wait_until(lambda: processes(gateway) == 2, 60)
    assert acknowledged(gateway, three, two) == [200, 200]
    # it was handed out once: it goes on from there, and its client may still put it off or reject it
    acks = [{"partition": rejected["partition"], "offset": rejected["offset"], "outcome": "dead"}]
    assert ask(gateway.public_port, "POST", f"{GROUP}/acks?sync=1", json.dumps(acks).encode())[0] == 200
    dead = ask(gateway.public_port, "GET", f"{GROUP}?queue=dead&timeout=5")
    assert (dead[0], json.loads(dead[1])["value"]) == (200, rejected["value"])
    (fresh,) = leased(gateway, "ack_timeout=60&timeout=5&limit=10")
    assert fresh["value"] == "5"
    gateway.kill()
    gateway.start()
    # no commit told of this end: leased records come again
    again = leased(gateway, "ack_timeout=60&timeout=5&limit=10")
    assert {record["value"] for record in again} == {four["value"], fresh["value"]}
    gateway.terminate()
