"""Keys of a growing topic: held back while they go over, in order, whatever gateways know, and whichever is cut off."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from elastic_world import (
    GONE_SECONDS,
    LEASE_SECONDS,
    NAME,
    SESSION_SECONDS,
    STORED,
    Gateway,
    World,
    a_key_that_moves,
    a_key_that_stays,
    now,
    outcomes,
    raising,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, fail

from kateway.core.elastic_topic import LONGEST_PUBLISH_SECONDS
from kateway.core.growths import REST_SECONDS
from kateway.errors import KatewayError, KeyMoving, RegistryUnavailable, Unavailable
from kateway.model import Message, Receipt
from kateway.registry.interface import Elastic, Placement
from kateway.storage.interface import Outcome
from kateway.storage.partitioner import by_jump, by_key


def test_keys_of_a_settled_topic_go_by_jump_hash_over_the_partitions_in_force() -> None:
    world = World()
    now(world.store.add_partitions(STORED, 8))
    for number in range(50):
        key = b"key-%d" % number
        found = outcomes(world.gateways[0].publish(key, number))
        world.store.write()
        assert found[0].partition == by_jump(key, 2)


def test_no_gateway_writes_a_moved_key_to_its_new_partition_while_a_slow_one_writes_it_to_the_old() -> None:
    world = World()
    quick, slow = world.gateways
    key = a_key_that_moves()
    early = outcomes(slow.publish(key, 1))
    world.grow(4)
    world.lead()
    assert world.registry.placement.state == "announced"
    quick.hear()
    world.pass_time()
    held = outcomes(quick.publish(key, 3))
    stays = outcomes(quick.publish(a_key_that_stays(), 1))
    # the slow one does not know yet
    late = outcomes(slow.publish(key, 2))
    for _ in range(3):
        world.lead()
        world.pass_time()
        assert world.registry.placement.state == "announced"
    assert not held
    assert [message.partition for _, _, message, _ in world.store.under_way] == [
        by_jump(key, 2),
        by_jump(a_key_that_stays(), 2),
        by_jump(key, 2),
    ]
    slow.hear()
    world.lead()
    # it knows, but its records are on their way
    assert world.registry.placement.state == "announced"
    while world.store.under_way:
        world.store.write()
    assert early
    assert late
    assert stays
    world.pass_time()
    world.pass_time(1.0)
    world.lead()
    assert world.registry.placement.state == "reading"
    assert world.registry.placement.fence == {str(p): len(world.store.kept[p]) for p in (0, 1)}
    quick.hear()
    assert not world.store.under_way
    # the group reads what was written before, and only then the key goes on
    world.read(0)
    world.pass_time()
    world.lead()
    quick.hear()
    assert not world.store.under_way
    world.read(1)
    world.pass_time()
    world.lead()
    quick.hear()
    assert [message.partition for _, _, message, _ in world.store.under_way] == [by_jump(key, 4)]
    world.store.write()
    assert held[0].partition == by_jump(key, 4)
    assert world.told.grown_to == [(2, 4, False)]
    assert world.registry.topic.partitions == 4


def test_publish_whose_deadline_ends_first_is_refused_and_surely_not_written() -> None:
    world = World(gateways=1)
    gateway = world.gateways[0]
    world.grow(4)
    world.lead()
    gateway.hear()
    key, stays = a_key_that_moves(), a_key_that_stays()
    found: list[Any] = []
    messages = [Message(b"1", key, partition=None), Message(b"2", stays), Message(b"3", key)]
    sent: list[Message] = []

    def send(given: list[Message], keep: bool) -> Deferred[list[Outcome]]:
        assert not keep
        sent.extend(given)
        answer: Deferred[list[Outcome]] = Deferred()
        answer.callback([Receipt(1, 7) for _ in given])
        return answer

    gateway.topic.publish(messages, world.clock.seconds() + 2, send).addCallback(found.extend)
    assert gateway.topics.room.held_messages == 2
    world.clock.advance(2.1)
    assert [type(each) for each in found] == [KeyMoving, Receipt, KeyMoving]
    assert found[0].status == 503
    assert found[0].retriable
    assert not found[0].maybe_written
    assert found[0].retry_after_seconds
    assert [message.value for message in sent] == [b"2"]
    assert gateway.topics.room.held_bytes == 0
    assert world.told.refused == 2


def test_messages_without_room_to_wait_are_refused_at_once() -> None:
    world = World(gateways=1)
    gateway = world.gateways[0]
    world.grow(4)
    world.lead()
    gateway.hear()
    gateway.topics.room.max_bytes = 400
    first, second = (outcomes(gateway.publish(a_key_that_moves(), number)) for number in range(2))
    assert not first
    assert isinstance(second[0], KeyMoving)
    world.settle()
    assert isinstance(first[0], Receipt)


def test_handover_that_takes_too_long_is_ended_counted_and_told() -> None:
    world = World(gateways=1)
    gateway = world.gateways[0]
    world.registry.put(attrs.evolve(world.registry.topic, elastic=Elastic(handover_seconds=10)))
    outcomes(gateway.publish(a_key_that_moves(), 1))
    world.store.write()
    world.grow(4)
    for _ in range(6):
        world.lead()
        gateway.hear()
        world.pass_time(1.0)
    assert world.registry.placement.state == "reading"
    held = outcomes(gateway.publish(a_key_that_moves(), 2))
    # the gateway's own bound, should the one that leads be away
    world.pass_time(10.0)
    world.store.write()
    assert held[0].partition == by_jump(a_key_that_moves(), 4)
    world.lead()
    assert world.told.grown_to == [(2, 4, True)]
    assert world.registry.placement.growths[-1].bound_hit


def test_change_that_a_gateway_does_not_take_up_is_given_up() -> None:
    world = World()
    quick, slow = world.gateways
    world.registry.put(attrs.evolve(world.registry.topic, elastic=Elastic(handover_seconds=10)))
    world.grow(4)
    world.lead()
    quick.hear()
    held = outcomes(quick.publish(a_key_that_moves(), 1))
    world.pass_time(11.0)
    world.lead()
    assert world.registry.placement.state == "settled"
    assert world.registry.placement.partitions == 2
    assert world.told.given_up_for == [
        "not carried out within handover_seconds: gateway-1 may still write by the old partitions"
    ]
    quick.hear()
    world.store.write()
    assert held[0].partition == by_jump(a_key_that_moves(), 2)
    slow.hear()


def test_change_waits_for_a_gateway_that_has_left_the_registry() -> None:
    world = World()
    world.gateways[1].alive = False
    del world.registry.entries["gateway-1"]
    world.clock.advance(1.0)
    world.lead()
    world.grow(4)
    world.pass_time(GONE_SECONDS - 1)
    world.lead()
    assert world.registry.placement.state == "settled"
    assert b"gateway-1 left the registry" in world.leaders[0].report()
    world.pass_time(2.0)
    world.lead()
    assert world.registry.placement.state == "announced"


def test_gateway_that_is_cut_off_during_a_change_holds_it_up_until_it_writes_no_more() -> None:
    world = World()
    quick, slow = world.gateways
    world.grow(4)
    world.lead()
    quick.hear()
    slow.cut_off()
    for _ in range(int(SESSION_SECONDS + GONE_SECONDS)):
        world.lead()
        world.pass_time(1.0)
        assert world.registry.placement.state == "announced"
    world.pass_time(2.0)
    world.lead()
    assert world.registry.placement.state == "reading"
    assert slow.topic.cut_off


def test_gateway_that_hears_of_the_registry_no_more_holds_keys_back() -> None:
    world = World(gateways=1)
    gateway = world.gateways[0]
    gateway.cut_off()
    world.pass_time(LEASE_SECONDS - 1)
    outcomes(gateway.publish(b"k", 1))
    assert len(world.store.under_way) == 1
    world.store.write()
    world.pass_time(1.5)
    refused = outcomes(gateway.publish(b"k", 2, seconds=1.0))
    held = outcomes(gateway.publish(b"k", 2))
    assert not world.store.under_way
    world.pass_time(1.1)
    assert "has not been heard of" in refused[0].detail
    gateway.heal()
    world.store.write()
    assert isinstance(held[0], Receipt)


def test_gateway_that_stood_still_holds_keys_back_until_the_registry_answers() -> None:
    world = World(gateways=1)
    gateway = world.gateways[0]
    gateway.answers = Deferred()
    asked = gateway.asked
    world.clock.advance(LEASE_SECONDS + 0.1)
    held = outcomes(gateway.publish(b"k", 1))
    world.pass_time(0.1)
    world.pass_time(0.1)
    assert gateway.asked == asked + 1
    assert not world.store.under_way
    gateway.answers.callback(None)
    world.pass_time(0.1)
    world.store.write()
    assert isinstance(held[0], Receipt)


def test_topic_of_a_cluster_that_a_gateway_does_not_have_does_not_wait_for_it() -> None:
    world = World()
    world.registry.put(attrs.evolve(world.registry.topic, cluster="other"))
    world.gateways[0].hear()
    assert world.gateways[0].topics.topics == {}
    assert world.registry.entries["gateway-0"].placed == {NAME: world.registry.placement.generation}


def test_look_that_breaks_unforeseen_is_logged_and_tried_again_later(logged_errors: list[Any]) -> None:
    world = World(gateways=1)
    topics, world.store.kept = world.store.kept, None  # type: ignore[assignment]
    for _ in range(5):
        world.clock.advance(1.0)
        world.lead()
    assert len(logged_errors) == 1
    logged_errors.clear()
    assert b"it broke" in world.leaders[0].report()
    world.store.kept = topics
    world.grow(4)
    for _ in range(REST_LOOKS):
        world.gateways[0].hear()
        world.pass_time(1.0)
        world.lead()
    assert world.registry.placement.partitions == 4


REST_LOOKS = int(REST_SECONDS) + 10


def test_outcome_that_is_not_known_yet_holds_a_change_up() -> None:
    world = World(gateways=1)
    world.store.undecided_now = True
    world.grow(4)
    for _ in range(5):
        world.lead()
        world.gateways[0].hear()
        world.pass_time(1.0)
    assert world.registry.placement.state == "announced"
    world.store.undecided_now = False
    world.settle()
    assert world.registry.placement.partitions == 4


@pytest.mark.parametrize("records", [0, 1])
def test_topic_becomes_elastic_when_all_that_was_placed_by_the_store_is_written(records: int) -> None:
    # one without a record, too: its first ones may be on their way
    world = World(gateways=1)
    gateway = world.gateways[0]
    world.store.kept[0] += [(b"old", 1)] * records
    registry = world.registry
    elastic = registry.topic.elastic
    registry.put(attrs.evolve(registry.topic, elastic=None))
    now(registry.delete_placement(("app1", "t", "v1"), None))
    gateway.hear()
    assert gateway.topics.topics == {}
    registry.put(attrs.evolve(registry.topic, elastic=elastic))
    gateway.hear()
    world.lead()
    assert not registry.snapshot.placements
    sent: list[Message] = []

    def send(given: list[Message], keep: bool) -> Deferred[list[Outcome]]:
        sent.extend(given)
        return Deferred()

    gateway.topic.publish([Message(b"", b"k")], 2e9, send)
    assert sent[0].partition is None
    gateway.topic._end(0)
    world.pass_time(LONGEST_PUBLISH_SECONDS)
    world.pass_time()
    world.clock.advance(1.0)
    world.lead()
    assert registry.placement.hash == "murmur2"
    assert registry.placement.next_hash == "jump"
    world.settle()
    assert registry.placement.hash == "jump"
    assert registry.placement.murmur2_partitions == 2
    # and back: the same steps, and its entry goes when no idempotency key is looked for any more
    registry.put(attrs.evolve(registry.topic, elastic=None))
    world.settle()
    assert not registry.snapshot.placements
    assert world.told.grown_to == [(2, 2, False), (2, 2, False)]


def test_key_under_an_idempotency_key_is_looked_for_where_it_may_have_been_placed() -> None:
    placement = Placement(
        application="app1", topic="t", version="v1", partitions=4, changed=1_000_000, murmur2_partitions=3
    )
    world = World(gateways=1, placement=placement)
    topic = world.gateways[0].topic
    for number in range(20):
        key = b"key-%d" % number
        wanted = {by_jump(key, n) for n in range(1, 5)} | {by_key(key, n) for n in range(1, 4)}
        assert topic.earlier_places(key, 4, 1_005_000, 10_000) == wanted - {by_jump(key, 4)}
        assert topic.earlier_places(key, 4, 1_020_000, 10_000) == frozenset()


def test_publish_under_an_idempotency_key_waits_until_its_key_has_gone_over() -> None:
    world = World(gateways=1)
    gateway, key = world.gateways[0], a_key_that_moves()
    entered = now(gateway.topic.enter([key], [Message(b"1", key)], 2e9))
    world.grow(4)
    world.lead()
    gateway.hear()
    world.pass_time()
    assert gateway.topics.placed()[NAME] < world.registry.placement.generation
    late: list[Any] = []
    waiting: list[Any] = []
    ensureDeferred(gateway.topic.enter([key], [Message(b"1", key)], world.clock.seconds() + 1)).addErrback(late.append)
    ensureDeferred(gateway.topic.enter([key], [Message(b"1", key)], world.clock.seconds() + 1000)).addCallback(
        waiting.append
    )
    world.pass_time(1.1)
    assert late[0].check(KeyMoving)
    assert gateway.topic.partition_of(key, 4) == by_jump(key, 2)
    gateway.topic.leave(entered)
    world.settle()
    assert waiting
    assert gateway.topic.partition_of(key, 4) == by_jump(key, 4)
    gateway.topic.leave(waiting[0])


@pytest.mark.parametrize("held_back", [1, 2], ids=["once", "twice"])
def test_publish_that_is_cancelled_is_not_written_later_however_often_it_was_held_back(held_back: int) -> None:
    world = World(gateways=1)
    gateway, key = world.gateways[0], a_key_that_moves()
    world.grow(4)
    world.lead()
    gateway.hear()
    publishing = gateway.publish(key, 1)
    found: list[Any] = []
    publishing.addErrback(found.append)
    for _ in range(held_back - 1):
        gateway.topic.held_back.release()
    publishing.cancel()
    assert found[0].check(CancelledError)
    assert not gateway.topic.held_back
    world.settle()
    assert not any((key, 1) in log for log in world.store.kept.values())


def test_publish_that_an_earlier_one_ends_while_both_are_released_is_not_written() -> None:
    world = World(gateways=1)
    gateway, key = world.gateways[0], a_key_that_moves()
    world.grow(4)
    world.lead()
    gateway.hear()
    first, second = gateway.publish(key, 1), gateway.publish(key, 2)
    third: list[Any] = []
    entering = ensureDeferred(gateway.topic.enter([key], [Message(b"3", key)], world.clock.seconds() + 1000))
    entering.addBoth(third.append)

    found: list[Any] = []
    second.addErrback(found.append)
    send = world.store.publish_by

    def publish_by(name: str, messages: Any) -> Any:
        second.cancel()
        entering.cancel()
        return send(name, messages)

    gateway.send = publish_by
    outcomes(first)
    world.settle()
    assert found[0].check(CancelledError)
    assert third[0].check(CancelledError)
    assert [number for log in world.store.kept.values() for _, number in log] == [1]
    # nothing is believed to be on its way
    assert gateway.topics.placed()[NAME] == world.registry.placement.generation


def test_publish_under_an_idempotency_key_takes_room_while_it_waits_and_is_answered_at_the_stop() -> None:
    world = World(gateways=1)
    gateway, key = world.gateways[0], a_key_that_moves()
    world.grow(4)
    world.lead()
    gateway.hear()
    room = gateway.topics.room
    room.max_bytes = 1000
    found: list[Any] = []
    for _ in range(2):
        entering = gateway.topic.enter([key], [Message(b"x" * 600, key)], world.clock.seconds() + 1000)
        ensureDeferred(entering).addErrback(found.append)
    assert found[0].check(KeyMoving)
    assert (room.held_messages, room.held_bytes > 600) == (1, True)
    gateway.topics.stop()
    assert found[1].check(KeyMoving)
    assert (room.held_messages, room.held_bytes) == (0, 0)
    assert world.clock.getDelayedCalls() == []


def test_send_that_raises_loses_nothing_of_what_waits_behind_it() -> None:
    world = World(gateways=1)
    gateway, key = world.gateways[0], a_key_that_moves()
    world.grow(4)
    world.lead()
    gateway.hear()

    def broken(_messages: list[Message], _keep: bool) -> Deferred[list[Outcome]]:
        raise ValueError("a fault")

    failed: list[Any] = []
    gateway.topic.publish([Message(b"1", key)], world.clock.seconds() + 1000, broken).addErrback(failed.append)
    held = outcomes(gateway.publish(key, 2, seconds=1000))
    world.settle()
    assert failed[0].check(ValueError)
    assert held[0].partition == by_jump(key, 4)


def test_messages_that_wait_are_not_written_where_the_rest_of_their_publish_failed_as_a_whole() -> None:
    world = World(gateways=1)
    gateway = world.gateways[0]
    world.grow(4)
    world.lead()
    gateway.hear()
    sent: list[list[Message]] = []

    def broken(messages: list[Message], _keep: bool) -> Deferred[list[Outcome]]:
        sent.append(messages)
        return fail(ValueError("a fault"))

    failed: list[Any] = []
    messages = [Message(b"1", a_key_that_stays()), Message(b"2", a_key_that_moves())]
    gateway.topic.publish(messages, world.clock.seconds() + 1000, broken).addErrback(failed.append)
    assert failed[0].check(ValueError)
    assert gateway.topics.room.held_messages == 0
    world.settle()
    assert [[message.value for message in each] for each in sent] == [[b"1"]]


def test_messages_that_are_held_back_again_are_counted_once() -> None:
    world = World(gateways=1)
    gateway = world.gateways[0]
    world.grow(4)
    world.lead()
    gateway.hear()
    outcomes(gateway.publish(a_key_that_moves(), 1, seconds=1000))
    world.settle()
    assert world.told.grown_to
    assert world.told.waited == 1


def test_gateway_that_missed_a_change_holds_the_keys_of_the_next_one_for_as_long() -> None:
    world = World(gateways=1)
    gateway, key = world.gateways[0], a_key_that_moves(4, 8)
    rules = Elastic(handover_seconds=10)
    former = Placement(
        application="app1", topic="t", version="v1", partitions=2, state="announced", next_partitions=4, generation=11
    )
    now(world.store.add_partitions(STORED, 8))
    gateway.topic.take(former, rules)
    # it is cut off, and hears again of another change
    world.clock.advance(100.0)
    reading = attrs.evolve(former, partitions=4, next_partitions=8, state="reading", generation=15)
    gateway.topic.take(reading, rules)
    gateway.topics.look()
    outcomes(gateway.publish(key, 1))
    world.pass_time(9.0)
    assert not world.store.under_way
    world.pass_time(1.5)
    assert [message.partition for _, _, message, _ in world.store.under_way] == [by_jump(key, 8)]
    gateway.topic.fail()


def test_topic_that_is_registered_anew_waits_for_publishes_from_before() -> None:
    world = World(gateways=1)
    gateway, registry = world.gateways[0], world.registry
    topic, placement = registry.topic, registry.placement
    gateway.publish(b"k", 1)
    now(registry.delete_topic(topic.name))
    gateway.hear()
    world.clock.advance(1.0)
    registry.put(topic)
    registry.put(attrs.evolve(placement, generation=placement.generation + 10))
    gateway.hear()
    world.clock.advance(LONGEST_PUBLISH_SECONDS - 2)
    gateway.topics.look()
    assert gateway.topics.placed() == {}
    world.clock.advance(1.0)
    gateway.topics.look()
    assert gateway.topics.placed() == {NAME: placement.generation + 10}
    world.settle()


def test_topic_that_is_registered_under_another_name_is_another_one() -> None:
    world = World(gateways=1)
    gateway, registry = world.gateways[0], world.registry
    topic, placement = registry.topic, registry.placement
    now(registry.delete_topic(topic.name))
    other = attrs.evolve(topic, topic="u", storage_name=STORED)
    registry.put(other)
    registry.put(attrs.evolve(placement, topic="u"))
    gateway.hear()
    assert gateway.topic.name == "app1/u/v1"
    assert gateway.topics.placed() == {}


def test_keys_wait_for_partitions_that_another_gateway_has_made_until_the_store_shows_them() -> None:
    world = World()
    maker, other = world.gateways
    key = next(b"k%d" % n for n in range(1000) if by_jump(b"k%d" % n, 4) == 3)
    world.grow(4)
    world.lead()
    world.store.shown = 2
    topics, answers = world.store.topics, Deferred[None]()

    async def slow() -> Any:
        await answers
        await topics()

    world.store.topics = slow  # type: ignore[method-assign]
    for gateway in (maker, other):
        gateway.hear()
    world.pass_time(2.0)
    # a gateway that does not see the partitions does not say that it goes by them
    assert NAME in other.topics.placed()
    assert other.topics.placed()[NAME] < world.registry.placement.generation
    placement = attrs.evolve(
        world.registry.placement, state="settled", partitions=4, next_partitions=0, generation=2**50
    )
    other.topic.take(placement, Elastic())
    held = outcomes(other.publish(key, 1))
    stays = outcomes(other.publish(a_key_that_stays(), 1))
    assert [message.key for _, _, message, _ in world.store.under_way] == [a_key_that_stays()]
    late: list[Any] = []
    asking = ensureDeferred(other.topic.partitions()).addBoth(late.append)
    answers.callback(None)
    assert late == [4]
    assert asking.called
    world.pass_time()
    while world.store.under_way:
        world.store.write()
    assert (held[0].partition, stays[0].partition) == (3, by_jump(a_key_that_stays(), 4))


def test_key_is_not_looked_for_in_fewer_partitions_than_it_may_lie_in() -> None:
    world = World(gateways=1)
    world.store.shown = 1

    async def topics() -> Any:
        world.store.asked_for_topics += 1

    world.store.topics = topics  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="fewer partitions"):
        now(world.gateways[0].topic.partitions())
    # and asked for no more often than once a second
    asked = world.store.asked_for_topics
    gateway = world.gateways[0]
    outcomes(gateway.publish(next(b"k%d" % n for n in range(100) if by_jump(b"k%d" % n, 2) == 1), 1))
    for _ in range(30):
        world.pass_time(0.1)
    assert 2 <= world.store.asked_for_topics - asked <= 4
    gateway.topics.stop()


def test_registry_that_does_not_answer_is_asked_once_a_second() -> None:
    world = World(gateways=1)
    gateway = world.gateways[0]
    asked: list[int] = []

    async def ask() -> None:
        asked.append(1)
        raise RegistryUnavailable

    gateway.topics._ask = ask
    world.clock.advance(LEASE_SECONDS + 0.1)
    for _ in range(30):
        world.pass_time(0.1)
    assert 2 <= len(asked) <= 4


ACTIONS = {
    "publish": 40, "write": 20, "read": 15, "hear": 10, "look": 5, "time": 3, "lead": 6, "long": 0.3, "cut": 0.3,
    "heal": 1, "grow": 1, "kill": 0.1, "other": 0.1, "stale": 0.3, "lose": 0.3, "regain": 1,
}  # fmt: skip


class Publishers:
    """For each key one that numbers its records, and repeats a record until it is written."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.numbers: dict[bytes, int] = {}
        self.busy: set[bytes] = set()

    def publish(self, gateway: Gateway, key: bytes) -> None:
        if key in self.busy or not gateway.alive:
            return
        self.busy.add(key)
        number = self.numbers.setdefault(key, 0)

        def done(found: list[Outcome]) -> None:
            self.busy.discard(key)
            if not isinstance(found[0], KatewayError):
                self.numbers[key] = max(self.numbers[key], number + 1)

        gateway.publish(key, number, seconds=5.0).addCallback(done)

    def kill(self, gateway: Gateway) -> None:
        """Kills a gateway: what it had under way is lost, and repeated elsewhere."""
        gateway.alive = False
        self.world.registry.entries.pop(gateway.name, None)
        left: list[Any] = []
        for since, name, message, answer in self.world.store.under_way:
            if name == gateway.name:
                assert message.key is not None
                self.busy.discard(message.key)
            else:
                left.append((since, name, message, answer))
        self.world.store.under_way = deque(left)
        for held in list(gateway.topic.held_back.waiting):
            self.busy.discard(held.messages[0].key or b"")
            gateway.topic.held_back.drop(held)


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_records_of_a_key_are_read_in_their_order_whatever_gateways_know_and_whenever(seed: int) -> None:
    chance = random.Random(seed)
    world = World(gateways=3)
    publishers = Publishers(world)
    keys = [b"key-%d" % number for number in range(12)]
    do: dict[str, Callable[[Gateway], object]] = {
        "publish": lambda gateway: publishers.publish(gateway, chance.choice(keys)),
        "hear": lambda gateway: gateway.alive and gateway.hear(),
        "cut": lambda gateway: gateway.cut_off(),
        "heal": lambda gateway: gateway.heal(),
        "read": lambda _: world.read(chance.randrange(len(world.store.kept)), chance.randint(1, 3)),
        "write": lambda _: world.store.under_way and world.store.write(),
        "look": lambda _: world.pass_time(0.1),
        "time": lambda _: world.pass_time(1.0),
        "long": lambda _: world.pass_time(2.5),
        "lead": lambda _: world.lead(),
        "other": lambda _: setattr(world.registry, "leader", "leader-1"),
        "grow": lambda _: len(world.store.kept) < 32 and world.grow(len(world.store.kept) + chance.randint(1, 4)),
        # the store shows fewer partitions than there are; one of them has no leader, and has one again
        "stale": lambda _: setattr(world.store, "shown", 2),
        "lose": lambda _: setattr(world.store, "ends", raising(Unavailable("no leader"))),
        "regain": lambda _: setattr(world.store, "ends", None),
        "kill": lambda gateway: gateway is not world.gateways[0] and publishers.kill(gateway),
    }
    for action in chance.choices(list(ACTIONS), list(ACTIONS.values()), k=1500):
        do[action](chance.choice(world.gateways))
    world.store.ends = None
    world.settle()
    # every key once more, at the end
    for key in keys:
        publishers.publish(world.gateways[0], key)
    world.settle()
    newest: dict[bytes, int] = {}
    for key, number in world.delivered:
        assert number >= newest.get(key, 0), (key, world.delivered)
        newest[key] = number
    assert world.told.grown_to
    assert world.told.waited
    assert newest == {key: number - 1 for key, number in publishers.numbers.items() if number}
    assert not publishers.busy
    assert world.registry.placement.state == "settled"
    assert world.registry.placement.partitions == len(world.store.kept)


@pytest.mark.parametrize("state", ["announced", "reading"])
def test_keyless_messages_are_spread_over_the_partitions_in_force(state: str) -> None:
    placement = Placement(
        application="app1",
        topic="t",
        version="v1",
        partitions=2,
        state=state,
        next_partitions=4,
        since=1,
        fence={},  # type: ignore[arg-type]
    )
    world = World(gateways=1)
    now(world.store.add_partitions(STORED, 8))
    world.gateways[0].topic.take(placement, Elastic())
    sent: list[Message] = []

    def send(given: list[Message], keep: bool) -> Deferred[list[Outcome]]:
        assert keep
        sent.extend(given)
        return Deferred()

    world.gateways[0].topic.publish([Message(b"") for _ in range(200)], 2e9, send)
    assert {message.partition for message in sent} == set(range(2 if state == "announced" else 4))
