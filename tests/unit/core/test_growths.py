"""The gateway that leads: what a store, a topic or a gateway does that fails must not keep keys held back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from elastic_world import (
    GONE_SECONDS,
    NAME,
    Leading,
    LogStore,
    SharedRegistry,
    World,
    a_key_that_moves,
    now,
    outcomes,
    raising,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from kateway.core.growths import LONGEST_GAP_SECONDS, LONGEST_STEP_SECONDS, MOST_AT_ONCE, Growths
from kateway.core.live_gateways import LiveGateways
from kateway.errors import RegistryUnavailable, TopicNotFound, Unavailable
from kateway.registry.interface import Elastic, GatewayEntry, Placement, Topic
from kateway.storage.partitioner import by_jump

HANDOVER_SECONDS = 10


def announced(handover_seconds: int = HANDOVER_SECONDS) -> World:
    """A change to 4 partitions is announced, and its gateway knows."""
    world = World(gateways=1)
    world.registry.put(attrs.evolve(world.registry.topic, elastic=Elastic(handover_seconds=handover_seconds)))
    world.grow(4)
    world.lead()
    assert world.registry.placement.state == "announced"
    return world


def lead_for(world: World, seconds: float) -> None:
    for _ in range(int(seconds)):
        world.pass_time(1.0)
        world.lead()
        for gateway in world.gateways:
            gateway.hear()


@pytest.mark.parametrize(
    "ends",
    [
        raising(Unavailable("partition 1 has no leader just now")),
        raising(TopicNotFound("there is no topic app1.t.v1")),
        lambda: {0: 7},
        Deferred,
    ],
    ids=["no leader", "deleted", "one is missing", "no answer"],
)
def test_announced_change_of_a_topic_whose_ends_are_not_told_is_given_up(ends: Callable[[], Any]) -> None:
    world = announced()
    world.store.ends = ends
    world.gateways[0].hear()
    held = outcomes(world.gateways[0].publish(a_key_that_moves(), 1))
    assert not world.store.under_way
    lead_for(world, max(HANDOVER_SECONDS, LONGEST_STEP_SECONDS) + 2)
    assert world.registry.placement.state == "settled"
    assert world.registry.placement.partitions == 2
    assert len(world.told.given_up_for) == 1
    # the key goes on where it was
    world.pass_time(4.0)
    assert held[0].partition == by_jump(a_key_that_moves(), 2)
    # and no change is announced that could not be carried out
    lead_for(world, 30)
    assert world.registry.placement.state == "settled"
    world.store.ends = None
    lead_for(world, LONGEST_STEP_SECONDS + 2)
    world.settle()
    assert world.registry.placement.partitions == 4


def test_announced_change_of_a_cluster_that_the_leader_does_not_have_is_given_up() -> None:
    world = announced()
    del world.stores["default"]
    lead_for(world, HANDOVER_SECONDS + 2)
    assert world.registry.placement.state == "settled"
    assert "has no cluster default" in world.told.given_up_for[0]


def test_announced_change_whose_steps_break_unforeseen_is_given_up(logged_errors: list[Any]) -> None:
    world = announced()
    world.store.ends = raising(ValueError("a fault"))
    world.gateways[0].hear()
    lead_for(world, HANDOVER_SECONDS + 2)
    assert world.registry.placement.state == "settled"
    assert world.told.given_up_for == ["not carried out within handover_seconds: it broke: ValueError('a fault')"]
    assert logged_errors
    logged_errors.clear()


class HangingOnce(Leading):
    """The shared registry; of each call that is named here the next one is never answered."""

    def __init__(self, shared: SharedRegistry, *hangs: str) -> None:
        super().__init__(shared, shared.leader)
        self.hangs = set(hangs)

    async def _perhaps(self, name: str) -> None:
        if name in self.hangs:
            self.hangs.discard(name)
            await Deferred()

    async def lead(self, report: bytes) -> bool:
        await self._perhaps("lead")
        return await super().lead(report)

    async def placing(self) -> Any:
        await self._perhaps("placing")
        return await self._shared.placing()

    async def put_placement(self, placement: Placement, expected: str) -> Any:
        await self._perhaps("put_placement")
        return await self._shared.put_placement(placement, expected)


def hanging(world: World, *hangs: str) -> Growths:
    """A leader of which the registry does not answer calls."""
    growths = Growths(
        world.registry.leader,
        HangingOnce(world.registry, *hangs),  # type: ignore[arg-type]
        world.stores,  # type: ignore[arg-type]
        world.clock,
        lambda: int(world.clock.seconds() * 1000),
        world.told,
        gone_seconds=GONE_SECONDS,
        sustained_seconds=1e9,
        sample_seconds=1e9,
        window_ms=10_000,
    )
    world.leaders = []
    return growths


def test_change_is_given_up_though_the_registry_did_not_answer_when_it_was_given_up_first() -> None:
    world = announced(handover_seconds=round(2 * GONE_SECONDS))
    world.store.ends = raising(Unavailable("partition 1 has no leader just now"))
    world.gateways[0].hear()
    growths = hanging(world, "put_placement")

    def look_for(seconds: float) -> None:
        for _ in range(round(seconds)):
            world.pass_time(1.0)
            now(growths.look())
            world.gateways[0].hear()

    look_for(2 * GONE_SECONDS + 2)
    assert world.registry.placement.state == "announced"
    assert not growths._registry.hangs  # type: ignore[attr-defined]
    look_for(LONGEST_STEP_SECONDS + 2)
    assert world.registry.placement.state == "settled"
    growths.stop()


@pytest.mark.parametrize("call", ["lead", "placing"])
def test_registry_that_does_not_answer_whether_a_gateway_leads_is_asked_again(call: str) -> None:
    world = announced()
    world.gateways[0].hear()
    growths = hanging(world, call)
    failed: list[Any] = []
    Deferred.fromCoroutine(growths.look()).addErrback(failed.append)
    assert not failed
    world.clock.advance(LONGEST_STEP_SECONDS)
    assert failed[0].check(Unavailable)
    assert not growths.leading
    world.clock.advance(2.0)
    now(growths.look())
    assert growths.leading
    growths.stop()


def test_groups_that_are_asked_one_after_the_other_may_take_longer_than_a_look() -> None:
    world = announced(handover_seconds=3600)
    world.store.kept[0].append((b"k", 1))
    world.read(0)
    world.store.groups = frozenset(f"g{number}" for number in range(9))
    world.store.group_takes = 2.0
    world.gateways[0].hear()
    lead_for(world, 60)
    assert world.told.grown_to == [(2, 4, False)]


def test_groups_whose_positions_are_not_told_hold_keys_back_no_longer_than_the_bound() -> None:
    world = announced()
    world.store.kept[0].append((b"k", 1))
    world.store.group_takes = 1e6
    world.gateways[0].hear()
    lead_for(world, 40)
    assert world.told.grown_to == [(2, 4, True)]
    world.leaders[0].stop()


def test_sample_that_breaks_does_not_keep_a_topic_from_its_steps(logged_errors: list[Any]) -> None:
    world = World(gateways=1)
    (watched,) = world.leaders[0]._watched.values()
    watched.load = object()  # type: ignore[assignment]
    watched.sampled_at = None
    world.grow(4)
    world.lead()
    assert world.registry.placement.state == "announced"
    assert len(logged_errors) == 1
    logged_errors.clear()


def test_cluster_that_does_not_answer_holds_up_its_own_topics_alone() -> None:
    world = World(gateways=1)
    other = LogStore(world.clock)
    other.ends = Deferred
    world.stores["other"] = other
    for number in range(40):
        name = f"a{number}"
        world.registry.put(
            Topic(application="app1", topic=name, version="v1", cluster="other", elastic=Elastic(handover_seconds=3600))
        )
        world.registry.put(
            Placement(
                application="app1",
                topic=name,
                version="v1",
                partitions=2,
                state="announced",
                next_partitions=4,
                since=1,
            )
        )
    world.gateways[0].hear()
    lead_for(world, 2)
    world.grow(4)
    lead_for(world, 5)
    for partition in range(4):
        world.read(partition)
    lead_for(world, 5)
    assert world.told.grown_to == [(2, 4, False)]
    world.leaders[0].stop()


def test_each_topic_of_many_gets_its_turn_though_none_is_answered() -> None:
    world = World(gateways=1)
    other = LogStore(world.clock)
    other.ends = Deferred
    world.stores["other"] = other
    names = [f"a{number}" for number in range(2 * MOST_AT_ONCE + 1)]
    for name in names:
        rules = Elastic(handover_seconds=3600)
        world.registry.put(Topic(application="app1", topic=name, version="v1", cluster="other", elastic=rules))
        world.registry.put(
            Placement(application="app1", topic=name, version="v1", state="announced", next_partitions=4, since=1)
        )
    world.gateways[0].hear()
    began = world.clock.seconds()
    lead_for(world, 2 * LONGEST_STEP_SECONDS + 3)
    watched = world.leaders[0]._watched
    assert all(watched["app1", name, "v1"].looked_at >= began for name in names)
    world.leaders[0].stop()


def test_leader_that_stops_ends_its_looks_under_way() -> None:
    world = announced()
    cancelled: list[Any] = []
    world.store.ends = lambda: Deferred(cancelled.append)
    world.gateways[0].hear()
    world.pass_time(1.0)
    world.lead()
    assert not cancelled
    world.leaders[0].stop()
    assert len(cancelled) == 1
    assert world.clock.getDelayedCalls() == []


def test_leader_that_could_not_look_at_the_list_for_long_waits_anew_for_gateways_that_may_have_gone() -> None:
    world = World(gateways=1)
    world.registry.away = True
    for _ in range(int(LONGEST_GAP_SECONDS) + 2):
        world.clock.advance(1.0)
        with pytest.raises(RegistryUnavailable):
            now(world.leaders[0].look())
    world.registry.away = False
    world.grow(4)
    lead_for(world, GONE_SECONDS - 2)
    assert world.registry.placement.state == "settled"
    assert b"leads for too short a time" in world.leaders[0].report()
    lead_for(world, 4)
    assert world.registry.placement.state == "announced"


def test_leader_that_missed_one_look_at_the_list_goes_on() -> None:
    world = World(gateways=1)
    world.lead()
    world.registry.away = True
    world.clock.advance(1.0)
    with pytest.raises(RegistryUnavailable):
        now(world.leaders[0].look())
    world.registry.away = False
    world.grow(4)
    lead_for(world, 2)
    assert world.registry.placement.state != "settled"


def test_process_that_is_started_anew_under_its_name_may_have_left_records_on_their_way() -> None:
    gateways = LiveGateways()
    gateways.look([GatewayEntry(name="g1", started=1, placed={NAME: 7})], 10.0, 90.0)
    assert gateways.behind(NAME, 7) == []
    gateways.look([GatewayEntry(name="g1", started=2, placed={NAME: 8})], 11.0, 90.0)
    assert gateways.behind(NAME, 8) == ["g1"]
    assert "g1 left the registry" in gateways.unsure(12.0, 90.0)
    gateways.look([GatewayEntry(name="g1", started=2, placed={NAME: 8})], 102.0, 90.0)
    assert gateways.behind(NAME, 8) == []


def test_topic_that_no_gateway_may_let_grow_says_why() -> None:
    registry = SharedRegistry()
    growths = Growths(
        "g1",
        Leading(registry, "another"),  # type: ignore[arg-type]
        {},
        Clock(),
        lambda: 0,
        World(gateways=0).told,
        gone_seconds=0,
        sustained_seconds=1,
        sample_seconds=1,
        window_ms=0,
        stays_because="each would place by itself",
    )
    _leader, rows = now(growths.rows())
    assert rows[NAME]["would"]["waits_for"] == "each would place by itself"
