"""What every registry driver does alike: reads for all three, writes for the two that can."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from kateway.errors import (
    Conflict,
    KatewayError,
    NotFound,
    PreconditionFailed,
    RegistryReadOnly,
    StillReferred,
    TopicNotFound,
)
from kateway.registry.file import FileRegistry
from kateway.registry.interface import (
    ABSENT,
    ANY,
    Application,
    Binding,
    Elastic,
    GatewayEntry,
    Growth,
    Key,
    OutgoingTransforms,
    Placement,
    Quota,
    Registry,
    Snapshot,
    Topic,
    Transforms,
)
from kateway.registry.secrets import hash_secret, matches
from kateway.registry.sqlite import EmbeddedRegistry
from kateway.registry.zookeeper.registry import ZookeeperRegistry

SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQt"
HASH = hash_secret(SECRET, b"0123456789abcdef")

APP1 = Application(name="app1", description="orders", quota=Quota(publish_records_per_second=1000, readers=100))
APP2 = Application(name="app2")
KEY = Key(key="mypubkey", application="app1", kind="pub", secret_hash=HASH, made=1_700_000_000_000)
TOPIC = Topic(application="app1", topic="foobar", version="v1", partitions=4)
TAKEN_OVER = Topic(
    application="app1", topic="foobar", version="v2", storage_name="legacy.orders", state="deprecated",
    deprecated=1_700_000_000_000, sunset=1_800_000_000_000, retention_hours=None,
)  # fmt: skip
BINDING = Binding(
    subscriber="app2", application="app1", topic="foobar", version="v1", groups=frozenset({"g1", "g2"}),
    max_deliveries=3,
)  # fmt: skip

ELASTIC = Elastic(max_partitions=8, target_bytes_per_second=None, cooldown_seconds=60, dry_run=True)
PLACEMENT = Placement(
    application="app1", topic="foobar", version="v1", partitions=4, generation=7, since=5,
    growths=[Growth(at=1, was=2, now=4, why="load", held_seconds=0.5)],
)  # fmt: skip

TRANSFORMS = Transforms(
    application="app1", topic="foobar", version="v1", incoming=[{"require": "true", "message": "no"}],
    outgoing=[{"mask": ["/card"], "with": "*"}], on_error="stop",
)  # fmt: skip
FILTERED = attrs.evolve(
    BINDING,
    subscriber="app1",
    filter="record.key == 'a'",
    transforms=OutgoingTransforms(outgoing=[{"drop": "false"}], on_error="pass"),
)

FILE = f"""
[applications.app1]
description = "orders"
quota = {{ publish_records_per_second = 1000, readers = 100 }}
[[applications.app1.keys]]
key = "mypubkey"
kind = "pub"
secret_hash = "{HASH}"
made = 2023-11-14T22:13:20Z
[applications.app2]
[topics."app1/foobar/v1"]
partitions = 4
[topics."app1/foobar/v2"]
storage_name = "legacy.orders"
state = "deprecated"
deprecated = 2023-11-14T22:13:20Z
sunset = "2027-01-15T08:00:00Z"
[bindings."app2/app1/foobar/v1"]
groups = ["g1", "g2"]
max_deliveries = 3
[bindings."app1/app1/foobar/v1"]
groups = ["g1", "g2"]
max_deliveries = 3
filter = "record.key == 'a'"
transforms = {{ out = [{{ drop = "false" }}], on_error = "pass" }}
[transforms."app1/foobar/v1"]
in = [{{ require = "true", message = "no" }}]
out = [{{ mask = ["/card"], with = "*" }}]
on_error = "stop"
"""

Make = Callable[[], Registry]


@pytest.fixture(params=["embedded", pytest.param("zookeeper", marks=pytest.mark.zookeeper)])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes a registry, each time on the same content."""
    if request.param == "embedded":
        return lambda: EmbeddedRegistry(reactor, tmp_path / "data")
    hosts = f"{request.getfixturevalue('zookeeper').hosts}/{request.getfixturevalue('unique_name')('registry')}"
    return lambda: ZookeeperRegistry(reactor, hosts)


@pytest_twisted.async_yield_fixture()
async def registry(make: Make) -> AsyncIterator[Registry]:
    registry = make()
    await registry.start()
    yield registry
    await registry.stop()


@pytest_twisted.async_yield_fixture(params=["embedded", "file", pytest.param("zookeeper", marks=pytest.mark.zookeeper)])
async def filled(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    """A registry with all the entries above, as it is after a start."""
    registry: Any
    if request.param == "file":
        (tmp_path / "registry.toml").write_text(FILE)
        registry = FileRegistry(reactor, tmp_path / "registry.toml")
    else:
        if request.param == "embedded":
            make: Make = lambda: EmbeddedRegistry(reactor, tmp_path)  # noqa: E731
        else:
            root = request.getfixturevalue("unique_name")("filled")
            hosts = f"{request.getfixturevalue('zookeeper').hosts}/{root}"
            make = lambda: ZookeeperRegistry(reactor, hosts)  # noqa: E731
        first = make()
        await first.start()
        await fill(first)
        await first.stop()
        registry = make()
    await registry.start()
    yield registry
    await registry.stop()


async def fill(registry: Registry) -> None:
    await registry.put_application(APP1)
    await registry.put_application(APP2)
    await registry.put_key(KEY)
    await registry.put_topic(TOPIC)
    await registry.put_topic(TAKEN_OVER)
    await registry.put_binding(BINDING)
    await registry.put_binding(FILTERED)
    await registry.put_transforms(TRANSFORMS)


async def fails(kind: type[KatewayError], call: Awaitable[Any], *words: str) -> None:
    with pytest.raises(kind) as caught:
        await call
    for word in words:
        assert word in caught.value.detail


# --- reading ---------------------------------------------------------------------------------------------------


def test_everything_is_looked_up_by_its_name(filled: Registry) -> None:
    snapshot = filled.snapshot
    assert snapshot.known
    assert not snapshot.open
    assert snapshot.applications == {"app1": APP1, "app2": APP2}
    key = snapshot.keys["mypubkey"]
    assert key == KEY
    assert (key.application, key.kind) == ("app1", "pub")
    assert any(matches(SECRET, hashed) for hashed in key.hashes(0))
    assert snapshot.topics["app1", "foobar", "v1"] == TOPIC
    assert snapshot.topics["app1", "foobar", "v1"].stored_as == "app1.foobar.v1"
    taken_over = snapshot.topics["app1", "foobar", "v2"]
    assert taken_over.stored_as == "legacy.orders"
    assert (taken_over.state, taken_over.deprecated, taken_over.sunset) == (
        "deprecated", 1_700_000_000_000, 1_800_000_000_000,
    )  # fmt: skip
    binding = snapshot.bindings["app2", "app1", "foobar", "v1"]
    assert binding == BINDING
    assert binding.allows("g1")
    assert not binding.allows("g3")
    assert ("app2", "app1", "foobar", "v2") not in snapshot.bindings
    assert snapshot.bindings["app1", "app1", "foobar", "v1"] == FILTERED
    assert snapshot.transforms == {("app1", "foobar", "v1"): TRANSFORMS}


def test_every_entry_has_an_etag(filled: Registry) -> None:
    snapshot = filled.snapshot
    for entries in (
        snapshot.applications, snapshot.keys, snapshot.topics, snapshot.bindings, snapshot.transforms
    ):  # fmt: skip
        assert all(entry.etag for entry in entries.values())


def test_health_says_what_there_is(filled: Registry) -> None:
    health = filled.health()
    assert health.healthy
    assert health.details["driver"] == filled.driver
    assert (health.details["keys"], health.details["topics"], health.details["bindings"]) == (1, 2, 2)
    assert health.details["transforms"] == 1


@pytest_twisted.ensureDeferred
async def test_a_gateway_that_registers_is_listed_and_brings_itself_up_to_date(filled: Registry) -> None:
    entry = GatewayEntry(name="gw1", public=("127.0.0.1:9090",), version="1.0", started=1000, load={"readers": 1})
    await filled.register_gateway(entry)
    assert list(await filled.gateways()) == [entry]
    later = attrs.evolve(entry, load={"readers": 2})
    await filled.register_gateway(later)
    assert list(await filled.gateways()) == [later]


@pytest_twisted.ensureDeferred
async def test_key_that_was_deleted_with_its_application_and_is_made_anew_was_never_used(
    registry: Registry,
) -> None:
    application, key = Application(name="app9"), Key(key="app9-pub", application="app9", kind="pub", secret_hash=HASH)
    await registry.put_application(application)
    await registry.put_key(key)
    await registry.note_used({"app9-pub": 5000})
    await registry.delete_application("app9")
    await registry.put_application(application)
    await registry.put_key(key)
    assert await registry.last_used(["app9-pub"]) == {}


@pytest_twisted.ensureDeferred
async def test_the_last_use_of_keys_is_kept(filled: Registry) -> None:
    before = filled.snapshot
    await filled.note_used({"mypubkey": 5000, "no-such-key": 1})
    assert await filled.last_used(["mypubkey", "no-such-key"]) == {"mypubkey": 5000}
    await filled.note_used({"mypubkey": 6000})
    assert await filled.last_used(["mypubkey"]) == {"mypubkey": 6000}
    assert filled.snapshot is before


@pytest_twisted.ensureDeferred
async def test_a_reload_of_what_has_not_changed_keeps_entries_and_etags(filled: Registry) -> None:
    before = filled.snapshot
    seen: list[Snapshot] = []
    unwatch = filled.watch(seen.append)
    await filled.reload()
    unwatch()
    assert seen[-1] is filled.snapshot
    assert filled.snapshot.topics == before.topics
    assert filled.snapshot.keys["mypubkey"].etag == before.keys["mypubkey"].etag


# --- writing ---------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_put_makes_then_changes_then_leaves_alone(registry: Registry) -> None:
    made = await registry.put_application(APP1)
    assert made.made
    assert registry.snapshot.applications["app1"] is made.entry
    changed = await registry.put_application(attrs.evolve(APP1, description="new"))
    assert not changed.made
    assert changed.entry.etag != made.entry.etag
    same = await registry.put_application(attrs.evolve(APP1, description="new"))
    assert not same.made
    assert same.entry.etag == changed.entry.etag


@pytest_twisted.ensureDeferred
async def test_written_entries_are_there_after_a_restart_with_their_etags(make: Make) -> None:
    first = make()
    await first.start()
    await fill(first)
    await first.delete_binding(BINDING.name)
    await first.note_used({"mypubkey": 5000})
    await first.stop()
    second = make()
    await second.start()
    for entries in ("applications", "keys", "topics", "bindings"):
        assert getattr(second.snapshot, entries) == getattr(first.snapshot, entries)
    assert second.snapshot.topics[TOPIC.name].etag == first.snapshot.topics[TOPIC.name].etag
    assert second.snapshot.revision == first.snapshot.revision
    assert await second.last_used(["mypubkey"]) == {"mypubkey": 5000}
    await second.stop()


@pytest_twisted.ensureDeferred
async def test_watchers_hear_a_change_before_the_write_answers(registry: Registry) -> None:
    heard: list[Snapshot] = []
    unwatch = registry.watch(heard.append)
    before = registry.snapshot
    await registry.put_application(APP1)
    assert heard[-1] is registry.snapshot
    assert "app1" in heard[-1].applications
    assert "app1" not in before.applications
    assert registry.snapshot.revision > before.revision
    unwatch()
    count = len(heard)
    await registry.put_application(APP2)
    assert len(heard) == count


@pytest_twisted.ensureDeferred
async def test_watcher_that_fails_keeps_the_news_from_no_other(
    registry: Registry, logged_errors: list[dict[str, Any]]
) -> None:
    def fail(_snapshot: Snapshot) -> None:
        raise RuntimeError("a watcher's own fault")

    heard: list[Snapshot] = []
    registry.watch(fail)
    registry.watch(heard.append)
    await registry.put_application(APP1)
    assert "app1" in heard[-1].applications
    assert "a watcher's own fault" in str(logged_errors[0]["log_failure"].value)
    logged_errors.clear()


@pytest_twisted.ensureDeferred
async def test_a_write_on_an_outdated_etag_is_refused(registry: Registry) -> None:
    first = (await registry.put_application(APP1)).entry
    second = (await registry.put_application(attrs.evolve(APP1, description="second"), first.etag)).entry
    third = attrs.evolve(APP1, description="third")
    await fails(PreconditionFailed, registry.put_application(third, first.etag), "app1")
    await fails(PreconditionFailed, registry.delete_application("app1", first.etag), "app1")
    await fails(PreconditionFailed, registry.put_application(APP2, ANY), "app2")
    assert registry.snapshot.applications["app1"] == second
    await registry.put_application(third, ANY)
    await registry.delete_application("app1", ANY)
    assert not registry.snapshot.applications


@pytest_twisted.ensureDeferred
async def test_an_entry_that_comes_back_has_another_etag(registry: Registry) -> None:
    first = (await registry.put_application(APP1)).entry
    await registry.delete_application("app1")
    second = (await registry.put_application(APP1)).entry
    assert second == first
    assert second.etag != first.etag
    await fails(PreconditionFailed, registry.delete_application("app1", first.etag))


@pytest_twisted.ensureDeferred
async def test_second_header_that_may_come_once_is_refused(registry: Registry) -> None:
    await registry.put_application(APP1)
    await registry.put_key(KEY, ABSENT)
    await fails(Conflict, registry.put_key(attrs.evolve(KEY, kind="sub"), ABSENT), "mypubkey")
    assert registry.snapshot.keys["mypubkey"].kind == "pub"


@pytest_twisted.ensureDeferred
async def test_a_key_belongs_to_one_application(registry: Registry) -> None:
    await registry.put_application(APP1)
    await registry.put_application(APP2)
    await registry.put_key(KEY)
    await fails(Conflict, registry.put_key(attrs.evolve(KEY, application="app2")), "mypubkey")
    await fails(NotFound, registry.delete_key("app2", "mypubkey"))
    assert [key.key for key in registry.snapshot.keys_of("app1")] == ["mypubkey"]
    assert registry.snapshot.keys_of("app2") == []
    await registry.delete_key("app1", "mypubkey")
    assert not registry.snapshot.keys
    await fails(NotFound, registry.delete_key("app1", "mypubkey"))


@pytest_twisted.ensureDeferred
async def test_entry_that_is_referred_to_must_exist(registry: Registry) -> None:
    await fails(NotFound, registry.put_key(KEY), "app1")
    await fails(NotFound, registry.put_topic(TOPIC), "app1")
    await registry.put_application(APP1)
    await fails(NotFound, registry.put_binding(BINDING), "app2")
    await registry.put_application(APP2)
    await fails(TopicNotFound, registry.put_binding(BINDING), "app1/foobar/v1")
    await fails(TopicNotFound, registry.delete_topic(TOPIC.name), "app1/foobar/v1")
    await fails(NotFound, registry.delete_binding(BINDING.name))
    await fails(NotFound, registry.delete_application("app3"), "app3")


@pytest_twisted.ensureDeferred
async def test_entry_that_others_refer_to_cannot_go(registry: Registry) -> None:
    await fill(registry)
    await fails(StillReferred, registry.delete_topic(TOPIC.name), "app2/app1/foobar/v1")
    await fails(StillReferred, registry.delete_application("app2"), "app2/app1/foobar/v1")
    await fails(StillReferred, registry.delete_application("app1"), "app1/foobar/v1", "app1/foobar/v2")
    await registry.delete_binding(BINDING.name)
    await registry.delete_binding(FILTERED.name)
    await registry.delete_application("app2")
    await registry.delete_topic(TOPIC.name)
    await registry.delete_topic(TAKEN_OVER.name)
    await registry.delete_application("app1")
    assert not registry.snapshot.applications
    assert not registry.snapshot.keys


@pytest_twisted.ensureDeferred
async def test_transforms_have_a_generation_that_grows_with_each_change(registry: Registry) -> None:
    await fails(NotFound, registry.put_transforms(TRANSFORMS), "app1/foobar/v1")
    await fill(registry)
    first = registry.snapshot.transforms[TRANSFORMS.name]
    assert (first, first.generation) == (TRANSFORMS, 1)
    same = await registry.put_transforms(attrs.evolve(TRANSFORMS, generation=7))
    assert (same.made, same.entry.generation, same.entry.etag) == (False, 1, first.etag)
    changed = await registry.put_transforms(attrs.evolve(TRANSFORMS, outgoing=()), first.etag)
    assert (changed.entry.generation, changed.entry.outgoing) == (2, ())
    await fails(PreconditionFailed, registry.put_transforms(TRANSFORMS, first.etag))
    await registry.reload()
    assert registry.snapshot.transforms[TRANSFORMS.name].generation == 2
    await registry.delete_transforms(TRANSFORMS.name)
    assert not registry.snapshot.transforms
    await fails(NotFound, registry.delete_transforms(TRANSFORMS.name))


@pytest_twisted.ensureDeferred
async def test_transforms_go_with_their_topic(registry: Registry) -> None:
    await registry.put_application(APP1)
    await registry.put_topic(TOPIC)
    await registry.put_transforms(TRANSFORMS)
    heard: list[Snapshot] = []
    registry.watch(heard.append)
    await registry.delete_topic(TOPIC.name)
    assert all(not snapshot.transforms for snapshot in heard)
    await registry.put_topic(TOPIC)
    assert not registry.snapshot.transforms


@pytest_twisted.ensureDeferred
async def test_a_topic_of_the_store_is_registered_once(registry: Registry) -> None:
    await fill(registry)
    stolen = Topic(application="app2", topic="mine", version="v1", storage_name="app1.foobar.v1")
    await fails(Conflict, registry.put_topic(stolen), "app1/foobar/v1")
    await registry.put_topic(attrs.evolve(stolen, cluster="other"))


@pytest_twisted.ensureDeferred
async def test_dead_letters_are_no_topic_of_their_own(registry: Registry) -> None:
    await fill(registry)
    queue = Topic(application="app2", topic="mine", version="v1", storage_name="app1.foobar.v1.app2.group1.dead")
    await fails(Conflict, registry.put_topic(queue), "dead letters of app1/foobar/v1")
    await fails(Conflict, registry.put_topic(attrs.evolve(queue, application="app1")), "queue=dead")
    await fails(Conflict, registry.put_topic(attrs.evolve(queue, cluster="other")), "app1/foobar/v1")
    await fails(Conflict, registry.put_topic(attrs.evolve(queue, storage_name="legacy.orders.app2.g.dead")), "v2")
    await registry.put_topic(attrs.evolve(queue, storage_name="walking.dead"))
    late = Topic(application="app1", topic="walking", version="v1", storage_name="walking")
    await fails(Conflict, registry.put_topic(late), "walking.dead")


@pytest_twisted.ensureDeferred
async def test_name_that_another_applications_topic_has_by_itself_is_refused_though_it_is_not_registered(
    registry: Registry,
) -> None:
    await fill(registry)
    taken = Topic(application="app2", topic="mine", version="v1", storage_name="app1.gone.v3")
    await fails(Conflict, registry.put_topic(taken), "app1/gone/v3")
    await fails(Conflict, registry.put_topic(attrs.evolve(taken, storage_name="app1.gone.v3.app1.g.dead")), "app1")
    for name in ("app1.gone", "app9.gone.v3", "app1.gone.v03"):
        await registry.put_topic(attrs.evolve(taken, storage_name=name))


@pytest_twisted.ensureDeferred
async def test_a_topic_stays_deprecated_since_it_first_was(registry: Registry) -> None:
    await registry.put_application(APP1)
    await registry.put_topic(TAKEN_OVER)
    again = await registry.put_topic(attrs.evolve(TAKEN_OVER, deprecated=None, sunset=None))
    assert again.entry.deprecated == TAKEN_OVER.deprecated
    active = await registry.put_topic(attrs.evolve(TAKEN_OVER, deprecated=None, state="active"))
    assert active.entry.deprecated is None


@pytest_twisted.ensureDeferred
async def test_writes_under_way_at_once_all_count(registry: Registry) -> None:
    writes = [
        Deferred.fromCoroutine(registry.put_application(Application(name=f"app{number}"))) for number in range(50)
    ]
    await gatherResults(writes)
    assert len(registry.snapshot.applications) == 50
    assert len({entry.etag for entry in registry.snapshot.applications.values()}) == 50


@pytest_twisted.ensureDeferred
async def test_a_write_whose_caller_goes_is_made_and_in_force_all_the_same(registry: Registry) -> None:
    abandoned = Deferred.fromCoroutine(registry.put_application(APP1))
    abandoned.addErrback(lambda _failure: None)
    abandoned.cancel()
    await registry.put_application(APP2)
    assert set(registry.snapshot.applications) == {"app1", "app2"}


@pytest_twisted.ensureDeferred
async def test_an_application_with_many_keys_goes_at_once(registry: Registry) -> None:
    await registry.put_application(APP1)
    for number in range(20):
        await registry.put_key(attrs.evolve(KEY, key=f"key{number}"))
    heard: list[Snapshot] = []
    registry.watch(heard.append)
    await registry.delete_application("app1")
    assert all(bool(snapshot.applications) == bool(snapshot.keys) for snapshot in heard)
    assert not registry.snapshot.keys


@pytest.fixture
def read_only(tmp_path: Path) -> FileRegistry:
    (tmp_path / "registry.toml").write_text(FILE)
    return FileRegistry(reactor, tmp_path / "registry.toml")


@pytest_twisted.ensureDeferred
async def test_a_file_is_changed_by_people_only(read_only: FileRegistry) -> None:
    registry: Registry = read_only
    assert registry.read_only
    await registry.start()
    for call in (
        registry.put_application(APP1), registry.delete_application("app1"), registry.put_key(KEY),
        registry.delete_key("app1", "mypubkey"), registry.put_topic(TOPIC), registry.delete_topic(TOPIC.name),
        registry.put_binding(BINDING), registry.delete_binding(BINDING.name),
        registry.put_transforms(TRANSFORMS), registry.delete_transforms(TRANSFORMS.name),
    ):  # fmt: skip
        await fails(RegistryReadOnly, call, "registry.toml")
    await registry.stop()


# --- elastic topics --------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_partitions_in_force_are_kept_and_tell_the_topics_entry_when_they_come_into_force(make: Make) -> None:
    registry = make()
    await registry.start()
    await registry.put_application(APP1)
    elastic = attrs.evolve(TOPIC, elastic=ELASTIC)
    await registry.put_topic(elastic, placement=PLACEMENT)
    found = registry.snapshot.placements[TOPIC.name]
    assert found == PLACEMENT
    announced = attrs.evolve(PLACEMENT, state="announced", generation=8, next_partitions=8, why="load")
    with pytest.raises(PreconditionFailed):
        await registry.put_placement(announced, "another")
    found = (await registry.put_placement(announced, found.etag)).entry
    assert registry.snapshot.topics[TOPIC.name].partitions == 4
    reading = attrs.evolve(announced, state="reading", generation=9, fence={"0": 7, "1": 0})
    found = (await registry.put_placement(reading, found.etag)).entry
    assert registry.snapshot.topics[TOPIC.name].partitions == 8
    # a put of the topic leaves them alone
    await registry.put_topic(attrs.evolve(elastic, partitions=8, elastic=None), placement=PLACEMENT)
    await registry.stop()
    registry = make()
    await registry.start()
    assert registry.snapshot.placements[TOPIC.name] == reading
    assert registry.snapshot.topics[TOPIC.name].elastic is None
    await registry.delete_topic(TOPIC.name)
    assert not registry.snapshot.placements
    await registry.stop()


@pytest_twisted.ensureDeferred
async def test_partitions_in_force_go_by_themselves(registry: Registry) -> None:
    await registry.put_application(APP1)
    with pytest.raises(TopicNotFound):
        await registry.put_placement(PLACEMENT, ABSENT)
    await registry.put_topic(TOPIC)
    written = await registry.put_placement(PLACEMENT, ABSENT)
    assert written.made
    with pytest.raises(Conflict):
        await registry.put_placement(PLACEMENT, ABSENT)
    await registry.delete_placement(TOPIC.name, written.entry.etag)
    assert not registry.snapshot.placements


@pytest_twisted.ensureDeferred
async def test_the_gateway_that_leads_tells_the_others(registry: Registry) -> None:
    assert await registry.leader_report() == b""
    assert await registry.lead(b"one")
    assert await registry.lead(b"two")
    assert await registry.leader_report() == b"two"


@pytest_twisted.ensureDeferred
async def test_gateways_entry_tells_of_elastic_topics(registry: Registry) -> None:
    entry = GatewayEntry(name="g1", placed={"app1/foobar/v1": 7}, readers={"app1/foobar/v1": {"app2.g": 2}})
    await registry.register_gateway(entry)
    assert list(await registry.gateways()) == [entry]
    assert registry.unheard_since is None


@pytest_twisted.ensureDeferred
async def test_processes_of_a_gateway_place_keys_in_its_stead_where_registries_are_shared(registry: Registry) -> None:
    processes = [GatewayEntry(name=f"g1-{number}", started=1, placed={"app1/foobar/v1": number}) for number in range(2)]
    await registry.register_process(processes[0])
    alone = registry.driver != "zookeeper"
    assert list(await registry.placing()) == ([] if alone else processes[:1])
    assert registry.unheard_since is None
    # what a gateway of several processes is to people says nothing of its processes
    await registry.register_gateway(GatewayEntry(name="g1", started=1, processes=2))
    (listed,) = await registry.gateways()
    assert (listed.name, listed.processes) == ("g1", 2)
    assert list(await registry.placing()) == ([listed] if alone else processes[:1])


@pytest_twisted.ensureDeferred
async def test_reload_of_a_file_does_not_take_back_a_placement_that_is_written_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(FILE.replace("partitions = 4", "partitions = 4\nelastic = { max_partitions = 8 }"))
    registry = FileRegistry(reactor, path, placements=tmp_path / "placements.json")
    await registry.start()
    revisions = [registry.snapshot.revision]
    registry.watch(lambda snapshot: revisions.append(snapshot.revision))
    for generation in range(2, 12):
        placement = attrs.evolve(PLACEMENT, generation=generation)
        reloading = Deferred.fromCoroutine(registry.reload())
        writing = Deferred.fromCoroutine(registry.put_placement(placement, None))
        again = Deferred.fromCoroutine(registry.reload())
        await reloading
        await writing
        await again
        assert registry.snapshot.placements[TOPIC.name].generation == generation
    assert revisions == list(range(1, 32))


@pytest_twisted.ensureDeferred
async def test_partitions_in_force_of_a_files_topics_are_kept_beside_it(tmp_path: Path) -> None:
    path, kept = tmp_path / "registry.toml", tmp_path / "data" / "placements.json"
    path.write_text(FILE.replace("partitions = 4", "partitions = 4\nelastic = { max_partitions = 8 }"))
    registry = FileRegistry(reactor, path, placements=kept)
    await registry.start()
    assert registry.snapshot.topics[TOPIC.name].elastic == Elastic(max_partitions=8)
    await registry.put_placement(PLACEMENT, ABSENT)
    reading = attrs.evolve(PLACEMENT, state="reading", next_partitions=8, generation=8)
    await registry.put_placement(reading, registry.snapshot.placements[TOPIC.name].etag)
    # the file's own entries are changed by people only
    assert registry.snapshot.topics[TOPIC.name].partitions == 4
    for again in (registry, FileRegistry(reactor, path, placements=kept)):
        await again.reload()
        assert again.snapshot.placements == {TOPIC.name: reading}
    await registry.delete_placement(TOPIC.name, None)
    await registry.reload()
    assert not registry.snapshot.placements
    kept.write_text("{")
    with pytest.raises(KatewayError, match="the gateway's own"):
        await registry.reload()
