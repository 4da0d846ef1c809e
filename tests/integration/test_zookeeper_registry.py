"""The registry in a real ZooKeeper: several gateways on one, and everything that happens to a connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from typing import Any

import attrs
import orjson
import pytest
import pytest_twisted
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError
from servers.zookeeper import ZooKeeperServer
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from kateway.errors import (
    KatewayError,
    OutcomeUnknown,
    PreconditionFailed,
    RegistryUnavailable,
    StillReferred,
    TopicNotFound,
)
from kateway.registry.interface import Application, Binding, GatewayEntry, Key, Registry, Topic
from kateway.registry.secrets import hash_secret, new_secret
from kateway.registry.zookeeper.registry import ZookeeperRegistry

pytestmark = pytest.mark.zookeeper

APP1 = Application(name="app1")
APP2 = Application(name="app2")
TOPIC = Topic(application="app1", topic="foobar", version="v1")
BINDING = Binding(subscriber="app2", application="app1", topic="foobar", version="v1", groups=frozenset({"g1"}))

Start = Callable[..., Awaitable[ZookeeperRegistry]]


@pytest_twisted.async_yield_fixture()
async def start() -> AsyncIterator[Start]:
    """Starts registries; they stop with the test."""
    started: list[ZookeeperRegistry] = []

    async def start(hosts: str, **options: Any) -> ZookeeperRegistry:
        registry = ZookeeperRegistry(reactor, hosts, **options)
        started.append(registry)
        await registry.start()
        return registry

    yield start
    for registry in started:
        await registry.stop()


async def until(is_so: Callable[[], Any], seconds: float = 10.0) -> None:
    end = reactor.seconds() + seconds
    while not is_so():
        assert reactor.seconds() < end, "it did not come to be in time"
        await deferLater(reactor, 0.02)


async def listed(registry: Registry) -> list[str]:
    return [entry.name for entry in await registry.gateways()]


async def until_listed(registry: Registry, names: list[str], seconds: float = 10.0) -> None:
    end = reactor.seconds() + seconds
    while await listed(registry) != names:
        assert reactor.seconds() < end, f"the list is {await listed(registry)}"
        await deferLater(reactor, 0.05)


@pytest.fixture
def hosts(zookeeper: ZooKeeperServer, unique_name: Callable[[str], str]) -> str:
    return f"{zookeeper.hosts}/{unique_name('root')}"


@pytest_twisted.ensureDeferred
async def test_a_change_made_through_one_gateway_is_in_force_on_the_others_within_a_second(
    hosts: str, start: Start
) -> None:
    one, two, three = await start(hosts), await start(hosts), await start(hosts)
    for write in (one.put_application(APP1), one.put_application(APP2), one.put_topic(TOPIC), one.put_binding(BINDING)):
        await write
    for other in (two, three):
        await until(lambda other=other: BINDING.name in other.snapshot.bindings, seconds=1.0)
        assert other.snapshot.bindings[BINDING.name].etag == one.snapshot.bindings[BINDING.name].etag
    await three.delete_binding(BINDING.name)
    await until(lambda: not one.snapshot.bindings and not two.snapshot.bindings, seconds=1.0)
    assert one.snapshot.topics == two.snapshot.topics == three.snapshot.topics


@pytest_twisted.ensureDeferred
async def test_a_gateway_sees_what_another_has_just_written_before_it_writes(hosts: str, start: Start) -> None:
    one, two = await start(hosts), await start(hosts)
    for number in range(20):
        made = await one.put_application(attrs.evolve(APP1, description=str(number)))
        again = await two.put_application(attrs.evolve(APP1, description=f"{number} again"), made.entry.etag)
        assert not again.made


@pytest_twisted.ensureDeferred
async def test_writes_through_three_gateways_at_once_are_none_lost(hosts: str, start: Start) -> None:
    gateways = [await start(hosts) for _ in range(3)]
    await gateways[0].put_application(APP1)
    await until(lambda: all(registry.snapshot.applications for registry in gateways))

    async def count_up(registry: Registry, times: int) -> None:
        done = 0
        while done < times:
            old = registry.snapshot.applications["app1"]
            new = attrs.evolve(old, description=str(int(old.description or 0) + 1))
            try:
                await registry.put_application(new, old.etag)
            except PreconditionFailed:
                continue
            done += 1

    async def make(registry: Registry, prefix: str, times: int) -> None:
        for number in range(times):
            await registry.put_application(Application(name=f"{prefix}-{number}"))

    work = [Deferred.fromCoroutine(count_up(registry, 10)) for registry in gateways]
    work += [Deferred.fromCoroutine(make(registry, f"gw{n}", 10)) for n, registry in enumerate(gateways)]
    await gatherResults(work)
    await until(lambda: all(len(registry.snapshot.applications) == 31 for registry in gateways))
    for registry in gateways:
        await until(lambda registry=registry: registry.snapshot.applications["app1"].description == "30")


@pytest_twisted.ensureDeferred
async def test_a_binding_and_the_end_of_its_topic_at_once_leave_no_binding_without_a_topic(
    hosts: str, start: Start
) -> None:
    one, two = await start(hosts), await start(hosts)
    await one.put_application(APP1)
    await one.put_application(APP2)
    outcomes = set()
    for _round in range(10):
        await one.put_topic(TOPIC)

        async def outcome(call: Awaitable[Any]) -> str:
            try:
                await call
            except (StillReferred, TopicNotFound) as error:
                return type(error).__name__
            return "done"

        both = await gatherResults(
            [
                Deferred.fromCoroutine(outcome(one.delete_topic(TOPIC.name))),
                Deferred.fromCoroutine(outcome(two.put_binding(BINDING))),
            ]
        )
        outcomes.add(tuple(both))
        await one.reload()
        assert (BINDING.name in one.snapshot.bindings) == (TOPIC.name in one.snapshot.topics)
        if BINDING.name in one.snapshot.bindings:
            await one.delete_binding(BINDING.name)
            await one.delete_topic(TOPIC.name)
    assert outcomes <= {("done", "TopicNotFound"), ("StillReferred", "done")}


@pytest_twisted.ensureDeferred
async def test_a_root_of_several_folders_is_made(zookeeper: ZooKeeperServer, start: Start, topic_name: str) -> None:
    registry = await start(f"{zookeeper.hosts}/{topic_name}/deep/down")
    await registry.put_application(APP1)
    again = await start(f"{zookeeper.hosts}/{topic_name}/deep/down")
    assert again.snapshot.applications == {"app1": APP1}


@pytest_twisted.ensureDeferred
async def test_a_server_that_freezes_leaves_the_last_snapshot_in_force_and_is_caught_up_with(
    zookeeper_server: ZooKeeperServer, start: Start
) -> None:
    registry = await start(f"{zookeeper_server.direct}/kateway", session_timeout_seconds=2, write_timeout_seconds=1.5)
    await registry.register_gateway(GatewayEntry(name="gw1"))
    await registry.put_application(APP1)
    zookeeper_server.freeze()
    # the connection is still thought to be good: the change was sent, and its outcome is unknown
    with pytest.raises((OutcomeUnknown, RegistryUnavailable)):
        await registry.put_application(APP2)
    await until(lambda: not registry.health().healthy)
    assert zookeeper_server.direct in registry.health().reason
    with pytest.raises(RegistryUnavailable):
        await registry.put_application(Application(name="app3"))
    with pytest.raises(RegistryUnavailable):
        await registry.gateways()
    # longer than the session lasts
    await deferLater(reactor, 2.5)
    assert "app1" in registry.snapshot.applications
    zookeeper_server.thaw()
    await until(lambda: registry.health().healthy, seconds=15)
    await until_listed(registry, ["gw1"])
    await registry.put_application(Application(name="app4"))
    assert "app4" in registry.snapshot.applications


@pytest_twisted.ensureDeferred
async def test_a_gateway_cut_off_vanishes_from_the_list_and_catches_up_when_it_is_back(
    zookeeper_server: ZooKeeperServer, start: Start
) -> None:
    one = await start(f"{zookeeper_server.direct}/kateway", session_timeout_seconds=2)
    two = await start(f"{zookeeper_server.hosts}/kateway", session_timeout_seconds=2)
    await one.register_gateway(GatewayEntry(name="one"))
    await two.register_gateway(GatewayEntry(name="two"))
    await one.put_application(APP1)
    await until(lambda: "app1" in two.snapshot.applications)
    assert await listed(one) == ["one", "two"]
    assert zookeeper_server.proxy is not None
    zookeeper_server.proxy.refuse()
    zookeeper_server.proxy.cut()
    await until_listed(one, ["one"])
    await one.put_application(APP2)
    await one.delete_application("app1")
    assert set(two.snapshot.applications) == {"app1"}
    assert not two.health().healthy
    zookeeper_server.proxy.pass_through()
    await until(lambda: set(two.snapshot.applications) == {"app2"})
    await until_listed(one, ["one", "two"])
    assert two.health().healthy


@pytest_twisted.ensureDeferred
async def test_a_gateway_that_missed_more_changes_than_are_told_reads_everything(
    zookeeper_server: ZooKeeperServer, start: Start
) -> None:
    one = await start(f"{zookeeper_server.direct}/kateway")
    two = await start(f"{zookeeper_server.hosts}/kateway")
    assert zookeeper_server.proxy is not None
    zookeeper_server.proxy.refuse()
    zookeeper_server.proxy.cut()
    await until(lambda: not two.health().healthy)
    for number in range(130):
        await one.put_application(Application(name=f"app{number}"))
    zookeeper_server.proxy.pass_through()
    await until(lambda: two.snapshot.revision == one.snapshot.revision)
    assert two.snapshot.applications == one.snapshot.applications
    assert {entry.etag for entry in two.snapshot.applications.values()} == {
        entry.etag for entry in one.snapshot.applications.values()
    }


@pytest_twisted.ensureDeferred
async def test_a_session_that_expires_is_begun_anew_with_its_entry_in_the_list(hosts: str, start: Start) -> None:
    registry, witness = await start(hosts), await start(hosts)
    await registry.register_gateway(GatewayEntry(name="gw1"))
    await witness.put_application(APP1)
    await expire(registry)
    await witness.put_application(APP2)
    await until(lambda: "app2" in registry.snapshot.applications)
    await until_listed(witness, ["gw1"])
    await until(lambda: registry.health().healthy)
    # the watches are the new session's
    await witness.delete_application("app2")
    await until(lambda: "app2" not in registry.snapshot.applications)


async def expire(registry: ZookeeperRegistry) -> None:
    """Ends a registry's session as ZooKeeper would: another client with its id and password closes it."""
    number, password = registry.session
    address = str(registry.health().details["hosts"])

    def close() -> None:
        thief = KazooClient(address, client_id=(number, password))
        thief.start()
        thief.stop()
        thief.close()

    await deferToThread(close)
    await until(lambda: registry.session[0] not in {0, number})


@pytest_twisted.ensureDeferred
async def test_one_gateway_leads_and_another_takes_over_when_its_session_ends(hosts: str, start: Start) -> None:
    one, two = await start(hosts), await start(hosts)
    assert await one.lead(b"one")
    assert not await two.lead(b"two")
    assert await two.leader_report() == b"one"
    assert await one.lead(b"more")
    assert await two.leader_report() == b"more"
    await one.stop()
    assert await two.leader_report() == b""
    assert await two.lead(b"two")


@pytest_twisted.ensureDeferred
async def test_gateway_is_heard_only_when_it_is_in_the_list_and_knows_what_was_changed_before(
    hosts: str, start: Start
) -> None:
    one, two = await start(hosts), await start(hosts)
    assert two.unheard_since == -inf
    await one.put_application(APP1)
    await two.register_gateway(GatewayEntry(name="two"))
    assert two.unheard_since is None
    assert "app1" in two.snapshot.applications
    await expire(two)
    await until(lambda: two.unheard_since is None)
    assert await listed(one) == ["two"]


@pytest_twisted.ensureDeferred
async def test_deleted_entry_of_the_list_is_made_again(hosts: str, start: Start) -> None:
    registry = await start(hosts)
    await registry.register_gateway(GatewayEntry(name="gw1"))
    await registry.register_gateway(GatewayEntry(name="gw1", load={"readers": 1}))
    await by_hand(hosts, lambda client, root: client.delete(f"{root}/gateways/gw1"))
    await until_listed(registry, ["gw1"])


@pytest_twisted.ensureDeferred
async def test_a_stopped_gateway_leaves_the_list_at_once(hosts: str, start: Start) -> None:
    witness, registry = await start(hosts), ZookeeperRegistry(reactor, hosts)
    await registry.start()
    await registry.register_gateway(GatewayEntry(name="gw1"))
    assert await listed(witness) == ["gw1"]
    await registry.stop()
    assert await listed(witness) == []


@pytest_twisted.ensureDeferred
async def test_without_a_server_nothing_is_known_until_there_is_one(
    zookeeper_server: ZooKeeperServer, start: Start
) -> None:
    await deferToThread(zookeeper_server.kill)
    registry = await start(f"{zookeeper_server.direct}/kateway", write_timeout_seconds=0.5)
    assert not registry.snapshot.known
    assert "nothing is known" in registry.health().reason
    await registry.register_gateway(GatewayEntry(name="gw1"))
    with pytest.raises(RegistryUnavailable):
        await registry.put_application(APP1)
    await deferToThread(zookeeper_server.start)
    await until(lambda: registry.snapshot.known)
    await until_listed(registry, ["gw1"])
    await registry.put_application(APP1)


@pytest_twisted.ensureDeferred
async def test_a_write_whose_answer_is_lost_is_found_to_have_been_made(
    zookeeper_server: ZooKeeperServer, start: Start
) -> None:
    witness = await start(f"{zookeeper_server.direct}/kateway")
    registry = await start(f"{zookeeper_server.hosts}/kateway", session_timeout_seconds=4, write_timeout_seconds=10)
    await registry.put_application(APP1)
    proxy = zookeeper_server.proxy
    assert proxy is not None
    made = 0
    # the cut comes at a different place of the exchange each time: before, in and after the transaction
    for number, cut_after in enumerate((1, 60, 200, 350, 600)):
        proxy.cut_after_response_bytes(cut_after)
        name = f"new{number}"
        try:
            written = await registry.put_application(Application(name=name))
        except RegistryUnavailable:
            proxy.pass_through()
            await witness.reload()
            assert name not in witness.snapshot.applications
        else:
            made += 1
            assert written.made
            await witness.reload()
            assert witness.snapshot.applications[name].etag == written.entry.etag
        proxy.pass_through()
        await until(lambda: registry.health().healthy)
    assert made


@pytest_twisted.ensureDeferred
async def test_nodes_that_cannot_be_read_are_left_out_and_named(hosts: str, start: Start) -> None:
    registry = await start(hosts)
    await registry.put_application(APP1)

    def spoil(client: KazooClient, root: str) -> None:
        client.create(f"{root}/applications/app2", b'{"description":"by hand","added_in_the_year_2030":1}')
        client.create(f"{root}/topics/app1.foobar.v1", b'{"state":"sleeping"}')
        client.create(f"{root}/keys/k1", b"\xff not json")
        client.set(f"{root}/revision", b"")

    await by_hand(hosts, spoil)
    await until(lambda: "app2" in registry.snapshot.applications)
    assert registry.snapshot.applications["app2"].description == "by hand"
    assert not registry.snapshot.topics
    health = registry.health()
    assert not health.healthy
    assert "topics/app1.foobar.v1" in health.reason
    assert "keys/k1" in health.reason
    # a node that is there although the snapshot does not know it can be written over all the same
    with pytest.raises(KatewayError):
        await registry.put_topic(TOPIC)
    await by_hand(hosts, lambda client, root: client.delete(f"{root}/topics/app1.foobar.v1"))
    await registry.put_topic(TOPIC)


@pytest_twisted.ensureDeferred
async def test_deleted_root_is_made_again_empty(hosts: str, start: Start) -> None:
    registry = await start(hosts)
    await registry.register_gateway(GatewayEntry(name="gw1"))
    await registry.put_application(APP1)
    await by_hand(hosts, lambda client, root: client.delete(root, recursive=True))
    await until(lambda: not registry.snapshot.applications)
    await until(lambda: registry.health().healthy)
    await registry.put_application(APP2)
    assert set(registry.snapshot.applications) == {"app2"}
    await until_listed(registry, ["gw1"])


@pytest_twisted.ensureDeferred
async def test_deleted_list_of_gateways_is_made_again_with_those_that_live(hosts: str, start: Start) -> None:
    registry = await start(hosts)
    await registry.register_gateway(GatewayEntry(name="gw1"))
    await by_hand(hosts, lambda client, root: client.delete(f"{root}/gateways", recursive=True))
    await until_listed(registry, ["gw1"])
    await until(lambda: registry.health().healthy)


async def by_hand(hosts: str, work: Callable[[KazooClient, str], Any]) -> Any:
    """What an operator does with a client of his own."""
    address, _, root = hosts.partition("/")

    def do() -> Any:
        client = KazooClient(address)
        client.start()
        try:
            return work(client, f"/{root}")
        finally:
            client.stop()
            client.close()

    return await deferToThread(do)


@pytest_twisted.ensureDeferred
async def test_one_entry_is_one_node_and_no_node_holds_a_secret(hosts: str, start: Start) -> None:
    registry = await start(hosts)
    secret = new_secret()
    await registry.put_application(APP1)
    await registry.put_key(Key(key="mykey", application="app1", kind="pub", secret_hash=hash_secret(secret)))
    await registry.put_topic(TOPIC)

    def read(client: KazooClient, root: str) -> dict[str, bytes]:
        found = {"revision": client.get(f"{root}/revision")[0]}
        for folder in client.get_children(root):
            for node in client.get_children(f"{root}/{folder}"):
                found[f"{folder}/{node}"] = client.get(f"{root}/{folder}/{node}")[0]
        return found

    nodes = await by_hand(hosts, read)
    assert set(nodes) == {"revision", "applications/app1", "keys/mykey", "topics/app1.foobar.v1"}
    assert not [name for name, content in nodes.items() if secret.encode() in content]
    assert orjson.loads(nodes["topics/app1.foobar.v1"])["state"] == "active"


@pytest_twisted.ensureDeferred
async def test_nodes_with_credentials_are_closed_to_others(hosts: str, start: Start) -> None:
    registry = await start(hosts, credentials="gateway:password", access="creator")
    await registry.put_application(APP1)
    for path in ("revision", "applications", "applications/app1", "keys"):
        with pytest.raises(NoAuthError):
            await by_hand(hosts, lambda client, root, path=path: client.get_children(f"{root}/{path}"))
        with pytest.raises(NoAuthError):
            await by_hand(hosts, lambda client, root, path=path: client.set(f"{root}/{path}", b""))
    stranger = await start(hosts, write_timeout_seconds=0.5)
    assert not stranger.snapshot.known
    assert "NoAuth" in stranger.health().reason
    friend = await start(hosts, credentials="gateway:password", access="creator")
    assert friend.snapshot.applications == {"app1": APP1}


@pytest_twisted.ensureDeferred
async def test_nodes_that_the_world_may_read_can_be_changed_by_their_creator_only(hosts: str, start: Start) -> None:
    registry = await start(hosts, credentials="gateway:password", access="creator-world-read")
    await registry.put_application(APP1)
    assert await by_hand(hosts, lambda client, root: client.get_children(f"{root}/applications")) == ["app1"]
    with pytest.raises(NoAuthError):
        await by_hand(hosts, lambda client, root: client.set(f"{root}/revision", b""))


@pytest_twisted.ensureDeferred
async def test_ten_thousand_bindings_are_read_whole(hosts: str, start: Start) -> None:
    first = await start(hosts)
    for app in (APP1, APP2):
        await first.put_application(app)
    await first.put_topic(TOPIC)

    def fill(client: KazooClient, root: str) -> None:
        for base in range(0, 10_000, 500):
            transaction = client.transaction()
            for number in range(base, base + 500):
                path = f"{root}/bindings/subscriber-{number:05}.app1.foobar.v1"
                transaction.create(path, b'{"groups":["group1","group2"]}')
            transaction.commit()
        client.set(f"{root}/revision", b"")

    await by_hand(hosts, fill)
    await until(lambda: len(first.snapshot.bindings) == 10_000, seconds=30)
    second = await start(hosts)
    await until(lambda: len(second.snapshot.bindings) == 10_000, seconds=30)
    assert second.snapshot.bindings["subscriber-09999", "app1", "foobar", "v1"].allows("group2")


@pytest_twisted.ensureDeferred
async def test_look_that_breaks_unforeseen_is_tried_again(
    hosts: str, start: Start, logged_errors: list[dict[str, Any]]
) -> None:
    one, two = await start(hosts), await start(hosts)
    catch_up = two._catch_up

    async def breaks(revision: Any) -> None:
        two._catch_up = catch_up  # type: ignore[method-assign]
        raise ZeroDivisionError

    two._catch_up = breaks  # type: ignore[method-assign]
    await one.put_application(APP1)
    await until(lambda: "app1" in two.snapshot.applications)
    assert two.health().healthy
    assert logged_errors[0]["log_failure"].check(ZeroDivisionError)
    logged_errors.clear()
