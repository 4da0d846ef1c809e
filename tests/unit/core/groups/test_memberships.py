"""Deliveries and commits of a group's readers, over a store in memory and a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from store_in_memory import MemoryStore, MemorySubscription
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from kateway.config.schema import DeliveryConfig
from kateway.core.delivery.batch import Ack, Batch
from kateway.core.delivery.confirmation import Span, Watcher
from kateway.core.delivery.ledger import Ledger
from kateway.core.delivery.moved_leases import decode
from kateway.core.groups.dispatch import OwnedPartition
from kateway.core.groups.membership import Membership
from kateway.core.groups.memberships import MOVING, Memberships
from kateway.core.groups.reader import Reader
from kateway.core.groups.retained import RETAINED_SECONDS, RetainedState
from kateway.core.groups.wanted import Wanted
from kateway.core.transforms.in_force import View
from kateway.errors import Conflict, Denied, KatewayError, NotFound, TooManyConsumers, Unavailable
from kateway.model import Committed, Record
from kateway.storage.interface import RECORD_OVERHEAD_BYTES


class Wire:
    """A client's connection: how far it confirmed is said by the test."""

    def __init__(self) -> None:
        self.position = 0
        self.acknowledged: int | None = 0
        self.shut = False
        self.watchers: list[Watcher] = []

    def confirmed(self) -> int | None:
        return self.acknowledged

    def stalled(self) -> bool:
        return self.shut

    def watch(self, watcher: Watcher) -> None:
        self.watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        if watcher in self.watchers:
            self.watchers.remove(watcher)

    def write(self, batch: Batch) -> Span:
        lengths = [len(record.value or b"") + 3 for record in batch.records]
        span = Span(self.position, lengths, self.position + sum(lengths))
        self.position = span.end
        return span

    def confirm(self, position: int | None = None) -> None:
        self.acknowledged = self.position if position is None else position

    def ask(self) -> None:
        self.confirm()
        for watcher in list(self.watchers):
            watcher.asked()

    def close(self, orderly: bool) -> None:
        for watcher in list(self.watchers):
            watcher.closed(self.acknowledged or 0, orderly)


class World:
    """A topic ``t`` of some partitions, the groups of one gateway, and clients."""

    def __init__(self, partitions: int = 1, **config: float) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.store.make("t", partitions)
        self.config = DeliveryConfig(**config)  # type: ignore[arg-type]
        self.view: View | None = None
        """What readers see of the records."""
        self.groups = self.gateway()

    def gateway(self) -> Memberships:
        return Memberships(
            lambda name: self.store,  # type: ignore[arg-type, return-value]
            self.clock,
            self.config,
            lambda: 1_796_000_000 + self.clock.seconds(),
        )

    def reader(self, wire: Wire | None = None, mode: str = "auto", short: bool = True, **options: float) -> Client:
        wire = wire or Wire()
        wanted = Wanted(mode=mode, short=short, view=self.view, **options)  # type: ignore[arg-type]
        reader = self.groups.reader(("default", "g", "t"), wanted, wire)
        return Client(self, reader, wire)

    def restart(self) -> None:
        """Another gateway takes over, which knows only the store."""
        Deferred.fromCoroutine(self.groups.stop(0))
        self.clock.pump([0.1] * 20)
        self.groups = self.gateway()

    @property
    def member(self) -> MemorySubscription:
        return self.store.subscriptions[-1]

    @property
    def membership(self) -> Membership:
        return self.groups._groups["default", "g", "t"]

    def ledger(self, partition: int) -> Ledger:
        return self.membership.dispatch.owned_partitions[partition].delivery

    def portion(self, reader: Reader) -> list[int]:
        """The partitions that a reader is fed from."""
        portion = self.membership.dispatch.portions.get(reader) if self.groups.groups else None
        return [owned.partition for owned in portion.owned_partitions] if portion else []

    def fill(self, count: int, partition: int = 0) -> None:
        self.store.append("t", partition, *(b"%d" % number for number in range(count)))
        self.turn()

    def turn(self) -> None:
        self.clock.advance(0)

    def committed(self, partition: int = 0) -> int | None:
        at = self.store.commits.get(("g", "t", partition))
        return at.offset if at else None

    def acknowledge(self, *acks: Ack) -> list[KatewayError | None]:
        results: list[list[KatewayError | None]] = []
        Deferred.fromCoroutine(self.groups.acknowledge("default", "g", "t", acks)).addCallback(results.append)
        self.turn()
        return results[0]


class Client:
    """A reader, its connection and what it was handed."""

    def __init__(self, world: World, reader: Reader, wire: Wire) -> None:
        self.world, self.reader, self.wire = world, reader, wire
        self.got: list[tuple[int, int, int]] = []
        self.leases: list[str] = []
        self.called = 0
        self.failed: list[KatewayError] = []
        reader.on_readable(self._called)
        reader.on_failed(self.failed.append)

    def _called(self) -> None:
        self.called += 1

    def read(self, count: int = 1000, send: bool = True) -> list[int]:
        """Takes and writes up to so many records; answers their offsets."""
        offsets: list[int] = []
        while len(offsets) < count:
            batch = self.reader.take(count - len(offsets), 1 << 20)
            if batch is None:
                break
            attempts = batch.attempts or [1] * len(batch.records)
            self.leases += batch.leases or []
            offsets += [record.offset for record in batch.records]
            self.got += [(batch.partition, r.offset, n) for r, n in zip(batch.records, attempts, strict=True)]
            if send:
                self.reader.sent(batch, self.wire.write(batch))
        return offsets


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.store.append("t", 0, *(b"%d" % number for number in range(20)))
    yield world
    stop(world)


def stop(world: World) -> None:
    """Nothing may be left on the clock once everything is stopped."""
    stopped = Deferred.fromCoroutine(world.groups.stop(0))
    for _ in range(100):
        world.clock.advance(0.1)
    assert stopped.called
    assert not world.clock.getDelayedCalls()


def joined(world: World, client: Client) -> Client:
    world.member.give(*range(len(world.store.logs["t"])))
    world.turn()
    return client


def test_a_client_that_reads_ten_and_closes_has_ten_committed_and_the_next_gets_the_eleventh(world: World) -> None:
    client = joined(world, world.reader())
    assert client.read(10) == list(range(10))
    client.wire.confirm()
    client.wire.close(orderly=True)
    world.turn()
    assert world.committed() == 10
    assert world.reader().read(1) == [10]


def test_a_reset_gives_everything_unsettled_to_the_next_reader_in_order(world: World) -> None:
    client = joined(world, world.reader())
    client.read(10)
    client.wire.confirm()
    client.wire.close(orderly=False)
    world.turn()
    assert world.committed() is None
    second = world.reader()
    world.turn()
    assert second.read(12) == list(range(12))
    assert [attempt for _, _, attempt in second.got] == [2] * 10 + [1, 1]


def test_an_orderly_close_settles_only_records_whose_last_byte_was_confirmed(world: World) -> None:
    client = joined(world, world.reader())
    client.read(10)
    client.wire.confirm(4 * 5 + 3)  # five records and three bytes
    client.wire.close(orderly=True)
    world.turn()
    assert world.committed() == 5
    assert world.reader().read(2) == [5, 6]


def test_a_further_request_settles_what_was_confirmed(world: World) -> None:
    client = joined(world, world.reader())
    client.read(3)
    client.reader.finish()
    client.wire.ask()
    second = world.reader(client.wire)
    assert second.read(2) == [3, 4]
    world.clock.advance(1.1)
    assert world.committed() == 3


def test_a_request_before_the_confirmation_settles_as_soon_as_it_comes(world: World) -> None:
    client = joined(world, world.reader())
    client.read(3)
    client.reader.finish()
    for watcher in list(client.wire.watchers):
        watcher.asked()
    world.clock.advance(0.3)
    second = world.reader()
    assert second.read(1) == []
    client.wire.confirm()
    world.clock.advance(0.3)
    world.turn()
    assert second.called
    assert second.read(1) == [3]


def test_confirmed_record_settles_after_two_seconds_of_life(world: World) -> None:
    client = joined(world, world.reader(short=False))
    client.read(3)
    client.wire.confirm()
    world.clock.pump([0.25] * 8)
    assert world.committed() is None
    world.clock.pump([0.25] * 8)
    assert world.committed() == 3
    client.wire.close(orderly=False)
    world.turn()
    assert world.reader().read(1) == [3]


def test_a_shut_window_does_not_count_as_life(world: World) -> None:
    client = joined(world, world.reader(short=False))
    client.read(3)
    client.wire.confirm()
    client.wire.shut = True
    world.clock.pump([0.25] * 20)
    assert world.committed() is None
    client.wire.shut = False
    world.clock.pump([0.25] * 14)
    assert world.committed() == 3


def test_without_a_count_of_confirmed_bytes_only_settling_counts(world: World) -> None:
    client = joined(world, world.reader())
    client.wire.acknowledged = None
    client.read(3)
    client.reader.finish()
    for watcher in list(client.wire.watchers):
        watcher.asked()
    assert world.reader().read(1) == [3]


def test_unsettled_records_of_a_reader_that_left_block_the_partition_until_they_settle(world: World) -> None:
    client = joined(world, world.reader())
    client.read(3)
    client.reader.finish()
    second = world.reader()
    world.turn()
    assert second.read(1) == []
    client.wire.confirm()
    world.clock.pump([0.25] * 12)
    assert second.called
    assert second.read(1) == [3]


def test_record_taken_and_never_sent_comes_first_and_as_a_first_attempt(world: World) -> None:
    client = joined(world, world.reader())
    client.read(4, send=False)
    client.reader.finish()
    world.turn()
    second = world.reader()
    assert second.read(5) == [0, 1, 2, 3, 4]
    assert {attempt for _, _, attempt in second.got} == {1}


def test_a_second_short_poll_waits_its_turn_and_a_third_behind_it(world: World) -> None:
    first = joined(world, world.reader())
    second, third = world.reader(), world.reader()
    assert first.read(1) == [0]
    assert second.read(1) == []
    assert third.read(1) == []
    first.wire.confirm()
    first.wire.close(orderly=True)
    world.turn()
    assert third.read(1) == []
    assert second.read(1) == [1]


def test_one_reader_more_than_partitions_is_refused_where_all_are_followed(world: World) -> None:
    joined(world, world.reader(short=False))
    with pytest.raises(TooManyConsumers):
        world.reader()
    assert world.groups.readers == 1


def test_reader_that_waits_for_a_short_poll_is_refused_once_a_follower_got_its_place(world: World) -> None:
    first = joined(world, world.reader())
    follower, late = world.reader(short=False), world.reader(short=False)
    first.reader.finish()
    world.turn()
    assert follower.read(1) == [0]
    assert isinstance(late.failed[0], TooManyConsumers)
    with pytest.raises(TooManyConsumers):
        late.reader.take(1, 1000)


def test_reader_is_not_refused_before_the_partitions_are_known() -> None:
    world = World(partitions=2)
    clients = [world.reader(short=False) for _ in range(3)]
    world.member.give(0, 1)
    world.turn()
    assert [bool(client.failed) for client in clients] == [False, False, True]
    stop(world)


def test_readers_share_the_partitions_out_and_a_partition_moves_when_it_is_settled() -> None:
    world = World(partitions=4)
    for partition in range(4):
        world.fill(3, partition)
    first = joined(world, world.reader(short=False))
    first.read(4)
    second = world.reader(short=False)
    world.turn()
    assert len(world.portion(first.reader)) == len(world.portion(second.reader)) == 2
    theirs = set(world.portion(second.reader))
    seen = {partition for partition, _, _ in first.got}
    assert second.read() == [] or not theirs & seen
    first.wire.confirm()
    world.clock.pump([0.25] * 12)
    second.read()
    assert {partition for partition, _, _ in second.got} == theirs
    stop(world)


def test_modes_do_not_mix(world: World) -> None:
    world.reader()
    with pytest.raises(Conflict):
        world.reader(mode="explicit")


def test_invisible_offsets_are_stepped_over() -> None:
    world = World()
    world.store.append("t", 0, b"a", b"b")
    world.store.append("t", 0, b"c", skip=5)
    world.store.ends["t", 0] = 12
    client = joined(world, world.reader())
    assert client.read() == [0, 1, 7]
    client.wire.confirm()
    client.wire.close(orderly=True)
    world.turn()
    assert world.committed() == 12
    stop(world)


def test_a_member_lingers_after_its_last_reader_and_then_leaves(world: World) -> None:
    client = joined(world, world.reader())
    client.read(2)
    client.wire.ask()
    client.reader.finish()
    world.clock.advance(14)
    assert world.groups.groups == 1
    world.reader().reader.finish()
    world.clock.advance(14)
    assert world.groups.groups == 1
    world.clock.advance(2)
    assert world.groups.groups == 0
    assert world.member.closed
    assert world.committed() == 2


@pytest.mark.parametrize("stops", [True, False], ids=["the gateway stops", "no reader is left"])
def test_place_in_a_group_is_kept_where_the_gateway_stops_and_given_up_where_no_reader_is_left(
    world: World, stops: bool
) -> None:
    client = joined(world, world.reader())
    member = world.member
    client.reader.finish()
    if stops:
        Deferred.fromCoroutine(world.groups.stop(0))
    world.clock.pump([1.0] * 20)
    assert member.closed
    assert member.returning is stops


def test_place_in_a_group_is_given_up_where_a_successor_serves_already(world: World) -> None:
    client = joined(world, world.reader())
    member = world.member
    client.reader.finish()
    Deferred.fromCoroutine(world.groups.stop(0, returning=False))
    world.clock.pump([1.0] * 20)
    assert member.closed
    assert not member.returning


def test_a_revocation_waits_for_what_is_on_its_way_and_commits_it(world: World) -> None:
    client = joined(world, world.reader(short=False))
    client.read(5)
    held = world.member.revoke(0)
    assert held is not None
    assert not held.called
    client.wire.ask()
    world.clock.advance(0.3)
    assert held.called
    assert world.committed() == 5
    world.member.give(0)
    world.turn()
    assert client.read(1) == [5]


def test_revocation_waits_until_it_is_known_whether_a_client_has_leased_records(world: World) -> None:
    client = joined(world, world.reader(mode="explicit", ack_timeout=30))
    batch = client.reader.take(5, 1 << 20)  # on its way to a client at another gateway
    assert batch is not None
    held = world.member.revoke(0)
    assert held is not None
    assert not held.called
    client.reader.sent(batch, client.wire.write(batch))
    assert held.called
    stored = world.store.commits["g", "t", 0]
    assert [(lease.offset, lease.attempts) for lease in decode(0, stored.metadata).leases] == [(n, 1) for n in range(5)]


def test_revocation_moves_no_lease_of_records_that_no_client_got_in_time(world: World) -> None:
    client = joined(world, world.reader(mode="explicit", ack_timeout=30))
    assert client.reader.take(5, 1 << 20) is not None
    held = world.member.revoke(0)
    world.clock.pump([0.25] * 5)
    assert held is not None
    assert held.called
    assert decode(0, world.store.commits["g", "t", 0].metadata).leases == ()


@pytest.mark.parametrize("send", [True, False], ids=["sent", "not-sent"])
def test_record_that_returns_while_a_partition_is_handed_over_is_not_committed(world: World, send: bool) -> None:
    client = joined(world, world.reader(short=False))
    client.read(3)
    client.wire.ask()
    world.clock.advance(0.3)
    client.read(5, send=send)
    held = world.member.revoke(0)
    assert held is not None
    client.wire.close(orderly=False)
    world.clock.pump([0.25] * 5)
    assert held.called
    assert world.committed() == 3
    world.member.give(0)
    assert world.reader().read(1) == [3]


def test_a_revocation_does_not_wait_for_ever(world: World) -> None:
    client = joined(world, world.reader(short=False))
    client.read(5)
    held = world.member.revoke(0)
    assert held is not None
    world.clock.pump([0.25] * 5)
    assert held.called
    assert world.committed() == 0  # where the group began, so that a move by another member is seen
    world.member.give(0)
    world.turn()
    client.wire.ask()
    world.clock.advance(1.1)
    assert world.committed() == 5
    assert client.read(1) == [5]


def test_lost_record_is_not_committed(world: World) -> None:
    client = joined(world, world.reader(short=False))
    client.read(5)
    world.member.lose(0)
    client.wire.ask()
    world.clock.advance(2)
    assert world.committed() is None


def test_reader_that_has_taken_all_expects_records_that_the_store_says_are_there(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    client.read()
    assert not client.reader.expects()
    assert not client.reader.expects({0: 20})
    assert client.reader.expects({0: 21})
    assert not client.reader.expects({7: 21})


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "revoked"])
def test_leases_hold_where_a_rebalance_gives_a_partition_back(world: World, lost: bool) -> None:
    client = joined(world, world.reader(mode="explicit"))
    assert client.read(3) == [0, 1, 2]
    world.acknowledge(Ack(0, 0))
    world.clock.advance(1.1)
    world.acknowledge(Ack(0, 1))
    if lost:
        world.member.lose(0)
    else:
        assert world.member.revoke(0) is not None
        world.turn()
    world.member.give(0)
    world.turn()
    assert client.read(1) == [3]
    assert world.acknowledge(Ack(0, 2, lease=client.leases[2])) == [None]
    world.clock.advance(1.1)
    assert world.committed() == 3


def test_a_group_that_has_only_leased_is_committed_where_it_began_when_its_partition_goes(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    client.read(3)
    world.member.revoke(0)
    world.turn()
    assert world.committed() == 0
    world.member.give(0)
    world.turn()
    assert client.read(1) == [3]


def test_partition_that_others_moved_on_meanwhile_is_read_from_there(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    client.read(3)
    world.member.revoke(0)
    world.turn()
    world.store.commits["g", "t", 0] = Committed(5)
    world.member.give(0)
    world.turn()
    assert client.read(1) == [5]


def test_an_acknowledgement_waits_for_a_partition_that_changes_hands(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    client.read(3)
    world.member.revoke(0)
    world.turn()
    assert world.groups.acknowledge_at_once("default", "g", "t", [Ack(0, 0)]) is None
    answers: list[object] = []
    for _ in range(2):
        acknowledging = world.groups.acknowledge("default", "g", "t", [Ack(0, 0)])
        Deferred.fromCoroutine(acknowledging).addBoth(answers.append)
    assert answers == []
    world.member.give(0)
    assert answers == [[None], [None]]
    world.member.revoke(0)
    (result,) = _when(world, Ack(0, 1))
    assert result is MOVING  # the next owner holds its lease
    stop(world)


def _when(world: World, ack: Ack) -> list[KatewayError | None]:
    """What an acknowledgement is answered when its partition has stayed away."""
    answers: list[list[KatewayError | None]] = []
    Deferred.fromCoroutine(world.groups.acknowledge("default", "g", "t", [ack])).addCallback(answers.append)
    world.clock.pump([1.0] * 4)
    assert answers == []
    world.clock.pump([1.0] * 2)
    return answers[0]


def test_delays_and_attempts_hold_without_a_reader(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    assert client.read(1) == [0]
    world.acknowledge(Ack(0, 0, outcome="retry", delay_seconds=60))
    client.reader.finish()
    world.clock.pump([1.0] * 20)
    assert world.groups.groups == 0
    client = joined(world, world.reader(mode="explicit"))
    assert client.read(1) == [1]
    world.clock.pump([1.0] * 41)
    assert client.read(1) == [0]
    assert client.got[-1] == (0, 0, 2)


def test_a_member_whose_partitions_change_hands_does_not_leave_meanwhile() -> None:
    world = World(linger_seconds=0.5)
    world.fill(3)
    client = joined(world, world.reader(mode="explicit"))
    client.read(1)
    client.reader.finish()
    world.member.revoke(0)
    world.clock.pump([0.25] * 12)
    world.member.give(0)
    world.clock.pump([0.25] * 12)
    assert world.acknowledge(Ack(0, 0, lease=client.leases[0])) == [None]
    world.clock.pump([0.25] * 12)
    assert world.groups.groups == 0
    stop(world)


def test_a_group_that_is_moved_forgets_what_was_leased(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    assert client.read(2) == [0, 1]
    client.reader.finish()
    let_go = Deferred.fromCoroutine(world.groups.let_go("default", "g", "t"))
    world.clock.pump([0.25] * 8)
    assert let_go.called
    world.store.commits["g", "t", 0] = Committed(0)
    client = joined(world, world.reader(mode="explicit"))
    assert client.read(1) == [0]


def test_a_letter_that_is_being_written_while_its_partition_changes_hands_is_written_once(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    client.read(2)
    world.store.refuse_publish = Unavailable("away")
    world.acknowledge(Ack(0, 0, outcome="dead"))
    world.member.revoke(0)
    world.turn()
    world.member.give(0)
    world.store.refuse_publish = None
    world.clock.pump([1.0] * 4)
    assert len(world.store.logs["t.g.dead"][0]) == 1
    assert world.committed() == 1


def test_retained_records_are_bounded_in_time_and_in_bytes() -> None:
    clock = Clock()
    kept = RetainedState(clock, max_bytes=2 * (10 + 2 * RECORD_OVERHEAD_BYTES))

    def gone(partition: int) -> OwnedPartition:
        delivery = Ledger(partition, Committed(0))
        records = [Record(offset, 0, None, b"12345") for offset in range(2)]
        delivery.lease(*delivery.receive(records, 0), "token", 60.0, 0.0)
        owned = OwnedPartition(partition, delivery)
        kept.keep("g", owned)
        return owned

    deliveries = [gone(partition) for partition in range(3)]
    assert kept.take_back("g", 0, Committed(0)) is None
    assert kept.take_back("g", 1, Committed(0)) is deliveries[1]
    assert kept.take_back("g", 1, Committed(0)) is None
    clock.advance(RETAINED_SECONDS / 2)
    gone(3)
    clock.advance(RETAINED_SECONDS / 2)
    assert kept.take_back("g", 2, Committed(0)) is None
    clock.advance(RETAINED_SECONDS / 2)
    assert not clock.getDelayedCalls()
    assert kept.take_back("g", 3, Committed(0)) is None


def test_a_group_that_failed_for_good_fails_its_readers(world: World) -> None:
    client = joined(world, world.reader())
    world.member.listener.failed(Unavailable("away"))
    assert client.reader.last_error is not None
    assert not client.failed
    world.member.listener.failed(Denied("no"))
    assert isinstance(client.failed[0], Denied)
    client.reader.finish()
    assert world.groups.groups == 0


def test_a_commit_that_fails_is_tried_again(world: World) -> None:
    client = joined(world, world.reader())
    world.member.refuse = Unavailable("away")
    client.read(5)
    client.wire.ask()
    world.clock.advance(1.5)
    assert world.committed() is None
    world.member.refuse = None
    world.clock.advance(1.5)
    assert world.committed() == 5


def test_bytes_in_flight_to_a_client_are_bounded() -> None:
    world = World(max_unsettled_bytes=65536)
    world.store.append("t", 0, *[bytes(10000)] * 20)
    client = joined(world, world.reader(short=False))
    got = []
    for _ in range(20):
        got += client.read(1)
    assert len(got) == 7
    called = client.called
    client.wire.confirm()
    world.clock.advance(0.05)
    assert client.called == called + 1
    assert client.read(1) == [7]
    stop(world)


def test_a_last_event_id_settles_what_an_earlier_connection_was_sent(world: World) -> None:
    client = joined(world, world.reader(short=False))
    client.read(10)
    client.wire.close(orderly=False)
    second = world.reader(short=False)
    second.reader.settled({0: 6})
    assert second.read(2) == [7, 8]
    world.clock.advance(1.1)
    assert world.committed() == 7


def test_a_last_event_id_is_honoured_by_a_gateway_that_did_not_send_it_but_not_beyond_the_end(world: World) -> None:
    world.store.commits["g", "t", 0] = Committed(2)
    client = world.reader(short=False)
    client.reader.settled({0: 5})
    joined(world, client)
    assert client.read(1) == [6]
    client.reader.finish()
    client.wire.ask()
    other = world.reader(short=False)
    other.reader.settled({0: 500})
    assert other.read(1) == [7]


def test_explicit_records_come_back_when_their_lease_ends_and_not_before(world: World) -> None:
    client = joined(world, world.reader(mode="explicit", ack_timeout=5))
    client.read(3)
    assert world.acknowledge(Ack(0, 1)) == [None]
    world.clock.advance(4.9)
    other = world.reader(mode="explicit")
    assert other.read(1) == [3]
    world.clock.advance(0.5)
    world.turn()
    assert other.read(2) == [0, 2]
    assert [n for _, _, n in other.got] == [1, 2, 2]


def test_a_lease_that_passed_to_another_is_a_conflict_inside(world: World) -> None:
    client = joined(world, world.reader(mode="explicit", ack_timeout=5))
    client.read(1)
    world.clock.advance(5.5)
    other = world.reader(mode="explicit")
    assert other.read(1) == [0]
    (error,) = world.acknowledge(Ack(0, 0, lease=client.leases[0]))
    assert isinstance(error, Conflict)
    assert world.acknowledge(Ack(0, 0, lease=other.leases[0])) == [None]
    assert world.acknowledge(Ack(0, 0, lease=other.leases[0])) == [None]
    (error,) = world.acknowledge(Ack(0, 19))
    assert isinstance(error, NotFound)


def test_acknowledged_out_of_order_survives_a_restart_in_the_metadata(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    client.read(10)
    world.acknowledge(Ack(0, 3), Ack(0, 7), Ack(0, 4))
    world.clock.advance(1.1)
    assert world.committed() == 0
    world.restart()
    client = joined(world, world.reader(mode="explicit"))
    assert client.read(3) == [10, 11, 12]
    world.clock.advance(60)
    world.turn()
    assert client.read(7) == [0, 1, 2, 5, 6, 8, 9]


def test_a_full_window_stops_delivery_until_something_is_acknowledged() -> None:
    world = World(max_unacknowledged_records=5)
    world.fill(20)
    client = joined(world, world.reader(mode="explicit"))
    assert len(client.read()) == 5
    called = client.called
    world.acknowledge(Ack(0, 4, upto=True))
    assert client.called == called + 1
    assert client.read() == [5, 6, 7, 8, 9]
    stop(world)


def test_a_record_goes_to_the_dead_letters_after_its_last_delivery_and_only_then_is_acknowledged() -> None:
    world = World(max_deliveries=2)
    world.fill(3)
    client = joined(world, world.reader(mode="explicit", ack_timeout=5))
    assert client.read(1) == [0]
    world.acknowledge(Ack(0, 0, outcome="retry"))
    world.clock.advance(0.3)
    world.turn()
    assert client.read(1) == [0]
    world.store.refuse_publish = Unavailable("away")
    world.acknowledge(Ack(0, 0, outcome="retry", delay_seconds=1))
    world.clock.advance(1.1)
    assert world.committed() is None
    world.store.refuse_publish = None
    world.clock.pump([1.0] * 4)
    assert world.committed() == 1
    (letter,) = world.store.logs["t.g.dead"][0]
    headers = dict(letter.headers)
    assert letter.value == b"0"
    assert headers["kateway-dead-offset"] == b"0"
    assert headers["kateway-dead-reason"] == b"max-deliveries"
    assert headers["kateway-dead-attempts"] == b"2"
    assert client.read() == [1, 2]
    stop(world)


def synced(world: World, *acks: Ack) -> list[object]:
    """What an acknowledgement that waits for its commit is answered, as soon as it is."""
    answers: list[object] = []
    Deferred.fromCoroutine(world.groups.acknowledge("default", "g", "t", acks, sync=True)).addBoth(answers.append)
    world.turn()
    return answers


def test_waiter_for_a_rejected_records_commit_waits_for_its_dead_letter(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    client.read(3)
    held = world.store.hold_publish = Deferred()
    answers = synced(world, Ack(0, 0, outcome="dead"))
    later = synced(world, Ack(0, 1))
    world.clock.advance(2)
    assert (answers, later, world.committed()) == ([], [[None]], 0), "who rejects nothing does not wait"
    world.store.hold_publish = None
    held.callback(None)
    world.turn()
    assert (answers, world.committed()) == ([[None]], 2)
    stop(world)


def test_waiter_for_a_dead_letter_that_cannot_be_written_is_told_and_it_is_tried_again(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    client.read(2)
    world.store.refuse_publish = Unavailable("away")
    answers = synced(world, Ack(0, 0, outcome="dead"))
    world.clock.advance(1)
    (answer,) = answers
    assert isinstance(answer, Failure)
    assert answer.check(Unavailable)
    world.store.refuse_publish = None
    assert synced(world, Ack(0, 0, outcome="dead")) == []
    world.clock.pump([0.5] * 4)
    assert world.committed() == 1
    assert len(world.store.logs["t.g.dead"][0]) == 1
    stop(world)


def test_waiter_for_a_dead_letter_is_told_when_the_group_is_left(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    client.read(1)
    world.store.hold_publish = Deferred()
    answers = synced(world, Ack(0, 0, outcome="dead"))
    stop(world)
    (answer,) = answers
    assert isinstance(answer, Failure)
    assert answer.check(Unavailable)


def test_a_rejected_record_goes_to_the_dead_letters(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    client.read(2)
    assert world.acknowledge(Ack(0, 0, outcome="dead")) == [None]
    world.clock.advance(1.1)
    assert world.committed() == 1
    assert len(world.store.logs["t.g.dead"][0]) == 1


# --- commits and rebalances ---------------------------------------------------------------------------------------


def test_record_settled_while_its_partition_is_away_is_committed_when_it_is_back(world: World) -> None:
    client = joined(world, world.reader())
    assert client.read(3) == [0, 1, 2]
    client.reader.finish()
    client.wire.confirm()
    world.clock.advance(0.5)
    held = world.member.revoke(0)
    world.clock.pump([0.25] * 8)
    assert held is not None
    assert held.called
    assert world.committed() == 0
    world.member.give(0)
    world.clock.pump([0.05] * 4)
    assert world.committed() == 3, "no other event is needed"
    assert world.reader().read(1) == [3]


def test_record_settled_after_its_partition_is_back_is_not_delivered_again(world: World) -> None:
    client = joined(world, world.reader(short=False))
    assert client.read(3) == [0, 1, 2]
    world.member.revoke(0)
    world.clock.pump([0.25] * 5)
    world.member.give(0)
    world.turn()
    assert client.read(2) == [3, 4]
    client.wire.ask()
    world.clock.advance(1.1)
    assert world.committed() == 5


def test_record_given_back_while_its_partition_is_away_is_delivered_again(world: World) -> None:
    client = joined(world, world.reader(short=False))
    assert client.read(3) == [0, 1, 2]
    world.member.lose(0)
    client.wire.close(orderly=False)
    world.member.give(0)
    world.turn()
    assert world.reader().read(5) == [0, 1, 2, 3, 4]


def test_response_is_cut_off_where_another_member_left_its_partition_before_records_that_it_carried(
    world: World,
) -> None:
    client = joined(world, world.reader(short=False))
    assert client.read(3) == [0, 1, 2]
    world.member.lose(0)
    world.store.commits["g", "t", 0] = Committed(2)
    world.member.give(0)
    world.turn()
    assert [type(error) for error in client.failed] == [Unavailable]
    with pytest.raises(Unavailable):
        client.read(1)
    client.reader.finish()
    client.wire.close(orderly=True)
    after = world.reader()
    assert after.read(1) == [2]
    after.wire.ask()
    world.clock.advance(1.1)
    assert world.committed() == 3


def test_response_goes_on_where_another_member_left_its_partition_behind_what_it_carried(world: World) -> None:
    client = joined(world, world.reader(short=False))
    assert client.read(3) == [0, 1, 2]
    world.member.lose(0)
    world.store.commits["g", "t", 0] = Committed(5)
    world.member.give(0)
    world.turn()
    assert client.read(1) == [5]
    assert not client.failed


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "revoked"])
def test_commit_refused_by_a_rebalance_is_made_again_when_the_partition_is_back(world: World, lost: bool) -> None:
    client = joined(world, world.reader(short=False))
    assert client.read(3) == [0, 1, 2]
    client.wire.ask()
    world.member.refuse = Conflict("the group rebalances")
    if lost:
        world.member.lose(0)
    else:
        world.member.revoke(0)
    world.clock.advance(1.1)
    assert world.committed() is None
    world.member.refuse = None
    world.member.give(0)
    world.clock.pump([0.05] * 4)
    assert world.committed() == 3
    assert client.read(1) == [3]


@pytest.mark.parametrize("failures", [0, 1, 40])
def test_records_in_an_open_response_go_on_in_order_where_a_commit_without_answer_was_stored_before_others_failed(
    world: World, failures: int
) -> None:
    client = joined(world, world.reader(short=False))
    assert client.read(3) == [0, 1, 2]
    client.wire.ask()
    world.member.refuse = Unavailable("the coordinator was killed before it answered")
    world.member.unanswered = True
    world.clock.advance(1.1)
    assert world.committed() == 3
    world.member.unanswered = False
    for offset in range(3, 3 + failures):
        world.fill(1)
        assert client.read(1) == [offset]
        client.wire.ask()
        world.clock.advance(1.1)
    last = client.read(1)
    world.member.lose(0)
    world.member.refuse = None
    world.member.give(0)
    world.turn()
    assert client.read(1) == [last[0] + 1]
    client.wire.ask()
    world.clock.pump([0.5] * 3)
    assert world.committed() == last[0] + 2
    world.member.lose(0)
    world.store.commits["g", "t", 0] = Committed(3)
    world.member.give(0)
    world.turn()
    assert client.failed, "a group that was moved back begins anew"


def test_synchronous_acknowledgement_whose_commit_is_refused_waits_for_the_partition_to_be_back(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    assert client.read(2) == [0, 1]
    world.member.refuse = Conflict("the group rebalances")
    answers = sync_ack(world, Ack(0, 0))
    world.clock.advance(0.1)
    world.member.lose(0)
    world.clock.advance(1.1)
    assert answers == []
    world.member.refuse = None
    world.member.give(0)
    world.clock.pump([0.3] * 4)
    assert answers == [[None]]
    assert world.committed() == 1


def test_synchronous_acknowledgement_fails_where_its_partition_went_to_another_member(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    assert client.read(2) == [0, 1]
    world.member.refuse = Conflict("the group rebalances")
    answers = sync_ack(world, Ack(0, 0))
    world.clock.advance(0.1)
    world.member.lose(0)
    world.clock.pump([0.5] * 16)
    (answer,) = answers
    assert isinstance(answer, Unavailable)
    assert world.committed() is None


def test_synchronous_acknowledgement_that_cannot_be_committed_fails_in_bounded_time(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    assert client.read(2) == [0, 1]
    world.member.refuse = Conflict("for ever")
    answers = sync_ack(world, Ack(0, 0))
    world.clock.pump([1.0] * 31)
    (answer,) = answers
    assert isinstance(answer, Unavailable)


def sync_ack(world: World, ack: Ack) -> list[object]:
    answers: list[object] = []
    acknowledging = Deferred.fromCoroutine(world.groups.acknowledge("default", "g", "t", [ack], sync=True))
    acknowledging.addBoth(lambda result: answers.append(result.value if isinstance(result, Failure) else result))
    return answers


# --- nothing that a reader or a store raises stops the others --------------------------------------------------------


def test_reader_that_raises_when_woken_does_not_keep_the_others_asleep(
    logged_errors: list[dict[str, object]],
) -> None:
    world = World(partitions=2)
    broken, other = world.reader(), world.reader()

    def breaks() -> None:
        raise ZeroDivisionError

    broken.reader.on_readable(breaks)
    world.member.give(0, 1)
    world.turn()
    called = other.called
    for client in (broken, other):
        client.reader.hungry = True
        world.membership.wake(client.reader)
    world.turn()
    assert other.called == called + 1
    broken.reader.hungry = other.reader.hungry = True
    world.fill(1, 0)
    world.fill(1, 1)
    assert other.called == called + 2
    assert logged_errors
    stop(world)
    logged_errors.clear()


def test_connection_that_raises_when_asked_does_not_keep_others_unsettled(
    logged_errors: list[dict[str, object]],
) -> None:
    class Broken(Wire):
        def confirmed(self) -> int | None:
            raise ZeroDivisionError

    world = World(partitions=2)
    world.fill(1, 0)
    world.fill(1, 1)
    broken, other = Broken(), Wire()
    first, second = world.reader(broken), world.reader(other)
    world.member.give(0, 1)
    world.turn()
    first.read()
    second.read()
    other.confirm()
    world.clock.pump([0.25] * 16)
    assert {world.committed(0), world.committed(1)} == {None, 1}
    assert logged_errors
    stop(world)
    logged_errors.clear()


def test_commit_that_raises_is_made_again(world: World) -> None:
    client = joined(world, world.reader())
    client.read(1)
    commit, world.member.commit = world.member.commit, lambda offsets: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    client.wire.ask()
    world.clock.advance(1.1)
    assert world.committed() is None
    world.member.commit = commit  # type: ignore[method-assign]
    world.clock.advance(1.1)
    assert world.committed() == 1


@pytest.mark.parametrize("error", [ZeroDivisionError(), CancelledError()], ids=["unforeseen", "cancelled"])
def test_dead_letter_whose_write_raises_is_written_later(
    world: World, error: Exception, logged_errors: list[dict[str, object]]
) -> None:
    client = joined(world, world.reader(mode="explicit"))
    client.read(2)
    world.store.raise_on_publish = error
    world.acknowledge(Ack(0, 0, outcome="dead"))
    world.clock.advance(0.5)
    world.store.raise_on_publish = None
    world.clock.pump([1.0] * 4)
    assert len(world.store.logs["t.g.dead"][0]) == 1
    assert world.committed() == 1
    logged_errors.clear()


def test_records_that_are_settled_at_the_moment_of_a_revocation_are_done_with(world: World) -> None:
    client = joined(world, world.reader(short=False))
    client.read(3)
    client.wire.confirm()
    world.clock.advance(0.1)
    client.reader.tick(world.clock.seconds())  # confirmed as of now, and old enough 2 s later
    client.read(4)
    world.clock.pump([0.01] * 205)
    assert world.ledger(0).in_flight.__len__() == 2
    world.member.revoke(0)
    for _ in range(6):
        world.clock.advance(0.25)
    world.member.give(0)
    world.turn()
    client.wire.confirm()
    for _ in range(20):
        world.clock.advance(0.25)
    assert world.committed() == 7
    assert client.read(3) == [7, 8, 9]


@pytest.mark.parametrize("short", [True, False], ids=["poll", "stream"])
def test_records_that_another_response_did_not_send_stand_behind_no_later_ones_in_a_poll(
    world: World, short: bool
) -> None:
    first = joined(world, world.reader(mode="explicit"))
    second = world.reader(mode="explicit", short=short)
    assert first.read(5, send=False) == [0, 1, 2, 3, 4]
    assert second.read(5) == [5, 6, 7, 8, 9]
    first.reader.finish()
    world.turn()
    # a stream may be the only reader that there is
    assert second.read(7) == ([10, 11, 12, 13, 14, 15, 16] if short else [0, 1, 2, 3, 4, 10, 11])
    if short:
        third = world.reader(mode="explicit")
        world.turn()
        assert third.read(6) == [0, 1, 2, 3, 4, 17]
        assert {attempt for _, _, attempt in third.got} == {1}


def test_reader_that_breaks_when_the_gateway_stops_keeps_no_group_from_being_left(
    world: World, logged_errors: list[dict[str, object]]
) -> None:
    client = joined(world, world.reader(mode="explicit"))
    assert client.read(3) == [0, 1, 2]
    world.acknowledge(Ack(0, 2, upto=True))

    def broken(_error: KatewayError) -> None:
        raise ZeroDivisionError

    client.reader.on_failed(broken)
    stop(world)
    assert (world.committed(), world.groups.groups) == (3, 0)
    assert len(logged_errors) == 1
    logged_errors.clear()


def test_commit_is_made_though_the_look_before_broke(world: World, logged_errors: list[dict[str, object]]) -> None:
    client = joined(world, world.reader(mode="explicit"))
    assert client.read(3) == [0, 1, 2]
    position = world.member.position

    def broken(_partition: int) -> int:
        world.member.position = position  # type: ignore[method-assign]
        raise ZeroDivisionError

    world.acknowledge(Ack(0, 2, upto=True))
    world.member.position = broken  # type: ignore[method-assign, assignment]
    world.clock.advance(1)
    world.clock.advance(1)
    assert (world.committed(), len(logged_errors)) == (3, 1)
    logged_errors.clear()


def test_membership_that_breaks_when_it_starts_behind_another_fails_its_readers(
    world: World, logged_errors: list[dict[str, object]]
) -> None:
    former = joined(world, world.reader())
    former.read(2)
    former.reader.finish()
    # what it was sent is on its way: the group is left a second later
    Deferred.fromCoroutine(world.groups.let_go("default", "g", "t"))
    client = world.reader()

    def broken(*_told: object) -> MemorySubscription:
        raise ZeroDivisionError

    world.store.subscribe = broken  # type: ignore[method-assign]
    world.clock.pump([0.5] * 4)
    assert (len(client.failed), world.groups.groups, len(logged_errors)) == (1, 0, 1)
    logged_errors.clear()


def test_waiters_for_dead_letters_are_all_told_though_one_gives_another_up(world: World) -> None:
    client = joined(world, world.reader(mode="explicit"))
    assert client.read(2) == [0, 1]
    world.store.refuse_publish = Unavailable("no broker answers")
    world.acknowledge(Ack(0, 0, outcome="dead"), Ack(0, 1, outcome="dead"))
    waiting = [world.membership.dead_letters_written() for _ in range(3)]
    told: list[object] = []
    waiting[0].addErrback(lambda _: waiting[1].cancel())
    for each in waiting:
        each.addErrback(told.append)
    world.clock.advance(60)
    assert [each.called for each in waiting] == [True] * 3
