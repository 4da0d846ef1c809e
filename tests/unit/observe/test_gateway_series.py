"""The figures of the gateway as a whole, and of objects, from what is counted."""

from __future__ import annotations

import pytest

from kateway.observe import families
from kateway.observe.exposition import Sampled
from kateway.observe.gateway_series import PLAIN, QUANTILES, SERIES, GatewayFigures, bucket
from kateway.observe.group_watch import GroupWatches
from kateway.observe.history import History
from kateway.observe.object_figures import ObjectFigures
from kateway.observe.series import Series


class Ticking:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def seconds(self) -> float:
        return self.now


def figures(series: Series, *sampled: Sampled) -> dict[str, float | None]:
    return dict(zip(SERIES, GatewayFigures(series, 0.0).look(10.0, sampled, {"lag": 7.0}), strict=True))


def test_there_are_at_most_120_series_beside_the_buckets() -> None:
    assert len(PLAIN) <= 120
    assert len(set(SERIES)) == len(SERIES)
    assert len(QUANTILES) == 6


def test_counters_are_rates_over_all_their_labels() -> None:
    series = Series(lambda: 0.0, max_series=40000)
    series.topic("a", "t", "v1").records.value = 30.0
    series.topic("b", "t", "v1").records.value = 20.0
    group = series.group("a", "t", "v1", "g", "b")
    group.ok.value, group.expired.value = 40.0, 5.0
    series.counter(families.HTTP_REQUESTS, ("publish", "201")).value = 50.0
    series.counter(families.HTTP_REQUESTS, ("publish", "503")).value = 10.0
    found = figures(series)
    assert {name: found[name] for name in ("in_records", "acknowledged", "expired", "requests_publish")} == {
        "in_records": 5.0,
        "acknowledged": 4.0,
        "expired": 0.5,
        "requests_publish": 6.0,
    }
    assert (found["requests"], found["server_errors"], found["client_errors"]) == (6.0, 1.0, 0.0)


def test_gauges_are_added_up_and_unknown_where_nothing_was_sampled() -> None:
    found = figures(
        Series(lambda: 0.0, max_series=40000),
        (families.HTTP_CONNECTIONS, ("public",), 3.0),
        (families.HTTP_CONNECTIONS, ("admin",), 1.0),
        (families.BREAKER_STATE, ("default", "open"), 1.0),
        (families.BREAKER_STATE, ("default", "closed"), 0.0),
    )
    assert (found["connections"], found["breakers_open"], found["registry_up"]) == (4.0, 1.0, None)
    assert (found["lag"], found["readers"]) == (7.0, None)


def test_cpu_is_known_from_the_second_look() -> None:
    looks = GatewayFigures(Series(lambda: 0.0, max_series=40000), 0.0)
    found = [looks.look(at, [(families.CPU, (), at)], {}) for at in (5.0, 10.0)]
    assert [each[SERIES.index("cpu")] for each in found] == [None, 1.0]


def test_buckets_are_rates_of_the_one_operation() -> None:
    series = Series(lambda: 0.0, max_series=40000)
    series.histogram(families.HTTP_DURATION, ("publish",)).observe(0.003, 20)
    series.histogram(families.HTTP_DURATION, ("admin",)).observe(0.003, 20)
    found = figures(series)
    place = families.DURATION_BUCKETS.index(0.005)
    assert found[bucket("publish_seconds", place)] == 2.0
    assert found[bucket("subscribe_seconds", place)] == 0.0


def test_objects_have_rates_of_their_topics_and_groups() -> None:
    clock = Ticking()
    series = Series(clock.seconds, max_series=40000)
    history, watches = History(("one",), 10**7), GroupWatches()
    looks = ObjectFigures(series, history, watches)
    topic = series.topic("owner", "t", "v1")
    topic.records.value, topic.bytes.value = 100.0, 1000.0
    topic.error("store-unavailable").value = 10.0
    group = series.group("owner", "t", "v1", "g", "reader")
    group.records.value = 50.0
    series.counter(families.QUOTA_THROTTLED, ("owner", "records")).value = 20.0
    clock.now = 10.0
    watches.of(("owner", "t", "v1", "g", "reader"), 0.0).look(10.0, group, 1)
    for _ in looks.look(1_800_000_000.0):
        pass

    def last(kind: str, labels: tuple[str, ...], name: str) -> float | None:
        rings = history.find(kind, labels)  # type: ignore[arg-type]
        assert rings is not None
        return rings.points(name, 0, 1_800_000_000.0, 10).figures[-1]

    assert last("topic", ("owner", "t", "v1"), "in_records") == pytest.approx(10.0, rel=1e-3)
    assert last("topic", ("owner", "t", "v1"), "out_records") == pytest.approx(5.0, rel=1e-3)
    assert last("topic", ("owner", "t", "v1"), "errors") == pytest.approx(1.0, rel=1e-3)
    assert last("application", ("owner",), "in_bytes") == pytest.approx(100.0, rel=1e-3)
    assert last("application", ("owner",), "throttled") == pytest.approx(2.0, rel=1e-3)
    assert last("application", ("reader",), "out_records") == pytest.approx(5.0, rel=1e-3)
    assert last("group", ("owner", "t", "v1", "g", "reader"), "lag") is None
    assert looks.throttled("owner") == 20.0
    assert looks.throttled("reader") == 0.0


def test_application_that_is_forgotten_is_throttled_no_more() -> None:
    clock = Ticking()
    series = Series(clock.seconds, max_series=40000)
    looks = ObjectFigures(series, History(("one",), 10**7), GroupWatches())
    series.counter(families.QUOTA_THROTTLED, ("owner", "records")).value = 20.0
    clock.now = 10.0
    list(looks.look(1_800_000_000.0))
    series.keep_registered(lambda _: True, lambda _: True, lambda _: False)
    clock.now = 200.0
    list(looks.look(1_800_000_190.0))
    assert (looks.throttled("owner"), looks.refused("owner")) == (0.0, 0.0)


def test_thousand_objects_of_each_kind_are_looked_at_in_pieces() -> None:
    series = Series(lambda: 0.0, max_series=400000, max_objects=5000)
    history, watches = History(("one",), 10**8), GroupWatches()
    looks = ObjectFigures(series, history, watches)
    for number in range(1000):
        series.topic(f"a{number}", "t", "v1").records.value = 1.0
    assert sum(1 for _ in looks.look(1_800_000_000.0)) == 3000
