"""The text forms of metrics, read back by Prometheus' own parsers."""

import gzip
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from twisted.internet.defer import Deferred

from kateway.observe import families, render
from kateway.observe.bundles import OTHER
from kateway.observe.exposition import exposed, gathered
from kateway.observe.families import FAMILIES
from kateway.observe.process import process
from kateway.observe.series import Series

VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n"), max_size=12)


def series_of(*topics: tuple[str, str, str]) -> Series:
    series = Series(lambda: 0.0, max_series=40000)
    for number, topic in enumerate(topics, 1):
        series.topic(*topic).records.value += number
    series.histogram(families.HTTP_DURATION, ("publish",)).observe(0.003)
    return series


def samples_of(parsed: Iterable[object]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parsed  # type: ignore[attr-defined]
        for sample in family.samples
    }


def whole(pieces: Iterable[bytes]) -> str:
    return b"".join(pieces).decode()


FORMS = [(render.text, parse_text), (render.openmetrics, parse_openmetrics)]


@given(st.sampled_from(FORMS), st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=8, unique=True))
def test_label_values_and_counts_come_back_from_the_parser(how, topics) -> None:
    form, parse = how
    written = whole(form(exposed(series_of(*topics), FAMILIES, {})))
    samples = samples_of(parse(written))
    for number, labels in enumerate(topics, 1):
        key = frozenset(zip(families.TOPIC, labels, strict=True))
        assert samples["kateway_publish_records_total", key] == number


@pytest.mark.parametrize(("form", "parse"), FORMS)
def test_all_families_are_declared_once_and_in_order(form, parse) -> None:
    written = whole(form(exposed(series_of(), FAMILIES, {})))
    parsed = [family.name for family in parse(written)]
    assert [family.stem for family in FAMILIES.values()] == [
        name if name != "kateway_build_info" else "kateway_build" for name in parsed
    ]


def test_openmetrics_says_units_and_its_end() -> None:
    lines = whole(render.openmetrics(exposed(series_of(), FAMILIES, {}))).splitlines()
    assert "# UNIT kateway_publish_bytes bytes" in lines
    assert "# TYPE kateway_publish_bytes counter" in lines
    assert lines[-1] == "# EOF"


def test_histogram_buckets_are_cumulative_with_sum_and_count() -> None:
    series = Series(lambda: 0.0, max_series=40000)
    histogram = series.histogram(families.PUBLISH_BATCH, ("default",))
    for size in (1, 3, 3, 5000):
        histogram.observe(size)
    samples = samples_of(parse_text(whole(render.text(exposed(series, FAMILIES, {})))))
    found = {
        dict(labels)["le"]: value for (name, labels), value in samples.items() if name.endswith("batch_records_bucket")
    }
    assert (found["1.0"], found["2.0"], found["5.0"], found["1000.0"], found["+Inf"]) == (1, 1, 3, 3, 4)
    assert samples["kateway_publish_batch_records_sum", frozenset({("cluster", "default")})] == 5007
    assert samples["kateway_publish_batch_records_count", frozenset({("cluster", "default")})] == 4


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "0.5"), (1042.0, "1042"), (float("inf"), "+Inf"), (float("nan"), "NaN"), (1e22, str(int(1e22)))],
)
def test_number_is_whole_where_it_has_no_fraction(value: float, shown: str) -> None:
    sampled = {"kateway_draining": {(): value}}
    written = whole(render.text(exposed(series_of(), {"kateway_draining"}, sampled)))
    assert written.splitlines()[-1] == f"kateway_draining {shown}"


def test_influx_lines_have_sorted_tags_typed_fields_and_seconds() -> None:
    series = Series(lambda: 0.0, max_series=40000)
    topic = series.topic("app1", "foo bar", "")
    topic.records.value += 1042
    topic.bytes.value += 104200
    wanted = {"kateway_publish_records_total", "kateway_publish_bytes_total", "kateway_quota_used_ratio"}
    sampled = {"kateway_quota_used_ratio": {("app1", "requests"): 1.0}}
    lines = whole(render.influx(exposed(series, wanted, sampled), {"gateway": "g1"}, 1732269600.7)).splitlines()
    assert lines == [
        "kateway_publish,application=app1,gateway=g1,topic=foo\\ bar records=1042i,bytes=104200i 1732269600",
        "kateway_quota,application=app1,gateway=g1,quota=requests used_ratio=1.0 1732269600",
    ]


def test_influx_histogram_is_one_line_with_a_field_for_each_bucket() -> None:
    series = Series(lambda: 0.0, max_series=40000)
    series.histogram(families.PUBLISH_BATCH, ("default",)).observe(3)
    (line,) = whole(render.influx(exposed(series, {"kateway_publish_batch_records"}, {}), {}, 1.0)).splitlines()
    assert line.startswith("kateway_publish,cluster=default batch_records_le_1.0=0i,batch_records_le_2.0=0i,")
    assert line.endswith("batch_records_le_1000.0=1i,batch_records_sum=3.0,batch_records_count=1i 1")


def run(coroutine):
    try:
        while True:
            coroutine.send(None)
    except StopIteration as end:
        return end.value


class Pause:
    """Lets others run: one step of the coroutine."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self):
        self.count += 1
        return self

    def __await__(self):
        yield


@pytest.mark.parametrize("packed", [False, True])
def test_slices_end_at_their_time_and_give_the_whole_text(packed: bool) -> None:
    now = iter(range(1_000_000))
    pause = Pause()
    pieces = [b"%d\n" % number for number in range(9000)]
    body = run(render.in_slices(pieces, lambda: next(now) * 0.0001, pause, gzip=packed))
    assert (gzip.decompress(body) if packed else body) == b"".join(pieces)
    assert 1000 < pause.count < 2500


def test_gauges_of_label_sets_beyond_the_bound_are_added_up() -> None:
    found: dict = {}
    other = (OTHER,) * 5
    samples = [(families.GROUP_LAG, other, 3.0), (families.GROUP_LAG, other, 4.0)]
    samples += [(families.GROUP_OLDEST, other, 3.0), (families.GROUP_OLDEST, other, 2.0)]
    assert not b"".join(gathered([lambda: samples], FAMILIES, found))
    assert found["kateway_group_lag_records"] == {other: 7.0}
    assert found["kateway_group_oldest_seconds"] == {other: 3.0}


def test_process_gives_memory_files_and_start_of_this_process() -> None:
    found = {family.name: value for family, _, value in process()}
    assert found["process_open_fds"] >= 3
    assert found["process_resident_memory_bytes"] > 1_000_000
    assert found["process_start_time_seconds"] > 1_500_000_000
    assert found["process_cpu_seconds_total"] > 0


def test_process_without_proc_still_gives_cpu_time(tmp_path: Path) -> None:
    found = {family.name for family, _, _ in process(tmp_path)}
    assert "process_cpu_seconds_total" in found
    assert "process_open_fds" not in found


def counted(lines: int) -> Iterator[bytes]:
    for number in range(lines):
        yield b""
        yield b"%d\n" % number


@given(st.integers(0, 30), st.integers(1, 12))
def test_bodies_have_all_lines_in_order_and_no_more_than_their_most(lines, most) -> None:
    ticks = itertools.count()

    async def pause() -> None:
        return None

    making = Deferred.fromCoroutine(render.in_bodies(counted(lines), most, lambda: next(ticks) / 100, pause))
    bodies: list[render.Body] = []
    making.addCallback(bodies.extend)
    texts = [gzip.decompress(body.content) for body in bodies]
    assert b"".join(texts) == b"".join(counted(lines))
    assert [text.count(b"\n") for text in texts] == [body.lines for body in bodies]
    assert all(body.lines == most for body in bodies[:-1])
    assert all(0 < body.lines <= most for body in bodies)


def test_number_that_influx_cannot_say_is_left_out_and_its_line_with_it() -> None:
    found = [
        (families.QUOTA_USED, [(("a", "records"), float("inf")), (("b", "records"), 0.5)]),
        (families.STORE_HANDOFF, [(("main",), float("nan"))]),
    ]
    written = whole(render.influx(found, {}, 7.0))
    assert written == "kateway_quota,application=b,quota=records used_ratio=0.5 7\n"
