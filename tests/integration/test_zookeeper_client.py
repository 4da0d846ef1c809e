"""The Deferred face of kazoo: txzookeeper's shape, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted
from kazoo.exceptions import (
    BadVersionError,
    ConnectionClosedError,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
)
from servers.zookeeper import ZooKeeperServer
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python.threadable import isInIOThread

from kateway.registry.zookeeper.client import State, WatchEvent, ZookeeperClient

pytestmark = pytest.mark.zookeeper


async def connected(client: ZookeeperClient) -> ZookeeperClient:
    reached: Deferred[None] = Deferred()

    def entered(state: State) -> None:
        if state == "connected" and not reached.called:
            reached.callback(None)

    client.on_state(entered)
    client.start()
    if client.state != "connected":
        await reached.addTimeout(15, reactor)
    return client


@pytest_twisted.async_yield_fixture()
async def client(zookeeper: ZooKeeperServer) -> AsyncIterator[ZookeeperClient]:
    client = await connected(ZookeeperClient(reactor, zookeeper.hosts))
    yield client
    await client.stop()


@pytest.fixture
def root(unique_name: Callable[[str], str]) -> str:
    return f"/{unique_name('client')}"


@pytest_twisted.ensureDeferred
async def test_nodes_are_made_read_changed_and_deleted(client: ZookeeperClient, root: str) -> None:
    await client.ensure_path(f"{root}/a")
    assert await client.create(f"{root}/a/b", b"one") == f"{root}/a/b"
    data, stat = await client.get(f"{root}/a/b")
    assert (data, stat.version) == (b"one", 0)
    assert isInIOThread()
    assert (await client.set(f"{root}/a/b", b"two", 0)).version == 1
    assert (await client.exists_and_watch(f"{root}/a/b")[0]).version == 1
    assert await client.exists_and_watch(f"{root}/nothing")[0] is None
    assert await client.get_children(f"{root}/a") == ["b"]
    await client.ensure_path(f"{root}/c/d")
    await client.create(f"{root}/c/d/e", ephemeral=True)
    assert (await client.get(f"{root}/c/d/e"))[1].ephemeralOwner == client.session[0]
    await client.delete(f"{root}/a/b", 1)
    assert await client.get_children(f"{root}/a") == []
    assert await client.sync(root) == root


@pytest_twisted.ensureDeferred
async def test_a_call_that_the_server_refuses_fails_with_its_reason(client: ZookeeperClient, root: str) -> None:
    await client.ensure_path(f"{root}/a")
    for refused, reason in (
        (client.get(f"{root}/nothing"), NoNodeError),
        (client.create(f"{root}/a"), NodeExistsError),
        (client.set(f"{root}/a", b"", 7), BadVersionError),
        (client.delete(root), NotEmptyError),
    ):
        with pytest.raises(reason):
            await refused


@pytest_twisted.ensureDeferred
async def test_a_watch_fires_once_on_the_reactors_thread(client: ZookeeperClient, root: str) -> None:
    await client.ensure_path(root)
    await client.create(f"{root}/a", b"one")
    threads: list[bool] = []

    async def fired(watch: Deferred[WatchEvent]) -> WatchEvent:
        watch.addCallback(lambda event: threads.append(isInIOThread()) or event)
        return await watch.addTimeout(5, reactor)

    result, watch = client.get_and_watch(f"{root}/a")
    assert (await result)[0] == b"one"
    await client.set(f"{root}/a", b"two")
    await client.set(f"{root}/a", b"three")
    assert await fired(watch) == WatchEvent("changed", f"{root}/a")

    stat, watch = client.exists_and_watch(f"{root}/c")
    assert await stat is None
    await client.create(f"{root}/c")
    assert await fired(watch) == WatchEvent("created", f"{root}/c")

    stat, watch = client.exists_and_watch(f"{root}/c")
    assert (await stat).version == 0
    await client.delete(f"{root}/c")
    assert await fired(watch) == WatchEvent("deleted", f"{root}/c")
    assert threads == [True] * 3


@pytest_twisted.ensureDeferred
async def test_a_transaction_is_all_or_nothing(client: ZookeeperClient, root: str) -> None:
    await client.ensure_path(root)
    await client.create(f"{root}/a", b"one")
    results = await client.commit([("set", f"{root}/a", b"two", 0), ("create", f"{root}/b", b"", -1)])
    assert results[0].version == 1
    results = await client.commit(
        [("set", f"{root}/a", b"three", 1), ("delete", f"{root}/b", b"", -1), ("create", f"{root}/a", b"", -1)]
    )
    assert all(isinstance(result, KazooException) for result in results)
    assert any(type(result) is NodeExistsError for result in results)
    assert (await client.get(f"{root}/a"))[0] == b"two"
    assert (await client.get(f"{root}/b"))[0] == b""


@pytest.mark.parametrize("read_many", [True, False])
@pytest_twisted.ensureDeferred
async def test_many_nodes_are_read_at_once_without_those_that_are_not(
    zookeeper: ZooKeeperServer, root: str, read_many: bool
) -> None:
    client = await connected(ZookeeperClient(reactor, zookeeper.hosts, read_many=read_many))
    await client.ensure_path(root)
    for base in range(0, 500, 100):
        await client.commit([("create", f"{root}/n{n}", str(n).encode(), -1) for n in range(base, base + 100)])
    found = await client.get_many([f"{root}/n{number}" for number in range(510)])
    assert {path: data for path, (data, _stat) in found.items()} == {
        f"{root}/n{number}": str(number).encode() for number in range(500)
    }
    one_data, one_stat = await client.get(f"{root}/n7")
    assert found[f"{root}/n7"] == (one_data, one_stat)
    assert await client.get_many([]) == {}
    await client.stop()


@pytest.mark.parametrize("read_many", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_node_that_may_not_be_read_fails_the_reading_of_many(
    zookeeper: ZooKeeperServer, root: str, read_many: bool
) -> None:
    owner = await connected(ZookeeperClient(reactor, zookeeper.hosts, credentials="a:b", access="creator"))
    await owner.create(root, b"mine")
    other = await connected(ZookeeperClient(reactor, zookeeper.hosts, read_many=read_many))
    await other.create(f"{root}-open", b"")
    with pytest.raises(NoAuthError):
        await other.get_many([f"{root}-open", root, f"{root}-open"])
    assert (await owner.get(root))[0] == b"mine"
    await owner.stop()
    await other.stop()


@pytest_twisted.ensureDeferred
async def test_a_lost_connection_tells_the_watches_and_the_states(
    zookeeper_server: ZooKeeperServer, logged_errors: list[dict[str, Any]]
) -> None:
    client = await connected(ZookeeperClient(reactor, zookeeper_server.hosts, session_timeout_seconds=2))
    states: list[State] = []
    client.on_state(lambda _state: 1 // 0)
    client.on_state(states.append)
    await client.create("/a", b"")
    result, watch = client.get_and_watch("/a")
    await result
    session = client.session[0]
    assert zookeeper_server.proxy is not None
    zookeeper_server.proxy.refuse()
    zookeeper_server.proxy.cut()
    assert (await watch.addTimeout(5, reactor)).lost
    # longer than the session lasts
    await deferLater(reactor, 3)
    zookeeper_server.proxy.pass_through()
    await connected(client)
    while client.session[0] == session:
        await deferLater(reactor, 0.05)
    assert states[0] == "suspended"
    assert "lost" in states
    assert states[-1] == "connected"
    # a listener that breaks keeps no state from the others
    assert len(logged_errors) == len(states)
    logged_errors.clear()
    assert (await client.get("/a"))[0] == b""
    await client.stop()


@pytest_twisted.ensureDeferred
async def test_stop_fails_what_is_under_way_and_what_comes_after(zookeeper_server: ZooKeeperServer) -> None:
    client = await connected(ZookeeperClient(reactor, zookeeper_server.direct, session_timeout_seconds=10))
    zookeeper_server.freeze()
    asked, many = client.get("/"), client.get_many(["/", "/zookeeper"])
    began = reactor.seconds()
    stopping = client.stop()
    for refused in (asked, many, client.get("/")):
        with pytest.raises(ConnectionClosedError):
            await refused
    await stopping
    # bounded, although the server never answers
    assert reactor.seconds() - began < 6
    zookeeper_server.thaw()
    # kazoo's threads end by themselves; the test waits so as not to leave them to others
    await deferToThread(zookeeper_server.kill)


@pytest_twisted.ensureDeferred
async def test_answer_without_a_waiter_is_forgotten(client: ZookeeperClient, root: str) -> None:
    abandoned = client.create(root, b"")
    abandoned.addErrback(lambda _failure: None)
    abandoned.cancel()
    assert (await client.get(root))[0] == b""
