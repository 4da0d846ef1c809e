"""The queue before InfluxDB: order, bounds, pauses, other plans, the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from kateway.observe import families
from kateway.observe.influx import LONGEST_PAUSE_SECONDS, InfluxPush, Outcome, Plan
from kateway.observe.render import Body
from kateway.observe.series import Series

WRITTEN, REFUSED, AWAY = Outcome("written"), Outcome("refused", "400 no"), Outcome("failed", "away")


class Server:
    """Answers at once with ``outcome``, or, where it is ``None``, when ``waiting`` is fired."""

    def __init__(self, outcome: Outcome | None = WRITTEN) -> None:
        self.outcome = outcome
        self.asked: list[bytes] = []
        self.waiting: Deferred[Outcome] | None = None
        self.closed = False

    async def write(self, content: bytes) -> Outcome:
        self.asked.append(content)
        if self.outcome is not None:
            return self.outcome
        self.waiting = Deferred()
        return await self.waiting

    async def close(self) -> None:
        self.closed = True


class Figures:
    """Bodies that say which they are; ``size`` bytes each, of two lines."""

    def __init__(self, clock: Clock, size: int = 10) -> None:
        self.taken = 0
        self.fault: Exception | None = None
        self.tags: Mapping[str, str] = {}
        self.series = Series(clock.seconds, max_series=1000)
        self.push = InfluxPush(clock, self.series, self.lines)
        self._size = size

    async def lines(self, tags: Mapping[str, str], _max_lines: int) -> list[Body]:
        self.taken += 1
        self.tags = tags
        if self.fault is not None:
            raise self.fault
        return [Body(b"%0*d" % (self._size, self.taken), 2)]

    def dropped(self, reason: str) -> int:
        return int(self.series.counter(families.METRICS_PUSH_DROPPED, (reason,)).value)


def plan(server: Server, **changes: Any) -> Plan:
    given = {"interval_seconds": 10.0, "max_request_lines": 5000, "max_queue_bytes": 65536, "tags": {}}
    return Plan(client=server, **{**given, **changes})


def numbers(server: Server) -> list[int]:
    return [int(each[-9:]) for each in server.asked]


def test_figures_are_sent_now_and_each_interval() -> None:
    clock, server = Clock(), Server()
    figures = Figures(clock)
    figures.push.configure(plan(server, tags={"site": "east"}))
    figures.push.start()
    assert numbers(server) == [1]
    clock.advance(9.9)
    assert numbers(server) == [1]
    clock.advance(0.1)
    clock.advance(10)
    assert numbers(server) == [1, 2, 3]
    assert figures.tags == {"site": "east"}
    figures.push.configure(None)
    assert clock.getDelayedCalls() == []


def test_nothing_is_taken_without_a_plan() -> None:
    clock = Clock()
    figures = Figures(clock)
    figures.push.configure(None)
    figures.push.start()
    assert (figures.taken, clock.getDelayedCalls()) == (0, [])


def test_server_that_was_away_gets_all_that_waits_in_order_after_a_pause() -> None:
    clock, server = Clock(), Server(AWAY)
    figures = Figures(clock)
    figures.push.configure(plan(server))
    figures.push.start()
    clock.pump([1.0] * 25)
    # pauses of 1, 2, 4, 8, 16 seconds
    assert numbers(server) == [1, 1, 1, 1, 1]
    server.outcome = WRITTEN
    clock.pump([1.0] * 10)
    assert numbers(server)[5:] == [1, 2, 3, 4]
    figures.push.configure(None)


def test_pause_that_the_server_asks_for_is_kept_up_to_a_bound() -> None:
    clock, server = Clock(), Server(Outcome("failed", "429", 20.0))
    figures = Figures(clock)
    figures.push.configure(plan(server))
    figures.push.start()
    clock.pump([1.0] * 19)
    assert len(server.asked) == 1
    server.outcome = Outcome("failed", "429", 86400.0)
    clock.advance(1.0)
    assert len(server.asked) == 2
    server.outcome = WRITTEN
    clock.pump([1.0] * int(LONGEST_PAUSE_SECONDS))
    assert len(server.asked) > 2
    figures.push.configure(None)


def test_full_queue_drops_the_oldest_and_counts_their_lines() -> None:
    clock, server = Clock(), Server(AWAY)
    figures = Figures(clock, size=30000)
    figures.push.configure(plan(server))
    figures.push.start()
    clock.pump([10.0] * 4)
    assert figures.dropped("full") == 2 * 3
    assert figures.push.waiting_bytes <= 65536
    server.asked.clear()
    server.outcome = WRITTEN
    clock.pump([10.0] * 10)
    assert numbers(server)[0] > 3
    assert numbers(server) == sorted(set(numbers(server)))
    figures.push.configure(None)


@given(st.lists(st.sampled_from([WRITTEN, REFUSED, AWAY]), max_size=40), st.integers(1000, 70000))
def test_waiting_bytes_stay_within_their_bound_and_no_line_is_lost_uncounted(outcomes, size) -> None:
    clock, server = Clock(), Server()
    figures = Figures(clock, size=size)
    figures.push.configure(plan(server))
    figures.push.start()
    written = set(server.asked)
    for outcome in outcomes:
        server.outcome = outcome
        before = len(server.asked)
        clock.advance(10.0)
        if outcome is WRITTEN:
            written |= set(server.asked[before:])
        assert figures.push.waiting_bytes <= 65536
    lost = figures.dropped("full") + figures.dropped("refused")
    waiting = 2 * figures.push.waiting_bytes // size
    assert 2 * len(written) + lost + waiting == 2 * figures.taken
    figures.push.configure(None)


def test_refused_lines_are_counted_and_not_sent_again() -> None:
    clock, server = Clock(), Server(REFUSED)
    figures = Figures(clock)
    figures.push.configure(plan(server))
    figures.push.start()
    clock.advance(10.0)
    assert numbers(server) == [1, 2]
    assert (figures.dropped("refused"), figures.dropped("full")) == (4, 0)
    figures.push.configure(None)


def test_slow_server_gets_one_body_at_a_time() -> None:
    clock, server = Clock(), Server(None)
    figures = Figures(clock)
    figures.push.configure(plan(server))
    figures.push.start()
    clock.pump([10.0] * 3)
    assert (numbers(server), figures.push.waiting_bytes) == ([1], 40)
    assert server.waiting is not None
    server.waiting.callback(WRITTEN)
    assert numbers(server) == [1, 2]
    figures.push.configure(None)


def test_figures_that_cannot_be_taken_are_taken_at_the_next_interval(logged_errors: list[dict[str, Any]]) -> None:
    clock, server = Clock(), Server()
    figures = Figures(clock)
    figures.fault = ValueError("planted")
    figures.push.configure(plan(server))
    figures.push.start()
    figures.fault = None
    clock.advance(10.0)
    assert numbers(server) == [2]
    assert [str(each["log_failure"].value) for each in logged_errors] == ["planted"]
    logged_errors.clear()
    figures.push.configure(None)


def test_other_plan_sends_what_waits_to_the_other_server() -> None:
    clock, away, there = Clock(), Server(None), Server()
    figures = Figures(clock)
    figures.push.configure(plan(away))
    figures.push.start()
    figures.push.configure(plan(there, interval_seconds=3.0))
    assert (numbers(away), numbers(there)) == ([1], [1, 2])
    assert away.closed
    clock.advance(3.0)
    assert numbers(there) == [1, 2, 3]
    figures.push.configure(None)
    assert figures.push.waiting_bytes == 0


def test_end_sends_the_last_figures_and_leaves_no_timer() -> None:
    clock, server = Clock(), Server()
    figures = Figures(clock)
    figures.push.configure(plan(server))
    figures.push.start()
    clock.advance(4.0)
    stopped = Deferred.fromCoroutine(figures.push.stop(5.0))
    assert stopped.called
    assert numbers(server) == [1, 2]
    assert server.closed
    assert clock.getDelayedCalls() == []


def test_end_waits_no_longer_than_its_time_for_a_server_that_hangs() -> None:
    clock, server = Clock(), Server(None)
    figures = Figures(clock)
    figures.push.configure(plan(server))
    figures.push.start()
    stopped = Deferred.fromCoroutine(figures.push.stop(5.0))
    clock.advance(4.9)
    assert not stopped.called
    clock.advance(0.1)
    assert stopped.called
    assert clock.getDelayedCalls() == []


def test_end_does_not_wait_for_a_server_that_is_away() -> None:
    clock, server = Clock(), Server(AWAY)
    figures = Figures(clock)
    figures.push.configure(plan(server))
    figures.push.start()
    stopped = Deferred.fromCoroutine(figures.push.stop(5.0))
    assert stopped.called
    assert (figures.taken, clock.getDelayedCalls()) == (1, [])
