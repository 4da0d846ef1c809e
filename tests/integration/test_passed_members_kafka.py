"""Members that one process passes on and another goes on as, on real Kafka: no join, no rebalance, no session's end."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest
import pytest_twisted
from group_members import SESSION_SECONDS
from kafka_reader import Reader, until
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from twisted.internet import reactor
from twisted.internet.task import deferLater

from kateway.config.schema import GroupProtocol
from kateway.model import Committed
from kateway.storage.interface import OwnMember
from kateway.storage.kafka.driver import KafkaStore
from kateway.storage.passed_member import PassedMember, member_from_table

here = pytest_twisted.ensureDeferred
pytestmark = [pytest.mark.kafka, pytest.mark.both_kafkas]

Start = Callable[..., Awaitable[KafkaStore]]
QUIET_SECONDS = 2.5
"""A rebalance would be heard of with a heartbeat, one of which goes each second."""
both_protocols = pytest.mark.parametrize("protocol", ["auto", "classic"])


class Next(Reader):
    """Goes on as a member that another reader was."""

    def __init__(self, store: KafkaStore, passed: PassedMember) -> None:
        self._next, self._passed = store, passed
        super().__init__(self, passed.group, passed.topic)  # type: ignore[arg-type]

    def subscribe(self, *_where: object) -> object:
        found = self._next.go_on(self._passed, self)
        assert found is not None
        return found


async def passed_on(reader: Reader) -> PassedMember:
    passed = await reader.subscription.pass_on()  # type: ignore[attr-defined]
    assert passed is not None
    return member_from_table(json.loads(json.dumps(passed.table())))


def members(oracle: Oracle, group: str) -> set[str]:
    found = oracle.admin.describe_consumer_groups([group])[group].result(10).members
    return {member.member_id for member in found}


def generation(reader: Reader) -> object:
    return reader.subscription._membership.generation  # type: ignore[attr-defined]


@both_protocols
@here
async def test_member_goes_on_in_its_generation_and_no_other_member_notices(
    kafka: KafkaCluster, oracle: Oracle, kafka_store: Start, topic: str, group: str, protocol: GroupProtocol
) -> None:
    stores = [await kafka_store(kafka, protocol=protocol) for _ in range(3)]
    first, other = Reader(stores[0], group, topic), Reader(stores[1], group, topic)
    await until(lambda: len(first.owned) == 2 and len(other.owned) == 2)
    for partition in range(4):
        oracle.produce(topic, [b"a"] * 10, partition=partition)
    await until(lambda: len(first.seen) == 20 and len(other.seen) == 20)
    before, heard, of_first = members(oracle, group), list(other.heard), set(first.owned)
    its_generation, of_other = generation(first), generation(other)
    oracle.produce(topic, [b"b"] * 10, partition=min(of_first))
    began = reactor.seconds()
    passed = await passed_on(first)
    left = reactor.seconds()
    second = Next(stores[2], passed)
    await until(lambda: second.owned == of_first)
    taken = reactor.seconds()
    oracle.produce(topic, [b"c"] * 10, partition=max(of_first))
    await until(lambda: len(first.seen) + len(second.seen) == 40)
    print(f"{protocol}: passed on in {(left - began) * 1000:.0f} ms, gone on with in {(taken - left) * 1000:.0f} ms")
    assert not set(first.seen) & set(second.seen)
    assert "lost" not in first.heard
    await second.commit()
    await deferLater(reactor, QUIET_SECONDS)
    assert (generation(second), generation(other)) == (its_generation, of_other)
    assert members(oracle, group) == before
    assert other.heard == heard
    assert second.errors == []
    # and it is a member like any other: it leaves
    await second.subscription.close()
    await until(lambda: len(other.owned) == 4)


@both_protocols
@here
async def test_leader_that_went_on_assigns_partitions_that_are_added(
    kafka: KafkaCluster, oracle: Oracle, kafka_store: Start, topic: str, group: str, protocol: GroupProtocol
) -> None:
    first = Reader(await kafka_store(kafka, protocol=protocol), group, topic)
    await until(lambda: len(first.owned) == 4)
    second = Next(await kafka_store(kafka, protocol=protocol), await passed_on(first))
    await until(lambda: len(second.owned) == 4)
    oracle.add_partitions(topic, 6)
    await until(lambda: len(second.owned) == 6)
    assert "lost" not in second.heard


@both_protocols
@here
async def test_member_that_came_while_none_was_there_shares_with_the_one_that_goes_on(
    kafka: KafkaCluster, oracle: Oracle, kafka_store: Start, topic: str, group: str, protocol: GroupProtocol
) -> None:
    first = Reader(await kafka_store(kafka, protocol=protocol), group, topic)
    await until(lambda: len(first.owned) == 4)
    for partition in range(4):
        oracle.produce(topic, [b"a"] * 10, partition=partition)
    await until(lambda: len(first.seen) == 40)
    passed = await passed_on(first)
    store, later = await kafka_store(kafka, protocol=protocol), await kafka_store(kafka, protocol=protocol)
    other = Reader(store, group, topic)
    await until(lambda: len(members(oracle, group)) == 2)
    second = Next(later, passed)
    await until(lambda: len(second.owned) == 2 and len(other.owned) == 2)
    assert passed.member in members(oracle, group)
    for partition in range(4):
        oracle.produce(topic, [b"b"] * 10, partition=partition)
    await until(lambda: len(second.seen) + len(other.seen) == 40)
    assert not set(first.seen) & {*second.seen, *other.seen}


@both_protocols
@here
async def test_member_that_the_coordinator_has_forgotten_joins_anew_from_the_last_commit(
    kafka: KafkaCluster, oracle: Oracle, kafka_store: Start, topic: str, group: str, protocol: GroupProtocol
) -> None:
    first = Reader(await kafka_store(kafka, protocol=protocol), group, topic)
    await until(lambda: len(first.owned) == 4)
    oracle.produce(topic, [b"a"] * 10, partition=1)
    await until(lambda: len(first.seen) == 10)
    passed = await passed_on(first)
    store = await kafka_store(kafka, protocol=protocol)
    await store.topic(topic)  # else it knows no broker yet
    await store.leave_for(OwnMember(group, passed.member, passed.by_consumer_protocol))
    second = Next(store, passed)
    await until(lambda: len(second.owned) == 4)
    assert second.begun[1] == Committed(10)
    await until(lambda: len(members(oracle, group)) == 1)


@both_protocols
@here
async def test_partitions_of_a_member_that_no_process_goes_on_as_are_read_when_its_session_is_over(
    kafka: KafkaCluster, oracle: Oracle, kafka_store: Start, topic: str, group: str, protocol: GroupProtocol
) -> None:
    stores = [await kafka_store(kafka, protocol=protocol) for _ in range(2)]
    first, other = (Reader(store, group, topic) for store in stores)
    await until(lambda: len(first.owned) == 2 and len(other.owned) == 2)
    await passed_on(first)
    since = reactor.seconds()
    await until(lambda: len(other.owned) == 4)
    assert SESSION_SECONDS / 2 < reactor.seconds() - since < 2 * SESSION_SECONDS


@here
async def test_member_with_a_name_keeps_it_where_it_goes_on(
    kafka: KafkaCluster, oracle: Oracle, kafka_store: Start, topic: str, group: str
) -> None:
    first = Reader(await kafka_store(kafka, name="one"), group, topic)
    await until(lambda: len(first.owned) == 4)
    store = await kafka_store(kafka)
    second = Next(store, await passed_on(first))
    await until(lambda: len(second.owned) == 4)
    assert store.own_members() == []  # its place is kept for its name
    await second.subscription.close(returning=True)
    third = Reader(await kafka_store(kafka, name="one"), group, topic)
    await until(lambda: len(third.owned) == 4)
    assert oracle.members(group) == 1
