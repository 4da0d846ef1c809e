"""The table of ``kateway-admin top``, and the records of ``kateway-admin records tail``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from kateway.cli.tail import new_records
from kateway.cli.top import lines


def row(name: str, **members: Any) -> dict[str, Any]:
    return {
        "name": name,
        "lag": 500,
        "oldest_seconds": 7200.0,
        "readers": 3,
        "rates": {"out_records": 12.25},
        "verdict": {"state": "leases-run-out", "reason": "24% of the leases of the last minute ran out"},
        **members,
    }


LONG = f"{'a' * 64}/{'b' * 64}/{'c' * 64}/v1/group"


def test_table_says_verdict_lag_age_readers_and_rate() -> None:
    words, _, head, line = lines([row("app2/app1/foobar/v1/group1")], 80)
    assert words == "1 group: 1 leases-run-out"
    assert head.split() == ["VERDICT", "LAG", "AGE", "READERS", "OUT/S", "GROUP"]
    assert line.split() == ["leases-run-out", "500", "2h", "3", "12", "app2/app1/foobar/v1/group1"]


@pytest.mark.parametrize("width", [60, 80, 119, 120, 200])
def test_no_line_is_longer_than_the_terminal_is_wide(width: int) -> None:
    big = row(LONG, lag=123_456_789_012, oldest_seconds=1e7, readers=12345, rates={"out_records": 1_234_567.0})
    found = lines([row("a/b/c/v1/d"), big, row("x")], width, more=True)
    assert max(map(len, found)) <= width
    assert "123.5G" in found[4]
    assert found[4].count("…") >= 1


def test_wide_table_says_why() -> None:
    found = lines([row("app2/app1/foobar/v1/group1")], 140)
    assert found[2].endswith("WHY")
    assert found[3].endswith("24% of the leases of the last minute ran out")


def test_unknown_figure_is_no_nought_and_no_control_character_is_printed() -> None:
    line = lines([row("a\x1b[2Jb", lag=None, rates=None), row("b", oldest_seconds=None)], 80)[3:]
    assert line[0].split() == ["leases-run-out", "?", "-", "3", "?", "a?[2Jb"]
    assert line[1].split() == ["leases-run-out", "500", "?", "3", "12", "b"]


def test_no_groups_are_said() -> None:
    assert lines([], 80) == ["no groups", ""]


class Topic:
    """Two partitions; a look shows the newest records, three at most, or those from an offset on."""

    def __init__(self) -> None:
        self.partitions: list[list[dict[str, Any]]] = [[], []]
        self.order: list[dict[str, Any]] = []
        self.kept_from = 0

    def write(self, partition: int, count: int = 1) -> None:
        for _ in range(count):
            record = {"partition": partition, "offset": len(self.partitions[partition]), "value": str(len(self.order))}
            self.partitions[partition].append(record)
            self.order.append(record)

    def look(self, **query: int) -> dict[str, Any]:
        if "offset" in query:
            there = self.partitions[query["partition"]][max(query["offset"], self.kept_from) :]
            return {"records": there[:2], "scanned": {"partitions": []}}
        newest = self.order[-3:]
        spans = [
            {"partition": number, "first": offsets[0], "last": offsets[-1]}
            for number in (0, 1)
            if (offsets := [record["offset"] for record in newest if record["partition"] == number])
        ]
        return {"records": newest, "scanned": {"partitions": spans}}


def values(records: Iterator[Any], count: int) -> list[str]:
    return [record["value"] for record in islice(records, count)]


def test_tail_begins_with_the_last_records_and_goes_on_with_new_ones() -> None:
    topic = Topic()
    topic.write(0, 2)
    topic.write(1)
    tail = new_records(topic.look, 2, lambda: topic.write(1))
    assert values(tail, 4) == ["1", "2", "3", "4"]


def test_tail_gives_records_of_a_burst_that_a_look_does_not_reach() -> None:
    topic = Topic()
    topic.write(0)
    tail = new_records(topic.look, 0, lambda: topic.write(0, 8))
    assert values(tail, 16) == [str(number) for number in range(1, 17)]


def test_tail_goes_on_where_retention_took_records() -> None:
    topic = Topic()
    topic.write(0)

    def pause() -> None:
        topic.write(0, 8)
        topic.kept_from = len(topic.order)

    assert values(new_records(topic.look, 0, pause), 3) == ["6", "7", "8"]
