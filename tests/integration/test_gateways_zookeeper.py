"""Several gateways on one real ZooKeeper: what one is told is in force on all, and what they make of its absence."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from servers.zookeeper import ZooKeeperServer
from twisted.internet.threads import deferToThread

sys.path.append(str(Path(__file__).parents[1] / "edge"))

from administered import Administered, guarded
from gateways import eventually
from twisted.internet.defer import gatherResults

from kateway.config.schema import RegistryConfig

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.zookeeper
SPREAD_SECONDS = 20.0

Make = Callable[..., Administered]


@pytest_twisted.async_yield_fixture
async def gateways(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes gateways of one registry, each with a store of its own, not started yet."""
    made: list[Administered] = []

    def make(hosts: str, **settings: Any) -> Administered:
        registry = RegistryConfig(driver="zookeeper", hosts=hosts, session_timeout_seconds=2.0, **settings)
        made.append(Administered(guarded(tmp_path / f"data{len(made)}", registry=registry)))
        return made[-1]

    yield make
    for each in made:
        await each.stop()


async def three(gateways: Make, hosts: str) -> list[Administered]:
    """Three that run; app1 owns foo, app2 has keys; all of them know everything."""
    all_of_them = [gateways(hosts) for _ in range(3)]
    for gateway in all_of_them:
        await gateway.start()
    first = all_of_them[0]
    await eventually(lambda: first.service.parts.registry.health().healthy)
    for app in ("app1", "app2"):
        await first.application(app)
    await first.topic("app1/foo/v1")
    for gateway in all_of_them:
        gateway.secrets = first.secrets
        # in these tests every gateway has an embedded store of its own, where each makes what is registered
        await eventually(lambda gateway=gateway: has_foo(gateway))  # type: ignore[misc]
    return all_of_them


def has_foo(gateway: Administered) -> bool:
    return gateway.service.parts.storing.stores["default"].partitions("app1.foo.v1") is not None


def is_bound(gateway: Administered) -> bool:
    return len(gateway.service.parts.registry.snapshot.bindings) == 1


@here
async def test_a_binding_made_through_one_is_in_force_on_the_others(
    zookeeper: ZooKeeperServer, gateways: Make, unique_name: Callable[[str], str]
) -> None:
    first, *others = await three(gateways, f"{zookeeper.hosts}/{unique_name('root')}")
    for gateway in others:
        assert (await gateway.read("app2", "app1.foo/g1?timeout=0.05")).status == 403
    await first.binding("app2/app1/foo/v1")
    for gateway in others:
        await eventually(lambda gateway=gateway: is_bound(gateway), SPREAD_SECONDS)  # type: ignore[misc]
        assert (await gateway.read("app2", "app1.foo/g1?timeout=0.05")).status == 204
    await first.change("DELETE", "/applications/app2/keys/app2-sub")
    for gateway in others:
        await eventually(
            lambda gateway=gateway: "app2-sub" not in gateway.service.parts.registry.snapshot.keys,  # type: ignore[misc]
            SPREAD_SECONDS,
        )
        assert (await gateway.read("app2", "app1.foo/g1")).status == 401


@here
async def test_writes_through_two_gateways_at_once_lose_none(
    zookeeper: ZooKeeperServer, gateways: Make, unique_name: Callable[[str], str]
) -> None:
    first, second, third = await three(gateways, f"{zookeeper.hosts}/{unique_name('root')}")
    writes = [
        gateway.spawn(gateway.admin("PUT", f"/applications/{name}-{number}", {}))
        for number in range(20)
        for name, gateway in (("a", first), ("b", second))
    ]
    # and both change the same entry, again and again, each on the state that it has read
    for answer in await gatherResults(writes):
        assert answer.status == 201, answer.body
    etag = (await first.admin("GET", "/applications/app1")).header("etag")
    rivals = [
        gateway.spawn(gateway.admin("PUT", "/applications/app1", {"description": name}, headers={"If-Match": etag}))
        for name, gateway in (("first", first), ("second", second))
    ]
    statuses = sorted([answer.status for answer in await gatherResults(rivals)])
    assert statuses == [200, 412]
    for gateway in (first, second, third):
        await eventually(
            lambda gateway=gateway: len(gateway.service.parts.registry.snapshot.applications) == 42,
            SPREAD_SECONDS,  # type: ignore[misc]
        )


@here
async def test_gateways_are_listed_while_they_live(
    zookeeper: ZooKeeperServer, gateways: Make, unique_name: Callable[[str], str]
) -> None:
    first, second, third = await three(gateways, f"{zookeeper.hosts}/{unique_name('root')}")

    async def listed() -> set[str]:
        items = (await first.admin("GET", "/gateways")).json()["items"]
        return {address for item in items for address in item["public"]}

    assert await listed() == {f"127.0.0.1:{gateway.port}" for gateway in (first, second, third)}
    await third.stop()
    assert await listed() == {f"127.0.0.1:{gateway.port}" for gateway in (first, second)}


@here
async def test_a_frozen_zookeeper_leaves_all_as_it_was_and_is_caught_up_with(
    zookeeper_server: ZooKeeperServer, gateways: Make
) -> None:
    first, second, _third = await three(gateways, f"{zookeeper_server.hosts}/kateway")
    await first.binding("app2/app1/foo/v1")
    await eventually(lambda: is_bound(second), SPREAD_SECONDS)
    zookeeper_server.freeze()
    try:
        await eventually(lambda: not first.service.parts.registry.health().healthy, 15)
        ready = await first.request("GET", "/ready")
        assert ready.status == 200
        assert ready.json()["parts"]["registry"]["degraded"] is True
        assert (await first.publish("app1", "foo")).status == 201
        assert (await first.read("app2", "app1.foo/g1")).status == 200
        answer = await first.admin("PUT", "/applications/app3", {})
        assert (answer.status, answer.code) == (503, "registry-unavailable")
        assert answer.header("retry-after") is not None
    finally:
        zookeeper_server.thaw()
    # the sessions have expired meanwhile
    await eventually(
        lambda: first.service.parts.registry.health().healthy and second.service.parts.registry.health().healthy, 20
    )
    await first.change("PUT", "/applications/app4", {})
    await eventually(lambda: "app4" in second.service.parts.registry.snapshot.applications, 5)

    async def count() -> int:
        return len((await first.admin("GET", "/gateways")).json()["items"])

    while await count() != 3:
        await deferToThread(lambda: None)
    assert (await first.request("GET", "/ready")).json()["parts"]["registry"] == {"healthy": True}


@here
async def test_gateway_that_starts_while_zookeeper_is_away_knows_no_application_yet(
    zookeeper_server: ZooKeeperServer, gateways: Make
) -> None:
    hosts = f"{zookeeper_server.hosts}/kateway"
    first, *_others = await three(gateways, hosts)
    await deferToThread(zookeeper_server.kill)
    late = gateways(hosts)
    await late.start()
    late.secrets = first.secrets
    answer = await late.publish("app1", "foo")
    assert (answer.status, answer.code) == (503, "registry-unavailable")
    assert answer.header("retry-after") is not None
    for method, path in (("GET", "/applications"), ("GET", "/topics"), ("GET", "/applications/app1/keys")):
        assert ((await late.admin(method, path)).status) == 503
    await deferToThread(zookeeper_server.restart)
    await eventually(lambda: late.service.parts.registry.snapshot.known, 20)
    await eventually(lambda: has_foo(late))
    assert (await late.publish("app1", "foo")).status == 201
