"""The verdict of a group: which cause wins, and that nothing unknown decides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.observe.verdicts import STATES, Poison, Situation, span, verdict

WELL = Situation(lag=0, readers=1, unacknowledged=2, delivered=60.0, blocked_share=0.0, ended=60.0, expired=0.0)
BEHIND = WELL._replace(lag=500)


@pytest.mark.parametrize(
    ("found", "state", "reason"),
    [
        (Situation(lag=0, delivered=0.0, readers=0), "idle", "everything is read"),
        (BEHIND._replace(readers=0, unread_seconds=7200.0), "abandoned", "500 records behind, and no reader for 2 h"),
        (BEHIND._replace(poison=Poison(2, 17, 3)), "poisoned", "partition 2 offset 17 was delivered 3 times"),
        (BEHIND._replace(throttled=4.0), "throttled", "refused 4 times"),
        (BEHIND._replace(breaker_open=True), "store", "the breaker"),
        (BEHIND._replace(last_error="no leader"), "store", "no leader"),
        (BEHIND._replace(store_errors=1.0), "store", "commits failed once"),
        (BEHIND._replace(blocked_share=0.5), "blocked", "50% of the last minute"),
        (BEHIND._replace(expired=7.0), "leases-run-out", "12% of the leases"),
        (BEHIND._replace(busy=True, rising_minutes=5), "too-few-readers", "for 5 minutes"),
        (BEHIND._replace(drain_seconds=90.0), "catching-up", "done in 90 s at this rate"),
        (BEHIND._replace(drain_seconds=500.0), "catching-up", "done in 8 min"),
        (BEHIND._replace(busy=True, rising_minutes=4), "keeping-up", "more for 4 min"),
        (BEHIND, "keeping-up", "500 records behind"),
        (BEHIND._replace(growth=34.6), "keeping-up", "500 records behind, and 35 more each second"),
        (BEHIND._replace(growth=34.6, rising_minutes=2), "keeping-up", "35 more each second for 2 min"),
        (BEHIND._replace(growth=0.4), "keeping-up", "500 records behind"),
        (WELL, "keeping-up", "everything is read"),
        (WELL._replace(lag=None), "unknown", "lag is not known"),
        (BEHIND._replace(readers=None), "unknown", "another gateway"),
        (Situation(), "unknown", "lag is not known"),
    ],
)
def test_state_is_said_with_its_reason(found: Situation, state: str, reason: str) -> None:
    assert verdict(found).state == state
    assert reason in verdict(found).reason


def test_lag_of_less_than_five_seconds_of_traffic_is_no_catching_up() -> None:
    assert verdict(WELL._replace(lag=5, drain_seconds=1.0)).state == "keeping-up"
    assert verdict(WELL._replace(lag=6, drain_seconds=1.0)).state == "catching-up"


def test_record_delivered_twice_is_not_poisoned() -> None:
    assert verdict(BEHIND._replace(poison=Poison(0, 1, 2))).state == "keeping-up"


def test_one_in_ten_leases_may_run_out() -> None:
    assert verdict(BEHIND._replace(expired=6.0)).state == "keeping-up"


maybe_count = st.none() | st.integers(0, 10**9)
maybe_figure = st.none() | st.floats(0, 1e9)
poisons = st.none() | st.builds(Poison, st.integers(0, 99), st.integers(0, 10**12), st.integers(1, 9))
situations = st.builds(
    Situation,
    lag=maybe_count,
    readers=maybe_count,
    unread_seconds=maybe_figure,
    unacknowledged=maybe_count,
    delivered=maybe_figure,
    poison=poisons,
    throttled=maybe_figure,
    store_errors=maybe_figure,
    breaker_open=st.booleans(),
    last_error=st.none() | st.text(max_size=20),
    blocked_share=st.none() | st.floats(0, 1),
    ended=maybe_figure,
    expired=maybe_figure,
    busy=st.none() | st.booleans(),
    rising_minutes=st.none() | st.integers(0, 99),
    drain_seconds=maybe_figure,
)


@given(situations)
def test_every_situation_has_a_state_and_a_reason(found: Situation) -> None:
    state, reason = verdict(found)
    assert state in STATES
    assert reason


@given(situations)
def test_unknown_lag_never_passes_for_none(found: Situation) -> None:
    assert verdict(found._replace(lag=None)).state not in {"idle", "abandoned", "catching-up", "keeping-up"}


@given(situations)
def test_readers_elsewhere_that_are_unknown_make_no_group_abandoned(found: Situation) -> None:
    assert verdict(found._replace(readers=None)).state != "abandoned"


@given(situations, st.sampled_from(["throttled", "store_errors"]))
def test_later_cause_does_not_hide_an_earlier_one(found: Situation, cause: str) -> None:
    before = verdict(found)
    after = verdict(found._replace(**{cause: 1.0}))
    assert STATES.index(after.state) <= STATES.index(before.state) or before.state == "unknown"


@given(st.floats(0, 1e9))
def test_span_has_one_unit(seconds: float) -> None:
    number, unit = span(seconds).split()
    assert int(number) >= 0
    assert unit in {"s", "min", "h", "d"}
