"""Records fetched and not yet taken: positions, bounds, hidden records."""

from __future__ import annotations

from struct import pack

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.errors import CorruptRecords
from kateway.model import Message
from kateway.storage.kafka.consumer.prefetch import LEAST_DECODED, Prefetch
from kateway.storage.kafka.protocol.record_batches import encode_batch


def batch(first: int, count: int = 1, size: int = 10, compression: str = "none") -> bytes:
    messages = [Message(b"x" * size) for _ in range(count)]
    return encode_batch(messages, now_ms=1, base_offset=first, compression=compression)


def control(at: int) -> bytes:
    """A commit marker: a batch whose attributes say transactional and control."""
    plain = bytearray(encode_batch([Message(b"", key=pack(">hh", 0, 1))], now_ms=1, base_offset=at, producer_id=7))
    plain[22] |= 0x30
    return bytes(plain)


def buffer_at(offset: int, limit: int = 10000, most: int = 100000) -> Prefetch:
    buffer = Prefetch(0, limit, most)
    buffer.start_at(offset)
    return buffer


def taken(buffer: Prefetch, max_records: int = 1000, max_bytes: int = 1 << 20) -> list[int]:
    return [record.offset for record in buffer.take(max_records, max_bytes)]


def test_a_buffer_without_a_position_asks_for_nothing():
    assert Prefetch(0, 10, 10).wants == 0


def test_records_before_the_position_are_not_given():
    buffer = buffer_at(3)
    buffer.fetched(batch(0, 6), [])
    assert buffer.position == 3
    assert taken(buffer) == [3, 4, 5]
    assert buffer.position == 6
    assert not buffer.readable


@given(
    st.lists(
        st.tuples(st.integers(1, 5) | st.integers(60, 200), st.sampled_from(["none", "gzip"])), min_size=1, max_size=8
    ),
    st.lists(st.tuples(st.integers(1, 7), st.integers(1, 60)), min_size=1, max_size=8),
)
def test_however_it_is_taken_all_comes_once_and_in_order(sizes, asks):
    buffer = buffer_at(0)
    total = 0
    blob = b""
    for count, compression in sizes:
        blob += batch(total, count, compression=compression)
        total += count
    buffer.fetched(blob, [])
    seen: list[int] = []
    turn = 0
    while buffer.readable:
        max_records, max_bytes = asks[turn % len(asks)]
        turn += 1
        records = buffer.take(max_records, max_bytes)
        assert 1 <= len(records) <= max_records
        assert len(records) == 1 or sum(len(record.value) for record in records) <= max_bytes
        seen += [record.offset for record in records]
        assert buffer.position == seen[-1] + 1
    assert seen == list(range(total))
    assert buffer.held_bytes == 0


def broken_inside(count: int, at: int) -> bytes:
    """A batch whose CRC is right and whose record ``at`` is not: it says that it is shorter than it is."""
    plain = bytearray(batch(0, count))
    each = len(batch(0, 3)) - len(batch(0, 2))
    plain[len(batch(0, 1)) - each + at * each] -= 2
    plain[17:21] = google_crc32c.value(bytes(plain[21:])).to_bytes(4, "big")
    return bytes(plain)


def test_no_more_of_a_batch_is_decoded_than_is_taken():
    buffer = buffer_at(0)
    buffer.fetched(broken_inside(count=120, at=100), [])
    assert taken(buffer, max_records=40) == list(range(40))
    assert taken(buffer, max_records=40) == list(range(40, LEAST_DECODED))
    with pytest.raises(CorruptRecords):
        taken(buffer, max_records=40)
    with pytest.raises(CorruptRecords):
        taken(buffer, max_records=40)
    assert buffer.position == LEAST_DECODED


def test_batch_that_is_broken_inside_gives_nothing_where_all_of_it_is_asked_for():
    buffer = buffer_at(0)
    buffer.fetched(broken_inside(count=120, at=100), [])
    with pytest.raises(CorruptRecords):
        buffer.take(1000, 1 << 20)
    assert buffer.position == 0


def test_large_batch_is_begun_in_its_middle_and_forgotten_there():
    buffer = buffer_at(150)
    buffer.fetched(batch(0, 400), [])
    assert taken(buffer, max_records=30) == list(range(150, 180))
    buffer.start_at(7)
    assert not buffer.readable
    buffer.fetched(batch(0, 400), [])
    assert taken(buffer, max_records=1000) == list(range(7, 400))
    assert not buffer.readable


def test_offsets_that_compaction_left_in_a_large_batch_are_positions_one_by_one():
    messages = [Message(b"x") for _ in range(200)]
    blob = bytearray(encode_batch(messages, now_ms=1))
    blob[23:27] = (250).to_bytes(4, "big")
    blob[17:21] = google_crc32c.value(bytes(blob[21:])).to_bytes(4, "big")
    buffer = buffer_at(0)
    buffer.fetched(bytes(blob) + batch(251), [])
    seen: list[int] = []
    while buffer.readable:
        seen += taken(buffer, max_records=LEAST_DECODED)
    assert seen == [*range(200), 251]
    assert buffer.position == 252


def test_control_records_are_passed_and_never_given():
    buffer = buffer_at(0)
    buffer.fetched(control(0) + batch(1) + control(2), [])
    assert buffer.position == 1
    assert taken(buffer) == [1]
    assert buffer.position == 3


def test_control_records_alone_move_the_position_and_give_nothing_to_read():
    buffer = buffer_at(4)
    buffer.fetched(control(4), [])
    assert not buffer.readable
    assert buffer.position == buffer.next_fetch == 5


def test_records_of_an_aborted_transaction_are_passed():
    aborted = bytearray(encode_batch([Message(b"no")], now_ms=1, base_offset=0, producer_id=7))
    aborted[22] |= 0x10
    buffer = buffer_at(0)
    buffer.fetched(bytes(aborted) + batch(1), [(7, 0)])
    assert taken(buffer) == [1]


def test_a_hole_that_compaction_left_is_passed():
    buffer = buffer_at(0)
    buffer.fetched(batch(0) + batch(9), [])
    assert taken(buffer, max_records=1) == [0]
    assert buffer.position == 9
    assert taken(buffer) == [9]


def test_a_batch_cut_off_is_asked_for_again():
    buffer = buffer_at(0)
    buffer.fetched(batch(0) + batch(1)[:-3], [])
    assert buffer.next_fetch == 1


def test_broken_record_is_reported_after_the_good_ones():
    broken = bytearray(batch(2, 2))
    broken[-1] ^= 1
    buffer = buffer_at(0)
    buffer.fetched(batch(0, 2) + bytes(broken), [])
    assert taken(buffer) == [0, 1]
    with pytest.raises(CorruptRecords):
        buffer.take(10, 1000)
    assert buffer.position == 2


def test_nothing_is_asked_for_while_more_than_half_is_at_hand():
    buffer = buffer_at(0, limit=1000)
    buffer.fetched(batch(0, 1, size=600), [])
    assert buffer.wants == 0
    buffer.take(1, 1)
    assert buffer.wants == 1000


def test_the_limit_doubles_for_a_reader_that_takes_all_and_stays_for_one_that_does_not():
    buffer = buffer_at(0, limit=1000, most=3000)
    offset = 0
    for expected in (1000, 2000, 3000, 3000):
        buffer.fetched(batch(offset, 1, size=buffer.limit), [])
        offset += 1
        assert buffer.limit == expected
        taken(buffer)
    buffer.shrink()
    assert buffer.limit == 1000
    buffer.fetched(batch(offset, 1, size=990), [])
    buffer.fetched(batch(offset + 1, 1, size=990), [])
    assert buffer.limit == 1000


def test_a_fresh_start_forgets_what_was_at_hand():
    buffer = buffer_at(0)
    buffer.fetched(batch(0, 5), [])
    buffer.take(1, 1000)
    buffer.start_at(40)
    assert not buffer.readable
    assert buffer.position == buffer.next_fetch == 40
    assert buffer.held_bytes == 0


def test_partition_that_was_let_go_of_is_asked_for_again_only_when_woken():
    buffer = buffer_at(0)
    buffer.fetched(batch(0, 6), [])
    assert taken(buffer, max_records=2) == [0, 1]
    buffer.let_go()
    assert (buffer.readable, buffer.held_bytes, buffer.wants, buffer.position) == (False, 0, 0, 2)
    buffer.asleep = False
    assert buffer.wants
    assert buffer.next_fetch == 2
    buffer.fetched(batch(0, 6), [])
    assert taken(buffer) == [2, 3, 4, 5]
