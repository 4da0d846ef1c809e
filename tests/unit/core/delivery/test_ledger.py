"""Cases of the delivery state that chance meets seldom: see ``test_delivery_model`` for the rest."""

from __future__ import annotations

from kateway.core.delivery.batch import Ack, Batch, State
from kateway.core.delivery.ledger import Ledger
from kateway.core.delivery.redeliveries import Redeliveries
from kateway.errors import Conflict
from kateway.model import Committed, Record


def records(*offsets: int) -> list[Record]:
    return [Record(offset, 0, None, b"v") for offset in offsets]


def fly(delivery: Ledger, *offsets: int) -> Batch:
    start, fresh = delivery.receive(records(*offsets), offsets[0])
    return delivery.fly(start, fresh, 0.0)


def lease(delivery: Ledger, *offsets: int, until: float = 10.0) -> Batch:
    start, fresh = delivery.receive(records(*offsets), offsets[0])
    batch = delivery.lease(start, fresh, "token", until, 0.0)
    batch.was_sent(0, [1] * len(offsets), len(offsets))
    return batch


def test_a_batch_cut_by_what_its_client_says_still_knows_where_its_records_end() -> None:
    delivery = Ledger(0)
    batch = fly(delivery, 0, 1, 2, 3)
    batch.was_sent(100, [10, 20, 30, 40], 200)
    assert delivery.acknowledge_upto(0) is None
    assert [batch.whole_records(position) for position in (129, 130, 159, 160, 199, 200)] == [0, 1, 1, 2, 2, 3]
    delivery.settle_some(batch, batch.whole_records(160))
    assert delivery.floor == 3
    assert delivery.give_back(batch) == 3


def test_a_batch_with_holes_knows_its_offsets_after_it_let_go_of_its_records() -> None:
    delivery = Ledger(0)
    batch = fly(delivery, 2, 5, 9)
    batch.was_sent(0, [1, 1, 1], 3)
    assert batch.records == []
    delivery.settle_some(batch, 2)
    assert delivery.floor == 6
    assert (batch.first, batch.start, batch.count) == (9, 6, 1)
    delivery.settle(batch)
    assert delivery.floor == 10


def test_a_block_compressed_as_one_piece_is_read_whole_or_not_at_all() -> None:
    batch = fly(Ledger(0), 0, 1, 2)
    batch.was_sent(0, [100], 100)
    assert batch.whole_records(99) == 0
    assert batch.whole_records(100) == 3


def test_an_auto_reader_gets_what_came_back_from_leases_only_as_far_as_it_hangs_together() -> None:
    delivery = Ledger(0)
    lease(delivery, 0, 1, 2, 3)
    assert delivery.acknowledge(Ack(0, 1), 0.0) is None
    assert delivery.expire(10.0)
    first = delivery.fly_again(10, 100, 10.0)
    assert first is not None
    assert (first.first, first.count, first.attempts) == (0, 1, [2])
    second = delivery.fly_again(10, 100, 10.0)
    assert second is not None
    assert (second.first, second.count) == (2, 2)
    delivery.settle(first)
    assert delivery.floor == 2


def test_leased_record_is_not_read_again_with_one_that_returned_below_it() -> None:
    delivery = Ledger(0)
    unsent = lease(delivery, 0, 1, 2, 3)
    assert delivery.acknowledge(Ack(0, 0, outcome="retry"), 0.0) is None
    assert delivery.expire(0.0)
    batch = delivery.fly_again(1, 100, 0.0)
    assert batch is not None
    assert unsent.items is not None
    assert delivery.give_back(batch) == 0
    start, fresh = delivery.receive(records(0, 1, 2, 3), 0)
    assert (start, [record.offset for record in fresh]) == (0, [0])
    again = delivery.lease(start, fresh, "other", 20.0, 0.0)
    assert again.attempts == [2]
    assert list(delivery.leases.items) == [0, 1, 2, 3]
    assert delivery.acknowledge_upto(1) is None
    assert delivery.floor == 2


def test_a_partition_that_begins_anew_is_delivered_from_there_and_committed_anew() -> None:
    delivery = Ledger(0, Committed(50))
    batch = fly(delivery, 50, 51)
    fly(delivery, 0, 1)
    assert delivery.floor == 0
    delivery.settle(batch)
    assert delivery.floor == 0
    assert delivery.to_commit() == Committed(0)


def test_a_record_with_an_auto_reader_cannot_be_acknowledged_by_its_offset() -> None:
    delivery = Ledger(0)
    batch = fly(delivery, 0, 1)
    batch.was_sent(0, [1, 1], 2)
    assert isinstance(delivery.acknowledge(Ack(0, 1), 0.0), Conflict)


def test_the_window_closes_before_the_ranges_do_not_fit_a_commit() -> None:
    delivery = Ledger(0)
    step = [3 + (number * 7919) % 9001 for number in range(3000)]
    offset = 1
    delivery.receive(records(0, 20_000_000), 0)
    for width in step:
        delivery.done.add(offset, offset + width // 2)
        offset += width
    assert delivery.room(10000, 1 << 20) == 0
    committed = delivery.to_commit()
    assert committed is not None
    assert len(committed.metadata) <= 4000
    delivery.done.clear()
    assert delivery.room(10000, 1 << 20) == 10000


def test_a_window_full_of_bytes_stops_fresh_records() -> None:
    delivery = Ledger(0)
    lease(delivery, 0, 1, 2)
    assert delivery.room(10, 3) == 0
    assert delivery.room(10, 4) == 7


def test_an_item_on_its_way_to_the_dead_letters_holds_the_floor_until_it_is_there() -> None:
    delivery = Ledger(0, max_deliveries=1)
    lease(delivery, 0, 1)
    delivery.expire(10.0)
    assert [lease.state for lease in delivery.leases.dying] == [State.DYING] * 2
    assert delivery.acknowledge_upto(1) is None
    assert delivery.floor == 0
    for dying in list(delivery.leases.dying):
        delivery.complete(dying)
        delivery.complete(dying)
    assert delivery.floor == 2


def test_record_never_handed_out_is_not_acknowledged_with_those_above_it() -> None:
    delivery = Ledger(0)
    start, fresh = delivery.receive(records(0, 1), 0)
    unsent = delivery.lease(start, fresh, "unsent", 10.0, 0.0)
    delivery.give_back(unsent)
    lease(delivery, 2, 3)
    assert delivery.acknowledge_upto(3) is None
    assert delivery.floor == 0
    assert list(delivery.leases.items) == [0, 1]


def test_returned_record_is_settled_by_a_client_that_says_it_has_read_it() -> None:
    delivery = Ledger(0)
    batch = fly(delivery, 0, 1, 2)
    batch.was_sent(0, [1, 1, 1], 3)
    assert delivery.give_back(batch) == 0
    assert delivery.acknowledge_upto(1) is None
    assert delivery.floor == 2
    _, fresh = delivery.receive(records(0, 1, 2), 0)
    assert [record.offset for record in fresh] == [2]


def test_attempts_are_counted_for_each_batch_that_came_back() -> None:
    delivery = Ledger(0)
    first = fly(delivery, 0, 1)
    first.was_sent(0, [1, 1], 2)
    fly(delivery, 2, 3)  # never sent
    delivery.give_back(first)
    again = fly(delivery, 0, 1, 2)
    assert again.attempts == [2, 2, 1]
    again.was_sent(2, [1, 1, 1], 5)
    later = fly(delivery, 3, 4)
    later.was_sent(5, [1, 1], 7)
    delivery.give_back(again)
    assert fly(delivery, 0, 1, 2, 3, 4, 5).attempts == [3, 3, 2, 2, 2, 1]


def test_attempts_of_single_records_are_kept_beside_those_of_batches() -> None:
    redeliveries = Redeliveries()
    redeliveries.rewind([(10, 1)])
    redeliveries.note(4, 3)
    redeliveries.note(12, 2)
    assert redeliveries.attempts(records(3, 4, 5, 9, 10, 11, 12, 13)) == [2, 4, 2, 2, 1, 1, 3, 1]
    assert not redeliveries


def test_leased_batch_that_comes_back_brings_nothing_that_was_acknowledged() -> None:
    delivery = Ledger(0)
    start, fresh = delivery.receive(records(0, 1, 2), 0)
    batch = delivery.lease(start, fresh, "token", 10.0, 0.0)
    assert delivery.acknowledge(Ack(0, 1), 1.0) is None
    assert delivery.give_back(batch) is None
    assert delivery.leases.ready == [0, 2]
    again = delivery.lease_again(5, 100, "other", 20.0, 2.0)
    assert again is not None
    assert ([record.offset for record in again.records], again.attempts) == ([0, 2], [1, 1])
