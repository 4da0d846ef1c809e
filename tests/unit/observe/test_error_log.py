"""Failed and slow requests: what of them is kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kateway.observe.troubles import (
    MOST_GROUPS,
    MOST_SLOW,
    SLOW_KEPT_SECONDS,
    SLOW_SECONDS,
    ErrorLog,
    Failed,
    Slow,
    Slowest,
)

FAILED = Failed(1.0, "id", "publish", 404, "why")


def slow(seconds: float, at: float = 0.0) -> Slow:
    return Slow(seconds, at, "id", "publish", 201, "app1", "foo/v1", 0.0)


def test_group_that_was_quiet_longest_goes_first() -> None:
    log = ErrorLog()
    for number in range(MOST_GROUPS):
        log.note("reason", "app1", f"topic-{number}", FAILED)
    log.note("reason", "app1", "topic-0", FAILED)
    log.note("reason", "app1", "another", FAILED)
    topics = [group.topic for group in log.groups()]
    assert len(topics) == MOST_GROUPS
    assert topics[:2] == ["another", "topic-0"]
    assert "topic-1" not in topics


@given(st.lists(st.floats(0.06, 100), max_size=300))
def test_slowest_are_the_hundred_longest(times: list[float]) -> None:
    slowest = Slowest(lambda: 0.0)
    for seconds in times:
        if seconds > slowest.floor:
            slowest.note(slow(seconds))
    assert [each.seconds for each in slowest.slowest()] == sorted(times, reverse=True)[:MOST_SLOW]


def test_slow_ones_of_an_hour_ago_make_room() -> None:
    now = 0.0
    slowest = Slowest(lambda: now)
    for _ in range(MOST_SLOW):
        slowest.note(slow(60.0))
    assert slowest.floor == 60.0
    now = SLOW_KEPT_SECONDS + 1
    assert slowest.slowest() == []
    assert slowest.floor == SLOW_SECONDS
