"""Groups that go over from the classic protocol to the one in which brokers assign (KIP-848) and back, on real Kafka;
which of the two is chosen.
"""

from __future__ import annotations

import pytest
import pytest_twisted
from group_members import (
    BY_CONSUMER_PROTOCOL,
    JAVA_CONSUMER,
    JAVA_COOPERATIVE,
    by_strategy,
    numbered,
    write_slowly,
)
from kafka_reader import Reader, until
from twisted.internet.threads import deferToThread

from kateway.errors import Unsupported
from kateway.model import Committed

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka


def by_consumer_protocol(reader: Reader) -> bool:
    """Whether a reader's membership is by the consumer protocol."""
    generation = reader.subscription._membership.generation  # type: ignore[attr-defined]
    return generation is not None and generation.by_consumer_protocol


@pytest.mark.parametrize(
    ("client", "settings"),
    [
        ("librdkafka", by_strategy("cooperative-sticky")),
        ("librdkafka", by_strategy("range")),
        ("librdkafka", BY_CONSUMER_PROTOCOL),
        ("java", JAVA_COOPERATIVE),
        ("java", JAVA_CONSUMER),
    ],
    ids=["librdkafka-cooperative", "librdkafka-range", "librdkafka-consumer", "java-cooperative", "java-consumer"],
)
@here
async def test_group_goes_over_to_the_consumer_protocol_and_back_beside_another_clients_member(
    kafka, oracle, kafka_store, topic, group, java_member, client, settings, librdkafka_member
):
    classic_store = await kafka_store(kafka, protocol="classic")
    consumer_store = await kafka_store(kafka, protocol="consumer")
    before = Reader(classic_store, group, topic)
    await until(lambda: len(before.owned) == 4)
    if client == "java":
        theirs = java_member(kafka, group, topic, settings)
    else:
        theirs = librdkafka_member(group, [topic], **settings)
    await until(lambda: len(before.owned) == 2)
    values = numbered(2000)
    producing = deferToThread(write_slowly, oracle, topic, values, 0.1)
    ours = Reader(consumer_store, group, topic)
    await until(lambda: ours.owned)
    assert by_consumer_protocol(ours)
    assert not by_consumer_protocol(before)
    await before.subscription.close()
    await until(lambda: len(ours.owned) == 2)
    after = Reader(classic_store, group, topic)
    await until(lambda: after.owned)
    assert not by_consumer_protocol(after)
    await ours.subscription.close()
    await until(lambda: len(after.owned) == 2)
    await producing
    every = lambda: [*before.values, *ours.values, *after.values, *theirs.values]  # noqa: E731
    await until(lambda: set(every()) == set(values))
    await after.commit()
    if client == "java":
        await deferToThread(theirs.stop)
    else:
        await theirs.stop()
    await until(lambda: len(after.owned) == 4)
    mine = [*before.values, *ours.values, *after.values]
    assert len(mine) == len(set(mine))
    # a classic member of another program begins anew where the group's protocol changes, and reads again what it had
    # not committed (seen in __consumer_offsets: with librdkafka 10 records of a partition that never was ours since,
    # the last commit before them); what comes to it twice, or to it and us, is asked where it has the new protocol
    if settings in (BY_CONSUMER_PROTOCOL, JAVA_CONSUMER):
        assert sorted(every()) == sorted(values)
    for reader in (before, ours, after):
        assert reader.errors == []
        assert "lost" not in reader.heard
    await after.commit()
    stored = await classic_store.committed(group, topic)
    assert [stored[partition] for partition in range(4)] == [Committed(500)] * 4


@here
async def test_group_in_which_librdkafka_assigns_to_our_classic_member_is_joined_by_the_classic_protocol(
    kafka, kafka_store, topic, group, librdkafka_member
):
    # librdkafka copies what a member says of itself into its assignment: Kafka takes that for an assignor's own data
    theirs = librdkafka_member(group, [topic], **by_strategy("cooperative-sticky"))
    await until(lambda: len(theirs.owned) == 4)
    before = Reader(await kafka_store(kafka, protocol="classic"), group, topic)
    await until(lambda: len(before.owned) == 2)
    told = Reader(await kafka_store(kafka, protocol="consumer"), group, topic)
    await until(lambda: told.errors)
    assert isinstance(told.errors[0], Unsupported)
    ours = Reader(await kafka_store(kafka), group, topic)
    await until(lambda: ours.owned)
    assert not by_consumer_protocol(ours)
    assert ours.errors == []


@here
async def test_group_is_joined_by_the_classic_protocol_where_a_member_that_is_gone_would_be_kept_for_longer(
    kafka, kafka_store, topic, group
):
    reader = Reader(await kafka_store(kafka, session_timeout_seconds=5.0), group, topic)
    await until(lambda: len(reader.owned) == 4)
    assert not by_consumer_protocol(reader)


@here
async def test_group_is_joined_by_the_classic_protocol_where_brokers_do_not_have_the_other(
    kafka_3_9, kafka_store, group, topic_name
):
    store = await kafka_store(kafka_3_9)
    await store.create_topic(topic_name, partitions=4)
    reader = Reader(store, group, topic_name)
    await until(lambda: len(reader.owned) == 4)
    assert not by_consumer_protocol(reader)
    told = Reader(await kafka_store(kafka_3_9, protocol="consumer"), group, topic_name)
    await until(lambda: told.errors)
    assert isinstance(told.errors[0], Unsupported)
    assert "group_protocol" in told.errors[0].detail


@pytest.mark.parametrize(
    "settings",
    [{"group.coordinator.rebalance.protocols": "classic"}, {"group.consumer.migration.policy": "disabled"}],
    ids=["listed-but-off", "group-may-not-go-over"],
)
@here
async def test_group_is_joined_by_the_classic_protocol_where_the_coordinator_refuses_the_other(
    kafka_cluster, kafka_store, settings
):
    cluster = await deferToThread(kafka_cluster, settings=settings)
    store = await kafka_store(cluster)
    await store.create_topic("topic", partitions=4)
    first = Reader(await kafka_store(cluster, protocol="classic"), "group", "topic")
    await until(lambda: len(first.owned) == 4)
    second = Reader(store, "group", "topic")
    await until(lambda: len(first.owned) == len(second.owned) == 2)
    assert not by_consumer_protocol(second)
    assert second.errors == []
    cluster.close()


@pytest.mark.parametrize(("former", "present"), [("classic", "consumer"), ("consumer", "classic")])
@here
async def test_gateway_that_is_back_by_the_other_protocol_has_its_place_again(
    kafka, oracle, kafka_store, topic, group, former, present
):
    first_store = await kafka_store(kafka, name="one", protocol=former)
    other = Reader(await kafka_store(kafka, name="two", protocol="classic"), group, topic)
    first = Reader(first_store, group, topic)
    await until(lambda: len(first.owned) == 2 and len(other.owned) == 2)
    await first_store.stop(5.0)
    again = Reader(await kafka_store(kafka, name="one", protocol=present), group, topic)
    await until(lambda: len(again.owned) == 2 and len(other.owned) == 2)
    assert again.owned | other.owned == {0, 1, 2, 3}
    for partition in range(4):
        oracle.produce(topic, [b"%d" % partition] * 10, partition=partition)
    await until(lambda: len(again.seen) == 20 and len(other.seen) == 20)
    assert again.errors == []
    assert "lost" not in other.heard
