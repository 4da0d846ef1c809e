"""A broker's session holds the wanted partitions after each request, whatever is lost: Kafka's rules in short."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kateway.storage.kafka.consumer.fetch_session import LAST_EPOCH, Asking, FetchSession
from kateway.storage.kafka.protocol.requests import Wanted

PARTITIONS = range(6)


class Broker:
    """Keeps at most one session. Answers an error and the session."""

    def __init__(self) -> None:
        self.sessions = 0
        self.id = 0
        self.epoch = 0
        self.held: dict[int, Wanted] = {}
        self.full = False

    def answer(self, asking: Asking) -> tuple[int, int]:
        if asking.epoch <= 0:
            assert not asking.forgotten
            if asking.session == self.id:
                self.id = 0
            self.held = {want.partition: want for want in asking.wanted}
            if asking.epoch < 0 or self.full:
                return 0, 0
            self.sessions += 1
            self.id, self.epoch = self.sessions, 1
            return 0, self.id
        if asking.session != self.id or not self.id:
            return 70, 0
        if asking.epoch != self.epoch:
            return 71, 0
        self.epoch = self.epoch + 1 if self.epoch < LAST_EPOCH else 1
        for partition in asking.forgotten:
            del self.held[partition]
        self.held.update((want.partition, want) for want in asking.wanted)
        return 0, self.id


class SessionMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.session = FetchSession()
        self.wanted: dict[int, Wanted] = {}
        self.changed: set[int] = set()
        self.in_step = False

    @rule(partition=st.sampled_from(PARTITIONS), offset=st.integers(0, 3), size=st.integers(0, 2))
    def change(self, partition: int, offset: int, size: int) -> None:
        self.changed.add(partition)
        self.wanted.pop(partition, None)
        if size:
            self.wanted[partition] = Wanted(partition, offset, size)
        self.in_step = False

    @rule(keep=st.booleans(), lost=st.sampled_from(["", "", "", "request", "answer"]))
    def ask(self, keep: bool, lost: str) -> None:
        asking = self.session.ask(PARTITIONS, self.changed, self.wanted.get, keep=keep)
        if asking is None:
            assert not self.wanted
            return
        self.changed.clear()
        error, session = self.broker.answer(asking) if lost != "request" else (0, 0)
        if lost or error:
            self.session.lost()
        else:
            self.session.answered(session)
            self.in_step = True

    @rule()
    def throw_out(self) -> None:
        self.broker.id = 0

    @rule()
    def fill_up(self) -> None:
        self.broker.full = not self.broker.full

    @rule()
    def come_to_the_last_epoch(self) -> None:
        if self.session.epoch and self.session.epoch == self.broker.epoch and self.session.id == self.broker.id:
            self.session.epoch = self.broker.epoch = LAST_EPOCH

    @invariant()
    def the_broker_knows_what_is_wanted(self) -> None:
        if self.in_step:
            assert self.broker.held == self.wanted == self.session.asked


SessionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSession = SessionMachine.TestCase


def want(partition: int, offset: int = 0) -> Wanted:
    return Wanted(partition, offset, 100)


def test_in_a_session_only_what_changed_is_asked_for_and_looked_at() -> None:
    session = FetchSession()
    assert session.ask(range(3), (), want, keep=True) == Asking(0, 0, [want(0), want(1), want(2)], [])
    session.answered(7)
    assert session.ask(range(3), {1}, lambda number: want(number, 5), keep=True) == Asking(7, 1, [want(1, 5)], [])
    session.answered(7)
    assert session.ask(range(3), {1, 2}, {1: want(1, 5)}.get, keep=True) == Asking(7, 2, [], [2])


def test_a_session_that_may_still_be_held_is_ended_by_the_next_ones_first_request() -> None:
    assert FetchSession(former=7).ask([1], (), want, keep=True) == Asking(7, 0, [want(1)], [])
    assert FetchSession(former=7).ask([1], (), want, keep=False) == Asking(7, -1, [want(1)], [])


def test_where_nothing_is_wanted_nothing_is_asked_and_nothing_forgotten() -> None:
    session = FetchSession()
    assert session.ask([1], (), lambda _: None, keep=True) is None
    session.ask([1], (), want, keep=True)
    session.answered(7)
    assert session.ask([1], {1}, lambda _: None, keep=True) is None
    assert session.ask([1], {1}, lambda number: want(number, 9), keep=True) == Asking(7, 1, [want(1, 9)], [])
