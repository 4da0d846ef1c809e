"""What a group counts: how deliveries end, its lag, rebalances, commits that fail."""

from __future__ import annotations

import pytest
from test_memberships import Client, Wire, World

from kateway.core.delivery.batch import Ack
from kateway.errors import Unavailable
from kateway.observe import families
from kateway.observe.bundles import GroupCells
from kateway.observe.delivery import DeliveryCells
from kateway.observe.series import Series

NAMES = ("shop", "t", "v1", "g", "till")


class Counted:
    """A world whose group is counted."""

    def __init__(self, **config: float) -> None:
        self.world = World(**config)
        self.series = Series(self.world.clock.seconds, max_series=40000, wall=self.world.clock.seconds)
        self.cluster = self.series.cluster("default")
        self.group: GroupCells = self.series.group(*NAMES)
        self.cells = DeliveryCells(self.group, self.cluster, self.world.clock.seconds, self.series.wall)

    def reader(self, mode: str = "auto", **options: float) -> Client:
        client = self.world.reader(mode=mode, cells=self.cells, **options)  # type: ignore[arg-type]
        self.world.member.give(0)
        return client

    def outcomes(self) -> tuple[float, ...]:
        group = self.group
        return group.ok.value, group.retry.value, group.dead.value, group.expired.value


def test_batch_is_counted_when_it_arrives_and_when_it_is_settled() -> None:
    counted = Counted(settle_seconds=2.0)
    client = counted.reader()
    counted.world.clock.advance(100.0)
    counted.world.fill(3)
    assert client.read() == [0, 1, 2]
    client.wire.confirm()
    counted.world.clock.advance(0.3)
    # the records' timestamps are 0
    assert sum(counted.cluster.age.counts) == 3
    assert counted.cluster.age.total == pytest.approx(3 * 100.3, rel=0.01)
    assert counted.outcomes() == (0, 0, 0, 0)
    counted.world.clock.pump([0.25] * 10)
    assert counted.outcomes() == (3, 0, 0, 0)
    assert sum(counted.cluster.settle.counts) == 3


def test_records_that_come_back_are_counted_when_they_were_read_at_last() -> None:
    counted = Counted(settle_seconds=2.0)
    first = counted.reader()
    counted.world.fill(2)
    assert first.read() == [0, 1]
    first.wire.close(False)
    assert counted.outcomes() == (0, 0, 0, 0)
    second = counted.world.reader(cells=counted.cells)  # type: ignore[arg-type]
    counted.world.clock.pump([0.25] * 4)
    assert second.read() == [0, 1]
    second.wire.ask()
    assert counted.outcomes() == (2, 0, 0, 0)


def test_lease_ends_by_one_outcome_each_time() -> None:
    counted = Counted()
    client = counted.reader("explicit", ack_timeout=1.0, max_deliveries=2)
    counted.world.fill(4)
    assert client.read() == [0, 1, 2, 3]
    counted.world.acknowledge(Ack(0, 0), Ack(0, 1, outcome="retry"), Ack(0, 2, outcome="dead"))
    assert counted.outcomes() == (1, 1, 1, 0)
    counted.world.clock.pump([0.3] * 5)
    assert counted.outcomes() == (1, 1, 1, 1), "the lease of 3 has expired"
    assert client.read() == [1, 3]
    counted.world.clock.pump([0.3] * 5)
    assert counted.outcomes() == (1, 1, 3, 1), "no third delivery: both are dead letters"
    counted.world.acknowledge(Ack(0, 0))
    assert counted.outcomes()[0] == 1, "an acknowledgement that is repeated is none"


def test_acknowledging_up_to_a_record_counts_all_before_it() -> None:
    counted = Counted()
    client = counted.reader("explicit")
    counted.world.fill(4)
    assert client.read() == [0, 1, 2, 3]
    counted.world.acknowledge(Ack(0, 2, upto=True))
    assert counted.outcomes() == (3, 0, 0, 0)


def test_lag_is_known_from_what_is_held_and_the_oldest_record_only_while_it_is_with_a_reader() -> None:
    counted = Counted(settle_seconds=1.0)
    client = counted.reader()
    membership = counted.world.membership
    assert membership.lag(0) == (0, 0.0)
    counted.world.fill(5)
    assert membership.lag(7000) == (5, None)
    assert client.read(2) == [0, 1]
    assert membership.lag(7000) == (5, 7.0)
    client.wire.ask()
    assert membership.lag(7000) == (3, None)


def test_lag_is_unknown_before_partitions_are_assigned() -> None:
    counted = Counted()
    counted.world.reader(cells=counted.cells)  # type: ignore[arg-type]
    assert counted.world.membership.lag(0) is None


def test_rebalance_that_takes_partitions_is_counted_and_leaving_is_not() -> None:
    counted = Counted(linger_seconds=0.0)
    client = counted.reader()
    counted.world.member.revoke(0)
    counted.world.member.give(0)
    assert counted.group.rebalances.value == 1
    client.reader.finish()
    counted.world.clock.pump([0.5] * 4)
    assert counted.world.groups.groups == 0
    assert counted.group.rebalances.value == 1


def test_commit_that_fails_is_counted_each_time() -> None:
    counted = Counted(commit_interval_seconds=0.5, settle_seconds=0.1)
    client = counted.reader()
    counted.world.fill(1)
    client.read()
    counted.world.member.refuse = Unavailable("the coordinator is away")
    client.wire.ask()
    counted.world.clock.pump([0.5] * 2)
    counted.world.member.refuse = None
    counted.world.clock.pump([0.5] * 3)
    assert counted.group.commit_failures.value == 2
    assert counted.world.committed() == 1


def test_group_that_is_counted_anew_after_it_was_forgotten_counts_in_its_new_cells() -> None:
    counted = Counted()
    counted.reader()
    counted.series.keep_registered(lambda _: False, lambda _: False)
    cells = DeliveryCells(
        counted.series.group(*NAMES), counted.cluster, counted.world.clock.seconds, counted.series.wall
    )
    counted.world.reader(Wire(), cells=cells)  # type: ignore[arg-type]
    assert counted.world.ledger(0).cells is cells
    assert not counted.group.live
    assert [labels for labels, _ in counted.series.cells(families.SUBSCRIBE_RECORDS)] == [NAMES]
