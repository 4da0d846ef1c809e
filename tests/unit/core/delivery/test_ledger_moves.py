"""Leases that a partition's last owner left, in the next owner's ledger."""

from __future__ import annotations

from kateway.core.delivery.batch import Ack, State
from kateway.core.delivery.ledger import Ledger
from kateway.core.delivery.moved_leases import Kind, MovedLease, decode
from kateway.errors import NotFound
from kateway.model import Committed, Record


def records(*offsets: int) -> list[Record]:
    return [Record(offset, 0, None, b"v") for offset in offsets]


def moved(*offsets: int, left: float = 60.0, attempts: int = 1, kind: Kind = Kind.LEASED) -> list[MovedLease]:
    return [MovedLease(offset, "89abcdef1", left, attempts, kind) for offset in offsets]


def held(*leases: MovedLease, floor: int = 0, max_deliveries: int = 0) -> Ledger:
    ledger = Ledger(0, Committed(floor), max_deliveries)
    ledger.hold(leases, 0.0)
    return ledger


def fresh(ledger: Ledger, *offsets: int) -> list[int]:
    return [record.offset for record in ledger.receive(records(*offsets), None)[1]]


def test_record_whose_lease_holds_is_not_delivered_and_can_be_acknowledged_before_it_is_read() -> None:
    ledger = held(*moved(0, 1, 2))
    assert ledger.acknowledge(Ack(0, 0, lease="89abcdef1"), 1.0) is None
    assert ledger.floor == 1
    assert fresh(ledger, 0, 1, 2, 3) == [3]
    assert ledger.acknowledge(Ack(0, 1), 1.0) is None
    assert ledger.floor == 2


def test_lease_beside_a_fresh_record_is_not_done_when_that_is_acknowledged() -> None:
    ledger = held(*moved(6), floor=5)
    ledger.done.add(7, 8)
    ledger.frontier = 6
    start, found = ledger.receive(records(6, 7, 8), None)
    ledger.lease(start, found, "token", 60.0, 0.0)
    assert ledger.acknowledge(Ack(0, 8), 1.0) is None
    assert list(ledger.done) == [(7, 9)]
    assert 6 in ledger.leases.items


def test_offsets_without_a_record_before_a_lease_are_done() -> None:
    ledger = held(*moved(10), floor=8)
    start, found = ledger.receive(records(10, 12), None)
    ledger.lease(start, found, "token", 60.0, 0.0)
    assert ledger.acknowledge(Ack(0, 12), 1.0) is None
    assert ledger.acknowledge(Ack(0, 10), 1.0) is None
    assert ledger.floor == 13


def test_leased_record_that_the_store_has_no_more_is_done() -> None:
    ledger = held(*moved(0, 1, 2))
    assert fresh(ledger, 2, 3) == [3]
    assert list(ledger.leases.items) == [2]
    assert ledger.floor == 2


def test_leased_records_behind_which_the_store_has_none_are_done() -> None:
    ledger = held(*moved(0, 1))
    ledger.step(2)
    assert not ledger.leases.items
    assert ledger.floor == 2
    assert ledger.to_commit() == Committed(2)


def test_lease_that_ends_unread_comes_in_order_with_the_attempts_of_both_owners() -> None:
    ledger = held(*moved(1, left=5.0, attempts=3))
    assert not ledger.expire(4.9)
    assert ledger.expire(5.1)
    start, found = ledger.receive(records(0, 1, 2), None)
    batch = ledger.lease(start, found, "token", 60.0, 6.0)
    assert [record.offset for record in batch.records] == [0, 1, 2]
    assert batch.attempts == [1, 4, 1]


def test_lease_that_ended_while_no_gateway_had_the_partition_is_delivered_at_once() -> None:
    ledger = held(*moved(0, 1, left=0.0, attempts=2))
    start, found = ledger.receive(records(0, 1), None)
    assert ledger.fly(start, found, 0.0).attempts == [3, 3]


def test_last_delivery_that_ended_meanwhile_goes_to_the_dead_letters() -> None:
    ledger = held(*moved(0, left=0.0, attempts=3), *moved(1, attempts=3), max_deliveries=3)
    (lease,) = ledger.leases.dying
    assert (lease.record.offset, lease.read, lease.reason) == (0, False, "max-deliveries")
    ledger.expire(61.0)
    assert [lease.record.offset for lease in ledger.leases.dying] == [0, 1]


def test_rejected_record_goes_to_the_dead_letters_of_the_next_owner() -> None:
    ledger = Ledger(0, Committed(0))
    start, found = ledger.receive(records(0, 1), None)
    ledger.lease(start, found, "token", 60.0, 0.0)
    ledger.acknowledge(Ack(0, 1, outcome="dead"), 1.0)
    place, _ = ledger.last_place(1.0, 1000.0)
    assert place is not None
    following = held(*decode(0, place.metadata).leases)
    (lease,) = following.leases.dying
    assert (lease.record.offset, lease.reason) == (1, "rejected")


def test_record_put_off_comes_after_its_delay() -> None:
    ledger = held(*moved(0, left=3.0, kind=Kind.PUT_OFF))
    assert ledger.leases.items[0].state is State.WAITING
    assert fresh(ledger, 0, 1) == [1]
    ledger.expire(3.1)
    batch = ledger.lease_again(5, 100, "token", 60.0, 4.0)
    assert batch is not None
    assert batch.attempts == [2]


def test_client_that_has_read_up_to_a_record_says_nothing_of_those_between_that_were_given_back() -> None:
    ledger = held(*moved(0, 2))
    assert isinstance(ledger.acknowledge(Ack(0, 3, upto=True), 1.0), NotFound)
    assert ledger.acknowledge(Ack(0, 2, upto=True), 1.0) is None
    assert (ledger.floor, list(ledger.done)) == (1, [(2, 3)])
    assert fresh(ledger, 0, 1, 2, 3) == [1, 3]


def test_window_full_of_leases_does_not_keep_their_records_from_being_read() -> None:
    ledger = held(*moved(0, 1, 2))
    assert ledger.room(3, 100) == 3
    assert fresh(ledger, 0, 1) == []
    assert ledger.room(3, 100) == 1
    assert ledger.leases.bytes == 2


def test_partition_that_begins_anew_forgets_the_leases() -> None:
    ledger = held(*moved(5, 6), floor=5)
    assert fresh(ledger, 0, 1) == [0, 1]
    assert not ledger.leases.items
    assert not ledger.leases.unread


def test_lease_below_the_committed_offset_or_among_the_done_is_not_held() -> None:
    ledger = Ledger(0, Committed(5))
    ledger.done.add(7, 8)
    ledger.hold(moved(3, 7, 9), 0.0)
    assert list(ledger.leases.items) == [9]


def test_records_that_were_never_handed_out_are_not_among_the_leases_of_the_last_commit() -> None:
    ledger = Ledger(0, Committed(0))
    start, found = ledger.receive(records(0, 1, 2, 3), None)
    sent = ledger.lease(start, found[:2], "89abcdef1", 60.0, 0.0)
    sent.was_sent(0, [1, 1], 2)
    ledger.give_back(ledger.lease(2, found[2:], "89abcdef2", 60.0, 0.0))
    place, left_out = ledger.last_place(1.0, 1000.0)
    assert place is not None
    assert [lease.offset for lease in decode(0, place.metadata).leases] == [0, 1]
    assert left_out == 0


def test_commit_after_a_move_has_no_leases() -> None:
    first = held(*moved(0, 1, 2))
    place, _ = first.last_place(10.0, 1000.0)
    assert place is not None
    following = Ledger(0, place)
    following.hold(decode(0, place.metadata).leases, 10.0)
    assert following.to_commit() is None
    following.acknowledge(Ack(0, 1), 11.0)
    committed = following.to_commit()
    assert committed is not None
    assert decode(0, committed.metadata).leases == ()


def test_commit_behind_a_lease_that_was_given_back_and_leased_anew_leaves_the_leases_out() -> None:
    first = held(*moved(0, 1, 2))
    place, _ = first.last_place(10.0, 1000.0)
    assert place is not None
    ledger = Ledger(0, place)
    ledger.hold(decode(0, place.metadata).leases, 10.0)
    ledger.receive(records(0, 1, 2), None)
    assert ledger.acknowledge(Ack(0, 0, outcome="retry"), 11.0) is None
    ledger.expire(11.0)
    committed = ledger.to_commit()
    assert committed == Committed(0)
    ledger.confirm(committed)
    assert ledger.to_commit() is None


def test_commit_behind_a_lease_that_ended_unread_leaves_the_leases_out_when_it_is_delivered() -> None:
    first = held(*moved(0, left=5.0))
    place, _ = first.last_place(1.0, 1000.0)
    assert place is not None
    ledger = Ledger(0, place)
    ledger.hold(decode(0, place.metadata).leases, 1.0)
    ledger.expire(9.0)
    assert ledger.to_commit() is None
    assert fresh(ledger, 0) == [0]
    assert ledger.to_commit() == Committed(0)


def test_commit_of_an_owner_whose_partition_came_back_leaves_its_leases_out() -> None:
    ledger = Ledger(0, Committed(0))
    start, found = ledger.receive(records(0, 1), None)
    ledger.lease(start, found, "89abcdef1", 60.0, 0.0).was_sent(0, [1, 1], 2)
    place, _ = ledger.last_place(1.0, 1000.0)
    assert place is not None
    ledger.offer(place)
    ledger.live = False
    ledger.come_back(place)
    assert ledger.to_commit() == Committed(0)


def test_position_that_steps_past_a_lease_that_was_read_leaves_it_held() -> None:
    ledger = held(*moved(7))
    start, found = ledger.receive(records(*range(10)), 0)
    ledger.give_back(ledger.fly(start, found, 0.0))
    ledger.step(10)
    assert (ledger.floor, list(ledger.done)) == (7, [(8, 10)])
    place, left_out = ledger.last_place(1.0, 1000.0)
    assert place is not None
    assert [lease.offset for lease in decode(7, place.metadata).leases] == [7]
    assert left_out == 0
    assert ledger.acknowledge(Ack(0, 7), 1.0) is None
    assert ledger.floor == 10


def test_rejected_record_that_reading_passes_is_left_to_the_dead_letters() -> None:
    ledger = held(*moved(0, kind=Kind.REJECTED))
    assert fresh(ledger, 1, 2) == [1, 2]
    assert list(ledger.leases.items) == [0]
    assert not ledger.leases.unread
    (lease,) = ledger.leases.dying
    ledger.complete(lease)
    assert ledger.floor == 1


def test_client_that_has_read_up_to_a_lease_says_nothing_of_records_that_were_put_back_unseen() -> None:
    ledger = held(*moved(15))
    start, found = ledger.receive(records(*range(20)), 0)
    ledger.back_to(5)  # a turn's slice was used up
    ledger.lease(start, found[:5], "token", 60.0, 0.0)
    assert ledger.acknowledge(Ack(0, 15, upto=True), 1.0) is None
    assert (ledger.floor, list(ledger.done)) == (5, [(15, 16)])


def test_client_that_has_read_up_to_a_record_says_nothing_of_those_before_an_ended_lease() -> None:
    ledger = held(*moved(12, left=5.0))
    start, found = ledger.receive(records(*range(20)), 0)
    ledger.give_back(ledger.fly(start, found, 0.0))
    ledger.expire(6.0)
    assert ledger.acknowledge(Ack(0, 12, upto=True), 7.0) is None
    assert (ledger.floor, list(ledger.done)) == (0, [(12, 13)])


def test_leases_whose_batch_was_not_sent_do_not_move() -> None:
    ledger = Ledger(0, Committed(0), 1)
    start, found = ledger.receive(records(0, 1), None)
    ledger.lease(start, found, "89abcdef1", 3600.0, 0.0)
    assert ledger.last_place(1.0, 1000.0) == (None, 0)


def test_lease_that_ended_before_its_batch_was_sent_is_no_delivery() -> None:
    ledger = Ledger(0, Committed(0), 1)
    start, found = ledger.receive(records(0), None)
    ledger.lease(start, found, "89abcdef1", 30.0, 0.0)
    assert ledger.expire(31.0)
    assert not ledger.leases.dying
    again = ledger.lease_again(1, 100, "89abcdef2", 60.0, 31.0)
    assert again is not None
    assert again.attempts == [1]


def test_age_of_the_oldest_record_is_unknown_until_it_is_read() -> None:
    ledger = held(*moved(0))
    assert ledger.oldest_ms() is None
    ledger.receive(records(0), None)
    assert ledger.oldest_ms() == 0
