"""Group membership on real Kafka: shared with librdkafka, resumed, rebalanced, while topics change."""

from __future__ import annotations

import time

import pytest
import pytest_twisted
from confluent_kafka import Producer, TopicPartition
from group_members import by_strategy, numbered
from kafka_reader import Reader, until
from servers.oracle import Oracle
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from kateway.errors import TopicNotFound
from kateway.model import Committed
from kateway.storage.kafka.consumer.fetcher import LET_GO_SECONDS

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka


@pytest.mark.both_kafkas
@pytest.mark.parametrize("strategy", ["range", "roundrobin"])
@pytest.mark.parametrize("ours_first", [True, False], ids=["ours-leads", "theirs-leads"])
@here
async def test_group_is_shared_with_librdkafka_whichever_member_leads(
    kafka, oracle, kafka_store, topic, group, strategy, ours_first, librdkafka_member
):
    store = await kafka_store(kafka)
    if ours_first:
        ours = Reader(store, group, topic)
        await until(lambda: len(ours.owned) == 4)
        theirs = librdkafka_member(group, [topic], **by_strategy(strategy))
    else:
        theirs = librdkafka_member(group, [topic], **by_strategy(strategy))
        await until(lambda: len(theirs.owned) == 4)
        ours = Reader(store, group, topic)
    await until(lambda: len(ours.owned) == 2 and len(theirs.owned) == 2)
    assert {partition for _, partition in theirs.owned} | ours.owned == {0, 1, 2, 3}
    values = numbered(400)
    for partition in range(4):
        await deferToThread(oracle.produce, topic, values[partition::4], partition=partition)
    await until(lambda: len(ours.values) + len(theirs.values) >= 400)
    assert sorted(ours.values + theirs.values) == sorted(values)
    assert ours.values
    assert theirs.values
    await theirs.stop()
    await until(lambda: len(ours.owned) == 4)
    assert ours.errors == []


@pytest.mark.both_kafkas
@here
async def test_commits_are_resumed_by_librdkafka_and_the_other_way_round(kafka, oracle, kafka_store, topic, group):
    await deferToThread(oracle.produce, topic, numbered(10), partition=0)
    store = await kafka_store(kafka)
    reader = Reader(store, group, topic)
    await until(lambda: len(reader.values) == 10)
    await reader.subscription.commit({0: Committed(7, "a note")})
    assert await deferToThread(oracle.committed, group, topic) == {0: (7, "a note")}
    await reader.subscription.close()  # commits what was taken: 10
    assert (await deferToThread(oracle.committed, group, topic))[0] == (10, "")
    await deferToThread(oracle.commit, group, topic, {0: 4})
    assert (await store.committed(group, topic))[0].offset == 4
    again = Reader(store, group, topic)
    await until(lambda: len(again.values) == 6)
    assert again.begun[0].offset == 4
    assert again.values == numbered(6, 4)


@pytest.mark.both_kafkas
@here
async def test_nothing_is_lost_or_seen_twice_while_members_come_and_go(kafka, oracle, kafka_store, topic, group):
    first_store, second_store = await kafka_store(kafka), await kafka_store(kafka)
    first = Reader(first_store, group, topic)
    values = numbered(4000)
    producing = deferToThread(_slowly, oracle, topic, values)
    others: list[Reader] = []
    for _ in range(3):
        other = Reader(second_store, group, topic)
        others.append(other)
        await until(lambda other=other: len(other.owned) == 2)
        await deferLater(reactor, 0.3)
        await other.subscription.close()
        await until(lambda: len(first.owned) == 4)
    await producing
    everything = lambda: [*first.values, *(value for other in others for value in other.values)]  # noqa: E731
    await until(lambda: len(everything()) >= 4000)
    assert sorted(everything()) == sorted(values)


def _slowly(oracle: Oracle, topic: str, values: list[bytes]) -> None:
    for start in range(0, len(values), 200):
        for partition in range(4):
            oracle.produce(topic, values[start + partition * 50 : start + partition * 50 + 50], partition=partition)
        time.sleep(0.2)


@here
async def test_a_partition_added_by_others_is_assigned_within_the_metadata_refresh(
    kafka, oracle, kafka_store, topic, group
):
    store = await kafka_store(kafka)
    reader = Reader(store, group, topic)
    await until(lambda: len(reader.owned) == 4)
    await deferToThread(oracle.add_partitions, topic, 5)
    await deferToThread(oracle.produce, topic, [b"new"], partition=4)
    await until(lambda: b"new" in reader.values)


@pytest.mark.both_kafkas
@here
async def test_aborted_records_are_never_given_and_are_passed(kafka, oracle, kafka_store, topic, group):
    await deferToThread(_transactions, kafka.direct, topic)
    store = await kafka_store(kafka)
    reader = Reader(store, group, topic)
    await until(lambda: len(reader.values) == 6)
    _, end = await deferToThread(oracle.ends, topic, 0)
    await until(lambda: reader.subscription.position(0) == end)
    assert reader.values == [b"kept"] * 3 + [b"kept too"] * 3
    assert reader.subscription.lag(0) == 0
    fetched = await store.read(topic, 0, 0, max_bytes=1 << 20, wait_seconds=0)
    assert [record.value for record in fetched.records] == [b"kept"] * 3 + [b"kept too"] * 3
    assert fetched.next_offset == fetched.end == reader.subscription.position(0)


def _transactions(bootstrap: str, topic: str) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": topic, "log_level": 0})
    producer.init_transactions(30)
    for value, keep in ((b"kept", True), (b"dropped", False), (b"kept too", True), (b"dropped", False)):
        producer.begin_transaction()
        for _ in range(3):
            producer.produce(topic, value, partition=0)
        producer.flush(30)
        if keep:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)


@here
async def test_records_deleted_under_a_reader_are_skipped_to_the_earliest(kafka, oracle, kafka_store, topic, group):
    await deferToThread(oracle.produce, topic, numbered(10), partition=1)
    store = await kafka_store(kafka)
    reader = Reader(store, group, topic)
    await until(lambda: len(reader.values) == 10)
    deleting = oracle.admin.delete_records([TopicPartition(topic, 1, 6)])
    await deferToThread(lambda: [future.result(10) for future in deleting.values()])
    reader.subscription.seek(1, 2)
    await until(lambda: len(reader.values) == 14)
    assert reader.values[10:] == numbered(4, 6)


@pytest.mark.both_kafkas
@here
async def test_a_topic_deleted_and_made_again_ends_the_old_subscription_and_starts_a_new_one_over(
    kafka, oracle, kafka_store, topic, group
):
    await deferToThread(oracle.produce, topic, numbered(10), partition=1)
    store = await kafka_store(kafka)
    reader = Reader(store, group, topic)
    await until(lambda: len(reader.values) == 10)
    await reader.commit()
    await deferToThread(oracle.delete_topic, topic)
    await until(lambda: reader.errors)
    assert isinstance(reader.errors[-1], TopicNotFound)
    assert reader.owned == set()
    await deferToThread(oracle.create_topic, topic, 4)
    await deferToThread(oracle.produce, topic, [b"anew"], partition=1)
    again = Reader(store, group, topic)
    await until(lambda: again.values == [b"anew"])


class Standing(Reader):
    """A reader that takes nothing by itself, and counts how often it was told that it could."""

    told = 0

    def readable(self, partition: int) -> None:
        self.told += 1


@here
async def test_untaken_records_are_let_go_of_after_a_while_and_fetched_again_when_taken(
    kafka, oracle, kafka_store, topic, group
):
    await deferToThread(oracle.produce, topic, numbered(100), partition=3)
    store = await kafka_store(kafka)
    reader = Standing(store, group, topic)
    await until(lambda: reader.told == 1)
    first = reader.subscription.take(3, 10, 1 << 20)
    assert [record.value for record in first] == numbered(10)
    await until(lambda: reader.told == 2)
    await deferLater(reactor, LET_GO_SECONDS * 2 + 0.5)
    assert reader.subscription.take(3, 1000, 1 << 20) == []
    assert reader.subscription.position(3) == 10
    await until(lambda: reader.told == 3)
    assert [record.value for record in reader.subscription.take(3, 1000, 1 << 20)] == numbered(90, 10)
    await deferToThread(oracle.produce, topic, [b"more"], partition=3)
    await until(lambda: reader.told == 4)
    assert [record.value for record in reader.subscription.take(3, 1000, 1 << 20)] == [b"more"]


@here
async def test_many_groups_join_at_once(kafka, oracle, kafka_store, topic, unique_name):
    await deferToThread(oracle.produce, topic, [b"one"], partition=2)
    store = await kafka_store(kafka)
    readers = [Reader(store, unique_name("group"), topic) for _ in range(50)]
    await until(lambda: all(reader.values == [b"one"] for reader in readers))
