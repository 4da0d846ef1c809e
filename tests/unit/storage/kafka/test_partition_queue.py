"""A lane against a model of a broker that follows Kafka's rules: nothing twice, nothing lost, nothing overtaken."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kateway.storage.kafka.producer.partition_queue import BATCH_OVERHEAD_BYTES, Lane, QueuedBatch, QueueItem, Verdict
from kateway.storage.kafka.protocol.produce_requests import Identity

MASK = 0x7FFFFFFF
BROKER_LIMIT = 400
FOREVER = float("inf")


class Numbered(QueueItem):
    """An item that knows its place in the order of publishing, and what its caller was told."""

    __slots__ = ("number", "told")

    def __init__(self, number: int, size: int, deadline: float = FOREVER) -> None:
        super().__init__(size, deadline)
        self.number = number
        self.told = ""


@dataclass
class Broker:
    """One partition's leader: the log, and per id the last five batches (base sequence, end, offset)."""

    log: list[int] = field(default_factory=list)
    producers: dict[int, deque[tuple[int, int, int]]] = field(default_factory=dict)

    def write(self, batch: QueuedBatch[Numbered]) -> Verdict:
        if batch.size > BROKER_LIMIT:
            return Verdict.TOO_LARGE
        if batch.identity is not None:
            last = self.producers.get(batch.identity.producer_id)
            if last is not None:
                if any((batch.sequence, batch.end) == (base, end) for base, end, _ in last):
                    return Verdict.WRITTEN
                if last[-1][1] != batch.sequence:
                    return Verdict.OUT_OF_ORDER
            known = self.producers.setdefault(batch.identity.producer_id, deque(maxlen=5))
            known.append((batch.sequence, batch.end, len(self.log)))
        self.log += [item.number for item in batch.items]
        return Verdict.WRITTEN


class LaneMachine(RuleBasedStateMachine):
    """Drives a lane over one connection at a time: requests reach the broker in order, answers come in order."""

    @initialize(numbered=st.booleans(), start=st.sampled_from([0, MASK - 3]))
    def begin(self, numbered: bool, start: int) -> None:
        self.broker = Broker()
        self.lane: Lane[Numbered] = Lane("t", 0, numbered=numbered, max_batch_bytes=1000)
        self.items: list[Numbered] = []
        self.ids = 0
        self.now = 0.0
        self.start = start
        self.underway: deque[QueuedBatch[Numbered]] = deque()  # sent, not yet at the broker
        self.answers: deque[tuple[QueuedBatch[Numbered], Verdict]] = deque()
        self.stragglers: deque[QueuedBatch[Numbered]] = deque()  # on connections that broke; their answers are lost
        self.leading = True
        self.left = 0  # items that the lane gave back: their bytes are released

    # --- what a caller and the network do ---

    @rule(size=st.sampled_from([10, 10, 10, 60, 60, 500]), patience=st.sampled_from([FOREVER, FOREVER, 1.0, 3.0]))
    def publish(self, size: int, patience: float) -> None:
        item = Numbered(len(self.items), size, self.now + patience)
        self.items.append(item)
        self.lane.queue.append(item)

    @precondition(lambda self: self.lane.wants_identity)
    @rule()
    def give_identity(self) -> None:
        self.ids += 1
        self.lane.adopt(Identity(self.ids, 0))
        if self.ids == 1 and self.start:
            # begins just below the wrap: the broker knows the id with this many records already
            self.lane._acknowledged = self.start
            self.broker.producers[1] = deque([(self.start - 1, self.start, -1)], maxlen=5)

    @rule(room=st.sampled_from([150, 1000]), first=st.booleans())
    def send(self, room: int, first: bool) -> None:
        batch = self.lane.next(room, first=first)
        if batch is None:
            return
        assert first or batch.size <= room
        assert len(batch.items) == 1 or batch.size <= 1000
        assert batch.size == BATCH_OVERHEAD_BYTES + sum(item.size for item in batch.items)
        self.underway.append(batch)

    @rule()
    def arrive(self) -> None:
        if self.underway:
            batch = self.underway.popleft()
            self.answers.append((batch, self.broker.write(batch) if self.leading else Verdict.NOT_WRITTEN))

    @rule()
    def refuse_for_good(self) -> None:
        if self.underway:
            self.answers.append((self.underway.popleft(), Verdict.REFUSED))

    @rule()
    def refuse_for_now(self) -> None:
        if self.underway:
            self.answers.append((self.underway.popleft(), Verdict.NOT_WRITTEN))

    @rule()
    def write_to_too_few(self) -> None:
        if self.underway:
            batch = self.underway.popleft()
            verdict = self.broker.write(batch)
            self.answers.append((batch, Verdict.UNKNOWN if verdict is Verdict.WRITTEN else verdict))

    @rule()
    def answer(self) -> None:
        if self.answers:
            self.tell(*self.answers.popleft())

    @rule()
    def cut(self) -> None:
        """The connection breaks: what is on the way either way has no answer; a part may have arrived."""
        gone = [batch for batch, _ in self.answers] + list(self.underway)
        self.stragglers += self.underway
        self.answers.clear()
        self.underway.clear()
        for batch in gone:
            self.tell(batch, Verdict.UNKNOWN)

    @rule()
    def straggler_arrives(self) -> None:
        if self.stragglers:
            batch = self.stragglers.popleft()
            if self.leading:
                self.broker.write(batch)

    @rule()
    def never_sent(self) -> None:
        """The connection was not there: the newest request did not leave."""
        if self.underway:
            self.tell(self.underway.pop(), Verdict.NOT_WRITTEN)

    @rule()
    def leader_changes(self) -> None:
        self.leading = not self.leading

    @rule()
    def broker_forgets(self) -> None:
        """Retention took the segments: nothing is known of ids. Only while nothing is on its way, as brokers do."""
        if not self.lane.batches and not self.stragglers:
            self.broker.producers.clear()
            self.lane.proven = False

    @rule()
    def time_passes(self) -> None:
        self.now += 1
        unsent, unknown = self.lane.expire(self.now)
        self.left += len(unsent)
        for item in unsent:
            self.end(item, "not written")
        for item in unknown:
            self.end(item, "unknown")
        assert self.lane.earliest_deadline() > self.now

    def tell(self, batch: QueuedBatch[Numbered], verdict: Verdict) -> None:
        settled, lost = self.lane.answered(batch, verdict)
        self.left += len(settled) + len(lost)
        for item in settled:
            self.end(item, "written" if verdict is Verdict.WRITTEN else "not written")
        for item in lost:
            self.end(item, "unknown")

    def end(self, item: Numbered, how: str) -> None:
        if not item.told:
            item.told = how
        item.settled = True

    # --- what must hold ---

    @invariant()
    def nothing_is_written_twice(self) -> None:
        if hasattr(self, "lane"):
            assert len(self.broker.log) == len(set(self.broker.log))

    @invariant()
    def order_is_kept(self) -> None:
        """Of what is acknowledged; what was lost to sight may still arrive late."""
        if hasattr(self, "lane"):
            acknowledged = [number for number in self.broker.log if self.items[number].told == "written"]
            assert acknowledged == sorted(acknowledged)

    @invariant()
    def what_callers_were_told_is_true(self) -> None:
        if hasattr(self, "lane"):
            log = set(self.broker.log)
            for item in self.items:
                assert item.told != "written" or item.number in log
                assert item.told != "not written" or item.number not in log

    @invariant()
    def everything_is_accounted_for(self) -> None:
        if hasattr(self, "lane"):
            held = {item.number for item in self.lane.queue}
            held |= {item.number for batch in self.lane.batches for item in batch.items}
            assert all(item.told or item.number in held for item in self.items)
            assert self.lane.in_flight == len(self.underway) + len(self.answers)

    @invariant()
    def each_item_leaves_the_lane_once(self) -> None:
        if hasattr(self, "lane"):
            holds = len(self.lane.queue) + sum(len(batch.items) for batch in self.lane.batches)
            assert holds + self.left + self.lane.dropped_items == len(self.items)

    def teardown(self) -> None:
        """When all is well again everything comes to an end, and what fits is written."""
        if not hasattr(self, "lane"):
            return
        self.leading = True
        for _ in range(40 * len(self.items) + 40):
            if self.lane.wants_identity:
                self.give_identity()
            self.send(1000, True)
            self.arrive()
            self.answer()
        assert self.lane.empty
        for item in self.items:
            assert item.told
        self.what_callers_were_told_is_true()
        self.nothing_is_written_twice()
        self.order_is_kept()


TestLane = LaneMachine.TestCase
TestLane.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


# --- the traps by name -------------------------------------------------------------------------------------------


def lane_with(count: int, *, proven: bool = True, size: int = 10) -> tuple[Lane[Numbered], list[Numbered]]:
    lane: Lane[Numbered] = Lane("t", 0, numbered=True, max_batch_bytes=BATCH_OVERHEAD_BYTES + size)
    lane.adopt(Identity(1, 0))
    lane.proven = proven
    items = [Numbered(n, size) for n in range(count)]
    lane.queue.extend(items)
    return lane, items


def send_all(lane: Lane[Numbered]) -> list[QueuedBatch[Numbered]]:
    found = []
    while (batch := lane.next(1000, first=True)) is not None:
        found.append(batch)
    return found


def test_under_a_new_id_one_batch_is_in_flight_until_the_first_acknowledgement() -> None:
    lane, _ = lane_with(7, proven=False)
    (first,) = send_all(lane)
    lane.answered(first, Verdict.WRITTEN)
    assert [batch.sequence for batch in send_all(lane)] == [1, 2, 3, 4, 5]


def test_those_behind_a_refused_batch_take_its_number() -> None:
    lane, items = lane_with(4)
    one, two, three, four = send_all(lane)
    lane.answered(one, Verdict.WRITTEN)
    settled, lost = lane.answered(two, Verdict.REFUSED)
    assert (settled, lost) == ([items[1]], [])
    assert not lane.sendable
    lane.answered(three, Verdict.OUT_OF_ORDER)
    lane.answered(four, Verdict.OUT_OF_ORDER)
    assert [(batch.sequence, batch.items) for batch in send_all(lane)] == [(1, [items[2]]), (2, [items[3]])]
    assert lane.identity == Identity(1, 0)


def test_a_batch_of_unknown_outcome_behind_a_refused_one_costs_the_id() -> None:
    lane, items = lane_with(3)
    one, two, three = send_all(lane)
    lane.answered(one, Verdict.REFUSED)
    lane.answered(two, Verdict.OUT_OF_ORDER)
    assert lane.answered(three, Verdict.UNKNOWN) == ([], [])
    assert lane.next(1000, first=True) is two
    assert lane.answered(two, Verdict.OUT_OF_ORDER) == ([], [items[1], items[2]])
    assert lane.identity is None


def test_a_batch_of_unknown_outcome_keeps_its_number_and_goes_first() -> None:
    lane, items = lane_with(3)
    one, two, three = send_all(lane)
    for batch in (one, two, three):
        lane.answered(batch, Verdict.UNKNOWN)
    assert send_all(lane) == [one, two, three]
    lane.answered(one, Verdict.WRITTEN)
    assert [batch.sequence for batch in lane.batches] == [1, 2]
    assert not any(item.settled for item in items)


def test_45_for_a_batch_sent_alone_gives_the_id_up_and_loses_only_batches_that_may_have_been_written() -> None:
    lane, items = lane_with(2)
    one, two = send_all(lane)
    lane.answered(one, Verdict.UNKNOWN)
    lane.answered(two, Verdict.UNKNOWN)
    again = lane.next(1000, first=True)
    assert again is one
    assert lane.answered(one, Verdict.OUT_OF_ORDER) == ([], [items[0], items[1]])
    assert lane.identity is None


def test_a_refused_batch_that_was_never_of_unknown_outcome_is_sent_under_the_new_id() -> None:
    lane, items = lane_with(1)
    (one,) = send_all(lane)
    assert lane.answered(one, Verdict.FORGOTTEN) == ([], [])
    assert lane.wants_identity
    lane.adopt(Identity(2, 0))
    (again,) = send_all(lane)
    assert (again.items, again.sequence, again.identity) == ([items[0]], 0, Identity(2, 0))


def test_an_over_size_record_is_found_by_halving_and_its_neighbours_go_on() -> None:
    lane: Lane[Numbered] = Lane("t", 0, numbered=True, max_batch_bytes=2000)
    lane.adopt(Identity(1, 0))
    broker = Broker()
    items = [Numbered(n, 500 if n == 5 else 20) for n in range(9)]
    lane.queue.extend(items)
    refused: list[Numbered] = []
    while (batch := lane.next(2000, first=True)) is not None:
        verdict = broker.write(batch)
        settled, _ = lane.answered(batch, verdict)
        if verdict is Verdict.TOO_LARGE:
            refused += settled
    assert refused == [items[5]]
    assert broker.log == [0, 1, 2, 3, 4, 6, 7, 8]


def test_batch_that_may_have_been_written_is_not_sent_again_without_numbers() -> None:
    lane: Lane[Numbered] = Lane("t", 0, numbered=False, max_batch_bytes=1000)
    items = [Numbered(n, 10) for n in range(2)]
    lane.queue.append(items[0])
    batch = lane.next(1000, first=True)
    assert batch is not None
    lane.queue.append(items[1])
    assert lane.next(1000, first=True) is None
    assert lane.answered(batch, Verdict.UNKNOWN) == ([], [items[0]])
    assert list(lane.queue) == [items[1]]


def test_without_numbers_one_batch_is_in_flight_after_an_acknowledgement_too() -> None:
    lane: Lane[Numbered] = Lane("t", 0, numbered=False, max_batch_bytes=1000)
    broker = Broker()
    lane.queue.append(Numbered(0, 10))
    (first,) = send_all(lane)
    lane.answered(first, broker.write(first))
    lane.queue.append(Numbered(1, 10))
    (moved,) = send_all(lane)
    lane.queue.append(Numbered(2, 10))
    assert send_all(lane) == []
    lane.answered(moved, Verdict.NOT_WRITTEN)
    (again,) = send_all(lane)
    assert [item.number for item in again.items] == [1, 2]
    lane.answered(again, broker.write(again))
    assert broker.log == [0, 1, 2]


def test_dropping_a_lane_tells_the_unsent_from_the_unknown_and_ignores_late_answers() -> None:
    lane, items = lane_with(7)
    batches = send_all(lane)
    unsent, lost = lane.drop()
    assert (unsent, lost) == (items[5:], items[:5])
    assert lane.answered(batches[0], Verdict.WRITTEN) == ([], [])
    assert lane.empty


@pytest.mark.parametrize("bad", [{0}, {99}, {50}, {3, 4}, {0, 17, 62, 99}, set(range(0, 100, 10)), set(range(100))])
@pytest.mark.parametrize("numbered", [True, False])
def test_bad_records_are_found_by_halving_and_their_neighbours_are_written(bad: set[int], numbered: bool) -> None:
    lane: Lane[Numbered] = Lane("t", 0, numbered=numbered, max_batch_bytes=1_000_000)
    if numbered:
        lane.adopt(Identity(7, 0))
    lane.queue.extend(Numbered(number, 10) for number in range(100))
    lane.queue.extend(Numbered(number, 10) for number in range(100, 300))
    written: list[int] = []
    refused: list[int] = []
    requests = 0
    while lane.queue or lane.batches:
        flights = []
        while (batch := lane.next(1_000_000, first=True)) is not None:
            flights.append(batch)
        requests += len(flights)
        assert flights
        gap = False
        for batch in flights:
            numbers = [item.number for item in batch.items]
            if gap:
                lane.answered(batch, Verdict.OUT_OF_ORDER)
            elif bad & set(numbers):
                gap = numbered
                settled, lost = lane.answered(batch, Verdict.BAD_RECORD)
                assert not lost
                refused += [item.number for item in settled]
            else:
                settled, lost = lane.answered(batch, Verdict.WRITTEN)
                written += [item.number for item in settled]
    assert set(refused) == bad
    assert written == [number for number in range(300) if number not in bad]
    # some twice the logarithm for each, and not one for each record
    assert requests <= 6 + 20 * len(bad)


def test_refused_batch_behind_one_in_flight_is_unsent_at_its_deadline_and_leaves_once() -> None:
    lane, items = lane_with(2)
    one, two = send_all(lane)
    items[1].deadline = 5.0
    assert lane.answered(two, Verdict.NOT_WRITTEN) == ([], [])
    assert not lane.sendable
    assert lane.expire(6.0) == ([items[1]], [])
    assert lane.answered(one, Verdict.WRITTEN) == ([items[0]], [])
    assert (lane.dropped_items, lane.dropped_bytes, lane.empty) == (0, 0, True)


def test_refused_batch_before_one_in_flight_is_unknown_at_its_deadline_and_may_be_written() -> None:
    lane, items = lane_with(2)
    one, two = send_all(lane)
    items[0].deadline = 5.0
    lane.answered(one, Verdict.NOT_WRITTEN)
    assert lane.expire(6.0) == ([], [items[0]])
    lane.answered(two, Verdict.UNKNOWN)
    assert send_all(lane) == [one, two]
