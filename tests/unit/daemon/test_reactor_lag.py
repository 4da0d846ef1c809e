"""The lateness of a timer."""

from __future__ import annotations

from twisted.internet.task import Clock

from kateway.daemon.reactor_lag import INTERVAL_SECONDS, ReactorLag
from kateway.observe.cells import Histogram


def test_timer_counts_how_late_it_comes_and_does_not_make_up_for_what_it_missed() -> None:
    clock, lag = Clock(), Histogram((0.05, 1.0))
    timer = ReactorLag(clock, lag)
    timer.start()
    clock.advance(INTERVAL_SECONDS)
    clock.advance(INTERVAL_SECONDS + 0.5)
    clock.advance(INTERVAL_SECONDS)
    assert lag.counts == [2, 1, 0]
    timer.stop()
    assert not clock.getDelayedCalls()
