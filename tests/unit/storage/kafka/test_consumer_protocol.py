"""A membership by the consumer protocol before a coordinator that answers on the wire, as a test tells it to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from kateway.config.schema import KafkaStorageConfig
from kateway.errors import KatewayError, Unavailable, Unsupported
from kateway.storage.kafka.cluster.connection import NoAnswer
from kateway.storage.kafka.consumer.consumer_protocol import ConsumerMembership
from kateway.storage.kafka.consumer.membership import Joining
from kateway.storage.kafka.protocol import consumer_group_requests as wire
from kateway.storage.kafka.protocol import group_members
from kateway.storage.kafka.protocol.metadata import METADATA
from kateway.storage.kafka.protocol.primitives import (
    NO_TAGS,
    ByteReader,
    array,
    compact_array,
    compact_string,
    i8,
    i16,
    i32,
    string,
)

SESSION_SECONDS = 6.0
FIRST, SECOND = b"1" * 16, b"2" * 16
UNKNOWN_MEMBER, UNSUPPORTED, GROUP_NOT_FOUND, FENCED, STALE, MOVED = 25, 35, 69, 110, 113, 16
FENCED_NAME, UNRELEASED = 82, 111


class Beat(NamedTuple):
    """A heartbeat as it came."""

    member: str
    epoch: int
    instance: str | None
    topics: list[str]
    owned: list[tuple[bytes, int]]


class Coordinator:
    """Client, pool and coordinators in one: answers what was set, or holds heartbeats back."""

    def __init__(self) -> None:
        self.reactor = Clock()
        self.client_id = "client-of-new"
        self.config = KafkaStorageConfig(driver="kafka")
        self.beats: list[Beat] = []
        self.epoch = 1
        self.error = 0
        self.assigned: list[tuple[bytes, int]] = []
        self.topic_id = FIRST
        self.count: int | None = 4
        self.session_ms = 6000
        self.lists = True
        self.named: dict[str, str] = {}
        self.cut_off = False
        self.held_back: list[Deferred[bytes]] | None = None

    # --- the client

    def watch(self, _changed: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def partition_count(self, _topic: str) -> int | None:
        return self.count

    def refresh(self) -> Deferred[None]:
        return succeed(None)

    async def look_for(self, _topic: str) -> None:
        return None

    # --- the coordinators

    async def find(self, _group: str) -> int:
        return 1

    async def lists_consumer_protocol(self, _node: int) -> bool:
        return self.lists

    def forget(self, _group: str) -> None: ...

    # --- the pool

    def request(self, _node: int, key: int, _version: int, body: bytes, **_options: Any) -> Deferred[bytes]:
        if self.cut_off:
            return fail(NoAnswer("the connection was cut"))
        if key == wire.DESCRIBE_CONFIGS:
            return succeed(self._configs())
        if key == METADATA:
            return succeed(self._metadata())
        if key == group_members.CONSUMER_GROUP_DESCRIBE:
            return succeed(self._described())
        self.beats.append(_beat(body))
        if self.held_back is not None:
            self.held_back.append(Deferred())
            return self.held_back[-1]
        return succeed(self.answer())

    def answer(self) -> bytes:
        places = [topic + compact_array([i32(partition)]) + NO_TAGS for topic, partition in self.assigned]
        assignment = i8(1) + compact_array(places) + NO_TAGS
        header = NO_TAGS + i32(0) + i16(self.error) + compact_string(None) + compact_string(None)
        return header + i32(self.epoch) + i32(5000) + (i8(-1) if self.error else assignment) + NO_TAGS

    def _configs(self) -> bytes:
        config = string(wire.SESSION_TIMEOUT) + string(str(self.session_ms)) + i8(0) + i8(5) + i8(0) + array([])
        return i32(0) + array([i16(0) + string(None) + i8(32) + string("g") + array([config])])

    def _metadata(self) -> bytes:
        topic = i16(0) + compact_string("t") + self.topic_id
        return NO_TAGS + i32(0) + compact_array([]) + compact_string("c") + i32(1) + compact_array([topic])

    def _described(self) -> bytes:
        nothing = compact_array([]) + NO_TAGS
        members = [
            compact_string(member)
            + compact_string(name)
            + compact_string(None)
            + i32(3)
            + compact_string("client")
            + compact_string("host")
            + compact_array([compact_string("t")])
            + compact_string(None)
            + nothing * 2
            + NO_TAGS
            for name, member in self.named.items()
        ]
        words = compact_string(None) + compact_string("g") + compact_string("Stable")
        group = i16(0) + words + i32(3) + i32(3) + compact_string("uniform") + compact_array(members) + i32(0) + NO_TAGS
        return NO_TAGS + i32(0) + compact_array([group]) + NO_TAGS


def _beat(body: bytes) -> Beat:
    read = ByteReader(body)
    read.skip_tags()
    read.compact_string()
    member, epoch, instance = read.compact_string(), read.i32(), read.compact_nullable_string()
    read.compact_nullable_string()
    read.i32()
    topics = read.compact_array(read.compact_string)
    read.compact_nullable_string()
    read.compact_nullable_string()

    def topic() -> list[tuple[bytes, int]]:
        of_topic, partitions = read.uuid(), read.compact_array(read.i32)
        read.skip_tags()
        return [(of_topic, partition) for partition in partitions]

    owned = [place for places in read.compact_array(topic) for place in places]
    return Beat(member, epoch, instance, topics, owned)


class Holder:
    """Notes what it holds; hands over when ``gate`` opens, where there is one."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, frozenset[int]]] = []
        self.errors: list[KatewayError] = []
        self.gate: Deferred[None] | None = None

    def take_over(self, partitions: frozenset[int]) -> None:
        self.heard.append(("take", partitions))

    async def hand_over(self, partitions: frozenset[int]) -> None:
        self.heard.append(("hand over", partitions))
        if self.gate is not None:
            await self.gate

    def drop(self) -> None:
        self.heard.append(("drop", frozenset()))

    def failed(self, error: KatewayError) -> None:
        self.errors.append(error)


Parts = tuple[Coordinator, Holder, ConsumerMembership]


def start(instance: str | None = None, reasons: list[str] | None = None, **settings: Any) -> Parts:
    coordinator, holder = Coordinator(), Holder()
    for name, value in settings.items():
        setattr(coordinator, name, value)
    fake: Any = coordinator
    joining = Joining(fake, fake, fake, holder, "g", "t", SESSION_SECONDS, instance)
    membership = ConsumerMembership(joining, None if reasons is None else reasons.append)
    membership.start()
    return coordinator, holder, membership


def pass_time(coordinator: Coordinator, seconds: float) -> None:
    coordinator.reactor.pump([0.05] * round(seconds / 0.05))


def stop(membership: ConsumerMembership, **options: Any) -> None:
    stopped: list[object] = []
    Deferred.fromCoroutine(membership.stop(**options)).addBoth(stopped.append)
    assert stopped == [None]


def places(*partitions: int, topic: bytes = FIRST) -> list[tuple[bytes, int]]:
    return [(topic, partition) for partition in partitions]


def test_member_joins_with_nothing_takes_what_it_is_assigned_and_says_so():
    coordinator, holder, membership = start(assigned=places(0, 2))
    assert coordinator.beats[0].epoch == 0
    assert coordinator.beats[0].owned == []
    assert coordinator.beats[0].topics == ["t"]
    assert holder.heard == [("take", frozenset({0, 2}))]
    pass_time(coordinator, 1.0)
    assert coordinator.beats[-1].epoch == 1
    assert coordinator.beats[-1].owned == places(0, 2)
    assert len(holder.heard) == 1
    stop(membership)
    assert coordinator.beats[-1].epoch == -1
    assert coordinator.beats[-1].member == coordinator.beats[0].member


def test_member_that_gets_nothing_is_told_so_once():
    coordinator, holder, membership = start()
    pass_time(coordinator, 5.0)
    assert holder.heard == [("take", frozenset())]
    stop(membership)


def test_partition_that_is_handed_over_is_held_by_heartbeats_until_then_and_freed_by_the_next_at_once():
    coordinator, holder, membership = start(assigned=places(0, 1))
    holder.gate = Deferred()
    coordinator.assigned = places(1)
    pass_time(coordinator, 4.0)
    assert holder.heard[1:] == [("hand over", frozenset({0}))]
    assert coordinator.beats[-1].owned == places(0, 1)
    assert membership.generation is not None
    count = len(coordinator.beats)
    holder.gate.callback(None)
    assert len(coordinator.beats) == count + 1
    assert coordinator.beats[-1].owned == places(1)
    assert holder.heard[2:] == [("take", frozenset())]
    stop(membership)


def test_partition_that_is_given_up_while_a_heartbeat_is_under_way_is_freed_right_after_its_answer():
    coordinator, holder, membership = start(assigned=places(0, 1))
    holder.gate = Deferred()
    coordinator.assigned = places(1)
    pass_time(coordinator, 4.0)
    coordinator.held_back = []
    pass_time(coordinator, 1.0)
    holder.gate.callback(None)
    (late,), coordinator.held_back = coordinator.held_back, None
    late.callback(coordinator.answer())
    assert coordinator.beats[-1].owned == places(1)
    stop(membership)


def test_lost_answer_is_asked_for_again_and_nothing_is_lost():
    coordinator, holder, membership = start(assigned=places(0))
    coordinator.cut_off = True
    pass_time(coordinator, SESSION_SECONDS / 2)
    coordinator.cut_off = False
    coordinator.epoch, coordinator.assigned = 2, places(0, 1)
    pass_time(coordinator, 2.0)
    assert holder.heard == [("take", frozenset({0})), ("take", frozenset({1}))]
    assert holder.errors == []
    assert membership.generation is not None
    assert membership.generation.number == 2
    stop(membership)


def test_coordinator_that_moves_is_asked_again_and_nothing_is_lost():
    coordinator, holder, membership = start(assigned=places(0))
    coordinator.error = MOVED
    pass_time(coordinator, SESSION_SECONDS / 2)
    coordinator.error = 0
    pass_time(coordinator, 2.0)
    assert holder.heard == [("take", frozenset({0}))]
    assert holder.errors == []
    stop(membership)


def test_member_that_is_not_heard_for_its_session_loses_all_and_joins_again():
    coordinator, holder, membership = start(assigned=places(0))
    coordinator.cut_off = True
    pass_time(coordinator, SESSION_SECONDS + 0.1)
    assert holder.heard[1:] == [("drop", frozenset())]
    assert membership.generation is None
    coordinator.cut_off, joined_before = False, len(coordinator.beats)
    pass_time(coordinator, 2.0)
    assert coordinator.beats[joined_before].epoch == 0
    assert coordinator.beats[joined_before].member == coordinator.beats[0].member
    assert holder.heard[2:] == [("take", frozenset({0}))]
    stop(membership)


def test_session_ends_as_soon_as_the_brokers_own():
    coordinator, holder, membership = start(assigned=places(0), session_ms=2000)
    coordinator.cut_off = True
    pass_time(coordinator, 2.1)
    assert holder.heard[1:] == [("drop", frozenset())]
    coordinator.cut_off = False
    stop(membership)


def test_answer_from_before_the_session_ended_says_nothing():
    coordinator, holder, membership = start(assigned=places(0))
    coordinator.held_back = []
    pass_time(coordinator, SESSION_SECONDS + 1.0)
    assert holder.heard[1:] == [("drop", frozenset())]
    late, coordinator.held_back = coordinator.held_back, None
    coordinator.error = UNKNOWN_MEMBER
    late[0].callback(coordinator.answer())
    assert holder.heard[2:] == []
    coordinator.error = 0
    pass_time(coordinator, 1.0)
    assert holder.heard[2:] == [("take", frozenset({0}))]
    stop(membership)


@pytest.mark.parametrize("error", [UNKNOWN_MEMBER, FENCED, GROUP_NOT_FOUND, UNSUPPORTED])
def test_member_that_the_coordinator_does_not_know_any_more_loses_all_and_joins_again(error):
    coordinator, holder, membership = start(assigned=places(0))
    coordinator.error = error
    pass_time(coordinator, 0.3)
    assert holder.heard[1:] == [("drop", frozenset())]
    coordinator.error, coordinator.epoch = 0, 7
    joined_before = len(coordinator.beats)
    pass_time(coordinator, 2.0)
    assert coordinator.beats[joined_before].epoch == 0
    assert holder.heard[2:] == [("take", frozenset({0}))]
    stop(membership)


def test_commit_of_an_old_epoch_has_the_new_one_asked_for_at_once():
    coordinator, _holder, membership = start(assigned=places(0))
    pass_time(coordinator, 5.0)
    count, generation = len(coordinator.beats), membership.generation
    assert generation is not None
    coordinator.epoch = 2
    membership.refused({STALE}, generation)
    assert len(coordinator.beats) == count + 1
    assert membership.generation is not None
    assert membership.generation.number == 2
    membership.refused({UNKNOWN_MEMBER}, generation)
    assert membership.generation is not None
    stop(membership)


def test_commit_of_a_member_that_is_gone_ends_the_membership():
    _coordinator, holder, membership = start(assigned=places(0))
    assert membership.generation is not None
    membership.refused({FENCED}, membership.generation)
    assert holder.heard[1] == ("drop", frozenset())
    stop(membership)


def test_topic_made_anew_is_begun_without_a_last_commit_for_the_old_one():
    coordinator, holder, membership = start(assigned=places(0, 1))
    coordinator.topic_id, coordinator.assigned = SECOND, places(0, 1, topic=SECOND)
    pass_time(coordinator, 1.0)
    assert holder.heard[1:] == [("drop", frozenset()), ("take", frozenset({0, 1}))]
    assert coordinator.beats[-1].owned == places(0, 1, topic=SECOND)
    stop(membership)


def test_partition_that_brokers_have_not_told_of_is_taken_when_they_have():
    coordinator, holder, membership = start(assigned=places(0, 4))
    assert holder.heard == [("take", frozenset({0}))]
    coordinator.count = 5
    pass_time(coordinator, 1.0)
    assert holder.heard[1:] == [("take", frozenset({4}))]
    stop(membership)


def test_member_with_a_name_leaves_for_a_while_where_its_process_returns():
    coordinator, _holder, membership = start("one", assigned=places(0))
    stop(membership, returning=True)
    assert coordinator.beats[-1].epoch == -2
    assert coordinator.beats[-1].instance == "one"
    assert {beat.instance for beat in coordinator.beats} == {"one"}


def test_name_that_another_process_is_believed_to_bear_is_taken_from_it():
    coordinator, holder, membership = start("one", error=UNRELEASED, named={"one": "former"})
    assert [(beat.member, beat.epoch) for beat in coordinator.beats[1:]] == [("former", -2)]
    coordinator.error, coordinator.assigned = 0, places(0)
    coordinator.reactor.advance(0.0)
    pass_time(coordinator, 1.0)
    assert holder.heard[-1] == ("take", frozenset({0}))
    stop(membership)


def test_member_whose_name_another_process_has_taken_goes_on_without_one():
    coordinator, holder, membership = start("one", assigned=places(0))
    coordinator.error = FENCED_NAME
    pass_time(coordinator, 0.3)
    assert holder.heard[1:] == [("drop", frozenset())]
    coordinator.error, count = 0, len(coordinator.beats)
    pass_time(coordinator, 1.0)
    assert coordinator.beats[count].instance is None
    assert coordinator.beats[count].epoch == 0
    assert coordinator.beats[count].member != coordinator.beats[0].member
    stop(membership)


@pytest.mark.parametrize(
    "settings",
    [{"lists": False}, {"error": UNSUPPORTED}, {"error": GROUP_NOT_FOUND}, {"session_ms": 45000}],
    ids=["not-listed", "off", "group-may-not-go-over", "session-too-long"],
)
def test_protocol_that_does_not_fit_is_told_instead_of_spoken(settings):
    reasons: list[str] = []
    _coordinator, holder, membership = start(reasons=reasons, **settings)
    assert len(reasons) == 1
    assert holder.errors == []
    assert holder.heard == []
    stop(membership)


def test_protocol_that_is_configured_and_cannot_be_spoken_is_an_error_that_says_what_to_do():
    _coordinator, holder, membership = start(lists=False)
    assert isinstance(holder.errors[0], Unsupported)
    assert "group_protocol" in holder.errors[0].detail
    stop(membership)


def test_protocol_that_is_configured_is_spoken_though_brokers_keep_a_member_for_longer():
    coordinator, holder, membership = start(assigned=places(0), session_ms=45000)
    assert holder.heard == [("take", frozenset({0}))]
    stop(membership)
    assert coordinator.beats[-1].epoch == -1


def test_group_that_cannot_be_joined_is_told_after_a_few_attempts_and_tried_on():
    coordinator, holder, membership = start(error=MOVED)
    pass_time(coordinator, 10.0)
    (error,) = holder.errors
    assert isinstance(error, Unavailable)
    coordinator.error, coordinator.assigned = 0, places(0)
    pass_time(coordinator, 2.0)
    assert holder.heard == [("take", frozenset({0}))]
    stop(membership)
