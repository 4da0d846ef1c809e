"""The model of groups once more, with clients of another gateway: most readers read over a link, which breaks at
random. Nothing may be committed that was not read, nothing skipped, and all of it arrives in the end.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from linked_world import LinkedWorld
from links_in_memory import Pipe
from test_memberships_model import PARTITIONS, GroupsMachine, Program

from kateway.core.delivery.batch import Batch
from kateway.errors import GatewayUnavailable


class PassedMachine(GroupsMachine):
    @initialize()
    def begin(self) -> None:
        self.world: LinkedWorld = LinkedWorld(partitions=PARTITIONS, commit_interval_seconds=0.05)
        self.programs = []
        self.read = set()
        self.owned = set()
        for partition in range(PARTITIONS):
            self.world.fill(8, partition)
        self.connect(short=False)
        self.world.member.give(*range(PARTITIONS))
        self.world.turn()

    @precondition(lambda self: self.programs)
    @rule(data=st.data())
    def break_link(self, data: st.DataObject) -> None:
        self.world.pipe.lose(GatewayUnavailable("the link broke"))
        self.world.pipe = Pipe(self.world.clock, self.world.serving)
        self.outlive(0.05)

    def fed_to_one_at_a_time(self, program: Program, batch: Batch) -> None:
        # the batch itself is at the client's gateway; what the home has in flight begins with the first not settled
        first = next(iter(self.world.ledger(batch.partition).in_flight)).start
        for offset in range(first):
            assert self.may_be_done((batch.partition, offset)), "skipped, or out of order"


PassedMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestPassedGroups = PassedMachine.TestCase
