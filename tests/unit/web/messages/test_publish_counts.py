"""What a publish counts, by its outcomes."""

from __future__ import annotations

from typing import Any

import pytest
from store_in_memory import MemoryStore
from twisted.internet.task import Clock

from kateway.core.access.authorization import AccessRequest
from kateway.core.access.control import OpenAccess
from kateway.errors import Draining, InvalidTopic, KatewayError, OutcomeUnknown, TopicNotFound, Unavailable
from kateway.model import HandedOff, Message, Receipt
from kateway.observe import families
from kateway.observe.bundles import OTHER
from kateway.observe.cells import Counter
from kateway.observe.series import Series
from kateway.web.messages.publish_counts import PublishCounts

MESSAGES = (Message(b"four", b"key"), Message(b"five5"), Message(None, b"gone"))


@pytest.fixture
def series() -> Series:
    return Series(lambda: 0.0, max_series=40000)


def authorized(topic: str = "orders") -> Any:
    access = OpenAccess({"default": MemoryStore(Clock())})  # type: ignore[dict-item]
    return access.enter(AccessRequest("publish", "v1", topic), lambda _: None)  # type: ignore[arg-type,return-value]


def values(series: Series, family: families.Family) -> dict[tuple[str, ...], float]:
    return {labels: cell.value for labels, cell in series.cells(family) if isinstance(cell, Counter) and cell.value}


ORDERS = ("default", "orders", "v1")


def test_single_publish_counts_its_record_and_bytes(series: Series) -> None:
    PublishCounts(series).answered(authorized(), MESSAGES[:1], [Receipt(0, 7)])
    assert values(series, families.PUBLISH_RECORDS) == {ORDERS: 1}
    assert values(series, families.PUBLISH_BYTES) == {ORDERS: 7}
    assert series.cluster("default").batch.counts[0] == 1


def test_batch_counts_each_message_by_its_own_outcome(series: Series) -> None:
    outcomes = [Receipt(0, None), OutcomeUnknown("lost"), HandedOff(1)]
    PublishCounts(series).answered(authorized(), MESSAGES, outcomes)
    assert values(series, families.PUBLISH_RECORDS) == {ORDERS: 2}
    assert values(series, families.PUBLISH_BYTES) == {ORDERS: 11}
    assert values(series, families.PUBLISH_ERRORS) == {(*ORDERS, "outcome-unknown"): 1}
    assert values(series, families.PUBLISH_MAYBE_WRITTEN) == {("default",): 1}
    assert values(series, families.PUBLISH_HANDOFF) == {("default",): 1}


def test_publish_that_fails_whole_counts_its_records(series: Series) -> None:
    PublishCounts(series).refused(authorized(), OutcomeUnknown("lost"), 3)
    assert values(series, families.PUBLISH_ERRORS) == {(*ORDERS, "outcome-unknown"): 3}
    assert values(series, families.PUBLISH_MAYBE_WRITTEN) == {("default",): 3}


def test_fault_of_ours_is_counted_as_internal(series: Series) -> None:
    PublishCounts(series).refused(authorized(), ValueError("oh"))
    assert values(series, families.PUBLISH_ERRORS) == {(*ORDERS, "internal"): 1}


def test_refused_caller_makes_no_series_of_the_names_that_it_gives(series: Series) -> None:
    PublishCounts(series).refused(None, KatewayError("no"))
    assert values(series, families.PUBLISH_ERRORS) == {(OTHER, OTHER, OTHER, "internal"): 1}
    assert not series.topics


@pytest.mark.parametrize("error", [TopicNotFound("none"), InvalidTopic("no")])
def test_topic_that_there_is_not_becomes_no_series(series: Series, error: KatewayError) -> None:
    counts = PublishCounts(series)
    counts.answered(authorized("made-up"), MESSAGES[:1], [error])
    assert values(series, families.PUBLISH_ERRORS) == {(OTHER, OTHER, OTHER, error.code): 1}
    assert not series.topics


def test_topic_that_only_fails_for_its_store_is_counted_by_its_name(series: Series) -> None:
    PublishCounts(series).answered(authorized(), MESSAGES[:1], [Unavailable("away")])
    assert values(series, families.PUBLISH_ERRORS) == {(*ORDERS, Unavailable.code): 1}


def test_publish_while_the_gateway_stops_is_a_rejected_request(series: Series) -> None:
    PublishCounts(series).answered(authorized(), MESSAGES[:1], [Draining()])
    assert values(series, families.HTTP_REJECTED) == {("draining",): 1}
    assert values(series, families.PUBLISH_ERRORS) == {(*ORDERS, "draining"): 1}
