"""Three daemons of one registry in ZooKeeper: a change through one holds on all, and a killed one goes off the list."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers.daemon import Daemon
from servers.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.system, pytest.mark.zookeeper]

SESSION_SECONDS = 2
SPREAD_SECONDS = 20.0


def call(url: str, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers or {})
    request.method = method
    if body is not None:
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            status, content = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read()
    return status, json.loads(content) if content else None


def admin(gateway: Daemon, method: str, path: str, body: Any = None) -> Any:
    status, answer = call(f"{gateway.admin}/admin/v1{path}", method, body)
    assert status in {200, 201, 204}, (status, answer)
    return answer


def listed(gateway: Daemon) -> set[str]:
    """The public addresses of the gateways that one of them knows of."""
    return {address for item in admin(gateway, "GET", "/gateways")["items"] for address in item["public"]}


def addresses(*gateways: Daemon) -> set[str]:
    return {gateway.public.removeprefix("http://") for gateway in gateways}


def within(seconds: float, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(0.02)


def test_three_gateways_share_the_registry_and_notice_one_that_is_killed_or_frozen(
    daemon: Callable[..., Daemon], zookeeper: ZooKeeperServer, unique_name: Callable[[str], str], tmp_path: Path
) -> None:
    root = unique_name("root")
    gateways = []
    for name in ("first", "second", "third"):
        config = tmp_path / f"{name}.toml"
        config.write_text(
            f'[storage.default]\npath = "{tmp_path}/{name}-data"\n[registry]\ndriver = "zookeeper"\n'
            f'hosts = "{zookeeper.hosts}/{root}"\nsession_timeout_seconds = {SESSION_SECONDS}\n'
        )
        gateways.append(daemon("--config", str(config), name=name).launch())
    for gateway in gateways:
        gateway.wait_for_ready()
    first, second, third = gateways
    within(15, lambda: listed(first) == addresses(*gateways))

    admin(first, "PUT", "/applications/app1", {})
    key = admin(first, "POST", "/applications/app1/keys", {"kind": "pub"})
    shown = {"Pubkey": key["key"], "Secret": key["secret"]}

    def publish(gateway: Daemon) -> int:
        return call(f"{gateway.public}/v1/topics/foo", "POST", 1, shown)[0]

    for gateway in gateways:
        # here each has a store of its own, and makes the topic there when it is told of it
        within(SPREAD_SECONDS, lambda gateway=gateway: publish(gateway) in {403, 404})  # type: ignore[misc]
        admin(gateway, "PUT", "/topics/app1/foo/v1", {"partitions": 1})
        assert publish(gateway) == 201
    admin(second, "DELETE", f"/applications/app1/keys/{key['key']}")
    for gateway in gateways:
        within(SPREAD_SECONDS, lambda gateway=gateway: publish(gateway) == 401)  # type: ignore[misc]

    third.kill()
    for gateway in (first, second):
        within(SESSION_SECONDS + 5, lambda gateway=gateway: listed(gateway) == addresses(first, second))  # type: ignore[misc]

    # one that stands still loses its session, and is back in the list when it goes on
    second.freeze()
    within(SESSION_SECONDS + 5, lambda: listed(first) == addresses(first))
    admin(first, "PUT", "/applications/app2", {})
    second.thaw()
    within(15, lambda: listed(first) == addresses(first, second))
    within(15, lambda: call(f"{second.admin}/admin/v1/applications/app2")[0] == 200)
    for gateway in (first, second):
        assert gateway.terminate() in (0, -15)
        assert "Traceback" not in gateway.log


def test_key_made_at_one_process_is_known_to_all_when_the_call_is_answered(
    daemon: Callable[..., Daemon], zookeeper: ZooKeeperServer, unique_name: Callable[[str], str], tmp_path: Path
) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(
        f'data_directory = "{tmp_path}/data"\n[process]\ncount = 3\n'
        '[storage.default]\ndriver = "kafka"\nbrokers = ["127.0.0.1:1"]\n'
        f'[registry]\ndriver = "zookeeper"\nhosts = "{zookeeper.hosts}/{unique_name("root")}"\n'
    )
    gateway = daemon("--config", str(config)).launch()
    gateway.process.wait_until(lambda: "all 3 processes serve" in gateway.log, 60)
    admin(gateway, "PUT", "/applications/app1", {})
    for _ in range(4):
        key = admin(gateway, "POST", "/applications/app1/keys", {"kind": "pub"})
        shown = {"Pubkey": key["key"], "Secret": key["secret"]}
        # each request comes over a connection of its own, to whichever process
        statuses = {call(f"{gateway.public}/v1/topics/foo", "POST", 1, shown)[0] for _ in range(12)}
        assert statuses == {404}
        admin(gateway, "DELETE", f"/applications/app1/keys/{key['key']}")
        statuses = {call(f"{gateway.public}/v1/topics/foo", "POST", 1, shown)[0] for _ in range(4)}
        assert statuses == {401}
    assert gateway.terminate() in (0, -15)
