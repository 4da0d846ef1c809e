"""Records come out of the embedded store's log as they went in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kateway.model import Message, Record
from kateway.storage.embedded.database import Loaded
from kateway.storage.embedded.partition import ROW_BYTES, TAIL_BYTES, Partition
from kateway.storage.sqlite.records import Slice, encode

data = st.none() | st.binary(max_size=40)
messages = st.lists(
    st.builds(
        Message,
        value=data,
        key=data,
        headers=st.lists(st.tuples(st.text(max_size=8), data), max_size=3).map(tuple),
        timestamp=st.integers(min_value=0, max_value=2**62),
    ),
    max_size=30,
)


def encoded(sent: list[Message]) -> bytes:
    return b"".join(encode(each.timestamp or 0, each.key, each.value, each.headers) for each in sent)


def as_records(sent: list[Message], first: int) -> list[Record]:
    return [
        Record(first + index, each.timestamp or 0, each.key, each.value, each.headers)
        for index, each in enumerate(sent)
    ]


@given(messages, st.integers(min_value=0, max_value=2**40))
def test_records_come_out_as_they_went_in(sent, first):
    found: list[Record] = []
    each = Slice(encoded(sent), first, first + len(sent))
    each.take(found, 1000, 1 << 30)
    assert found == as_records(sent, first)
    assert each.left == 0
    assert each.offset == first + len(sent)


@given(messages, st.integers(min_value=1, max_value=5), st.integers(min_value=1, max_value=60))
def test_bounds_cut_between_records_and_nothing_is_lost(sent, max_records, max_bytes):
    whole: list[Record] = []
    each = Slice(encoded(sent), 0, len(sent))
    while each.left:
        some: list[Record] = []
        used = each.take(some, max_records, max_bytes)
        sizes = [len(record.key or b"") + len(record.value or b"") for record in some]
        assert used == sum(sizes)
        assert 1 <= len(some) <= max_records
        assert used <= max_bytes or len(some) == 1
        whole += some
    assert whole == as_records(sent, 0)


@given(messages, st.integers(min_value=0, max_value=40))
def test_skipping_leads_to_the_offset_or_the_end(sent, offset):
    each = Slice(encoded(sent), 0, len(sent))
    each.skip_to(offset)
    found: list[Record] = []
    each.take(found, 1000, 1 << 30)
    assert found == as_records(sent, 0)[offset:]


@given(messages, st.integers(min_value=0, max_value=2**62))
def test_the_first_record_at_a_time(sent, time):
    expected = next((index for index, each in enumerate(sent) if (each.timestamp or 0) >= time), None)
    assert Slice(encoded(sent), 0, len(sent)).first_at(time) == expected


@given(st.lists(st.lists(st.integers(min_value=0, max_value=9000), min_size=1, max_size=20), max_size=10))
def test_rows_hold_every_record_once_in_order_and_stay_small(writes):
    partition = Partition(Loaded(3, 0, 0, 0, 0, 0))
    rows: dict[int, bytes] = {}
    whole = b""
    for sizes in writes:
        partition.pending = [encode(1, None, bytes([size % 256]) * size, ()) for size in sizes]
        partition.pending_newest = 1
        largest = max(map(len, partition.pending))
        written, tail, added = partition.rows()
        for row in written:
            rows[row.id] = row.data
            assert len(row.data) <= max(TAIL_BYTES, ROW_BYTES, largest)
        partition.written(tail, added)
        whole += added
    assert b"".join(rows[key] for key in sorted(rows)) == whole
    assert partition.size == len(whole)
    assert partition.end == sum(map(len, writes))
