"""When looks are taken, and what a group's rise is."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.task import Clock

from kateway.config.schema import DeliveryConfig
from kateway.core.groups.memberships import Memberships
from kateway.core.operator.situations import rises
from kateway.daemon.looking import Looking, Steps
from kateway.observe.gateway_series import SERIES
from kateway.observe.group_watch import GroupWatches
from kateway.observe.history import History
from kateway.observe.series import Series


def test_look_that_comes_a_little_late_falls_on_the_next_step() -> None:
    steps = Steps(10.0)
    assert [steps.next(wall) for wall in (9.9, 20.2, 29.8)] == [9.9, 19.9, 29.9]


def test_look_after_a_pause_has_the_time_that_it_is() -> None:
    steps = Steps(10.0)
    steps.next(10.0)
    assert steps.next(100.0) == 100.0


def test_two_looks_at_once_have_one_step() -> None:
    steps = Steps(10.0)
    assert (steps.next(13.0), steps.next(13.1)) == (13.0, 13.1)


@pytest.mark.parametrize(
    ("minutes", "count"),
    [
        ([1.0, 2.0, 3.0], 2),
        ([9.0, 1.0, 2.0], 1),
        ([1.0, 2.0, 2.0], 0),
        ([None, 2.0, 3.0], 1),
        ([1.0, 2.0, None], None),
        ([1.0, 1.0005], 0),
    ],
)
def test_rise_is_counted_back_from_now(minutes: list[float | None], count: int | None) -> None:
    assert rises(minutes) == count


@pytest_twisted.ensureDeferred
async def test_first_rate_of_a_group_is_that_of_the_time_since_the_last_look() -> None:
    clock = Clock()
    series = Series(clock.seconds, max_series=1000)
    watches = GroupWatches()
    groups = Memberships({}.__getitem__, clock, DeliveryConfig())
    looking = Looking(series, History(SERIES, 1 << 20), watches, groups, lambda: None, [], clock, clock.seconds)
    clock.advance(10.0)
    await looking.look_at_objects()
    labels = ("app1", "foo", "v1", "g1", "app2")
    series.group(*labels).records.value = 50.0
    clock.advance(10.0)
    await looking.look_at_objects()
    assert watches.by_labels[labels].rates()["out_records"] == 5.0
