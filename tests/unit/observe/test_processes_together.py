"""Series, failed and slow requests and changes of several processes become those of their gateway."""

from __future__ import annotations

from kateway.observe.parts import Parts
from kateway.observe.points_together import together
from kateway.observe.rings import Points
from kateway.observe.troubles import MOST_SAMPLES
from kateway.observe.troubles_together import error_groups, newest, slowest


def test_rates_are_added_up_and_of_ages_the_highest_is_told() -> None:
    one, other = Points(10, 100, [1.0, None, 3.0]), Points(10, 100, [10.0, None, None])
    assert together("in_records", [one, other]).figures == [11.0, None, 3.0]
    assert together("oldest_seconds", [one, other]).figures == [10.0, None, 3.0]


def test_points_of_a_later_window_go_to_their_own_times() -> None:
    early, late = Points(10, 90, [1.0, 2.0, 3.0]), Points(10, 100, [20.0, 30.0, 40.0])
    assert together("lag", [late, early]) == Points(10, 90, [1.0, 22.0, 33.0])


def test_process_without_the_object_says_nothing_of_the_window() -> None:
    nothing, known = Points(10, 90, [None, None]), Points(10, 100, [1.0, 2.0])
    assert together("lag", [nothing, known]) == known
    assert together("lag", [nothing, nothing]) == nothing


def group(count: int, at: float, samples: int) -> dict[str, object]:
    return {
        "reason": "quota-exceeded",
        "application": "app1",
        "topic": "app1/t/v1",
        "count": count,
        "first": at - 10,
        "last": at,
        "samples": [{"at": at - number, "request_id": f"{at}-{number}"} for number in range(samples)],
    }


def test_failed_requests_of_one_reason_are_one_group_with_the_newest_samples() -> None:
    (found,) = error_groups({0: [group(3, 100.0, 3)], 1: [group(4, 101.5, 4)]})
    assert (found["count"], found["first"], found["last"]) == (7, 90.0, 101.5)
    assert len(found["samples"]) == MOST_SAMPLES
    assert [sample["process"] for sample in found["samples"]] == [1, 1, 0, 1, 0]


def test_one_process_alone_is_not_named() -> None:
    (found,) = error_groups({None: [group(1, 100.0, 1)]})
    assert "process" not in found["samples"][0]


def test_slow_requests_and_changes_are_in_the_order_of_all() -> None:
    rows = slowest({0: [{"seconds": 1.0}, {"seconds": 0.1}], 1: [{"seconds": 0.5}]})
    assert [(row["seconds"], row["process"]) for row in rows] == [(1.0, 0), (0.5, 1), (0.1, 0)]
    assert [row["at"] for row in newest({0: [{"at": 1.0}], 1: [{"at": 2.0}]})] == [2.0, 1.0]


def test_missing_part_is_named_in_members_and_headers() -> None:
    assert Parts({}).named == {}
    assert Parts({}).headers == ()
    assert Parts({}, (1, 3)).named == {"unanswered_processes": [1, 3]}
    assert Parts({}, (1, 3)).headers == ((b"Kateway-Unanswered-Processes", b"1,3"),)
