"""Circuit breakers: when they open, try and close; against a model, and the answers while they are open."""

from __future__ import annotations

from collections import Counter
from math import ceil

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.task import Clock

from kateway.core.breaker import (
    LONGEST_PAUSE_SECONDS,
    RETRY_SPREAD_SECONDS,
    Breaker,
    BreakerConfig,
    BreakerGate,
    Breakers,
    for_the_stores_sake,
)
from kateway.errors import (
    Denied,
    Draining,
    InvalidRecord,
    NotEnoughReplicas,
    OutcomeUnknown,
    Overloaded,
    StorageFull,
    TooLarge,
    TopicNotFound,
    Unavailable,
)
from kateway.model import Health, Receipt

AWAY = Unavailable("no broker answers")
WRITTEN = Receipt(0, 7)


def breaker(after: float = 12.0, requests: int = 20) -> Breaker:
    return Breaker(BreakerConfig(after, requests, 1.0), 0.0)


def opened() -> Breaker:
    one = breaker()
    for _ in range(20):
        one.failed(AWAY, 1.0)
    assert one.look(13.0, False)
    return one


@pytest.mark.parametrize("error", [AWAY, OutcomeUnknown(), NotEnoughReplicas(), StorageFull()])
def test_failures_of_the_store_count(error: Exception) -> None:
    assert for_the_stores_sake(error)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "outcome", [WRITTEN, TooLarge(), TopicNotFound(), Denied(), InvalidRecord(), Overloaded(), Draining()]
)
def test_failures_of_the_caller_or_the_gateway_do_not_count(outcome: object) -> None:
    assert not for_the_stores_sake(outcome)  # type: ignore[arg-type]


def test_breaker_opens_when_nothing_was_written_for_long_enough_and_enough_failed() -> None:
    one = breaker()
    for _ in range(19):
        one.failed(AWAY, 1.0)
    assert not one.look(100.0, False)
    one.failed(AWAY, 99.0)
    assert one.look(100.1, False)
    assert (one.state, one.refusing, one.last_error) == ("open", True, "no broker answers")


def test_broker_that_is_replaced_within_nine_seconds_does_not_open_it() -> None:
    one = breaker()
    one.successes += 1
    one.look(0.0, True)
    for tenth in range(90):
        for _ in range(10):
            one.failed(AWAY, tenth / 10)
        assert not one.look(tenth / 10, True)
    one.successes += 1
    assert not one.look(9.0, True)
    assert one.failures == 0


def test_partition_without_a_leader_among_others_never_opens_it() -> None:
    one = breaker()
    for second in range(1000):
        one.successes += 1
        for _ in range(50):
            one.failed(AWAY, second - 10)
        assert not one.look(float(second), True)


def test_first_failure_after_a_long_rest_does_not_open_it() -> None:
    one = breaker(requests=1)
    one.failed(AWAY, 1000.0)
    assert not one.look(1000.1, False)
    assert one.look(1012.0, False)


def test_breaker_with_zero_seconds_never_opens_by_itself() -> None:
    one = breaker(after=0)
    for _ in range(1000):
        one.failed(AWAY, 0.0)
    assert not one.look(1e6, False)


def test_open_breaker_tries_one_publish_when_the_cluster_is_reached_again() -> None:
    one = opened()
    assert not one.admit()
    assert not one.look(13.5, True)
    assert not one.look(14.0, False)
    assert one.look(14.0, True)
    assert one.state == "half_open"
    assert [one.admit(), one.admit()] == [True, False]
    assert one.probed([WRITTEN], 14.1)
    assert (one.state, one.refusing) == ("closed", False)


def test_probe_that_fails_opens_it_for_a_pause_that_doubles() -> None:
    one = opened()
    now, pauses = 13.0, []
    for _ in range(6):
        pauses.append(one.next_probe - now)
        now = one.next_probe
        assert one.look(now, True)
        assert one.admit()
        assert one.probed([AWAY], now)
    assert pauses == [1, 2, 4, 8, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]


def test_probe_that_says_nothing_of_the_store_lets_another_through() -> None:
    one = opened()
    one.look(14.0, True)
    one.admit()
    assert not one.probed([TooLarge()], 14.1)
    assert one.admit()


def test_cluster_that_goes_again_before_a_publish_tried_it_opens_it_again() -> None:
    one = opened()
    one.look(14.0, True)
    assert one.look(14.5, False)
    assert one.state == "open"


def test_publish_that_was_under_way_and_is_written_closes_it() -> None:
    one = opened()
    one.successes += 1
    assert one.look(13.5, True)
    assert one.state == "closed"


def test_breaker_opened_by_hand_stays_open_until_it_is_closed_by_hand() -> None:
    one = breaker()
    assert one.set_by_hand("open", 1.0)
    assert not one.set_by_hand("open", 1.0)
    one.successes += 1
    assert not one.look(1000.0, True)
    assert (one.state, one.by_hand) == ("open", True)
    assert not one.admit()
    assert one.set_by_hand("closed", 1001.0)
    assert (one.state, one.by_hand, one.refusing) == ("closed", False, False)


def test_probe_under_way_when_it_is_opened_by_hand_does_not_close_it() -> None:
    one = opened()
    one.look(14.0, True)
    one.admit()
    one.set_by_hand("open", 14.1)
    assert not one.probed([WRITTEN], 14.2)
    assert one.state == "open"


def test_probe_under_way_when_it_is_opened_by_hand_holds_up_no_later_one() -> None:
    breaker = Breaker(BreakerConfig(), 0.0)
    for _ in range(20):
        breaker.failed(AWAY, 0.0)
    breaker.look(13.0, False)
    breaker.look(15.0, True)
    assert breaker.admit()
    breaker.set_by_hand("open", 16.0)
    breaker.set_by_hand("closed", 17.0)
    for _ in range(20):
        breaker.failed(AWAY, 17.0)
    breaker.look(30.0, False)
    assert breaker.look(32.0, True)
    assert breaker.admit()


def test_clients_that_are_refused_together_do_not_come_back_together() -> None:
    clock = Clock()
    breakers = Breakers({"default": BreakerConfig()}, clock.seconds)
    breakers["default"].failed(AWAY, 0.0)
    breakers["default"]._open(0.0)
    waits = Counter(ceil(breakers.refusal("default").retry_after_seconds or 0) for _ in range(1000))
    assert len(waits) >= RETRY_SPREAD_SECONDS
    assert max(waits.values()) < 400


def test_refusal_names_the_cluster_the_time_and_the_cause() -> None:
    clock = Clock()
    breakers = Breakers({"main": BreakerConfig(minimum_requests=1)}, clock.seconds)
    breakers["main"].failed(AWAY, 0.0)
    clock.advance(13)

    class Away:
        def health(self) -> Health:
            return Health(False, "away")

    breakers.look({"main": Away()})  # type: ignore[dict-item]
    refusal = breakers.refusal("main")
    assert (refusal.status, refusal.code, refusal.retriable) == (503, "store-unavailable", True)
    assert "main" in refusal.detail
    assert "13 s" in refusal.detail
    assert "no broker answers" in refusal.detail
    assert not breakers.health("main", Health(True)).healthy
    away = Away()
    away.health = lambda: Health(True)  # type: ignore[method-assign]
    breakers.look({"main": away})  # type: ignore[dict-item]
    clock.advance(2)
    breakers.look({"main": away})  # type: ignore[dict-item]
    assert breakers["main"].state == "half_open"
    assert breakers.health("main", Health(True)).healthy, "only a gateway that is ready gets the publish that closes it"
    breakers.set_by_hand("main", "open")
    assert "operator" in breakers.refusal("main").detail
    assert breakers.health("main", Health(True)).reason == "the breaker is open by hand"


class BreakerModel(RuleBasedStateMachine):
    """Publishes that are written or fail, a cluster that comes and goes, and an operator."""

    @initialize(after=st.sampled_from([0.0, 2.0, 12.0]), requests=st.integers(1, 5))
    def begin(self, after: float, requests: int) -> None:
        self.now = 0.0
        self.config = BreakerConfig(after, requests, 1.0)
        self.breaker = Breaker(self.config, 0.0)
        self.healthy = True
        self.probe = False
        self.written_at = 0.0
        self.failed_since_written = 0

    @rule(seconds=st.floats(0.1, 5.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        before = self.breaker.state
        self.breaker.look(self.now, self.healthy)
        if before == "closed" and self.breaker.state == "open":
            assert 0 < self.config.open_after_seconds <= self.now - self.written_at
            assert self.failed_since_written >= self.config.minimum_requests
        if before == "open" and self.breaker.state == "half_open":
            assert self.healthy

    @rule(healthy=st.booleans())
    def cluster_comes_or_goes(self, healthy: bool) -> None:
        self.healthy = healthy

    @rule(age=st.floats(0.0, 20.0), written=st.booleans())
    def publish(self, age: float, written: bool) -> None:
        breaker = self.breaker
        if breaker.refusing:
            if not breaker.admit():
                return
            assert breaker.state == "half_open"
            assert not self.probe
            breaker.probed([WRITTEN if written else AWAY], self.now)
            assert breaker.state == ("closed" if written else "open")
        if written:
            breaker.successes += 1
            self.written_at = self.now
            self.failed_since_written = 0
        else:
            breaker.failed(AWAY, max(self.now - age, 0.0))
            self.failed_since_written += 1

    @rule(state=st.sampled_from(["open", "closed"]))
    def by_hand(self, state: str) -> None:
        self.breaker.set_by_hand(state, self.now)  # type: ignore[arg-type]
        if state == "closed":
            self.written_at = self.now
            self.failed_since_written = 0

    @invariant()
    def refuses_exactly_when_it_is_not_closed(self) -> None:
        if hasattr(self, "breaker"):
            assert self.breaker.refusing == (self.breaker.state != "closed")
            assert not self.breaker.by_hand or self.breaker.state == "open"


TestBreakerModel = BreakerModel.TestCase
TestBreakerModel.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


def test_gate_of_the_handoff_writes_while_closed_and_probes_while_half_open() -> None:
    clock = Clock()
    breakers = Breakers({"default": BreakerConfig(12.0, 20, 1.0)}, clock.seconds)
    gate = BreakerGate(breakers, "default")
    assert gate.admit() == "write"
    gate.ended("write", [WRITTEN], 0.0)
    one = breakers["default"]
    assert one.successes == 1
    for _ in range(20):
        one.failed(AWAY, 1.0)
    one.look(0.0, False)
    for _ in range(20):
        one.failed(AWAY, 1.0)
    clock.advance(13.1)
    one.look(clock.seconds(), False)
    assert (one.state, gate.admit()) == ("open", None)
    clock.advance(1.0)
    one.look(clock.seconds(), True)
    assert (one.state, gate.admit(), gate.admit()) == ("half_open", "probe", None)
    gate.ended("write", [AWAY], clock.seconds())
    assert one.state == "half_open", "a round that began earlier is not the probe"
    gate.ended("probe", [], clock.seconds())
    assert gate.admit() == "probe", "a probe that was given up leaves the place to another"
    gate.ended("probe", [WRITTEN], clock.seconds())
    assert one.state == "closed"
