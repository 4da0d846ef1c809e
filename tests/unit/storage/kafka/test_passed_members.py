"""Members that one process passes on and another goes on as, by both protocols."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import test_consumer_protocol as consumer
import test_group_protocol as classic
from twisted.internet.defer import Deferred

from kateway.storage.kafka.cluster.connection import NoAnswer
from kateway.storage.kafka.consumer.consumer_protocol import ConsumerMembership
from kateway.storage.kafka.consumer.group_protocol import HEARTBEAT_INTERVAL_SECONDS, Membership
from kateway.storage.kafka.consumer.membership import ILLEGAL_GENERATION, REBALANCE, UNKNOWN_MEMBER, Joining
from kateway.storage.kafka.consumer.protocol_choice import FittingMembership, fits
from kateway.storage.kafka.protocol import group_requests as wire
from kateway.storage.kafka.protocol.primitives import i16, string
from kateway.storage.passed_member import PassedMember, member_from_table

SESSION_SECONDS = 10.0
PASSED = PassedMember(
    "g", "t", "me", 7, False, [0, 2], SESSION_SECONDS, 0.0, client_id="kateway@gw-0-1@unix:/run/1", cooperative=True
)
BY_CONSUMER_PROTOCOL = PassedMember(
    "g", "t", "me", 7, True, [0, 2], consumer.SESSION_SECONDS, 0.0, topic_id=consumer.FIRST.hex()
)
MOVING = 16


# --- the value -------------------------------------------------------------------------------------------------------


def test_member_is_the_same_behind_the_way_to_the_other_process() -> None:
    for member in (
        PASSED._replace(led={"t": 4, "u": 1}, instance="gw.t", reset="latest", partitions=(0, 2)),
        BY_CONSUMER_PROTOCOL._replace(partitions=()),
    ):
        assert member_from_table(json.loads(json.dumps(member.table()))) == member


def test_fields_of_another_version_are_passed_over_and_missing_ones_are_a_fault() -> None:
    table = PASSED.table()
    assert member_from_table({**table, "of-tomorrow": 1}) == PASSED._replace(partitions=(0, 2))
    del table["member"]
    with pytest.raises(TypeError):
        member_from_table(table)


@pytest.mark.parametrize(
    ("protocol", "member", "seconds", "does"),
    [
        ("auto", PASSED, 10.0, True),
        ("classic", PASSED, 10.0, True),
        ("consumer", PASSED, 10.0, False),
        ("auto", PASSED, 20.0, False),  # the coordinator keeps to the 10 s
        ("auto", BY_CONSUMER_PROTOCOL, 10.0, True),
        ("auto", BY_CONSUMER_PROTOCOL, 5.0, False),
        ("consumer", BY_CONSUMER_PROTOCOL, 10.0, True),
        ("classic", BY_CONSUMER_PROTOCOL, 10.0, False),
    ],
)
def test_member_fits_where_protocol_and_session_are_those_of_the_configuration(
    protocol: Any, member: PassedMember, seconds: float, does: bool
) -> None:
    assert fits(protocol, member, seconds) is does


# --- the classic protocol --------------------------------------------------------------------------------------------


def goes_on(
    passed: PassedMember = PASSED, make: Callable[[Joining], Any] = Membership
) -> tuple[classic.Cluster, classic.Holder, Any]:
    cluster, holder = classic.Cluster(), classic.Holder()
    fake: Any = cluster
    connections: Any = cluster.pool("group")
    membership = make(Joining(fake, connections, fake, holder, "g", "t", SESSION_SECONDS, passed.instance, passed))
    membership.start()
    return cluster, holder, membership


def passed_on(membership: Any) -> PassedMember | None:
    found: list[PassedMember | None] = []
    Deferred.fromCoroutine(membership.pass_on()).addCallback(found.append)
    return found[0]


def test_classic_member_goes_on_with_a_heartbeat_instead_of_a_join() -> None:
    cluster, holder, membership = goes_on()
    assert membership.known_as == "me"
    beat = cluster.next("beat")
    assert beat.body == wire.encode_heartbeat("g", 7, "me")
    assert holder.owned == set()  # the coordinator may have given them to another
    beat.answer.callback(i16(0))
    assert holder.owned == {0, 2}
    assert membership.generation == (7, "me", False)
    cluster.reactor.advance(HEARTBEAT_INTERVAL_SECONDS)
    cluster.next("beat").answer.callback(i16(0))
    assert not cluster.sent
    classic.stop(cluster, membership)


def test_classic_member_that_meets_a_rebalance_holds_what_it_has_and_joins_with_it() -> None:
    cluster, holder, membership = goes_on()
    cluster.next("beat").answer.callback(i16(REBALANCE))
    assert holder.owned == {0, 2}
    join = cluster.joins(8)
    assert wire.encode_metadata(["t"], {"t": [0, 2]}, 7) in join.body
    cluster.syncs()  # 0 alone is assigned
    assert holder.owned == {0}
    classic.stop(cluster, membership)


def test_classic_member_of_an_eager_generation_gives_up_what_it_has_before_it_joins() -> None:
    cluster, holder, membership = goes_on(PASSED._replace(cooperative=False))
    cluster.next("beat").answer.callback(i16(REBALANCE))
    assert holder.owned == set()
    join = cluster.next("join")
    assert wire.encode_metadata(["t"], {}, -1) in join.body
    cluster.sent.append(join)
    classic.stop(cluster, membership)


@pytest.mark.parametrize(("error", "member"), [(UNKNOWN_MEMBER, ""), (ILLEGAL_GENERATION, "me")])
def test_classic_member_that_the_coordinator_has_not_joins_anew_and_has_taken_nothing_over(
    error: int, member: str
) -> None:
    cluster, holder, membership = goes_on()
    holder.failed = lambda _error: None  # type: ignore[method-assign, assignment]
    cluster.next("beat").answer.callback(i16(error))
    cluster.reactor.advance(1)
    join = cluster.joins(9)
    assert (string("me") in join.body) is bool(member)
    cluster.syncs()
    assert holder.owned == {0}
    assert passed_on(membership).client_id == ("test" if not member else PASSED.client_id)  # type: ignore[union-attr]
    classic.stop(cluster, membership)


def test_classic_member_whose_coordinator_moves_or_does_not_answer_asks_again() -> None:
    cluster, holder, membership = goes_on()
    cluster.next("beat").answer.callback(i16(MOVING))
    cluster.reactor.advance(0.5)
    cluster.next("beat").answer.errback(NoAnswer("cut"))
    cluster.reactor.advance(0.5)
    assert not holder.owned
    assert passed_on(membership) is None  # it is not known whether it is there
    cluster.next("beat").answer.callback(i16(0))
    assert holder.owned == {0, 2}
    classic.stop(cluster, membership)


def test_classic_member_whose_session_is_over_before_it_was_heard_joins() -> None:
    cluster, holder, membership = goes_on()
    beat = cluster.next("beat")
    cluster.reactor.advance(SESSION_SECONDS)
    beat.answer.callback(i16(0))
    assert not holder.owned
    cluster.reactor.advance(1)
    cluster.joins(9)
    cluster.syncs()
    assert holder.owned == {0}
    classic.stop(cluster, membership)


def test_classic_leader_goes_on_looking_at_its_topics() -> None:
    cluster, _holder, membership = goes_on(PASSED._replace(led={"t": 4}))
    cluster.next("beat").answer.callback(i16(0))
    cluster.reactor.advance(HEARTBEAT_INTERVAL_SECONDS)
    cluster.next("beat").answer.callback(i16(0))
    cluster.count = 5
    cluster.reactor.advance(HEARTBEAT_INTERVAL_SECONDS)
    join = cluster.next("join")
    cluster.sent.append(join)
    classic.stop(cluster, membership)


def test_classic_leader_whose_process_has_no_listing_yet_waits_for_it_and_does_not_rebalance() -> None:
    cluster, holder = classic.Cluster(), classic.Holder()
    cluster.count = None
    fake: Any = cluster
    connections: Any = cluster.pool("group")
    passed = PASSED._replace(led={"t": 4})
    membership = Membership(Joining(fake, connections, fake, holder, "g", "t", SESSION_SECONDS, None, passed))
    membership.start()
    cluster.next("beat").answer.callback(i16(0))
    cluster.reactor.advance(HEARTBEAT_INTERVAL_SECONDS)
    cluster.next("beat").answer.callback(i16(0))
    classic.stop(cluster, membership)


def test_classic_member_that_is_passed_on_sends_no_leave_and_can_be_gone_on_as() -> None:
    cluster, _holder, membership = goes_on(PASSED._replace(led={"t": 4}))
    cluster.next("beat").answer.callback(i16(0))
    cluster.reactor.advance(HEARTBEAT_INTERVAL_SECONDS)
    cluster.next("beat").answer.callback(i16(0))
    passed = passed_on(membership)
    # what it was called when it joined stays its name with the coordinator
    assert passed == PASSED._replace(led={"t": 4}, heard_at=HEARTBEAT_INTERVAL_SECONDS)
    assert not cluster.sent
    assert not cluster.reactor.getDelayedCalls()
    assert membership.generation is None


def test_classic_member_is_not_passed_on_during_a_join_nor_unheard() -> None:
    cluster, _holder, membership = goes_on()
    cluster.next("beat").answer.callback(i16(0))
    cluster.reactor.advance(HEARTBEAT_INTERVAL_SECONDS)
    beat = cluster.next("beat")
    cluster.reactor.advance(SESSION_SECONDS / 2)
    assert passed_on(membership) is None
    beat.answer.callback(i16(REBALANCE))
    assert passed_on(membership) is None
    cluster.joins(8)
    assert passed_on(membership) is None
    cluster.syncs()
    # what is not assigned any more was given up, and the next join is under way
    assert passed_on(membership) is None
    cluster.joins(9)
    cluster.syncs()
    assert passed_on(membership) is not None


# --- the consumer protocol -------------------------------------------------------------------------------------------


def begun(
    passed: PassedMember = BY_CONSUMER_PROTOCOL, make: Callable[[Joining], Any] = ConsumerMembership, **settings: Any
) -> tuple[consumer.Coordinator, consumer.Holder, Any]:
    coordinator, holder = consumer.Coordinator(), consumer.Holder()
    coordinator.epoch, coordinator.assigned = 7, consumer.places(0, 2)
    for name, value in settings.items():
        setattr(coordinator, name, value)
    fake: Any = coordinator
    seconds = consumer.SESSION_SECONDS
    membership = make(Joining(fake, fake, fake, holder, "g", "t", seconds, passed.instance, passed))
    membership.start()
    return coordinator, holder, membership


@pytest.mark.parametrize("make", [ConsumerMembership, FittingMembership])
def test_consumer_member_goes_on_with_its_epoch_and_what_it_holds(make: Callable[[Joining], Any]) -> None:
    coordinator, holder, membership = begun(make=make)
    assert coordinator.beats == [consumer.Beat("me", 7, None, ["t"], consumer.places(0, 2))]
    assert holder.heard == [("take", frozenset({0, 2}))]
    assert membership.generation == (7, "me", True)
    consumer.pass_time(coordinator, 3.0)
    assert len(holder.heard) == 1
    consumer.stop(membership)


def test_consumer_member_that_is_to_hold_another_partition_gives_up_and_takes() -> None:
    coordinator, holder, membership = begun(epoch=8, assigned=consumer.places(2, 3))
    assert holder.heard == [
        ("take", frozenset({0, 2})),
        ("hand over", frozenset({0})),
        ("take", frozenset({3})),
    ]
    assert membership.generation.number == 8
    assert coordinator.beats[0].epoch == 7
    consumer.stop(membership)


@pytest.mark.parametrize("error", [consumer.UNKNOWN_MEMBER, consumer.FENCED])
def test_consumer_member_that_the_coordinator_has_not_joins_and_has_taken_nothing_over(error: int) -> None:
    coordinator, holder, membership = begun(error=error)
    assert ("take", frozenset({0, 2})) not in holder.heard
    coordinator.error = 0
    consumer.pass_time(coordinator, 1.0)
    assert [beat.epoch for beat in coordinator.beats[:2]] == [7, 0]
    assert coordinator.beats[1].owned == []
    assert holder.heard[-1] == ("take", frozenset({0, 2}))
    consumer.stop(membership)


def test_consumer_member_without_partitions_tells_so() -> None:
    _coordinator, holder, membership = begun(BY_CONSUMER_PROTOCOL._replace(partitions=(), topic_id=""), assigned=[])
    assert holder.heard == [("take", frozenset())]
    consumer.stop(membership)


def test_consumer_member_whose_topic_was_made_anew_meanwhile_begins_with_the_new_one() -> None:
    second = consumer.SECOND
    coordinator, holder, membership = begun(topic_id=second, assigned=consumer.places(0, topic=second))
    assert holder.heard == [("take", frozenset({0, 2})), ("drop", frozenset()), ("take", frozenset({0}))]
    consumer.pass_time(coordinator, 1.0)
    assert coordinator.beats[-1].owned == consumer.places(0, topic=second)
    consumer.stop(membership)


def test_consumer_member_that_is_passed_on_sends_no_more_and_can_be_gone_on_as() -> None:
    coordinator, _holder, membership = begun()
    passed = passed_on(membership)
    assert passed == BY_CONSUMER_PROTOCOL._replace(client_id="client-of-new")
    count = len(coordinator.beats)
    coordinator.reactor.pump([0.5] * 10)
    assert len(coordinator.beats) == count
    assert not coordinator.reactor.getDelayedCalls()


def test_consumer_member_is_not_passed_on_while_partitions_go_nor_unheard() -> None:
    coordinator, holder, membership = begun()
    holder.gate = Deferred()
    coordinator.assigned = consumer.places(0)
    consumer.pass_time(coordinator, 1.0)
    assert holder.heard[-1] == ("hand over", frozenset({2}))
    assert passed_on(membership) is None
    gate, holder.gate = holder.gate, None
    gate.callback(None)
    coordinator.cut_off = True
    consumer.pass_time(coordinator, consumer.SESSION_SECONDS / 2 + 0.5)
    assert passed_on(membership) is None
    coordinator.cut_off = False
    consumer.pass_time(coordinator, 1.5)
    passed = passed_on(membership)
    assert passed is not None
    assert passed.partitions == [0]
