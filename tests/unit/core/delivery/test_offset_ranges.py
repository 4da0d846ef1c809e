"""Sets of offsets, and their text in a commit."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.core.delivery.offset_ranges import Ranges

spans = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 20)), max_size=30)


def of(pairs: list[tuple[int, int]]) -> tuple[Ranges, set[int]]:
    ranges, numbers = Ranges(), set()
    for start, length in pairs:
        ranges.add(start, start + length)
        numbers.update(range(start, start + length))
    return ranges, numbers


@given(spans)
def test_ranges_hold_what_was_added_and_never_touch(pairs: list[tuple[int, int]]) -> None:
    ranges, numbers = of(pairs)
    assert {number for number in range(230) if number in ranges} == numbers
    bounds = [bound for pair in ranges for bound in pair]
    assert bounds == sorted(set(bounds))


@given(spans, st.integers(0, 230))
def test_absorbing_answers_the_first_offset_missing(pairs: list[tuple[int, int]], floor: int) -> None:
    ranges, numbers = of(pairs)
    expected = floor
    while expected in numbers:
        expected += 1
    assert ranges.absorb(floor) == expected
    assert {number for number in range(230) if number in ranges} == {n for n in numbers if n > expected}


@given(spans, st.integers(0, 1 << 40))
def test_text_holds_the_same_ranges(pairs: list[tuple[int, int]], base: int) -> None:
    ranges, _ = of([(base + start, length) for start, length in pairs])
    floor = ranges.absorb(base)
    text = ranges.encode(floor, 4000)
    assert text.isascii()
    assert list(Ranges.decode(floor, text)) == list(ranges)


@given(spans, st.integers(0, 60))
def test_text_that_would_be_too_long_leaves_the_last_ranges_out(pairs: list[tuple[int, int]], limit: int) -> None:
    ranges, _ = of([(start + 1, length) for start, length in pairs])
    text = ranges.encode(0, limit)
    assert len(text) <= limit
    kept = list(Ranges.decode(0, text))
    assert kept == list(ranges)[: len(kept)]


def test_a_full_window_acknowledged_at_random_fits_a_commit() -> None:
    chance = random.Random(7)
    ranges = Ranges()
    for offset in range(1, 10000):
        if chance.random() < 0.5:
            ranges.add(offset, offset + 1)
    assert len(ranges.encode(0, 1 << 30)) < 2500


@pytest.mark.parametrize("text", ["", "something else", "kw1:", "kw1:%%%", "kw1:gA", "kw1z:AAAA", "kw9:AQE", "kw1:AQ"])
def test_foreign_text_holds_no_ranges(text: str) -> None:
    assert list(Ranges.decode(5, text)) == []


@given(st.text(max_size=40))
def test_no_text_breaks_the_reading(text: str) -> None:
    for prefix in ("", "kw1:", "kw1z:"):
        Ranges.decode(0, prefix + text)
