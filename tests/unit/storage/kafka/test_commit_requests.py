"""Commits that a coordinator does not store as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from kateway.config.schema import KafkaStorageConfig
from kateway.errors import Denied
from kateway.model import Committed, Health
from kateway.storage.interface import MetadataRefused
from kateway.storage.kafka.cluster.commit_requests import MAX_REQUEST_BYTES, divide, stored_bytes
from kateway.storage.kafka.cluster.offsets import Offsets
from kateway.storage.kafka.protocol import requests as wire
from kateway.storage.kafka.protocol.primitives import ByteReader, array, i16, i32, string

TEXT = "x" * 4000
Judge = Callable[[Mapping[int, Committed]], Mapping[int, int]]


class Coordinator:
    """A broker that stores offsets, and the client that asks it; ``judge`` gives the errors of a request."""

    def __init__(self, judge: Judge) -> None:
        self.reactor = Clock()
        self.config = KafkaStorageConfig(driver="kafka")
        self.stored: dict[int, Committed] = {}
        self.requests: list[int] = []
        """How many offsets were in each."""
        self._judge = judge

    def health(self) -> Health:
        return Health(True)

    async def find(self, _group: str) -> int:
        return 1

    def forget(self, _group: str) -> None: ...

    async def request(self, _node: int, key: int, _version: int, body: bytes, **_options: float) -> bytes:
        assert key == wire.OFFSET_COMMIT
        read = ByteReader(body)
        read.string(), read.i32(), read.string(), read.i64(), read.i32(), read.string()
        asked = {read.i32(): Committed(read.i64(), read.string() or "") for _ in range(read.i32())}
        self.requests.append(len(asked))
        errors = self._judge(asked)
        self.stored.update((partition, place) for partition, place in asked.items() if not errors.get(partition))
        return i32(1) + string("t") + array(i32(each) + i16(errors.get(each, 0)) for each in asked)

    def commit(self, offsets: Mapping[int, Committed]) -> list[Any]:
        found: list[Any] = []
        offsets_of = Offsets(self, self, self)  # type: ignore[arg-type]
        committing = offsets_of.commit(self, "g", "t", offsets)  # type: ignore[arg-type]
        Deferred.fromCoroutine(committing).addBoth(found.append)
        for _ in range(200):
            self.reactor.advance(0.1)
        return found


def whole(offsets: Mapping[int, Committed], error: int) -> Mapping[int, int]:
    return dict.fromkeys(offsets, error)


def at_most(max_bytes: int, error: int) -> Judge:
    return lambda asked: whole(asked, error) if stored_bytes("g", "t", asked) > max_bytes else {}


def test_commit_that_is_longer_than_a_batch_is_sent_in_parts() -> None:
    coordinator = Coordinator(at_most(1_000_000, 28))
    offsets = {partition: Committed(partition, TEXT) for partition in range(300)}
    assert coordinator.commit(offsets) == [set()]
    assert coordinator.stored == offsets
    assert len(coordinator.requests) == 4


@pytest.mark.parametrize("error", [-1, 10, 18, 28], ids=["Kafka 4", "message", "record list", "Kafka 3.9"])
def test_commit_refused_as_too_long_is_divided_until_the_coordinator_takes_it(error: int) -> None:
    coordinator = Coordinator(at_most(20_000, error))
    offsets = {partition: Committed(partition, TEXT) for partition in range(40)}
    assert coordinator.commit(offsets) == [set()]
    assert coordinator.stored == offsets


def test_partitions_whose_metadata_is_refused_are_named_and_the_others_are_committed() -> None:
    coordinator = Coordinator(lambda asked: {each: 12 for each, place in asked.items() if len(place.metadata) > 100})
    (failure,) = coordinator.commit({0: Committed(5, TEXT), 1: Committed(6, "x"), 2: Committed(7, TEXT)})
    assert isinstance(failure.value, MetadataRefused)
    assert failure.value.partitions == {0, 2}
    assert coordinator.stored == {1: Committed(6, "x")}


def test_one_offset_that_is_longer_than_a_batch_is_refused_for_its_metadata() -> None:
    coordinator = Coordinator(at_most(1000, 28))
    (failure,) = coordinator.commit({0: Committed(5, TEXT), 1: Committed(6)})
    assert failure.value.partitions == {0}
    assert coordinator.stored == {1: Committed(6)}


def test_rebalance_in_one_part_is_the_answer_of_all() -> None:
    coordinator = Coordinator(lambda asked: whole(asked, 27) if 299 in asked else {})
    assert coordinator.commit({partition: Committed(partition, TEXT) for partition in range(300)}) == [{27}]


def test_refusal_for_another_cause_is_told_as_it_is() -> None:
    coordinator = Coordinator(lambda asked: whole(asked, 30))
    (failure,) = coordinator.commit({partition: Committed(partition, TEXT) for partition in range(40)})
    assert isinstance(failure.value, Denied)
    assert len(coordinator.requests) == 1


def test_unknown_error_that_passes_loses_nothing() -> None:
    answers = iter([-1])
    coordinator = Coordinator(lambda asked: whole(asked, next(answers, 0)))
    offsets = {partition: Committed(partition, TEXT) for partition in range(4)}
    assert coordinator.commit(offsets) == [set()]
    assert coordinator.stored == offsets


def test_parts_hold_each_offset_once_in_order_and_are_bounded() -> None:
    offsets = {partition: Committed(partition, "x" * (partition % 4000)) for partition in range(3000)}
    parts = divide("g", "t", offsets)
    assert [place for part in parts for place in part.items()] == list(offsets.items())
    assert all(stored_bytes("g", "t", part) <= MAX_REQUEST_BYTES for part in parts)
    assert divide("g", "t", {0: Committed(0, TEXT)}, 10) == [{0: Committed(0, TEXT)}]
    assert divide("g", "t", {}) == [{}]
