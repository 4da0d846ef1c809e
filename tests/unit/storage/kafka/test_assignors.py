"""Range and round robin assignment, held to what the Java client's own examples give and to their rules in general."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kateway.storage.kafka.consumer.assignors import STRATEGIES, assign_range, assign_roundrobin

topics = st.sampled_from(["a", "b", "c"])
subscriptions = st.dictionaries(
    st.text("xyz", min_size=1, max_size=3), st.lists(topics, min_size=1, unique=True), min_size=1, max_size=6
)
counts = st.dictionaries(topics, st.integers(0, 12))


@given(st.sampled_from(list(STRATEGIES.values())), subscriptions, counts)
def test_each_partition_goes_to_exactly_one_member_that_subscribes_to_it(assign, subscribed, partitions):
    assignment = assign(subscribed, partitions)
    assert set(assignment) == set(subscribed)
    given_out = [(topic, index) for mine in assignment.values() for topic in mine for index in mine[topic]]
    wanted = {topic for mine in subscribed.values() for topic in mine}
    assert sorted(given_out) == [
        (topic, index) for topic in sorted(wanted) for index in range(partitions.get(topic, 0))
    ]
    for member, mine in assignment.items():
        assert set(mine) <= set(subscribed[member])


@given(st.sets(st.text("xyz", min_size=1, max_size=3), min_size=1), st.integers(0, 30))
def test_members_of_one_topic_differ_by_one_partition_at_most(members, count):
    for assign in STRATEGIES.values():
        assignment = assign({member: ["t"] for member in members}, {"t": count})
        sizes = [len(mine.get("t", ())) for mine in assignment.values()]
        assert max(sizes) - min(sizes) <= 1


def test_range_gives_runs_and_the_first_members_one_more():
    assert assign_range({"C0": ["t0", "t1"], "C1": ["t0", "t1"]}, {"t0": 3, "t1": 3}) == {
        "C0": {"t0": [0, 1], "t1": [0, 1]},
        "C1": {"t0": [2], "t1": [2]},
    }


def test_roundrobin_deals_on_over_topics():
    assert assign_roundrobin({"C0": ["t0", "t1"], "C1": ["t0", "t1"]}, {"t0": 3, "t1": 3}) == {
        "C0": {"t0": [0, 2], "t1": [1]},
        "C1": {"t0": [1], "t1": [0, 2]},
    }


def test_roundrobin_passes_over_members_that_do_not_subscribe():
    subscribed = {"C0": ["t0"], "C1": ["t0", "t1"], "C2": ["t0", "t1", "t2"]}
    assert assign_roundrobin(subscribed, {"t0": 1, "t1": 2, "t2": 3}) == {
        "C0": {"t0": [0]},
        "C1": {"t1": [0]},
        "C2": {"t1": [1], "t2": [0, 1, 2]},
    }


def test_topic_without_partitions_is_given_to_no_member():
    assert assign_range({"C0": ["gone"]}, {}) == {"C0": {}}
    assert assign_roundrobin({"C0": ["gone"]}, {}) == {"C0": {}}
