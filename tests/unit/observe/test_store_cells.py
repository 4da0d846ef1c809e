"""What requests to a store count."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from kateway.errors import GroupBusy
from kateway.observe import families
from kateway.observe.series import Series
from kateway.observe.store import StoreCells


def counted(*results: object) -> Series:
    series = Series(lambda: 0.0, max_series=40000)
    cells = StoreCells(series, "main")
    for result in results:
        cells.ended("fetch", 0.02, result)
    return series


def test_answer_counts_its_time_and_no_error() -> None:
    series = counted(b"answer", b"answer")
    ((labels, cell),) = series.cells(families.STORE_DURATION)
    assert labels == ("main", "fetch")
    assert sum(cell.counts) == 2  # type: ignore[union-attr]
    assert not series.cells(families.STORE_ERRORS)


def test_failure_counts_its_time_and_its_error_by_code_or_kind() -> None:
    series = counted(Failure(GroupBusy("busy")), Failure(OSError("full")), Failure(OSError("full")))
    assert {labels: cell.value for labels, cell in series.cells(families.STORE_ERRORS)} == {  # type: ignore[union-attr]
        ("main", GroupBusy.code): 1,
        ("main", "OSError"): 2,
    }
    ((_, cell),) = series.cells(families.STORE_DURATION)
    assert sum(cell.counts) == 3  # type: ignore[union-attr]


def test_request_that_was_cancelled_counts_nothing() -> None:
    series = counted(Failure(CancelledError()))
    assert not series.cells(families.STORE_DURATION)
    assert not series.cells(families.STORE_ERRORS)
