"""Figures over time: what is kept of them, in 16 bits each, and that a gap stays one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kateway.observe.levels import LEAST, figure, level
from kateway.observe.rings import Rings, Shape, Tier

TIERS = (Tier(10, 90), Tier(60, 180), Tier(900, 192))
SHAPE = Shape(TIERS, ("rate", "lag"), ("lag",))
START = 1_800_000_000
"""The beginning of a quarter of an hour."""


def filled(figures: list[tuple[float | None, float | None]], step: int = 10) -> Rings:
    rings = Rings(SHAPE)
    for place, found in enumerate(figures):
        rings.record(START + place * step, found)
    return rings


def rounded(figures: list[float | None]) -> list[float | None]:
    return [None if each is None else float(f"{each:.2g}") for each in figures]


@given(st.floats(LEAST, 1e13))
def test_figure_is_true_to_a_third_of_a_thousandth(given_figure: float) -> None:
    kept = figure(level(given_figure))
    assert kept == pytest.approx(given_figure, rel=0.000301)


@given(st.floats(0, 1e14), st.floats(0, 1e14))
def test_larger_figure_has_no_lower_level(one: float, other: float) -> None:
    assert (level(one) <= level(other)) or one > other


def test_nothing_and_unknown_are_kept_apart() -> None:
    assert (figure(level(0.0)), figure(level(None))) == (0.0, None)


def test_sample_that_is_missing_leaves_a_gap() -> None:
    rings = Rings(SHAPE)
    rings.record(START, (1.0, 5.0))
    rings.record(START + 30, (2.0, None))
    rate = rings.points("rate", 0, START + 30, 50)
    assert rounded(rate.figures) == [None, 1.0, None, None, 2.0]
    assert (rate.step_seconds, rate.start) == (10, START - 10)
    assert rings.points("lag", 0, START + 30, 50).figures[-1] is None


def test_longer_steps_are_means_of_what_is_known() -> None:
    rings = filled([(1.0, 10.0), (3.0, None), (None, 30.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (7.0, 7.0)])
    assert rounded(rings.points("rate", 1, START + 60, 120).figures) == [0.8, 7.0]
    assert rounded(rings.points("lag", 1, START + 60, 120).figures) == [8.0, 7.0]


def test_running_step_is_known_before_it_is_over() -> None:
    rings = filled([(1.0, 10.0), (3.0, 20.0)])
    assert rounded(rings.points("rate", 2, START + 10, 900).figures) == [2.0]
    assert rounded(rings.points("lag", 2, START + 10, 900, peak=True).figures) == [20.0]


def test_last_tier_keeps_mean_and_highest() -> None:
    rings = filled([(0.0, 900.0 if place == 7 else 0.0) for place in range(91)])
    at = START + 900
    assert rounded(rings.points("lag", 2, at, 1800).figures) == [10.0, 0.0]
    assert rounded(rings.points("lag", 2, at, 1800, peak=True).figures) == [900.0, 0.0]
    assert rings.points("rate", 2, at, 1800, peak=True).figures == [None, None]


def test_point_before_its_sample_ends_at_the_one_before() -> None:
    rings = filled([(1.0, 1.0), (2.0, 1.0)])
    assert rounded(rings.points("rate", 0, START + 21, 20).figures) == [1.0, 2.0]
    assert rings.points("rate", 0, START + 31, 20).figures == [None, None]


def test_round_of_the_ring_overwrites_the_oldest() -> None:
    rings = filled([(float(place), 0.0) for place in range(100)])
    figures = rings.points("rate", 0, START + 990, 900).figures
    assert rounded(figures) == [float(place) for place in range(10, 100)]


def test_long_gap_leaves_nothing_of_the_last_round() -> None:
    rings = filled([(1.0, 1.0)] * 90)
    later = START + 7 * 86400
    rings.record(later, (5.0, 5.0))
    assert rings.points("rate", 0, later, 900).figures[:-1] == [None] * 89
    assert rings.points("rate", 1, later, 10800).figures[:-1] == [None] * 179
    assert rings.points("rate", 2, later, 172800).figures[:-1] == [None] * 191
    assert rings.points("lag", 2, later, 172800, peak=True).figures[:-1] == [None] * 191


def test_gap_of_an_hour_keeps_what_was_before_it() -> None:
    rings = filled([(2.0, 4.0)] * 90)
    later = START + 3600
    rings.record(later, (5.0, 5.0))
    assert rounded(rings.points("rate", 2, later, 4500).figures) == [2.0, None, None, None, 5.0]


def test_clock_set_back_takes_away_what_is_ahead() -> None:
    rings = filled([(1.0, 1.0)] * 10)
    rings.record(START + 30, (9.0, 9.0))
    rings.record(START + 50, (9.0, 9.0))
    figures = rings.points("rate", 0, START + 50, 60).figures
    assert rounded(figures) == [1.0, 1.0, 1.0, 9.0, None, 9.0]
    assert rings.points("rate", 0, START + 90, 40).figures == [None] * 4


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.none() | st.floats(0, 1e6)), min_size=1, max_size=60))
def test_every_tier_tells_what_a_list_of_all_samples_tells(steps: list[tuple[int, float | None]]) -> None:
    rings = Rings(SHAPE)
    kept: dict[int, float | None] = {}
    number = START // 10
    for ahead, found in steps:
        number += ahead
        rings.record(number * 10, (found, found))
        kept[number] = found
    at = number * 10
    for tier, (step, slots) in enumerate(TIERS):
        points = rings.points("rate", tier, at, step * slots)
        peaks = rings.points("lag", tier, at, step * slots, peak=True)
        for place, point in enumerate(points.figures):
            begin = points.start + place * step
            inside = [kept.get(each) for each in range(begin // 10, (begin + step) // 10)]
            known = [each for each in inside if each is not None]
            if not known:
                assert point is None
                continue
            assert point == pytest.approx(sum(known) / len(known), rel=1e-3, abs=1e-3)
            if tier != 1:
                assert peaks.figures[place] == pytest.approx(max(known), rel=1e-3, abs=1e-3)
