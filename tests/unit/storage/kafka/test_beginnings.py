"""Where a group begins in a topic, beside other members that begin at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kateway.model import Committed
from kateway.storage.kafka.consumer.beginnings import Beginnings
from kateway.storage.kafka.consumer.membership import Generation


class Brokers:
    """Places of a group in a topic that begins at 0 and ends at 10. ``between`` happens while its ends are asked."""

    def __init__(self, places: dict[int, Committed | None]) -> None:
        self.places = places
        self.between: dict[int, Committed | None] = {}
        self.sent: list[dict[int, Committed]] = []
        self.generation: Generation | None = Generation(1, "member")

    async def committed(self, _group: str, _topic: str, only: Iterable[int]) -> dict[int, Committed | None]:
        return {partition: self.places.get(partition) for partition in only}

    async def at(self, _topic: str, where: str, partitions: Iterable[int]) -> dict[int, int]:
        self.places.update(self.between)
        return dict.fromkeys(partitions, 10 if where == "latest" else 0)

    async def send(self, places: Mapping[int, Committed], _generation: Generation) -> set[int]:
        self.sent.append(dict(places))
        return set()


def run(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as over:
        return over.value
    raise AssertionError("it waits")


def find(brokers: Any, *partitions: int) -> Any:
    beginnings = Beginnings(brokers, brokers, brokers, "g", "t", "latest")
    return run(beginnings.find(frozenset(partitions), frozenset(brokers.places)))


def test_first_member_of_a_group_commits_where_all_partitions_begin() -> None:
    brokers = Brokers({0: None, 1: None})
    assert find(brokers, 0) == {0: Committed(10), 1: Committed(10)}
    assert brokers.sent == [{0: Committed(10), 1: Committed(10)}]


def test_start_is_not_committed_over_what_another_member_has_committed_meanwhile() -> None:
    brokers = Brokers({0: None, 1: None})
    brokers.between = {1: Committed(50)}
    assert find(brokers, 0) == {0: Committed(10), 1: Committed(50)}
    assert brokers.sent == [{0: Committed(10)}]


def test_nothing_is_committed_where_another_member_has_committed_all_starts_meanwhile() -> None:
    brokers = Brokers({0: None, 1: None})
    brokers.between = {0: Committed(9), 1: Committed(9)}
    assert find(brokers, 0) == {0: Committed(9), 1: Committed(9)}
    assert brokers.sent == []


def test_partition_that_was_added_begins_at_its_first_record() -> None:
    assert find(Brokers({0: Committed(7), 1: None}), 1) == {0: Committed(7), 1: Committed(0)}
