"""Leases in a commit's metadata, beside the ranges that are done."""

from __future__ import annotations

import random
import zlib
from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.core.delivery.moved_leases import MOST_LEASES, NONE, Kind, Moved, MovedLease, decode, encode
from kateway.core.delivery.offset_ranges import Ranges

FLOOR = 1 << 40
AT_MS = 1_796_000_000_000


def ranges(*spans: tuple[int, int]) -> Ranges:
    done = Ranges()
    for start, end in spans:
        done.add(FLOOR + start, FLOOR + end)
    return done


tokens = st.one_of(
    st.builds(lambda number: f"89abcdef{number:x}", st.integers(1, 1 << 40)),
    st.text(max_size=12),
    st.sampled_from(["01234567", "0123456700", "012345670", "tokens-of-another-form"]),
)
leases = st.lists(
    st.tuples(
        st.integers(1, 4),
        tokens,
        st.sampled_from([0, 3, 600, 601, 36000]),
        st.integers(1, 1000),
        st.sampled_from(Kind),
    ),
    max_size=40,
)


def placed(found: list[tuple[int, str, int, int, Kind]]) -> list[MovedLease]:
    moved = []
    offset = FLOOR
    for gap, token, steps, attempts, kind in found:
        offset += gap
        moved.append(MovedLease(offset, token, steps / 10, attempts, kind))
    return moved


@given(leases, st.integers(0, 100))
def test_text_holds_the_same_leases_and_ranges(found: list[tuple[int, str, int, int, Kind]], limit: int) -> None:
    moved = placed(found)
    done = ranges((500, 510), (600, 601))
    text, left_out = encode(FLOOR, done, Moved(AT_MS, limit, moved), 100_000)
    assert text.isascii()
    assert left_out == 0
    read = decode(FLOOR, text)
    assert read.at_ms == AT_MS
    assert read.max_deliveries == limit
    assert read.leases == moved
    assert list(Ranges.decode(FLOOR, text)) == list(done)


def test_gateway_that_knows_no_leases_reads_the_ranges() -> None:
    """As its code was: it stops at the end of the first deflated block."""
    done = ranges((3, 5), (9, 10))
    text, _ = encode(FLOOR, done, Moved(AT_MS, 0, [MovedLease(FLOOR, "89abcdef1", 60, 1)]), 4000)
    prefix, _colon, body = text.partition(":")
    assert prefix == "kw1z"
    inflate = zlib.decompressobj(-15)
    data = inflate.decompress(b64decode(body + "=" * (-len(body) % 4), validate=True), 1 << 20)
    assert not inflate.unconsumed_tail
    assert inflate.eof
    assert data == done.packed(FLOOR)


@pytest.mark.parametrize("text", ["", "kw1:AwI", "kw1z:AwA", "kw1z:AwAAAA", "kw1z:%%%", "something of another client"])
def test_text_without_leases_or_of_others_holds_none(text: str) -> None:
    assert decode(5, text) == NONE


@given(st.text(max_size=40), st.binary(max_size=60))
def test_no_text_breaks_the_reading(text: str, data: bytes) -> None:
    for prefix in ("", "kw1:", "kw1z:"):
        decode(0, prefix + text)
    whole, _ = encode(0, Ranges(), Moved(1, 0, []), 4000)
    damaged = b64decode(whole.removeprefix("kw1z:") + "=" * (-len(whole.removeprefix("kw1z:")) % 4))[:2]
    deflate = zlib.compress(data, 9, -15)
    decode(0, "kw1z:" + b64encode(damaged + deflate).decode().rstrip("="))


def test_text_that_claims_too_many_leases_is_not_ours() -> None:
    packed = bytes([1, 0, 0, 0, 2]) + b"\0\0" + b"\xff\xff\x7f" * 2 + b"\0" * 10
    text = "kw1z:" + b64encode(zlib.compress(b"", 6, -15) + zlib.compress(packed, 9, -15)).decode()
    assert decode(0, text) == NONE


def test_leases_that_do_not_fit_are_counted_and_those_that_hold_go_first() -> None:
    chance = random.Random(5)
    moved = []
    offset = FLOOR
    for _ in range(4000):
        offset += chance.randint(1, 9)
        left = 0.0 if chance.random() < 0.5 else chance.uniform(1, 3600)
        moved.append(MovedLease(offset, f"89abcdef{chance.getrandbits(40) or 1:x}", left, 1))
    text, left_out = encode(FLOOR, ranges(), Moved(AT_MS, 0, moved), 4000)
    assert len(text) <= 4000
    read = decode(FLOOR, text).leases
    assert len(read) == 4000 - left_out
    assert [lease.offset for lease in read] == [lease.offset for lease in moved if lease.left][: len(read)]
    assert len(read) > 250


def test_a_thousand_leases_taken_one_by_one_or_ten_thousand_at_once_fit_a_commit() -> None:
    chance = random.Random(5)
    single = [
        MovedLease(FLOOR + number, f"89abcdef{number + 77:x}", 60 - number * 0.013 * chance.uniform(0.5, 1.5), 1)
        for number in range(1000)
    ]
    text, left_out = encode(FLOOR, ranges(), Moved(AT_MS, 5, single), 4000)
    assert (left_out, len(text) < 2200) == (0, True)
    together = [MovedLease(FLOOR + number, f"89abcdef{number // 100 + 1:x}", 60, 1) for number in range(10_000)]
    text, left_out = encode(FLOOR, ranges(), Moved(AT_MS, 5, together), 4000)
    assert (left_out, len(text) < 150) == (0, True)


def test_more_leases_than_a_commit_may_claim_are_left_out() -> None:
    many = [MovedLease(FLOOR + number, "89abcdef1", 60, 1) for number in range(MOST_LEASES + 7)]
    text, left_out = encode(FLOOR, ranges(), Moved(AT_MS, 0, many), 4000)
    assert left_out == 7
    assert len(decode(FLOOR, text).leases) == MOST_LEASES


def test_ranges_that_leave_no_room_are_kept_without_leases() -> None:
    done = ranges(*((2 * number, 2 * number + 1) for number in range(1, 40)))
    text, left_out = encode(FLOOR, done, Moved(AT_MS, 0, [MovedLease(FLOOR, "89abcdef1", 60, 1)]), 20)
    assert left_out == 1
    assert text == done.encode(FLOOR, 20)


def test_lease_ends_when_it_would_have_ended_and_no_later_by_a_clock_that_is_slow() -> None:
    moved = Moved(AT_MS, 0, [MovedLease(FLOOR, "89abcdef1", 60, 1)])
    assert [lease.left for lease in moved.since(AT_MS + 20_000)] == [40]
    assert [lease.left for lease in moved.since(AT_MS + 90_000)] == [0]
    assert [lease.left for lease in moved.since(AT_MS - 3_600_000)] == [60]
