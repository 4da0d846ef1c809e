"""Cooperative assignment, held to what a group relies on: nothing is given to two, nothing moves without need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kateway.storage.kafka.consumer.cooperative import Claim, assign_cooperatively, balance, keep

topics = st.sampled_from(["a", "b", "c"])
places = st.tuples(topics, st.integers(0, 12))
members = st.text("xyz", min_size=1, max_size=3)
claims = st.dictionaries(
    members,
    st.builds(Claim, st.lists(topics, min_size=1, unique=True), st.frozensets(places, max_size=8), st.integers(-1, 3)),
    min_size=1,
    max_size=6,
)
counts = st.dictionaries(topics, st.integers(0, 12))


def flat(assignment):
    return {(topic, each): member for member, mine in assignment.items() for topic in mine for each in mine[topic]}


def number(assignment):
    return sum(len(each) for mine in assignment.values() for each in mine.values())


def settle(claimed, partitions):
    """Steps until nothing is withheld, as a group's members do: give up what is not assigned, join again."""
    for generation in range(4, 10):
        assignment = assign_cooperatively(claimed, partitions)
        given_up = any(set(claim.owned) - set(_places(assignment[name])) for name, claim in claimed.items())
        claimed = {
            name: Claim(claim.topics, frozenset(_places(assignment[name])), generation)
            for name, claim in claimed.items()
        }
        if not given_up:
            return assignment, claimed
    raise AssertionError("the group never settled")


def _places(mine):
    return [(topic, partition) for topic, partitions in mine.items() for partition in partitions]


@given(claims, counts)
def test_partition_goes_to_one_member_that_subscribes_to_its_topic(claimed, partitions):
    wanted = {topic for claim in claimed.values() for topic in claim.topics}
    placed = balance(claimed, partitions)
    assert sorted(placed) == [(topic, each) for topic in sorted(wanted) for each in range(partitions.get(topic, 0))]
    assert all(place[0] in claimed[member].topics for place, member in placed.items())
    step = assign_cooperatively(claimed, partitions)
    assert set(step) == set(claimed)
    assert len(flat(step)) == number(step)


@given(claims, counts)
def test_no_partition_stays_where_a_subscriber_has_two_fewer(claimed, partitions):
    placed = balance(claimed, partitions)
    loads = {member: list(placed.values()).count(member) for member in claimed}
    for (topic, _partition), member in placed.items():
        assert all(loads[member] - loads[other] < 2 for other in claimed if topic in claimed[other].topics)


@given(claims, counts)
def test_partition_that_another_member_holds_is_not_assigned_before_it_is_given_up(claimed, partitions):
    for assign in (assign_cooperatively, keep):
        for place, member in flat(assign(claimed, partitions)).items():
            latest = max((claim.generation for claim in claimed.values() if place in claim.owned), default=None)
            holders = {name for name, claim in claimed.items() if place in claim.owned and claim.generation == latest}
            assert not holders or member in holders


@given(claims, counts)
def test_settled_group_does_not_move_when_it_joins_again(claimed, partitions):
    assignment, claimed = settle(claimed, partitions)
    assert assign_cooperatively(claimed, partitions) == assignment
    assert flat(assignment) == balance(claimed, partitions)


@given(st.sets(members, min_size=1, max_size=5), st.integers(0, 20))
def test_member_of_another_topic_that_comes_and_goes_moves_nothing(names, count):
    partitions = {"a": count, "b": 7}
    before, claimed = settle({name: Claim(["a"]) for name in names}, partitions)
    among = assign_cooperatively({**claimed, "other": Claim(["b"])}, partitions)
    assert {name: among[name] for name in names} == before
    assert among["other"] == {"b": list(range(7))}


@given(st.sets(members, min_size=1, max_size=5), st.integers(0, 20))
def test_member_that_joins_gets_its_part_from_the_others_and_no_more_moves(names, count):
    before, claimed = settle({name: Claim(["a"]) for name in names}, {"a": count})
    after, _claimed = settle({**claimed, "new": Claim(["a"])}, {"a": count})
    moved = [place for place, member in flat(after).items() if flat(before)[place] != member]
    assert len(moved) == len(after["new"].get("a", ()))
    assert len(moved) == count // (len(names) + 1)


def test_later_generation_is_right_where_two_members_hold_the_same():
    old, new = Claim(["a"], [("a", 0)], 3), Claim(["a"], [("a", 0)], 4)
    assert assign_cooperatively({"x": old, "y": new}, {"a": 1}) == {"x": {}, "y": {"a": [0]}}


def test_members_keep_all_and_get_nothing_before_an_eager_protocol_begins():
    claimed = {"x": Claim(["a"], [("a", 0), ("a", 1)], 3), "y": Claim(["a"])}
    assert keep(claimed, {"a": 3}) == {"x": {"a": [0, 1]}, "y": {}}
