"""A gateway that is killed while a group reads through transforms loses no record that is for the group."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from servers.daemon import Daemon

pytestmark = pytest.mark.system

RECORDS = 6000
KILLS = 3
T = "/v1/topics/foobar"
CONFIG = """
[transforms."default/foobar/v1"]
out = [{ drop = "record.json.n % 10 != 0" }, { mask = ["/card"] }]
"""


def publish(gateway: Daemon) -> None:
    for first in range(0, RECORDS, 1000):
        lines = [json.dumps({"n": number, "card": "4242"}) for number in range(first, first + 1000)]
        request = Request(
            f"{gateway.public}{T}?batch=1", "\n".join(lines).encode(), {"Content-Type": "application/x-ndjson"}
        )
        with urlopen(request, timeout=30) as response:
            assert response.status == 201


def read(gateway: Daemon, seen: list[bytes]) -> bool:
    """Reads until a poll finds nothing; false where the gateway went."""
    connection = HTTPConnection("127.0.0.1", gateway.public_port, timeout=20)
    try:
        while True:
            connection.request("GET", f"{T}/g1?limit=20&idle=0.2&timeout=2")
            response = connection.getresponse()
            body = response.read()
            if response.status == 204:
                return True
            assert response.status == 200, body
            seen += body.splitlines()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


@pytest.mark.timeout(300)
def test_kill_while_records_are_passed_over_loses_none_that_is_not(
    daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    file = tmp_path / "kateway.toml"
    file.write_text(CONFIG)
    gateway = daemon("--config", str(file)).start()
    publish(gateway)
    seen: list[bytes] = []
    chance = random.Random(7)
    for _ in range(KILLS):
        killing = threading.Timer(chance.uniform(0.2, 0.8), gateway.kill)
        killing.start()
        read(gateway, seen)
        killing.join()
        gateway.start()
    while not read(gateway, seen):
        time.sleep(0.2)
    assert b"4242" not in b"".join(seen)
    assert {json.loads(line)["n"] for line in seen} == set(range(0, RECORDS, 10))
    assert gateway.terminate() in {0, -15}
