"""The pace of a queue: known while it stands, and near the truth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.drain_pace import CAUGHT_UP_SECONDS, SLOW_SECONDS, DrainPace


def test_small_batches_over_a_long_way_say_nothing_of_the_pace() -> None:
    pace = DrainPace(1000)
    for number in range(100):
        pace.answered(1, number * 0.25, number * 0.25 + 0.3, waiting=10)
    assert not pace.behind
    assert pace.seconds_per_item == 0


def test_quick_batches_with_much_behind_them_say_nothing_of_the_pace() -> None:
    pace = DrainPace(1000)
    for number in range(100):
        pace.answered(5000, number * 0.01, number * 0.01 + SLOW_SECONDS * 0.9, waiting=5000)
    assert not pace.behind


def test_slow_batch_with_much_behind_it_makes_the_pace_known() -> None:
    pace = DrainPace(1000)
    pace.answered(2000, 1.0, 3.0, waiting=1000)
    assert pace.behind
    assert pace.seconds_per_item == pytest.approx(0.001)


def test_pace_is_not_known_before_enough_was_served() -> None:
    pace = DrainPace(1000)
    pace.answered(1, 1.0, 3.0, waiting=5000)
    assert not pace.behind
    pace.answered(1000, 1.5, 3.5, waiting=5000)
    assert pace.behind
    assert 0.001 < pace.seconds_per_item < 0.0025


def test_queue_that_has_caught_up_is_not_behind_any_more() -> None:
    pace = DrainPace(1000)
    pace.answered(2000, 1.0, 3.0, waiting=1000)
    pace.answered(1, 3.0, 3.1, waiting=0)
    assert pace.behind
    pace.answered(1, 5.0, 3.1 + CAUGHT_UP_SECONDS, waiting=0)
    assert not pace.behind
    assert pace.seconds_per_item == 0


@given(
    sizes=st.lists(st.integers(64, 5000), min_size=30, max_size=60),
    rate=st.floats(100, 1_000_000),
    under_way=st.integers(1, 5),
)
def test_pace_of_a_steady_server_is_measured_whatever_the_batches(
    sizes: list[int], rate: float, under_way: int
) -> None:
    pace = DrainPace(64)
    answered = 0.0
    sent = [0.0] * under_way
    for size in sizes:
        began = sent.pop(0)
        answered += size / rate
        pace.served(size, began, answered)
        sent.append(answered)
    assert pace.seconds_per_item == pytest.approx(1 / rate, rel=1e-6)
