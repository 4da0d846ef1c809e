"""A gateway that is killed while it redrives dead letters loses none of them."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from servers.daemon import Daemon

pytestmark = pytest.mark.system

LETTERS = 400
KILLS = 3
T = "/v1/topics/foobar"
REDRIVE = "/admin/v1/groups/default/foobar/v1/g1/redrive"


def ask(url: str, body: Any = None, **headers: str) -> Any:
    """The JSON that a call answers; a body makes it a POST."""
    content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urlopen(Request(url, content, named), timeout=20) as response:
            return json.loads(response.read())
    except HTTPError as error:
        raise AssertionError(f"{url}: {error.code} {error.read()!r}") from error


def killed_at_work(gateway: Daemon, after_seconds: float) -> None:
    """Begins a redrive and kills the gateway in the middle of it."""
    ask(gateway.admin + REDRIVE, {"all": True, "per_second": 200})
    time.sleep(after_seconds)
    assert ask(gateway.admin + REDRIVE)["state"] == "running"
    gateway.kill()


@pytest.mark.timeout(300)
def test_kill_in_the_middle_of_a_redrive_loses_no_letter(daemon: Callable[..., Daemon]) -> None:
    gateway = daemon().start()
    values = [f"letter-{number}" for number in range(LETTERS)]
    ask(
        f"{gateway.public}{T}?batch=1&partition=0",
        "\n".join(values).encode(),
        Content_Type="application/x-ndjson",
    )
    query = f"?ack=explicit&limit={LETTERS}&idle=1"
    leased = ask(f"{gateway.public}{T}/g1{query}", Accept="application/json")
    assert len(leased) == LETTERS
    rejected = [{"partition": 0, "offset": record["offset"], "outcome": "dead"} for record in leased]
    ask(f"{gateway.public}{T}/g1/acks?sync=1", rejected)

    chance = random.Random(13)
    for _ in range(KILLS):
        killed_at_work(gateway, chance.uniform(0.1, 0.5))
        gateway.start()
    ask(gateway.admin + REDRIVE, {"all": True})
    deadline = time.monotonic() + 60
    while (state := ask(gateway.admin + REDRIVE))["state"] == "running":
        assert time.monotonic() < deadline, state
        time.sleep(0.1)
    assert (state["state"], state["failed"]) == ("done", 0), state
    assert ask(f"{gateway.public}{T}/g1/lag?queue=dead")["lag"] == 0

    redriven: list[str] = []
    offset = LETTERS
    while True:
        found = ask(f"{gateway.admin}/admin/v1/records/default/foobar/v1?partition=0&offset={offset}&limit=1000")
        if not found["records"]:
            break
        redriven += [record["value"] for record in found["records"]]
        offset = found["records"][-1]["offset"] + 1
    assert set(redriven) == set(values)
    # those of one publish may be there twice where a kill came before their acknowledgement was committed
    assert len(redriven) - LETTERS <= KILLS * 200, len(redriven)
    assert gateway.terminate() in {0, -15}
