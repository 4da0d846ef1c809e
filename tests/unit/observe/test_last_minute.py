"""What counters did within the last minute, and what is known of a group from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.observe.bundles import GroupCells
from kateway.observe.group_watch import DAY_SECONDS, GroupWatch, GroupWatches
from kateway.observe.last_minute import LastMinute
from kateway.observe.quantiles import quantile
from kateway.observe.series import Series

LABELS = ("app1", "foo", "v1", "g1", "app2")


def cells() -> GroupCells:
    return Series(lambda: 0.0, max_series=1000).group(*LABELS)


def test_counters_grow_from_nothing() -> None:
    minute = LastMinute(0.0, 2)
    minute.look(10.0, (5.0, 0.0))
    minute.look(20.0, (25.0, 10.0))
    assert minute.rates() == [2.0, 1.0]
    assert minute.growth() == [25.0, 10.0]


def test_looks_older_than_a_minute_are_forgotten() -> None:
    minute = LastMinute(0.0, 1)
    for at in range(10, 130, 10):
        minute.look(float(at), (float(at),))
    assert minute.seconds == 60.0
    assert minute.growth() == [60.0]


def test_counter_that_began_anew_gives_no_negative_growth() -> None:
    minute = LastMinute(0.0, 1)
    minute.look(10.0, (100.0,))
    minute.look(20.0, (3.0,))
    assert minute.growth() == [3.0]


def test_share_of_blocked_time_is_of_all_readers() -> None:
    watch, group = GroupWatch(0.0), cells()
    for at in range(10, 70, 10):
        group.blocked.value += 10.0
        watch.look(float(at), group, 2)
    assert watch.blocked_share == pytest.approx(0.5)


def test_share_of_blocked_time_without_readers_is_unknown() -> None:
    watch = GroupWatch(0.0)
    watch.look(10.0, cells(), 0)
    assert watch.blocked_share is None


def test_lag_that_falls_tells_when_it_is_done() -> None:
    watch = GroupWatch(0.0)
    assert watch.drain_seconds(0.0, 500) is None
    watch.found(0.0, 500, 60.0)
    assert watch.drain_seconds(10.0, 400) == 40.0
    watch.found(10.0, 400, 50.0)
    assert watch.drain_seconds(20.0, 600) is None
    assert watch.drain_seconds(20.0, 0) == 0.0
    assert watch.drain_seconds(20.0, None) is None
    watch.found(40.0, None, None)
    assert watch.drain_seconds(50.0, 300) is None, "the lag was not known in between"


def test_group_is_unread_since_its_last_reader_or_record() -> None:
    watch, group = GroupWatch(0.0), cells()
    watch.look(10.0, group, 1)
    assert watch.unread_seconds(15.0) is None
    group.records.value = 4.0
    watch.look(20.0, group, 0)
    assert watch.unread_seconds(25.0) is None, "a poll came and went between two looks"
    watch.look(30.0, group, 0)
    assert watch.unread_seconds(35.0) == 15.0


def test_first_look_at_a_group_tells_what_its_readers_did_since_its_membership_began() -> None:
    watches, group = GroupWatches(), cells()
    group.blocked.value = 7.0
    watch = watches.of(LABELS, 2.0)
    watch.look(10.0, group, 1, None)
    assert watch.blocked_share == pytest.approx(7 / 8)


def test_sample_of_a_group_that_began_within_a_step_is_a_mean_of_the_whole_step() -> None:
    watches, group = GroupWatches(), cells()
    group.records.value = 200.0
    watch = watches.of(LABELS, 6.0)
    watch.look(10.0, group, 1, None)
    assert watch.rates()["out_records"] == 50
    assert watch.rates(10.0)["out_records"] == 20, "200 records in a step of 10 s"


def test_group_is_unread_since_its_last_reader_ended_where_that_is_known() -> None:
    watch, group = GroupWatch(0.0), cells()
    group.records.value = 4.0
    watch.look(10.0, group, 0, 3.5)
    assert watch.unread_seconds(15.0) == 11.5
    watch.look(20.0, group, 0, None)
    assert watch.unread_seconds(25.0) == 21.5
    watch.look(30.0, group, 1, None)
    assert watch.unread_seconds(35.0) is None


def test_growth_of_a_lag_is_told_over_seconds() -> None:
    watch = GroupWatch(0.0)
    assert watch.growth(0.0, 500) is None
    watch.found(0.0, 500, 60.0)
    assert watch.growth(4.0, 900) is None, "too short a time for a trend"
    assert watch.growth(10.0, 900) == 40.0
    assert watch.growth(10.0, 400) == -10.0
    assert watch.growth(10.0, None) is None


def test_deliveries_are_counted_by_their_end() -> None:
    watch, group = GroupWatch(0.0), cells()
    group.records.value, group.ok.value, group.retry.value, group.dead.value, group.expired.value = (
        9.0,
        3.0,
        2.0,
        1.0,
        2.0,
    )
    group.commit_failures.value = 1.0
    watch.look(10.0, group, 1)
    assert (watch.delivered, watch.ended, watch.expired, watch.commit_failures) == (9.0, 8.0, 2.0, 1.0)
    assert watch.rates() == {"out_records": 0.9, "out_bytes": 0.0, "acknowledged": 0.3}


def test_group_that_was_not_read_for_a_day_is_watched_no_more() -> None:
    watches = GroupWatches()
    watches.of(LABELS, 0.0)
    watches.sweep(DAY_SECONDS - 1)
    assert LABELS in watches.by_labels
    watches.sweep(DAY_SECONDS)
    assert not watches.by_labels


def test_quantile_lies_between_the_bounds_of_its_bucket() -> None:
    assert quantile((1.0, 2.0, 4.0), (10.0, 0.0, 10.0, 0.0), 0.75) == 3.0
    assert quantile((1.0, 2.0, 4.0), (0.0, 0.0, 0.0, 3.0), 0.5) == 4.0
    assert quantile((1.0,), (0.0, 0.0), 0.99) is None


@given(st.lists(st.floats(0, 1e6), min_size=4, max_size=4), st.floats(0.01, 1))
def test_quantile_is_never_beyond_the_bounds(counts: list[float], share: float) -> None:
    found = quantile((1.0, 2.0, 4.0), counts, share)
    assert found is None or 0 <= found <= 4.0
