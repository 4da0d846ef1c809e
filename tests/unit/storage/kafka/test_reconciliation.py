"""A group whose coordinator assigns, as a model: members give up and take as ``Reconciliation`` says, in any order,
while the coordinator wants other things of them; answers get lost, and members too.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kateway.storage.kafka.consumer.reconciliation import Reconciliation

MEMBERS = range(2)
OLD, NEW = b"o" * 16, b"n" * 16


class Group(RuleBasedStateMachine):
    """A coordinator gives a partition to a member only when no other one has it by its book; what a member has by that
    book goes only when a heartbeat says so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.members = [Reconciliation() for _ in MEMBERS]
        self.book: list[frozenset[tuple[bytes, int]]] = [frozenset() for _ in MEMBERS]
        self.wanted: dict[tuple[bytes, int], int] = {}

    @initialize(data=st.data())
    def begins(self, data: st.DataObject) -> None:
        self.aims_elsewhere(data)

    @rule(data=st.data())
    def aims_elsewhere(self, data: st.DataObject) -> None:
        self.wanted = {(OLD, partition): data.draw(st.sampled_from(MEMBERS)) for partition in range(2)}

    @rule(number=st.sampled_from(MEMBERS), answered=st.booleans())
    def heartbeat(self, number: int, answered: bool) -> None:
        said = self.members[number].say()
        aim = frozenset(place for place, member in self.wanted.items() if member == number)
        if (self.book[number] - aim) & said:
            assigned = self.book[number] & aim
        else:
            others = frozenset[tuple[bytes, int]]().union(*self.book[:number], *self.book[number + 1 :])
            self.book[number] = assigned = aim - others
        if answered:
            self.members[number].assigned = assigned

    @rule(number=st.sampled_from(MEMBERS))
    def begins_to_give_up(self, number: int) -> None:
        going = self.members[number].begin_to_give_up()
        assert going <= self.members[number].held

    @rule(number=st.sampled_from(MEMBERS))
    def gave_up(self, number: int) -> None:
        self.members[number].gave_up(self.members[number].going)

    @rule(number=st.sampled_from(MEMBERS))
    def takes(self, number: int) -> None:
        self.members[number].take()

    @rule(number=st.sampled_from(MEMBERS))
    def is_fenced(self, number: int) -> None:
        self.members[number].lose()
        self.book[number] = frozenset()

    @invariant()
    def no_partition_is_held_by_two(self) -> None:
        held = [place for member in self.members for place in member.held]
        assert len(held) == len(set(held))

    def teardown(self) -> None:
        for _ in range(4):
            for number in MEMBERS:
                self.heartbeat(number, True)
                self.begins_to_give_up(number)
                self.gave_up(number)
                self.takes(number)
        for number, member in enumerate(self.members):
            assert member.held == {place for place, wanted in self.wanted.items() if wanted == number}


test_group_whose_coordinator_assigns_never_has_two_holders_and_settles = Group.TestCase
Group.TestCase.settings = settings(max_examples=100, stateful_step_count=40)


assignments = st.builds(
    lambda topic, partitions: frozenset((topic, partition) for partition in partitions),
    st.sampled_from([OLD, NEW]),
    st.frozensets(st.integers(0, 3)),
)


@given(st.lists(st.tuples(assignments, st.booleans())))
def test_partition_of_a_topic_made_anew_is_taken_only_after_the_one_of_the_same_number_was_given_up(steps):
    member = Reconciliation()
    for assigned, finishes in steps:
        member.assigned = assigned
        assert not member.begin_to_give_up() & assigned
        if finishes:
            member.gave_up(member.going)
        member.take()
        numbers = [partition for _, partition in member.held]
        assert len(numbers) == len(set(numbers))
        assert member.held - assigned <= member.going


def test_partition_that_is_assigned_again_while_it_is_given_up_is_taken_again_afterwards():
    member = Reconciliation()
    member.assigned = frozenset({(OLD, 0)})
    assert member.take() == {(OLD, 0)}
    member.assigned = frozenset()
    assert member.begin_to_give_up() == {(OLD, 0)}
    member.assigned = frozenset({(OLD, 0)})
    assert member.take() == frozenset()
    assert member.begin_to_give_up() == frozenset()
    member.gave_up(member.going)
    assert member.held == frozenset()
    assert member.take() == {(OLD, 0)}


def test_partition_that_was_assigned_but_not_held_when_a_heartbeat_said_so_is_not_taken_without_its_answer():
    group = Group()
    first, second = group.members
    group.wanted = {(OLD, 0): 0}
    group.heartbeat(0, True)
    group.wanted = {(OLD, 0): 1}
    group.heartbeat(0, False)
    group.heartbeat(1, True)
    assert second.take() == {(OLD, 0)}
    assert first.take() == frozenset()
