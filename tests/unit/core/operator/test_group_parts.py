"""What several processes know of one group is added up."""

from __future__ import annotations

import json

from kateway.core.operator.group_parts import (
    Before,
    GroupPart,
    drain_seconds,
    from_table,
    growth,
    to_table,
    together,
)
from kateway.core.operator.naming import GroupName
from kateway.core.operator.situations import judged
from kateway.observe.verdicts import Poison, Situation

NAME = GroupName("app2", "app1", "t", "v1", "g")


def part(readers: int, partitions: int, lag: int | None, **more: object) -> GroupPart:
    """Of a process that reads so many of four partitions."""
    situation = Situation(lag=lag, readers=readers, unacknowledged=0, delivered=60.0)
    given: dict[str, object] = {"total": 4, "situation": situation, "looked": True, **more}
    state = "reading" if readers else "lingering"
    return GroupPart(NAME, False, state, readers, partitions, lag=lag, **given)  # type: ignore[arg-type]


def left(lag: int | None, age: float) -> GroupPart:
    """Of a process that has read it and remembers its lag."""
    situation = Situation(lag=lag, readers=0, unread_seconds=age, delivered=0.0)
    return GroupPart(NAME, False, "not-read-here", 0, lag=lag, lag_age_seconds=age, situation=situation, looked=True)


def test_part_of_one_process_is_the_answer() -> None:
    only = part(1, 2, 5)
    assert together([only]) is only
    assert only.whole_lag is None, "another gateway has the other two"


def test_partitions_of_two_processes_make_the_whole_lag() -> None:
    both = together([part(1, 2, 5), part(2, 2, 7)])
    assert (both.readers, both.state, both.lag, both.whole_lag) == (3, "reading", 12, 12)
    assert both.situation is not None
    assert (both.situation.lag, both.situation.readers, both.situation.delivered) == (12, 3, 120.0)


def test_lag_is_unknown_while_a_partition_is_between_two_processes() -> None:
    assert together([part(1, 2, 5), part(1, 1, 7)]).whole_lag is None
    assert together([part(1, 2, 5), part(1, 2, None)]).whole_lag is None


def test_remembered_lag_gives_way_to_that_of_the_process_that_reads() -> None:
    both = together([left(1000, 30.0), part(1, 4, 5)])
    assert (both.whole_lag, both.state) == (5, "reading")
    assert judged(both.situation, both.looked).state != "abandoned"


def test_of_two_remembered_lags_the_newer_is_told_and_not_the_sum() -> None:
    both = together([left(1000, 30.0), left(900, 10.0)])
    assert (both.whole_lag, both.lag_age_seconds, both.state) == (900, 10.0, "not-read-here")
    verdict = judged(both.situation, both.looked)
    assert verdict.state == "abandoned"
    assert verdict.reason == "900 records behind, and no reader for 10 s"


def test_worst_of_the_processes_makes_the_verdict() -> None:
    sick = part(1, 2, 5)._replace(
        situation=Situation(lag=5, readers=1, delivered=3.0, poison=Poison(1, 7, 5)), last_error="its broker is away"
    )
    both = together([part(1, 2, 5), sick])
    assert judged(both.situation, both.looked).reason.startswith("the record at partition 1 offset 7 was delivered 5")
    assert both.last_error == "its broker is away"


def test_pace_is_that_of_all_partitions() -> None:
    both = together([part(1, 2, 50, before=Before(60.0, 100)), part(1, 2, 10, before=Before(60.0, 80))])
    assert both.before == Before(60.0, 180)
    assert drain_seconds(both.whole_lag, both.before) == 60 * 60.0 / 120
    assert growth(both.whole_lag, both.before) == -2.0
    assert together([part(1, 2, 50, before=Before(60.0, 100)), part(1, 2, 10)]).before is None


def test_part_survives_the_way_as_json() -> None:
    given = part(1, 2, 5, before=Before(3.0, 9), rates={"out_records": 1.5})._replace(
        situation=Situation(lag=5, poison=Poison(0, 1, 3), breaker_open=True)
    )
    assert from_table(json.loads(json.dumps(to_table(given)))) == given
