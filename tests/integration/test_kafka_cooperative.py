"""Rebalances that take only what moves, on real Kafka: what stays is read on; librdkafka's and Java's cooperative
members beside ours. On Kafka 4 ours are members by the consumer protocol, in groups that the others make or join by the
classic one.
"""

from __future__ import annotations

import pytest
import pytest_twisted
from group_members import (
    JAVA_COOPERATIVE,
    by_strategy,
    numbered,
    wait_for_members,
    write_slowly,
)
from kafka_reader import Reader, until
from servers.oracle import Oracle
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from kateway.model import Committed

here = pytest_twisted.ensureDeferred
pytestmark = [pytest.mark.kafka, pytest.mark.both_kafkas]


@pytest.fixture
def other_topic(oracle: Oracle, topic_name: str) -> str:
    oracle.create_topic(f"{topic_name}-other", partitions=4)
    return f"{topic_name}-other"


@here
async def test_reader_of_another_topic_in_the_group_takes_nothing_from_anybody(
    kafka, oracle, kafka_store, topic, other_topic, group
):
    store = await kafka_store(kafka)
    reader = Reader(store, group, topic)
    await until(lambda: len(reader.owned) == 4)
    values = numbered(4000)
    producing = deferToThread(write_slowly, oracle, topic, values)
    for _ in range(4):
        other = Reader(store, group, other_topic)
        await until(lambda other=other: len(other.owned) == 4)
        await reader.commit()
        await other.subscription.close()
    await producing
    await until(lambda: len(reader.values) >= 4000)
    assert "revoked" not in reader.heard
    assert "lost" not in reader.heard
    assert sorted(reader.values) == sorted(values)


@here
async def test_member_that_joins_takes_only_its_part_and_what_stays_is_committed_on(
    kafka, oracle, kafka_store, topic, group
):
    first_store, second_store = await kafka_store(kafka), await kafka_store(kafka)
    first = Reader(first_store, group, topic)
    await until(lambda: len(first.owned) == 4)
    refused: list[object] = []
    committing = True

    async def commit_all_the_time() -> None:
        while committing:
            stays = first.commit(frozenset({0, 1}))
            stays.addErrback(lambda failure: refused.append(failure.value))
            await stays
            await deferLater(reactor, 0.005)

    done = Deferred.fromCoroutine(commit_all_the_time())
    values = numbered(4000)
    producing = deferToThread(write_slowly, oracle, topic, values)
    second = Reader(second_store, group, topic)
    await until(lambda: len(first.owned) == 2 and len(second.owned) == 2)
    assert first.owned == {0, 1}
    assert second.owned == {2, 3}
    await second.subscription.close()
    await until(lambda: len(first.owned) == 4)
    await producing
    await until(lambda: len(first.values) + len(second.values) >= 4000)
    committing = False
    await done
    assert refused == []
    assert sorted(first.values + second.values) == sorted(values)
    await first.commit()
    stored = await first_store.committed(group, topic)
    assert [stored[partition] for partition in range(4)] == [Committed(1000)] * 4


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours-leads", "theirs-leads"])
@here
async def test_group_is_shared_cooperatively_with_librdkafka_whichever_member_leads(
    kafka, oracle, kafka_store, topic, group, ours_first, librdkafka_member
):
    store = await kafka_store(kafka)
    if ours_first:
        ours = Reader(store, group, topic)
        await until(lambda: len(ours.owned) == 4)
        theirs = librdkafka_member(group, [topic], **by_strategy("cooperative-sticky"))
    else:
        theirs = librdkafka_member(group, [topic], **by_strategy("cooperative-sticky"))
        await until(lambda: len(theirs.owned) == 4)
        ours = Reader(store, group, topic)
    await until(lambda: len(ours.owned) == 2 and len(theirs.owned) == 2)
    values = numbered(4000)
    producing = deferToThread(write_slowly, oracle, topic, values)
    more = Reader(await kafka_store(kafka), group, topic)
    await until(lambda: len(ours.owned) + len(theirs.owned) + len(more.owned) == 4 and more.owned)
    await more.subscription.close()
    await until(lambda: len(ours.owned) + len(theirs.owned) == 4)
    await producing
    await until(lambda: len(ours.values) + len(theirs.values) + len(more.values) >= 4000)
    assert sorted(ours.values + theirs.values + more.values) == sorted(values)
    await theirs.stop()
    await until(lambda: len(ours.owned) == 4)
    assert ours.errors == []


@pytest.mark.parametrize("strategy", ["range", "roundrobin"])
@here
async def test_cooperative_group_turns_eager_beside_a_member_that_knows_only_that_and_back(
    kafka, oracle, kafka_store, topic, other_topic, group, strategy, librdkafka_member
):
    store = await kafka_store(kafka)
    ours = Reader(store, group, topic)
    await until(lambda: len(ours.owned) == 4)
    values = numbered(4000)
    producing = deferToThread(write_slowly, oracle, topic, values)
    theirs = librdkafka_member(group, [topic], **by_strategy(strategy))
    await until(lambda: len(ours.owned) == 2 and len(theirs.owned) == 2)
    await theirs.stop()
    await until(lambda: len(ours.owned) == 4)
    await producing
    await until(lambda: len(ours.values) + len(theirs.values) >= 4000)
    assert sorted(ours.values + theirs.values) == sorted(values)
    other = Reader(store, group, other_topic)
    await until(lambda: len(other.owned) == 4)
    del ours.heard[:]
    await other.subscription.close()
    again = Reader(store, group, other_topic)
    await until(lambda: len(again.owned) == 4)
    assert "revoked" not in ours.heard
    assert ours.errors == []


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours-leads", "theirs-leads"])
@here
async def test_group_is_shared_cooperatively_with_java_whichever_member_leads(
    kafka, oracle, kafka_store, topic, group, ours_first, java_member
):
    store = await kafka_store(kafka)
    if ours_first:
        ours = Reader(store, group, topic)
        await until(lambda: len(ours.owned) == 4)
        theirs = java_member(kafka, group, topic, JAVA_COOPERATIVE)
    else:
        theirs = java_member(kafka, group, topic, JAVA_COOPERATIVE)
        await deferToThread(wait_for_members, oracle, group, 1)
        ours = Reader(store, group, topic)
    await until(lambda: len(ours.owned) == 2)
    taken = ours.heard.count("revoked")
    values = numbered(4000)
    await deferToThread(write_slowly, oracle, topic, values)
    await until(lambda: len(ours.values) + len(theirs.values) >= 4000)
    assert len(ours.values) == len(theirs.values) == 2000
    assert sorted(ours.values + theirs.values) == sorted(values)
    assert ours.heard.count("revoked") == taken
    await deferToThread(theirs.stop)
    await until(lambda: len(ours.owned) == 4)
    assert "lost" not in ours.heard
