"""Fetches for a subscription, from a broker that answers by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from kateway.config.schema import KafkaStorageConfig
from kateway.errors import KatewayError
from kateway.model import Message
from kateway.storage.kafka.consumer.fetch_lane import IDLE_WAIT_MS
from kateway.storage.kafka.consumer.fetcher import LET_GO_SECONDS, Fetcher
from kateway.storage.kafka.protocol.primitives import array, i16, i32, i64, string
from kateway.storage.kafka.protocol.record_batches import encode_batch


class Broker:
    """The client and its pools; leads every partition."""

    def __init__(self) -> None:
        self.reactor = Clock()
        self.config = KafkaStorageConfig(driver="kafka")
        self.asked: list[Deferred[bytes]] = []
        self.waits_ms: list[int] = []
        self.aborted = 0

    def pool(self, _purpose: str, _client_id: str = "") -> Broker:
        return self

    def leader(self, _topic: str, _partition: int) -> int:
        return 1

    def watch(self, _changed: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def abort(self, _node: int) -> None:
        self.aborted += 1

    def close(self) -> Deferred[None]:
        return succeed(None)

    def request(self, _node: int, _key: int, _version: int, body: bytes, **_options: Any) -> Deferred[bytes]:
        self.waits_ms.append(int.from_bytes(body[4:8], "big"))
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


def brings(blob: bytes = b"", partition: int = 0) -> bytes:
    """A fetch answer with the records of one partition."""
    found = i32(partition) + i16(0) + i64(9) + i64(9) + i64(0) + array([]) + i32(len(blob)) + blob
    return i32(0) + i16(0) + i32(0) + array([string("t") + array([found])])


def idle(broker: Broker) -> Fetcher:
    """A fetcher whose last polls brought nothing."""
    fetcher = owning(broker)
    for _ in range(3):
        broker.asked[-1].callback(brings())
    return fetcher


def test_poll_that_brings_nothing_is_followed_by_a_longer_one_up_to_the_bound() -> None:
    broker = Broker()
    fetcher = idle(broker)
    assert broker.waits_ms == [500, 1000, IDLE_WAIT_MS, IDLE_WAIT_MS]
    broker.asked[-1].callback(brings(encode_batch([Message(b"x")], now_ms=1, base_offset=0)))
    assert broker.waits_ms[4:] == [500]
    fetcher.close()


def test_long_poll_is_cut_off_where_another_partition_comes() -> None:
    broker = Broker()
    fetcher = idle(broker)
    fetcher.own(frozenset({1}))
    fetcher.fill()
    assert not broker.aborted  # it is not known yet where to begin
    fetcher.buffers[1].start_at(0)
    fetcher.fill()
    assert broker.aborted == 1
    broker.reactor.advance(0)
    assert broker.waits_ms[4:] == [500]
    fetcher.close()


def test_long_poll_is_cut_off_where_a_reader_goes_back() -> None:
    broker = Broker()
    fetcher = idle(broker)
    fetcher.buffers[0].start_at(5)
    fetcher.fill()
    broker.reactor.advance(0)
    assert (broker.aborted, broker.waits_ms[4:]) == (1, [500])
    fetcher.close()


def test_long_poll_goes_on_where_a_partition_goes() -> None:
    broker = Broker()
    fetcher = Fetcher(broker, "test", "t", Reader())  # type: ignore[arg-type]
    fetcher.own(frozenset({0, 1}))
    for buffer in fetcher.buffers.values():
        buffer.start_at(0)
    fetcher.fill()
    broker.asked[-1].callback(brings())
    fetcher.give_up(frozenset({1}))
    fetcher.fill()
    assert (broker.aborted, len(broker.asked)) == (0, 2)
    fetcher.close()


def test_reader_that_takes_again_from_a_partition_at_rest_does_not_wait_for_a_long_poll() -> None:
    broker = Broker()
    fetcher = owning(broker)
    broker.asked[-1].callback(brings(encode_batch([Message(b"x")], now_ms=1, base_offset=0)))
    for _ in range(2):
        broker.asked[-1].callback(brings())
    broker.reactor.advance(LET_GO_SECONDS)
    assert fetcher.buffers[0].asleep
    fetcher.wake(fetcher.buffers[0])
    broker.reactor.advance(0)
    broker.reactor.advance(0)
    assert (broker.aborted, broker.waits_ms[-1]) == (1, 500)
    fetcher.close()


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
