"""Fetches for a subscription, from a broker that answers by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from kateway.config.schema import KafkaStorageConfig
from kateway.errors import KatewayError
from kateway.storage.kafka.consumer.fetcher import Fetcher


class Broker:
    """The client and its pools; leads every partition."""

    def __init__(self) -> None:
        self.reactor = Clock()
        self.config = KafkaStorageConfig(driver="kafka")
        self.asked: list[Deferred[bytes]] = []

    def pool(self, _purpose: str) -> Broker:
        return self

    def leader(self, _topic: str, _partition: int) -> int:
        return 1

    def watch(self, _changed: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def abort(self, _node: int) -> None: ...

    def close(self) -> Deferred[None]:
        return succeed(None)

    def request(self, *_request: Any, **_options: Any) -> Deferred[bytes]:
        self.asked.append(answer := Deferred())
        return answer


class Reader:
    def arrived(self, partition: int) -> None: ...

    def out_of_range(self, partition: int) -> None: ...

    def report_error(self, error: KatewayError) -> None: ...


def owning(broker: Any) -> Fetcher:
    fetcher = Fetcher(broker, "test", "t", Reader())
    own(fetcher)
    return fetcher


def own(fetcher: Fetcher) -> None:
    fetcher.own(frozenset({0}))
    fetcher.buffers[0].start_at(0)
    fetcher.fill()


def test_partition_held_when_a_rebalance_comes_is_fetched_by_its_next_owner() -> None:
    broker = Broker()
    fetcher = owning(broker)
    fetcher.hold(0)
    fetcher.disown()
    own(fetcher)
    broker.reactor.advance(2)
    assert len(broker.asked) == 2
    fetcher.close()


def test_fetch_that_ends_in_an_unforeseen_exception_is_logged_and_made_again(
    logged_errors: list[dict[str, Any]],
) -> None:
    broker = Broker()
    fetcher = owning(broker)
    broker.asked[0].errback(ZeroDivisionError("unforeseen"))
    broker.reactor.advance(2)
    assert len(broker.asked) == 2
    assert [event["log_failure"].type for event in logged_errors] == [ZeroDivisionError] * 1
    logged_errors.clear()
    fetcher.close()
