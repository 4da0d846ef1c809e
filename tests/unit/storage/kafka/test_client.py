"""The loop that looks after a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from kateway.config.schema import KafkaStorageConfig
from kateway.errors import Unavailable
from kateway.storage.kafka.cluster.client import Client


def test_client_after_an_unforeseen_exception_answers_its_waiters_and_looks_again(
    logged_errors: list[dict[str, Any]],
) -> None:
    looks: list[None] = []

    async def discover() -> Sequence[str]:
        looks.append(None)
        raise ZeroDivisionError("unforeseen")

    clock = Clock()
    client = Client(clock, KafkaStorageConfig(driver="kafka"), discover=discover)
    client.start()
    failures: list[Failure] = []
    client.refresh().addErrback(failures.append)
    clock.pump([0.5] * 4)
    assert len(looks) >= 2
    assert [failure.type for failure in failures] == [Unavailable]
    assert [event["log_failure"].type for event in logged_errors] == [ZeroDivisionError] * len(looks)
    logged_errors.clear()
    Deferred.fromCoroutine(client.stop())


def test_client_whose_discovery_was_cancelled_answers_its_waiters_and_looks_again() -> None:
    looks: list[None] = []

    async def discover() -> Sequence[str]:
        looks.append(None)
        raise CancelledError

    clock = Clock()
    client = Client(clock, KafkaStorageConfig(driver="kafka"), discover=discover)
    client.start()
    failures: list[Failure] = []
    client.refresh().addErrback(failures.append)
    clock.pump([0.5] * 4)
    assert len(looks) >= 2
    assert [failure.type for failure in failures] == [Unavailable]
    looked = len(looks)
    Deferred.fromCoroutine(client.stop())
    clock.pump([0.5] * 4)
    assert len(looks) == looked
    assert not clock.getDelayedCalls()
