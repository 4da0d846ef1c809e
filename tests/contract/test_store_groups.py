"""Groups: what a member is told, takes, commits, and hands over. For every driver of the store."""

from __future__ import annotations

import pytest
import pytest_twisted
from recorder import Recorder, turn, until
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from kateway.errors import Conflict, GroupBusy, TopicNotFound
from kateway.model import Committed, Message

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.both_kafkas  # the group protocol is what differs most between them


@pytest.fixture
def group(unique_name):
    return unique_name("group")


# --- a member alone


@here
async def test_groups_that_read_a_topic_are_those_with_a_member(store, make_topic, written, subscribe, unique_name):
    topic, other = await make_topic(), await make_topic()
    await written(topic, b"a")
    one, two, three = (unique_name("group") for _ in range(3))
    assert await store.reading_groups(topic) == frozenset()
    readers = [subscribe(one, topic), subscribe(two, topic), subscribe(two, other), subscribe(three, other)]
    for reader in readers:
        await reader.owns(0)
    assert await store.reading_groups(topic) == {one, two}
    assert await store.reading_groups(other) == {two, three}
    await readers[1].subscription.close()
    await readers[2].owns(0)
    # while the group's other member joins anew it does not say what it reads
    while await store.reading_groups(topic) != {one}:
        await turn()


@here
async def test_groups_that_have_committed_are_named_with_their_topics_though_nobody_reads(
    store, make_topic, written, subscribe, unique_name
):
    topics = [await make_topic(), await make_topic()]
    for topic in topics:
        await written(topic, b"a")
    one, other, none = (unique_name("group") for _ in range(3))
    readers = [subscribe(one, topics[0]), subscribe(one, topics[1]), subscribe(other, topics[0])]
    for reader in readers:
        await reader.owns(0)
        await reader.subscription.commit({0: Committed(1)})
        await reader.subscription.close()
    idle = subscribe(none, topics[0])
    await idle.owns(0)
    await idle.subscription.close()
    mine = {one, other, none}
    assert await store.committed_groups(mine.__contains__) == {one: frozenset(topics), other: frozenset(topics[:1])}
    assert await store.committed_groups(lambda group: group == other) == {other: frozenset(topics[:1])}


@here
async def test_assigned_comes_before_readable_and_never_from_inside_a_call(make_topic, written, subscribe, group):
    topic = await make_topic(partitions=3)
    await written(topic, *[Message(b"%d" % number, partition=number) for number in range(3)])
    reader = subscribe(group, topic)
    assert reader.heard == []
    await reader.collect(3)
    assert reader.owned == {0: None, 1: None, 2: None}
    told = set()
    for name, what in reader.heard:
        if name == "assigned":
            told |= set(what)
        elif name == "readable":
            assert what in told


@here
async def test_a_new_group_starts_where_its_reset_rule_says(make_topic, written, subscribe, unique_name):
    topic = await make_topic()
    await written(topic, b"before")
    late = subscribe(unique_name("late"), topic, "latest")
    await late.owns(0)
    await until(lambda: late.subscription.position(0) == 1)
    await written(topic, b"after")
    assert [record.value for record in await late.collect(1)] == [b"after"]
    early = subscribe(unique_name("early"), topic, "earliest")
    assert [record.value for record in await early.collect(2)] == [b"before", b"after"]


@here
async def test_take_keeps_to_the_number_asked_for_and_says_again_that_there_is_more(
    make_topic, written, subscribe, group
):
    topic = await make_topic()
    await written(topic, *[b"%d" % number for number in range(25)])
    reader = subscribe(group, topic)
    sizes = []
    for _ in range(3):
        await until(lambda: 0 in reader.ready)
        sizes.append(len(reader.take(0, max_records=10)))
    while sum(sizes) < 25:
        await until(lambda: 0 in reader.ready)
        sizes.append(len(reader.take(0, max_records=10)))
    assert max(sizes) <= 10
    assert [record.offset for record in reader.taken[0]] == list(range(25))
    assert reader.take(0) == []


@here
async def test_take_keeps_to_about_the_bytes_asked_for(make_topic, written, subscribe, group):
    topic = await make_topic()
    await written(topic, *[b"x" * 1000] * 20)
    reader = subscribe(group, topic)
    await until(lambda: 0 in reader.ready)
    records = reader.take(0, max_bytes=3500)
    assert 1 <= len(records) <= 4


@here
async def test_take_gives_one_record_however_large(make_topic, written, subscribe, group):
    topic = await make_topic()
    await written(topic, b"x" * 300_000, b"y" * 300_000, b"z")
    reader = subscribe(group, topic)
    for expected in (b"x" * 300_000, b"y" * 300_000):
        await until(lambda: 0 in reader.ready)
        assert [record.value for record in reader.take(0, max_bytes=10)] == [expected]


@here
async def test_records_come_whole(make_topic, written, subscribe, group):
    topic = await make_topic()
    sent = [
        Message(b"", b"", (("a", b"1"), ("a", None)), timestamp=1_700_000_000_000),
        Message(None, None, (), timestamp=1_700_000_000_001),
        Message(b"v", b"k", (("", b""),), timestamp=1_700_000_000_002),
    ]
    await written(topic, *sent)
    records = await subscribe(group, topic).collect(3)
    assert [(each.value, each.key, each.headers, each.timestamp) for each in records] == [
        (each.value, each.key, each.headers, each.timestamp) for each in sent
    ]


@here
async def test_position_and_lag_follow_what_is_taken(make_topic, written, subscribe, group):
    topic = await make_topic()
    await written(topic, *[b"x"] * 10)
    reader = subscribe(group, topic)
    assert reader.subscription.position(0) is None
    assert reader.subscription.lag(0) is None
    await until(lambda: 0 in reader.ready)
    assert reader.subscription.position(0) == 0
    while (taken := len(reader.taken.get(0, []))) < 4:
        await until(lambda: 0 in reader.ready)
        reader.take(0, max_records=4 - taken)
    assert reader.subscription.position(0) == 4
    await until(lambda: reader.subscription.lag(0) == 6)
    await reader.collect(10)
    assert reader.subscription.position(0) == 10
    await until(lambda: reader.subscription.lag(0) == 0)
    assert reader.subscription.position(7) is None
    assert reader.subscription.lag(7) is None
    assert reader.take(7) == []


@here
async def test_new_records_are_told_to_a_reader_at_the_end(make_topic, written, subscribe, group):
    topic = await make_topic(partitions=2)
    reader = subscribe(group, topic)
    await reader.owns(0, 1)
    for number in range(5):
        await written(topic, Message(b"%d" % number, partition=number % 2))
        await reader.collect(number + 1)
    assert [record.value for record in reader.taken[0]] == [b"0", b"2", b"4"]
    assert [record.value for record in reader.taken[1]] == [b"1", b"3"]


@here
async def test_a_partition_that_is_not_taken_from_does_not_stop_the_others(make_topic, written, subscribe, group):
    topic = await make_topic(partitions=2)
    for _ in range(20):
        await written(topic, *[Message(b"x" * 10_000, partition=number % 2) for number in range(40)])
    reader = subscribe(group, topic)
    while len(reader.taken.get(1, [])) < 400:
        await until(lambda: 1 in reader.ready)
        reader.take(1)
    assert reader.subscription.position(0) == 0
    await reader.collect(800)
    assert [record.offset for record in reader.taken[0]] == list(range(400))


@here
async def test_a_partition_at_rest_is_told_of_again_after_the_next_take(make_topic, written, subscribe, group):
    topic = await make_topic(partitions=2)
    await written(topic, *[Message(b"%d" % number, partition=number % 2) for number in range(40)])
    reader = subscribe(group, topic)
    await until(lambda: 0 in reader.ready)
    assert len(reader.subscription.take(0, 5, 1 << 20)) == 5
    for partition in (0, 1, 7):
        reader.subscription.pause(partition)
    assert reader.subscription.position(0) == 5
    await turn(0.1)
    reader.ready.clear()
    await written(topic, Message(b"new", partition=0))
    await turn(0.1)
    assert reader.subscription.take(0, 5, 1 << 20) == []
    await until(lambda: 0 in reader.ready)
    assert 1 not in reader.ready
    assert [record.offset for record in reader.subscription.take(0, 1000, 1 << 20)] == list(range(5, 21))
    assert reader.subscription.take(1, 5, 1 << 20) == []
    await until(lambda: 1 in reader.ready)
    assert [record.offset for record in reader.subscription.take(1, 1000, 1 << 20)] == list(range(20))


@here
async def test_seek_goes_back_and_forth(make_topic, written, subscribe, group):
    topic = await make_topic()
    await written(topic, *[b"%d" % number for number in range(20)])
    reader = subscribe(group, topic)
    await reader.collect(20)
    for offset in (5, 15, 0):
        reader.taken.clear()
        reader.subscription.seek(0, offset)
        assert reader.subscription.position(0) == offset
        assert [record.offset for record in await reader.collect(20 - offset)] == list(range(offset, 20))


@here
async def test_seek_out_of_range_falls_back_on_the_reset_rule(make_topic, written, subscribe, group):
    topic = await make_topic()
    await written(topic, *[b"%d" % number for number in range(5)])
    reader = subscribe(group, topic, "earliest")
    await reader.owns(0)
    reader.subscription.seek(0, 1000)
    assert [record.offset for record in await reader.collect(5)] == list(range(5))


@here
async def test_a_topic_that_does_not_exist_fails_the_subscription_and_is_not_made(store, subscribe, topic_name, group):
    reader = subscribe(group, topic_name)
    await until(lambda: reader.errors)
    assert isinstance(reader.errors[0], TopicNotFound)
    assert "assigned" not in reader.names()
    await reader.subscription.close()
    assert topic_name not in await store.topics()


# --- commits


@here
async def test_committed_offset_is_told_and_resumed(store, make_topic, written, subscribe, group):
    topic = await make_topic(partitions=2)
    await written(topic, *[Message(b"%d" % number, partition=0) for number in range(10)])
    assert await store.committed(group, topic) == {0: None, 1: None}
    first = subscribe(group, topic)
    await first.collect(10)
    await first.subscription.commit({0: Committed(7, "a note: \u00e9")})
    assert await store.committed(group, topic) == {0: Committed(7, "a note: \u00e9"), 1: None}
    await first.subscription.close()
    second = subscribe(group, topic, "latest")
    assert [record.offset for record in await second.collect(3)] == [7, 8, 9]
    assert second.owned == {0: Committed(7, "a note: \u00e9"), 1: Committed(0)}


@here
@pytest.mark.parametrize("reset", ["earliest", "latest"])
async def test_group_that_began_in_an_empty_topic_goes_on_from_there(make_topic, written, subscribe, group, reset):
    topic = await make_topic(partitions=2)
    first = subscribe(group, topic, reset)
    await first.owns(0, 1)
    assert first.owned == {0: Committed(0), 1: Committed(0)}
    await first.subscription.close()
    await written(topic, Message(b"a", partition=0), Message(b"b", partition=1))
    second = subscribe(group, topic, "latest")
    assert {record.value for record in await second.collect(2)} == {b"a", b"b"}


@here
async def test_group_that_began_at_latest_goes_on_from_there_though_nothing_came(make_topic, written, subscribe, group):
    topic = await make_topic()
    await written(topic, b"before")
    first = subscribe(group, topic, "latest")
    await first.owns(0)
    assert first.owned == {0: Committed(1)}
    await first.subscription.close()
    await written(topic, b"after")
    second = subscribe(group, topic, "latest")
    assert [record.value for record in await second.collect(1)] == [b"after"]


@here
async def test_partition_added_later_is_read_from_its_beginning(store, make_topic, written, subscribe, group):
    topic = await make_topic()
    await written(topic, b"before")
    first = subscribe(group, topic, "latest")
    await first.owns(0)
    await first.subscription.close()
    await store.add_partitions(topic, 2)
    await written(topic, Message(b"added", partition=1))
    second = subscribe(group, topic, "latest")
    assert [record.value for record in await second.collect(1)] == [b"added"]


@here
async def test_of_commits_made_at_once_the_newest_counts(store, make_topic, written, subscribe, group):
    topic = await make_topic()
    await written(topic, *[b"x"] * 50)
    reader = subscribe(group, topic)
    await reader.collect(50)
    answers = [reader.subscription.commit({0: Committed(number)}) for number in range(1, 51)]
    for answer in answers:
        await answer
    assert await store.committed(group, topic) == {0: Committed(50)}


@here
async def test_groups_do_not_see_each_others_commits(store, make_topic, written, subscribe, unique_name):
    topic, other = await make_topic(), await make_topic()
    one, two = unique_name("one"), unique_name("two")
    await written(topic, b"x")
    reader = subscribe(one, topic)
    await reader.collect(1)
    await reader.subscription.commit({0: Committed(1)})
    assert await store.committed(two, topic) == {0: None}
    assert await store.committed(one, other) == {0: None}


@here
async def test_a_committed_offset_out_of_range_falls_back_on_the_reset_rule(
    store, make_topic, written, subscribe, group
):
    topic = await make_topic()
    await written(topic, *[b"x"] * 3)
    await store.reset(group, topic, {0: 1000})
    assert len(await subscribe(group, topic, "earliest").collect(3)) == 3


@here
async def test_a_partition_that_is_not_ours_cannot_be_committed(store, make_topic, written, subscribe, group):
    topic = await make_topic()
    await written(topic, b"x")
    reader = subscribe(group, topic)
    await reader.owns(0)
    with pytest.raises(Conflict):
        await reader.subscription.commit({3: Committed(1)})
    await reader.subscription.close()
    with pytest.raises(Conflict):
        await reader.subscription.commit({0: Committed(1)})
    assert await store.committed(group, topic) == {0: None}


@here
async def test_an_idle_group_is_moved_by_hand_and_a_busy_one_is_not(store, make_topic, written, subscribe, group):
    topic = await make_topic(partitions=2)
    await written(topic, *[Message(b"%d" % number, partition=number % 2) for number in range(10)])
    await store.reset(group, topic, {0: 3})
    assert await store.committed(group, topic) == {0: Committed(3), 1: None}
    reader = subscribe(group, topic)
    await reader.collect(7)
    assert [record.offset for record in reader.taken[0]] == [3, 4]
    with pytest.raises(GroupBusy):
        await store.reset(group, topic, {0: 0})
    await reader.subscription.close()
    await store.reset(group, topic, {0: 5, 1: 4})
    assert await store.committed(group, topic) == {0: Committed(5), 1: Committed(4)}


# --- several members


@pytest.mark.several_members
@here
async def test_a_second_member_gets_its_share_and_gives_it_back(make_topic, written, subscribe, group):
    topic = await make_topic(partitions=4)
    first = subscribe(group, topic)
    await first.owns(0, 1, 2, 3)
    second = subscribe(group, topic)
    await until(lambda: len(first.owned) == len(second.owned) == 2)
    assert not first.owned.keys() & second.owned.keys()
    await written(topic, *[Message(b"%d" % number, partition=number % 4) for number in range(8)])
    await first.collect(4)
    await second.collect(4)
    assert set(first.taken) == set(first.owned)
    assert set(second.taken) == set(second.owned)
    await second.subscription.close()
    await first.owns(0, 1, 2, 3)


@pytest.mark.several_members
@here
async def test_a_member_too_many_owns_nothing_until_one_leaves(make_topic, subscribe, group):
    topic = await make_topic(partitions=1)
    first = subscribe(group, topic)
    await first.owns(0)
    second = subscribe(group, topic)
    await turn(0.3)
    await until(lambda: len(first.owned) + len(second.owned) == 1)
    (owner, other) = (first, second) if first.owned else (second, first)
    await owner.subscription.close()
    await other.owns(0)


@pytest.mark.several_members
@here
async def test_a_hand_over_waits_for_the_old_owners_commit(store, make_topic, written, subscribe, group):
    topic = await make_topic(partitions=2)
    await written(topic, *[Message(b"%d" % number, partition=number % 2) for number in range(20)])
    gates: list[tuple[frozenset[int], Deferred[None]]] = []

    def hold(partitions: frozenset[int]) -> Deferred[None]:
        gates.append((partitions, Deferred()))
        return gates[-1][1]

    first = subscribe(group, topic, recorder=Recorder(hold))
    await first.collect(20)
    second = subscribe(group, topic)
    await until(lambda: gates)
    partitions, gate = gates[0]
    assert first.take(min(partitions)) == []
    await turn(0.3)
    assert not second.owned
    await first.subscription.commit({partition: Committed(6, "mine") for partition in partitions})
    first.hold = lambda _: None
    gate.callback(None)
    await until(lambda: len(first.owned) == len(second.owned) == 1)
    (moved,) = second.owned
    assert second.owned[moved] == Committed(6, "mine")
    assert [record.offset for record in await second.collect(4)] == [6, 7, 8, 9]


@here
async def test_close_is_heard_as_revoked_and_may_still_commit(store, make_topic, written, subscribe, group):
    topic = await make_topic()
    await written(topic, *[b"x"] * 5)
    reader = subscribe(group, topic)
    await reader.collect(5)
    reader.hold = lambda partitions: reader.subscription.commit({0: Committed(5)})
    await reader.subscription.close()
    assert reader.names()[-1] == "revoked"
    assert reader.heard[-1][1] == frozenset({0})
    assert await store.committed(group, topic) == {0: Committed(5)}
    assert reader.subscription.position(0) is None
    assert reader.take(0) == []
    # once more is fine
    await reader.subscription.close()


@here
async def test_a_subscription_closed_at_once_leaves_nothing_behind(store, make_topic, subscribe, group):
    topic = await make_topic()
    reader = subscribe(group, topic)
    await reader.subscription.close()
    heard = list(reader.heard)
    await turn(0.1)
    assert reader.heard == heard
    assert reader.owned == {}
    await until(lambda: True)
    await store.reset(group, topic, {0: 0})


@pytest.mark.several_members
@here
async def test_one_groups_held_up_hand_over_does_not_delay_another_group(make_topic, written, subscribe, unique_name):
    topic = await make_topic(partitions=2)
    await written(topic, Message(b"x", partition=0))
    gate: Deferred[None] = Deferred()
    slow_group = unique_name("slow")
    slow = subscribe(slow_group, topic, recorder=Recorder(lambda _: gate))
    await slow.owns(0, 1)
    waiting = subscribe(slow_group, topic)
    await until(lambda: "revoked" in slow.names())
    quick = subscribe(unique_name("quick"), topic)
    await quick.collect(1)
    assert not waiting.owned
    slow.hold = lambda _: None
    gate.callback(None)
    await until(lambda: waiting.owned)


@here
async def test_partitions_that_are_added_are_assigned_and_read(store, make_topic, written, subscribe, group):
    topic = await make_topic(partitions=1)
    reader = subscribe(group, topic)
    await reader.owns(0)
    await store.add_partitions(topic, 3)
    await written(topic, *[Message(b"%d" % number, partition=number) for number in range(3)])
    await until(lambda: set(reader.owned) == {0, 1, 2}, 60)
    await reader.collect(3)
    assert [record.value for record in reader.taken[2]] == [b"2"]


@here
async def test_a_deleted_topic_ends_its_subscriptions(store, make_topic, subscribe, group):
    topic = await make_topic(partitions=2)
    reader = subscribe(group, topic)
    await reader.owns(0, 1)
    await store.delete_topic(topic)
    await until(lambda: reader.errors and not reader.owned, 60)
    assert isinstance(reader.errors[-1], TopicNotFound)
    await reader.subscription.close()


@here
async def test_stopping_the_store_closes_its_subscriptions(make_store, unique_name):
    store = make_store()
    await store.start()
    topic = unique_name("topic")
    await store.create_topic(topic, partitions=1)
    await store.publish(topic, [Message(b"x")], -1, reactor.seconds() + 10)
    reader = Recorder()
    reader.subscription = store.subscribe(unique_name("group"), topic, reader, "earliest")
    await reader.collect(1)
    reader.hold = lambda _: reader.subscription.commit({0: Committed(1)})
    await store.stop(10.0)
    assert reader.names()[-1] == "revoked"
    assert reader.owned == {}


@here
async def test_read_ahead_is_bounded_while_nothing_is_taken(make_topic, written, subscribe, group):
    topic = await make_topic()
    for _ in range(30):
        await written(topic, *[b"x" * 10_000] * 80)
    reader = subscribe(group, topic)
    await until(lambda: 0 in reader.ready)
    await turn(1.0)
    at_hand = reader.take(0, max_records=1 << 30, max_bytes=1 << 30)
    assert sum(len(record.value) for record in at_hand) <= 12_000_000
    assert len(await reader.collect(2400)) == 2400
    assert [record.offset for record in reader.taken[0]] == list(range(2400))
