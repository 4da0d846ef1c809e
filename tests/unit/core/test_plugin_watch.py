"""A plugin's counts and its breaker, by a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from kateway.config.schema import AuditConfig, AuthConfig, MetricsConfig, PluginsConfig
from kateway.core import entry_points
from kateway.core.access.authentication import (
    Authentication,
    Credentials,
    Purpose,
    WatchedAuthenticator,
)
from kateway.core.access.authorization import AccessRequest, Grant, WatchedAuthorizer
from kateway.core.access.failures import build_failures
from kateway.core.audit.events import Audit, Event
from kateway.core.metrics_sinks import MetricsSinks
from kateway.core.plugin_watch import Watch, Watches
from kateway.core.transforms.plugged import WatchedTransform
from kateway.core.transforms.steps import Fields
from kateway.errors import Denied, PluginFailed, TransformFailed, TransformRejected, Unauthorized
from kateway.model import Principal
from kateway.registry.interface import Snapshot

RECORD = Fields(None, b"x", (), None, None, None)
LIMITS = PluginsConfig(
    plugin_max_failures=3, plugin_max_seconds=0.05, plugin_max_write_seconds=1.0, plugin_probe_seconds=10.0
)


class Odd:
    """A plugin that does what the test says: ``error`` is raised, ``takes`` seconds pass."""

    challenge = ""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.error: Exception | None = None
        self.takes = 0.0
        self.calls = 0

    def __call__(self, record: Fields) -> Fields | None:
        self.calls += 1
        self.clock.advance(self.takes)
        if self.error is not None:
            raise self.error
        return record

    def authenticate(self, credentials: Credentials, purpose: Purpose) -> Principal | None:
        self(RECORD)
        return Principal("app1", "odd:app1") if credentials.token else None

    def authorize(self, principal: Principal, asked: AccessRequest, snapshot: Snapshot) -> Grant:
        self(RECORD)
        return Grant("default", "t", "", False, 0, ())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def odd(clock: Clock) -> Odd:
    return Odd(clock)


@pytest.fixture
def watches(clock: Clock) -> Watches:
    return Watches(LIMITS, clock.seconds)


@pytest.fixture
def watch(watches: Watches) -> Watch:
    return watches.loaded(entry_points.TRANSFORMS, "odd")


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the watch logs."""
    lines: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        if event["log_namespace"] == "kateway.core.plugin_watch":
            lines.append(event["log_format"].partition(":")[0])

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    yield lines
    globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]


def call(transform: WatchedTransform, times: int = 1) -> list[object]:
    """What comes of calls: the record, or the error."""
    found: list[object] = []
    for _ in range(times):
        try:
            found.append(transform.transform(RECORD, 0.0))
        except Exception as error:
            found.append(error)
    return found


def test_plugin_that_raises_so_often_in_a_row_is_called_no_more(odd: Odd, watch: Watch) -> None:
    transform = WatchedTransform(odd, watch)
    odd.error = RuntimeError("boom")
    assert [type(each) for each in call(transform, 3)] == [RuntimeError] * 3
    assert (watch.state, watch.failures, watch.last_error) == ("taken_out", 3, "RuntimeError: boom")
    (refused,) = call(transform)
    assert isinstance(refused, TransformFailed)
    assert refused.detail == "the plugin odd is taken out after 3 failures in a row (RuntimeError: boom)"
    assert odd.calls == 3


def test_success_between_failures_begins_the_count_anew(odd: Odd, watch: Watch) -> None:
    transform = WatchedTransform(odd, watch)
    for _ in range(5):
        odd.error = RuntimeError("boom")
        call(transform, 2)
        assert watch.state == "failing"
        odd.error = None
        call(transform)
        assert watch.state == "loaded"
    assert watch.failures == 10


def test_one_call_a_pause_tries_a_plugin_that_was_taken_out(odd: Odd, watch: Watch, clock: Clock) -> None:
    transform = WatchedTransform(odd, watch)
    odd.error = RuntimeError("boom")
    call(transform, 3)
    clock.advance(9.9)
    call(transform, 2)
    assert odd.calls == 3
    clock.advance(0.2)
    call(transform, 3)
    assert (odd.calls, watch.state) == (4, "taken_out")
    odd.error = None
    clock.advance(10)
    assert call(transform, 2) == [RECORD, RECORD]
    assert watch.state == "loaded"


def test_slow_call_is_a_failure_whose_result_holds(odd: Odd, watch: Watch) -> None:
    transform = WatchedTransform(odd, watch)
    odd.takes = 0.06
    assert call(transform, 3) == [RECORD] * 3
    assert watch.state == "taken_out"
    assert watch.last_error == "a call took 0.060 s; 0.05 s are allowed"


def test_verdicts_on_records_take_no_plugin_out_unless_they_are_slow(odd: Odd, watch: Watch) -> None:
    transform = WatchedTransform(odd, watch)
    for odd.error in (TransformRejected("no"), TransformFailed("odd")):
        assert all(each is odd.error for each in call(transform, 10))
        assert (watch.state, watch.failures) == ("loaded", 0)
    odd.takes = 1.0
    call(transform, 3)
    assert watch.state == "taken_out"


def test_result_of_another_type_is_a_failure(watch: Watch) -> None:
    transform = WatchedTransform(lambda _record: "x", watch)  # type: ignore[arg-type, return-value]
    (error,) = call(transform)
    assert str(error) == "it gives str, not a record or None"
    assert watch.state == "failing"


def test_failures_are_logged_once_until_the_plugin_is_well_again(odd: Odd, watch: Watch, told: list[str]) -> None:
    transform = WatchedTransform(odd, watch)
    odd.error = RuntimeError("boom")
    call(transform, 100)
    odd.error = None
    odd.clock.advance(10)
    call(transform, 100)
    assert told == [
        "{plugin} fails",
        "{plugin} is taken out after {count} failures in a row, and tried every {seconds",
        "{plugin} is well again",
    ]


def test_limits_of_a_reload_are_in_force_at_once(odd: Odd, watch: Watch, watches: Watches) -> None:
    watches.config = PluginsConfig(plugin_max_failures=1)
    odd.error = RuntimeError("boom")
    call(WatchedTransform(odd, watch))
    assert watch.state == "taken_out"


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["good", "bad", "slow"]), st.floats(0, 6)), max_size=60))
def test_plugin_is_called_as_the_rule_says_whatever_comes(calls: list[tuple[str, float]]) -> None:
    clock = Clock()
    odd = Odd(clock)
    watch = Watches(LIMITS, clock.seconds).loaded(entry_points.TRANSFORMS, "odd")
    transform = WatchedTransform(odd, watch)
    in_a_row, tried = 0, 0.0
    for kind, pause in calls:
        clock.advance(pause)
        odd.error = RuntimeError("boom") if kind == "bad" else None
        odd.takes = 0.1 if kind == "slow" else 0.0
        out = in_a_row >= LIMITS.plugin_max_failures
        expected = odd.calls + (not out or clock.seconds() >= tried + LIMITS.plugin_probe_seconds)
        called = expected > odd.calls
        call(transform)
        assert odd.calls == expected
        if called:
            in_a_row = 0 if kind == "good" else in_a_row + 1
            tried = clock.seconds()
        assert (watch.state == "taken_out") == (in_a_row >= LIMITS.plugin_max_failures)


# --- the other seams ------------------------------------------------------------------------------------------------


def chain(odd: Odd, watches: Watches, *before: Any) -> Authentication:
    method = WatchedAuthenticator(odd, watches.loaded(entry_points.AUTHENTICATORS, "odd"))
    failures = build_failures(AuthConfig(), odd.clock.seconds)
    return Authentication([*before, method], failures, snapshot=Snapshot, now=odd.clock.seconds)


class Others:
    """A method that knows one token, and says that all others are wrong."""

    challenge = "Bearer"

    def authenticate(self, credentials: Credentials, purpose: Purpose) -> Principal | None:
        if credentials.token == b"known":
            return Principal("app2", "others:app2")
        if credentials.token == b"wrong":
            raise Unauthorized("wrong")
        return None


def test_broken_authenticator_is_a_503_and_no_wrong_guess(odd: Odd, watches: Watches) -> None:
    authentication = chain(odd, watches)
    odd.error = RuntimeError("secret inside")
    for _ in range(30):
        with pytest.raises(PluginFailed) as refused:
            authentication.authenticate(Credentials("a", token=b"t"), "publish")
        assert "secret inside" not in refused.value.detail
    assert odd.calls == 3
    odd.error = None
    odd.clock.advance(10)
    assert authentication.authenticate(Credentials("a", token=b"t"), "publish").application == "app1"


def test_broken_authenticator_stands_in_the_way_of_no_other(odd: Odd, watches: Watches) -> None:
    authentication = chain(odd, watches, Others())
    odd.error = RuntimeError("boom")
    assert authentication.authenticate(Credentials("a", token=b"known"), "publish").application == "app2"
    with pytest.raises(Unauthorized):
        authentication.authenticate(Credentials("a", token=b"wrong"), "publish")
    with pytest.raises(PluginFailed):
        authentication.authenticate(Credentials("a", token=b"other"), "publish")
    with pytest.raises(PluginFailed):
        authentication.again(Credentials("a", token=b"other"), "publish")


def test_authenticator_may_refuse_for_ever(odd: Odd, watches: Watches) -> None:
    authentication = chain(odd, watches)
    odd.error = Denied("no")
    for _ in range(10):
        with pytest.raises(Denied):
            authentication.authenticate(Credentials("a", token=b"t"), "publish")
    assert odd.calls == 10


def test_answer_of_another_type_is_a_failure_and_no_permission(watches: Watches) -> None:
    class Loose:
        def authenticate(self, credentials: Credentials, purpose: Purpose) -> Any:
            return "app1"

        def authorize(self, principal: Principal, asked: AccessRequest, snapshot: Snapshot) -> Any:
            return True

    method = WatchedAuthenticator(Loose(), watches.loaded(entry_points.AUTHENTICATORS, "loose"))  # type: ignore[arg-type]
    with pytest.raises(PluginFailed):
        method.authenticate(Credentials("a", token=b"t"), "publish")
    authorizer = WatchedAuthorizer(Loose(), watches.loaded(entry_points.AUTHORIZERS, "loose"))
    with pytest.raises(PluginFailed):
        authorizer.authorize(Principal("app1"), AccessRequest("publish", "v1", "t"), Snapshot())
    assert {each.last_error for each in watches} == {
        "TypeError: it gives str, not a principal or None",
        "TypeError: it gives bool, not a grant",
    }


def test_broken_authorizer_lets_nothing_through(odd: Odd, watches: Watches) -> None:
    authorizer = WatchedAuthorizer(odd, watches.loaded(entry_points.AUTHORIZERS, "odd"))
    asked = AccessRequest("publish", "v1", "t")
    odd.error = RuntimeError("boom")
    for _ in range(5):
        with pytest.raises(PluginFailed) as refused:
            authorizer.authorize(Principal("app1"), asked, Snapshot())
    assert odd.calls == 3
    assert refused.value.retry_after_seconds == 11
    odd.error = None
    odd.clock.advance(10)
    assert authorizer.authorize(Principal("app1"), asked, Snapshot()).topic == "t"


class Sink:
    """A sink of audit events or metrics that fails, or waits, as the test says."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.error: Exception | None = None
        self.held: Deferred[None] | None = None

    async def write(self, what: Any) -> None:
        if self.held is not None:
            await self.held
        if self.error is not None:
            raise self.error
        self.got.append(what)

    async def close(self) -> None:
        self.got.append("closed")


async def figures() -> bytes:
    return b"figures"


def test_audit_sink_that_is_taken_out_keeps_its_events_for_the_next_try(clock: Clock, watches: Watches) -> None:
    sink = Sink()
    watches.loaded(entry_points.AUDIT_SINKS, "odd")
    audit = Audit({"odd": sink}, now=clock.seconds, watches=watches)
    sink.error = OSError("full")
    for number in range(5):
        audit.record("a", "act", str(number), "ok")
    assert (audit.dropped, audit.queued) == (3, 2)
    sink.error = None
    clock.advance(10)
    audit.record("a", "act", "5", "ok")
    (events,) = sink.got
    assert [event.object for event in events if isinstance(event, Event)] == ["3", "4", "5"]
    assert watches.of(entry_points.AUDIT_SINKS, "odd").state == "loaded"


def test_audit_sink_that_is_taken_out_is_tried_again_though_its_queue_is_full(clock: Clock, watches: Watches) -> None:
    sink = Sink()
    audit = Audit({"odd": sink}, now=clock.seconds, watches=watches, config=AuditConfig(max_queued_events=2))
    sink.error = OSError("full")
    for number in range(8):
        audit.record("a", "act", str(number), "ok")
    assert (audit.dropped, audit.queued) == (6, 2)
    sink.error = None
    clock.advance(10)
    audit.record("a", "act", "8", "ok")
    audit.record("a", "act", "9", "ok")
    assert [[event.object for event in events] for events in sink.got] == [["3", "4"], ["9"]]


def test_gateways_own_sink_is_never_taken_out(clock: Clock, watches: Watches) -> None:
    sink = Sink()
    audit = Audit({"file": sink}, now=clock.seconds, watches=watches)
    sink.error = OSError("full")
    for number in range(5):
        audit.record("a", "act", str(number), "ok")
    assert audit.dropped == 5
    assert watches.of(entry_points.AUDIT_SINKS, "file").state == "failing"


def test_slow_metrics_sink_misses_figures_and_holds_up_no_other(clock: Clock, watches: Watches) -> None:
    slow, quick = Sink(), Sink()
    of = {name: watches.loaded(entry_points.METRICS_SINKS, name) for name in ("slow", "quick")}
    sinks = MetricsSinks({"slow": (slow, of["slow"]), "quick": (quick, of["quick"])}, figures)
    held: Deferred[None] = Deferred()
    slow.held = held
    for _ in range(3):
        Deferred.fromCoroutine(sinks.tell())
    assert (slow.got, quick.got) == ([], [b"figures"] * 3)
    clock.advance(1.5)
    held.callback(None)
    assert slow.got == [b"figures"]
    assert (of["slow"].state, of["slow"].last_error) == ("failing", "a call took 1.500 s; 1 s are allowed")
    slow.held = None
    Deferred.fromCoroutine(sinks.tell())
    assert of["slow"].state == "loaded"


def test_write_that_does_not_end_is_shown_as_a_failure(clock: Clock, watches: Watches) -> None:
    sink = Sink()
    sink.held = Deferred()
    watch = watches.loaded(entry_points.METRICS_SINKS, "odd")
    Deferred.fromCoroutine(MetricsSinks({"odd": (sink, watch)}, figures).tell())
    assert watch.state == "loaded"
    clock.advance(60)
    shown = (watch.state, watch.last_error, watch.failures)
    assert shown == ("failing", "a write has lasted for 60 s", 0)


def test_failing_metrics_sink_is_left_alone_until_its_pause_is_over(clock: Clock, watches: Watches) -> None:
    sink = Sink()
    watch = watches.loaded(entry_points.METRICS_SINKS, "odd")
    sinks = MetricsSinks({"odd": (sink, watch)}, figures)
    sink.error = OSError("away")
    for _ in range(5):
        Deferred.fromCoroutine(sinks.tell())
    assert (watch.failures, watch.state) == (3, "taken_out")
    sink.error = None
    clock.advance(10)
    Deferred.fromCoroutine(sinks.tell())
    assert (sink.got, watch.state) == ([b"figures"], "loaded")
    Deferred.fromCoroutine(sinks.stop())
    assert sink.got[-1] == "closed"
    assert MetricsConfig().sinks == ()
