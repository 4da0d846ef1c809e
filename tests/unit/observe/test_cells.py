"""Cells and label sets: their sums, their bounds, and what is forgotten."""

from hypothesis import given
from hypothesis import strategies as st

from kateway.observe import families
from kateway.observe.bundles import OTHER
from kateway.observe.cells import Histogram
from kateway.observe.series import IDLE_SECONDS, Series

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
G = ("shop", "orders", "v1", "billing", "till")


class Now:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def made(max_series: int = 40000, max_objects: int = 2000) -> tuple[Series, Now]:
    now = Now()
    return Series(now, max_series=max_series, max_objects=max_objects), now


@given(st.lists(st.floats(-10, 1e6), max_size=50))
def test_histogram_counts_each_value_once_at_the_first_bound_that_holds_it(values: list[float]) -> None:
    histogram = Histogram(families.DURATION_BUCKETS)
    for value in values:
        histogram.observe(value)
    for index, bound in enumerate(histogram.bounds):
        assert sum(histogram.counts[: index + 1]) == sum(max(value, 0.0) <= bound for value in values)
    assert sum(histogram.counts) == len(values)


def test_histogram_observes_a_batch_as_so_many_values() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.5, 7)
    assert histogram.counts == [0, 7, 0]
    assert histogram.total == 10.5


@given(st.lists(st.tuples(NAMES, NAMES, st.integers(1, 5)), max_size=60), st.integers(1, 40), st.integers(1, 6))
def test_series_beyond_the_bounds_are_counted_under_other_and_nothing_is_lost(
    publishes: list[tuple[str, str, int]], max_series: int, max_objects: int
) -> None:
    series, _ = made(max_series, max_objects)
    for application, topic, records in publishes:
        series.topic(application, topic, "v1").records.value += records
    shown = series.cells(families.PUBLISH_RECORDS)
    assert sum(cell.value for _, cell in shown) == sum(records for *_, records in publishes)
    own = [labels for labels, _ in shown if labels[0] != OTHER]
    assert len(own) <= min(max_objects, max_series // 2)
    overflowed = dict(series.cells(families.OVERFLOW)).get(("kateway_publish_records_total",))
    assert (overflowed is not None) == any(labels[0] == OTHER for labels, _ in shown)


def test_group_beyond_the_most_objects_has_other_in_every_label() -> None:
    series, _ = made(max_objects=1)
    assert not series.group(*G).other
    assert series.group("shop", "orders", "v1", "second", "till").labels == (OTHER,) * 5


def test_error_reasons_without_room_are_counted_for_other_topics() -> None:
    series, _ = made(max_series=2)
    topic = series.topic("shop", "orders", "v1")
    topic.error("timeout").value += 1
    assert [labels for labels, _ in series.cells(families.PUBLISH_ERRORS)] == [(OTHER, OTHER, OTHER, "timeout")]


def test_topic_that_counts_nothing_for_a_day_is_forgotten_and_its_room_is_free() -> None:
    series, now = made(max_objects=1)
    series.topic("shop", "orders", "v1").error("timeout").value += 1
    series.sweep()
    now.seconds += IDLE_SECONDS - 1
    series.sweep()
    assert series.topics
    now.seconds += 1
    series.sweep()
    assert not series.topics
    assert not series.cells(families.PUBLISH_RECORDS)
    assert not series.cells(families.PUBLISH_ERRORS)
    assert not series.topic("shop", "returns", "v1").other


def test_topic_that_is_published_to_within_the_day_stays() -> None:
    series, now = made()
    for _ in range(3):
        series.topic("shop", "orders", "v1").records.value += 1
        series.sweep()
        now.seconds += IDLE_SECONDS - 1
    assert series.topic("shop", "orders", "v1").records.value == 3


def test_group_in_use_is_not_forgotten_though_it_counts_nothing() -> None:
    series, now = made()
    group = series.group(*G)
    series.sweep([group])
    now.seconds += IDLE_SECONDS
    series.sweep([group])
    assert series.group(*G) is group


def test_unregistered_topic_goes_at_once_and_begins_again_at_zero() -> None:
    series, _ = made()
    series.topic("shop", "orders", "v1").records.value += 5
    series.group(*G)
    series.keep_registered(lambda _: False, lambda _: True)
    assert not series.topics
    assert series.groups
    assert series.topic("shop", "orders", "v1").records.value == 0


@given(st.lists(st.tuples(st.sampled_from(["topic", "group", "forget"]), NAMES, NAMES), max_size=60))
def test_room_in_use_is_that_of_the_series_shown_whatever_comes_and_goes(steps: list[tuple[str, str, str]]) -> None:
    series, _ = made(max_series=60)
    for kind, first, second in steps:
        if kind == "topic":
            series.topic(first, "t", "v1").error(second).value += 1
        elif kind == "group":
            series.group(first, "t", "v1", second, "r").records.value += 1
        else:
            series.keep_registered(
                lambda labels, gone=first: labels[0] != gone, lambda labels, gone=second: gone not in labels
            )
    cells = [(labels, cell) for family in families.FAMILIES.values() for labels, cell in series.cells(family)]
    assert len(cells) <= 60 + 60


def test_every_family_has_a_name_that_says_its_kind_and_unit() -> None:
    for family in families.FAMILIES.values():
        assert family.name.startswith(("kateway_", "process_"))
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert bool(family.buckets) == (family.kind == "histogram"), family.name
        assert not {"key", "address", "request_id", "path", "partition"} & set(family.labels)


def throttled(series: Series) -> list[tuple[str, ...]]:
    return [labels for labels, _ in series.cells(families.QUOTA_THROTTLED)]


def test_application_that_is_throttled_no_more_for_a_day_is_forgotten() -> None:
    series, now = made()
    series.counter(families.QUOTA_THROTTLED, ("shop", "requests")).value += 1
    series.sweep()
    now.seconds += IDLE_SECONDS / 2
    series.counter(families.QUOTA_THROTTLED, ("till", "requests")).value += 1
    series.sweep()
    now.seconds += IDLE_SECONDS / 2
    series.sweep()
    assert throttled(series) == [("till", "requests")]


def test_unregistered_application_is_forgotten_at_once() -> None:
    series, _ = made()
    for application in ("shop", "till"):
        series.counter(families.QUOTA_THROTTLED, (application, "requests")).value += 1
    series.keep_registered(lambda _: True, lambda _: True, lambda name: name == "till")
    assert throttled(series) == [("till", "requests")]
