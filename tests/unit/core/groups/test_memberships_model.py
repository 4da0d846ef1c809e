"""Groups under clients that come, read, confirm partly, ask again, close, reset, and under rebalances, at random.

A client's *program* has read what was sent before it asked again or closed in an orderly way, and what its connection
outlived by two seconds. Committing anything else loses records; so does skipping one.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_memberships import Client, Wire, World
from test_screening import view

from kateway.core.delivery.ledger import Batch
from kateway.errors import Conflict, KatewayError, TooManyConsumers, Unavailable

PARTITIONS = 3
Where = tuple[int, int]


class Program:
    """A client with its own view of what it has read for sure."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.finished = False
        self.sent: list[tuple[int, Where]] = []
        """(end in the stream, record)"""
        self.confirmed_at: dict[Where, float] = {}


class GroupsMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.world = World(partitions=PARTITIONS, commit_interval_seconds=0.05)
        self.before()
        self.programs: list[Program] = []
        self.read: set[Where] = set()
        self.owned: set[int] = set()
        for partition in range(PARTITIONS):
            self.world.fill(8, partition)
        self.connect(short=False)
        self.world.member.give(*range(PARTITIONS))
        self.world.turn()

    def before(self) -> None:
        """Prepares the world before the first reader comes."""

    # --- the store ------------------------------------------------------------------------------------------------

    @rule(partition=st.integers(0, PARTITIONS - 1), count=st.integers(1, 4))
    def append(self, partition: int, count: int) -> None:
        self.world.fill(count, partition)

    def alive(self) -> bool:
        return bool(self.world.groups.groups)

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        missing = sorted(set(range(PARTITIONS)) - set(self.world.member.positions))
        if missing:
            self.world.member.give(*data.draw(st.lists(st.sampled_from(missing), min_size=1, unique=True)))
            self.world.turn()

    @precondition(lambda self: self.alive() and self.world.member.positions)
    @rule(data=st.data(), lost=st.booleans(), back=st.booleans())
    def take_away(self, data: st.DataObject, lost: bool, back: bool) -> None:
        held = sorted(self.world.member.positions)
        partitions = data.draw(st.lists(st.sampled_from(held), min_size=1, unique=True))
        if lost:
            self.world.member.lose(*partitions)
        else:
            answer = self.world.member.revoke(*partitions)
            holding = [p for p in self.programs if p.client.reader.unsettled()]
            if holding and data.draw(st.booleans()):
                self.close(data.draw(st.sampled_from(holding)), orderly=data.draw(st.booleans()))
            for _ in range(5):
                self.outlive(0.25)
            assert answer is None or answer.called
        if back:
            self.world.member.give(*partitions)
        self.world.turn()

    @precondition(lambda self: self.alive())
    @rule(error=st.sampled_from([None, Conflict("the group rebalances"), Unavailable("away")]), stored=st.booleans())
    def refuse_commits(self, error: KatewayError | None, stored: bool) -> None:
        self.world.member.refuse = error
        self.world.member.unanswered = stored and isinstance(error, Unavailable)

    # --- clients --------------------------------------------------------------------------------------------------

    @rule(short=st.booleans())
    def connect(self, short: bool) -> None:
        known = len(self.world.member.positions) if self.alive() else 0
        reading = [p.client.reader for p in self.programs if not p.finished and not p.client.failed]
        seated = [reader for reader in reading if self.world.portion(reader)]
        hopeless = known > 0 and len(seated) >= known and not any(reader.short for reader in seated)
        try:
            program = Program(self.world.reader(Wire(), short=short))
        except TooManyConsumers:
            assert hopeless, "refused although there was hope"
            return
        assert not hopeless, "let in where all partitions are followed"
        self.programs.append(program)
        self.world.turn()

    def program(self, data: st.DataObject) -> Program:
        return data.draw(st.sampled_from(self.programs))

    @precondition(lambda self: self.programs)
    @rule(data=st.data(), count=st.integers(1, 5), confirmed=st.sampled_from([0, 1, 2, 2]))
    def take(self, data: st.DataObject, count: int, confirmed: int) -> None:
        program = self.program(data)
        if program.client.failed or program.finished:
            return
        batch = program.client.reader.take(count, 1 << 20)
        if batch is None:
            return
        self.fed_to_one_at_a_time(program, batch)
        records = [(batch.partition, record.offset) for record in batch.records]
        sent_before = [offset for _end, (partition, offset) in program.sent if partition == batch.partition]
        assert all(offset > max(sent_before, default=-1) for _partition, offset in records), "back in one response"
        position = program.client.wire.position
        span = program.client.wire.write(batch)
        program.client.reader.sent(batch, span)
        for where, length in zip(records, span.lengths, strict=True):
            position += length
            program.sent.append((position, where))
        if confirmed:
            self.confirm_up_to(program, (span.start + 5, span.end)[confirmed - 1])

    @precondition(lambda self: self.programs)
    @rule(data=st.data())
    def rest(self, data: st.DataObject) -> None:
        program = self.program(data)
        if not program.finished:
            program.client.reader.pause()

    def fed_to_one_at_a_time(self, program: Program, batch: Batch) -> None:
        in_flight = list(self.world.ledger(batch.partition).in_flight)
        first = in_flight[0].start
        assert all(flight.sent or flight is batch for flight in in_flight)
        for other in self.programs:
            if other is not program:
                assert not set(map(id, in_flight)) & set(map(id, other.client.reader._unsettled))
        for offset in range(first):
            assert self.may_be_done((batch.partition, offset)), "skipped, or out of order"

    def may_be_done(self, where: Where) -> bool:
        now = self.world.clock.seconds()
        return where in self.read or any(now - p.confirmed_at.get(where, now) >= 2.0 for p in self.programs)

    def confirm_up_to(self, program: Program, position: int) -> None:
        program.client.wire.confirm(position)
        for end, where in program.sent:
            if end <= position:
                program.confirmed_at.setdefault(where, self.world.clock.seconds())

    @precondition(lambda self: self.programs)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        program = self.program(data)
        self.finish(program)
        self.confirm_up_to(program, program.client.wire.position)
        self.read.update(where for _, where in program.sent)
        program.client.wire.ask()
        self.programs.remove(program)
        self.world.turn()

    @precondition(lambda self: self.programs)
    @rule(data=st.data())
    def finish_one(self, data: st.DataObject) -> None:
        self.finish(self.program(data))
        self.world.turn()

    def finish(self, program: Program) -> None:
        program.finished = True
        program.client.reader.finish()

    @precondition(lambda self: self.programs)
    @rule(data=st.data(), orderly=st.booleans())
    def disconnect(self, data: st.DataObject, orderly: bool) -> None:
        self.close(self.program(data), orderly)

    def close(self, program: Program, orderly: bool) -> None:
        now = self.world.clock.seconds()
        for where, at in program.confirmed_at.items():
            if orderly or now - at >= 2.0:
                self.read.add(where)
        self.programs.remove(program)
        program.client.wire.close(orderly)
        self.world.turn()

    @rule(seconds=st.sampled_from([0.05, 0.5, 1.0, 3.0, 20.0]))
    def outlive(self, seconds: float) -> None:
        while seconds > 0:
            self.world.clock.advance(min(seconds, 0.25))
            seconds -= 0.25
        for program in self.programs:
            if program.client.failed and not program.finished:
                self.finish(program)

    # --- what has to hold -----------------------------------------------------------------------------------------

    @invariant()
    def only_what_was_read_is_committed(self) -> None:
        for partition in range(PARTITIONS):
            for offset in range(self.world.committed(partition) or 0):
                assert self.may_be_done((partition, offset)), f"lost {partition}:{offset}"

    @invariant()
    def partitions_are_shared_evenly(self) -> None:
        readers = [p.client.reader for p in self.programs if not p.finished]
        counts = [len(portion) for reader in readers if (portion := self.world.portion(reader))]
        known = len(self.world.member.positions) if self.alive() else 0
        assert sum(counts) == (known if readers and any(not p.client.failed for p in self.programs) and counts else 0)
        assert not counts or max(counts) - min(counts) <= 1

    def teardown(self) -> None:
        """Every record arrives at a reader in the end, and all are committed."""
        if not hasattr(self, "world"):
            return
        self.world.member.refuse = None
        self.world.member.unanswered = False
        for program in list(self.programs):
            self.close(program, orderly=False)
        last = self.world.reader()
        missing = set(range(PARTITIONS)) - set(self.world.member.positions)
        if missing:
            self.world.member.give(*missing)
        self.outlive(3.0)
        for _ in range(10):
            last.read()
            self.world.turn()  # what was at rest is told of, and a turn's slice of examining begins anew
        self.read.update((partition, offset) for partition, offset, _ in last.got)
        last.wire.confirm()
        last.wire.close(orderly=True)
        self.outlive(2.0)
        for partition in range(PARTITIONS):
            end = self.world.store.end("t", partition)
            assert self.world.committed(partition) == end
            assert {(partition, offset) for offset in range(end)} <= self.read


class FilteredMachine(GroupsMachine):
    """The same with transforms that pass a third of the records over: these are done with, and never delivered."""

    @initialize()
    def begin(self) -> None:
        super().begin()
        self.pass_over()

    def before(self) -> None:
        self.world.view = view({"drop": "record.value == '0' || record.value == '3'"}, {"mask": ["/none"]})

    @rule(partition=st.integers(0, PARTITIONS - 1), count=st.integers(1, 4))
    def append(self, partition: int, count: int) -> None:
        super().append(partition, count)
        self.pass_over()

    def pass_over(self) -> None:
        for partition in range(PARTITIONS):
            for record in self.world.store.logs["t"][partition]:
                if record.value in {b"0", b"3"}:
                    self.read.add((partition, record.offset))

    def fed_to_one_at_a_time(self, program: Program, batch: Batch) -> None:
        assert not {record.value for record in batch.records} & {b"0", b"3"}
        super().fed_to_one_at_a_time(program, batch)


GroupsMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestGroups = GroupsMachine.TestCase
FilteredMachine.TestCase.settings = GroupsMachine.TestCase.settings
TestFilteredGroups = FilteredMachine.TestCase
