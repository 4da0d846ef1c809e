"""The delivery state against a model that is too simple to be wrong: sets of offsets.

The machine plays the group and its clients: it takes, sends, confirms partly, disconnects, acknowledges in any order,
lets leases end, rebalances with and without a commit, moves the partition as planned, leases included. Losing a record,
delivering one again that is done with (unless a crash forgot it), delivering out of order and miscounting attempts all
fail it.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_in_memory import MemoryStore
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from kateway.core.delivery.ledger import Ack, Batch, Ledger, State
from kateway.core.delivery.moved_leases import decode
from kateway.core.groups.dead_letters import DeadLetterTopic
from kateway.core.groups.dispatch import OwnedPartition
from kateway.core.groups.retained import RetainedState
from kateway.errors import Conflict, KatewayError, NotFound
from kateway.model import Committed, Record

counts = st.integers(1, 6)
WALL_MS = 1_796_000_000_000


class Left(NamedTuple):
    """What a commit that carries leases says of them."""

    attempts: dict[int, int]
    leased: dict[int, tuple[str, float]]
    waiting: dict[int, float]
    dying: set[int]


NOTHING_LEFT = Left({}, {}, {}, set())
MAX_DELIVERIES = 3


class DeliveryMachine(RuleBasedStateMachine):
    @initialize(limited=st.booleans())
    def begin(self, limited: bool) -> None:
        self.limit = MAX_DELIVERIES if limited else 0
        self.now = 0.0
        self.log: list[Record] = []
        self.start = 0
        self.end = 0
        self.tokens = 0
        self.stream = 0
        self.flying: list[Batch] = []
        self.done: set[int] = set()
        self.attempts: dict[int, int] = {}
        self.leased: dict[int, tuple[str, float]] = {}
        self.waiting: dict[int, float] = {}
        self.dying: set[int] = set()
        self.stored: Committed | None = None
        self.done_when_stored: set[int] = set()
        self.left = NOTHING_LEFT
        self.position = 0
        self.delivery = Ledger(0, None, self.limit)
        self.append(6, 0)
        self.append(6, 2)

    # --- the store ------------------------------------------------------------------------------------------------

    @rule(count=counts, hole=st.integers(0, 3))
    def append(self, count: int, hole: int) -> None:
        self.end += hole
        for _ in range(count):
            self.log.append(Record(self.end, 0, None, b"v"))
            self.end += 1

    def fetch(self, count: int) -> tuple[int, list[Record]] | None:
        while True:
            records = [record for record in self.log if record.offset >= self.position][:count]
            if not records:
                return None
            position, self.position = self.position, records[-1].offset + 1
            start, fresh = self.delivery.receive(records, position)
            if fresh:
                return start, fresh

    def deliverable(self) -> list[int]:
        """What the next take should begin with: no record that is done, or with a reader, or put off."""
        out = {offset for batch in self.flying for offset in self.offsets(batch)}
        out |= set(self.leased) | set(self.waiting) | self.dying | self.done
        kept = {o for o, lease in self.delivery.leases.items.items() if lease.state is State.READY and lease.read}
        return sorted(({record.offset for record in self.log} | kept) - out)

    @staticmethod
    def offsets(batch: Batch) -> list[int]:
        if batch.records:
            return [record.offset for record in batch.records]
        return batch.offsets if batch.offsets is not None else list(range(batch.first, batch.stop))

    def delivered(self, batch: Batch) -> None:
        offsets = self.offsets(batch)
        assert not self.done & set(offsets), "delivered again what was done with"
        kept = {offset for offset in offsets if offset < self.start}
        assert offsets == sorted(kept.union(self.deliverable()))[: len(offsets)], "out of order"
        for offset, attempt in zip(offsets, batch.attempts or [1] * len(offsets), strict=True):
            assert attempt == self.attempts.get(offset, 0) + 1, "attempts miscounted"

    # --- ack=auto -------------------------------------------------------------------------------------------------

    @rule(count=counts, send=st.booleans())
    def take_auto(self, count: int, send: bool) -> None:
        if self.flying and not self.flying[-1].sent:
            return
        batch = self.delivery.fly_again(count, 100, self.now)
        if batch is None:
            found = self.fetch(count)
            if found is None:
                assert not self.deliverable(), "lost"
                return
            batch = self.delivery.fly(*found, self.now)
        self.delivered(batch)
        self.flying.append(batch)
        if send:
            self.send(batch)

    def send(self, batch: Batch) -> None:
        for offset in self.offsets(batch):
            self.attempts[offset] = self.attempts.get(offset, 0) + 1
        lengths = [3 + offset % 4 for offset in self.offsets(batch)]
        batch.was_sent(self.stream, lengths, self.stream + sum(lengths))
        self.stream = batch.end

    @precondition(lambda self: self.flying and not self.flying[-1].sent)
    @rule()
    def send_what_was_taken(self) -> None:
        self.send(self.flying[-1])

    @precondition(lambda self: self.flying and self.flying[0].sent)
    @rule()
    def settle_the_first_batch(self) -> None:
        batch = self.flying.pop(0)
        self.done.update(self.offsets(batch))
        self.delivery.settle(batch)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        """The client confirmed up to some byte; the rest goes back."""
        first = self.flying[0]
        ends = [end for batch in self.flying if batch.sent for end in accumulate(batch.lengths, initial=batch.begin)]
        confirmed = data.draw(st.sampled_from([first.begin, *ends])) + data.draw(st.integers(-1, 1))
        for batch in self.flying:
            if batch.sent:
                ends = list(accumulate(batch.lengths, initial=batch.begin))[1:]
                read = [o for o, end in zip(self.offsets(batch), ends, strict=True) if end <= confirmed]
                self.done.update(read)
                assert batch.whole_records(confirmed) == len(read)
            self.delivery.settle_some(batch, batch.whole_records(confirmed))
        for batch in self.flying:
            offset = self.delivery.give_back(batch)
            if offset is not None:
                self.position = offset
        self.flying = []
        assert not self.delivery.in_flight

    # --- ack=explicit ---------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.flying)
    @rule(count=counts, seconds=st.sampled_from([5.0, 20.0]), sent=st.booleans())
    def take_explicit(self, count: int, seconds: float, sent: bool) -> None:
        self.tokens += 1
        token = f"t{self.tokens}"
        until = self.now + seconds
        if self.delivery.leases.has_ready():
            batch = self.delivery.lease_again(count, 100, token, until, self.now)
        else:
            found = self.fetch(count)
            if found is None:
                assert not self.deliverable(), "lost"
                return
            batch = self.delivery.lease(*found, token, until, self.now)
        assert batch is not None
        self.delivered(batch)
        if not sent:
            assert self.delivery.give_back(batch) is None
            return
        batch.was_sent(0, [], 0)
        for offset in self.offsets(batch):
            self.attempts[offset] = self.attempts.get(offset, 0) + 1
            self.leased[offset] = token, until

    @precondition(lambda self: self.leased or self.waiting)
    @rule(data=st.data(), outcome=st.sampled_from(["ack", "ack", "retry", "dead"]), strict=st.booleans())
    def acknowledge(self, data: st.DataObject, outcome: str, strict: bool) -> None:
        offset = data.draw(st.sampled_from(sorted({**self.leased, **self.waiting})))
        token = self.leased[offset][0] if strict and offset in self.leased else None
        ack = Ack(0, offset, outcome=outcome, delay_seconds=3, lease=token)  # type: ignore[arg-type]
        assert self.delivery.acknowledge(ack, self.now) is None
        self.leased.pop(offset, None)
        self.waiting.pop(offset, None)
        if outcome == "ack":
            self.done.add(offset)
        elif outcome == "dead" or self.exhausted(offset):
            self.dying.add(offset)
        else:
            self.waiting[offset] = self.now + 3

    def exhausted(self, offset: int) -> bool:
        return bool(self.limit) and self.attempts[offset] >= self.limit

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def acknowledge_with_a_lease_that_is_not_its(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.leased)))
        assert isinstance(self.delivery.acknowledge(Ack(0, offset, lease="t0"), self.now), Conflict)

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def acknowledge_again(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.done)))
        assert self.delivery.acknowledge(Ack(0, offset), self.now) is None

    @rule()
    def acknowledge_what_was_never_delivered(self) -> None:
        assert isinstance(self.delivery.acknowledge(Ack(0, self.end + 1), self.now), NotFound)
        for offset in self.deliverable():
            if not self.attempts.get(offset):
                assert isinstance(self.delivery.acknowledge(Ack(0, offset), self.now), NotFound)

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def a_client_says_what_it_has_read(self, data: st.DataObject) -> None:
        """An SSE client's id, a WebSocket's pong: up to some record, while batches are on their way or came back."""
        offset = data.draw(st.sampled_from(sorted(self.attempts)))
        assert self.delivery.acknowledge(Ack(0, offset, upto=True), self.now) is None
        unsent = [o for batch in self.flying if not batch.sent for o in self.offsets(batch)]
        read = {o for o, times in self.attempts.items() if times and o <= offset} - {*unsent, *self.dying}
        self.done |= read
        for places in (self.leased, self.waiting):
            for o in read & set(places):
                del places[o]
        self.flying = [batch for batch in self.flying if not set(self.offsets(batch)) <= read]

    @rule(seconds=st.sampled_from([1.0, 4.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.delivery.expire(self.now)
        self.end_leases()

    def end_leases(self) -> None:
        for offset, (_, until) in list(self.leased.items()):
            if until <= self.now:
                del self.leased[offset]
                if self.exhausted(offset):
                    self.dying.add(offset)
        for offset, until in list(self.waiting.items()):
            if until <= self.now:
                del self.waiting[offset]

    @rule(hidden=st.integers(0, 6))
    def bury(self, hidden: int = 0) -> None:
        """What the delivery wants dead is what the model does; it is done with only when it is written, or gone. A new
        leader does not show the newest records.
        """
        items, self.delivery.leases.dying = self.delivery.leases.dying, []
        store = MemoryStore(Clock())
        store.make("t", 1)
        store.logs["t"][0] = list(self.log)
        store.starts["t", 0], store.ends["t", 0] = self.start, self.end
        store.hidden_from["t", 0] = self.end - hidden
        outcomes: list[list[KatewayError | None]] = []
        topic = DeadLetterTopic(store, "t", "g", store.clock)  # type: ignore[arg-type]
        Deferred.fromCoroutine(topic.write([(0, lease) for lease in items])).addCallback(outcomes.append)
        written = {dict(letter.headers)["kateway-dead-offset"] for letter in store.logs["t.g.dead"][0]}
        for lease, outcome in zip(items, outcomes[0], strict=True):
            offset = lease.record.offset
            assert (b"%d" % offset in written) == (outcome is None and (lease.read or offset >= self.start))
            if outcome is None:
                self.delivery.complete(lease)
                self.dying.discard(offset)
                self.done.add(offset)
            else:
                assert offset >= self.end - hidden
                self.delivery.leases.dying.append(lease)

    @precondition(lambda self: not self.flying and len(self.log) > 1)
    @rule(count=counts)
    def retention_takes_the_oldest_records(self, count: int) -> None:
        self.log = self.log[min(count, len(self.log) - 1) :]
        self.start = self.log[0].offset
        self.read_on()

    def read_on(self) -> None:
        """Reads on where the log begins now: what is leased and was read is kept, the others are gone."""
        self.position = max(self.position, self.start)
        self.delivery.step(self.position)
        tracked = self.delivery.leases.items
        self.attempts = {o: times for o, times in self.attempts.items() if o >= self.start or o in tracked}
        self.leased = {o: lease for o, lease in self.leased.items() if o >= self.start or o in tracked}
        self.waiting = {o: until for o, until in self.waiting.items() if o >= self.start or o in tracked}

    # --- the group ------------------------------------------------------------------------------------------------

    @rule()
    def commit(self) -> None:
        if not self.delivery.outstanding():
            visible = [record.offset for record in self.log if record.offset >= self.position]
            self.delivery.step(visible[0] if visible else max(self.end, self.position))
        committed = self.delivery.to_commit()
        if committed is not None:
            self.stored = committed
            self.delivery.confirm(committed)
            self.left = NOTHING_LEFT
        for offset, times in self.left.attempts.items():
            assert self.attempts.get(offset) == times, "the store has a lease that has passed on"
        self.done_when_stored = set(self.done)

    @rule(commit=st.booleans())
    def next_owner(self, commit: bool) -> None:
        """The partition goes and comes back: everything but the commit is forgotten."""
        if commit:
            self.commit()
        self.begin_anew()

    def begin_anew(self) -> None:
        self.delivery.live = False
        self.done = set(self.done_when_stored)
        attempts, leased, waiting, dying = self.left
        self.attempts, self.leased, self.waiting, self.dying = {**attempts}, {**leased}, {**waiting}, {*dying}
        self.flying = []
        self.delivery = Ledger(0, self.stored, self.limit)
        if self.stored is not None:
            moved = decode(self.stored.offset, self.stored.metadata)
            self.delivery.hold(moved.since(WALL_MS + self.now * 1000), self.now)
        self.position = self.stored.offset if self.stored else 0
        self.end_leases()
        self.read_on()

    @rule(away=st.sampled_from([0.0, 1.0, 4.0, 10.0]), unsent=st.integers(0, 3))
    def moves_as_planned(self, away: float, unsent: int) -> None:
        """The last commit carries what was handed out one by one; for a while no gateway has the partition. Some was
        taken for a client that had no room.
        """
        if unsent and not self.flying:
            if self.delivery.leases.has_ready():
                self.delivery.lease_again(unsent, 100, "t0", self.now + 100, self.now)
            elif (found := self.fetch(unsent)) is not None:
                self.delivery.lease(*found, "t0", self.now + 100, self.now)
        kept = {offset for offset, lease in self.delivery.leases.items.items() if lease.attempts}
        place, left_out = self.delivery.last_place(self.now, WALL_MS + self.now * 1000)
        assert not left_out
        if place is not None:
            self.stored = place
            self.left = Left(
                {offset: times for offset, times in self.attempts.items() if offset in kept},
                {**self.leased},
                {**self.waiting},
                self.dying & kept,
            )
        if place is not None or self.delivery.floor is not None:
            self.done_when_stored = set(self.done)
        self.now += away
        self.begin_anew()

    @rule(commit=st.booleans())
    def goes_and_comes_back(self, commit: bool) -> None:
        """A rebalance gives it back: everything is as it was, also where the last commit was refused."""
        if commit:
            self.commit()
        kept = RetainedState(Clock())
        self.delivery.live = False
        kept.keep("g", OwnedPartition(0, self.delivery))
        if kept.take_back("g", 0, self.stored) is None:
            assert not self.delivery.worth_keeping
            self.next_owner(commit=False)
        else:
            assert self.delivery.frontier is not None
            self.position = self.delivery.frontier

    @invariant()
    def nothing_is_committed_that_was_not_read(self) -> None:
        delivery = self.delivery
        if delivery.floor is None:
            return
        for record in self.log:
            claimed = record.offset < delivery.floor or record.offset in delivery.done
            assert claimed == (record.offset in self.done), record.offset

    @invariant()
    def everything_is_where_the_model_has_it(self) -> None:
        items = self.delivery.leases.items.values()
        places = {state: {i.record.offset for i in items if i.state is state} for state in State}
        assert places[State.LEASED] == set(self.leased)
        assert places[State.WAITING] == set(self.waiting)
        assert places[State.DYING] == self.dying
        assert places[State.READY] <= set(self.deliverable())
        assert {lease.record.offset for lease in self.delivery.leases.dying} == self.dying
        for lease in items:
            assert lease.attempts == self.attempts.get(lease.record.offset, 0)
        assert list(self.delivery.in_flight) == sorted(self.flying, key=lambda batch: batch.start)

    @invariant()
    def what_is_out_is_counted(self) -> None:
        delivery = self.delivery
        assert delivery.leases.bytes == sum(lease.read for lease in delivery.leases.items.values())
        assert list(delivery.leases.unread) == [
            o
            for o, lease in delivery.leases.items.items()
            if not lease.read and (lease.state is not State.DYING or o >= self.position)
        ]
        assert all(o >= (delivery.floor or 0) and o not in delivery.done for o in delivery.leases.items)
        assert sorted(delivery.leases.items) == list(delivery.leases.items)
        floor = delivery.floor or 0
        assert all(start > floor for start, _ in delivery.done)
        if delivery.floor is not None and not delivery.outstanding() and delivery.frontier is not None:
            assert delivery.floor >= delivery.frontier

    def teardown(self) -> None:
        """Everything arrives in the end, and everything is committed."""
        if not hasattr(self, "delivery"):
            return
        if self.flying:
            self.flying[-1].sent or self.send(self.flying[-1])
        while self.flying:
            self.settle_the_first_batch()
        self.limit = self.delivery.leases.max_deliveries = 0
        self.bury()
        self.time_passes(100.0)
        while self.deliverable():
            self.take_auto(3, True)
            self.settle_the_first_batch()
        self.commit()
        self.nothing_is_committed_that_was_not_read()
        assert self.done >= {record.offset for record in self.log}
        if self.delivery.floor is not None:
            assert self.delivery.floor >= (self.log[-1].offset + 1 if self.log else 0)


DeliveryMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestDelivery = DeliveryMachine.TestCase
