"""What requests count by their operation."""

from __future__ import annotations

from kateway.observe import families
from kateway.observe.http import HttpCells
from kateway.observe.series import Series


def test_requests_are_counted_by_operation_and_status_and_those_without_a_response_as_499() -> None:
    series = Series(lambda: 0.0, max_series=40000)
    cells = HttpCells(series)
    for status in (201, 201, 404, 0, 499):
        cells.ended("publish", status)
    counted = {labels: cell.value for labels, cell in series.cells(families.HTTP_REQUESTS)}  # type: ignore[union-attr]
    assert counted == {("publish", "201"): 2, ("publish", "404"): 1, ("publish", "499"): 2}


def test_durations_have_a_place_for_every_operation_from_the_start() -> None:
    series = Series(lambda: 0.0, max_series=40000)
    HttpCells(series).began("publish", 0.003)
    found = {labels[0]: sum(cell.counts) for labels, cell in series.cells(families.HTTP_DURATION)}  # type: ignore[union-attr]
    assert found == {operation: int(operation == "publish") for operation in families.OPERATIONS}


def test_duration_over_a_clock_that_went_back_is_counted_as_none() -> None:
    series = Series(lambda: 0.0, max_series=40000)
    HttpCells(series).began("publish", -5.0)
    histogram = series.histogram(families.HTTP_DURATION, ("publish",))
    assert (histogram.counts[0], histogram.total) == (1, 0.0)
