"""Fetches for one subscription: all its partitions that one broker leads in one request, one request under way to a
broker, each a long poll. Plain callbacks: this is the hot path of reading.

Asks only for partitions whose buffer has room. While some have none, the polls of the others are short, so that a
reader that begins to take again does not wait for a long one to end.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from kateway.errors import CorruptRecords, KatewayError
from kateway.storage.kafka.client import Client, Pool
from kateway.storage.kafka.connection import RequestFailed
from kateway.storage.kafka.errors import OFFSET_OUT_OF_RANGE, REROUTE, error_for
from kateway.storage.kafka.prefetch import Prefetch
from kateway.storage.kafka.primitives import MalformedResponse
from kateway.storage.kafka.wire import FETCH, FETCH_VERSION, FetchedPartition, Wanted, decode_fetch, encode_fetch

MAX_WAIT_MS = 500
SHORT_WAIT_MS = 20
RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 1.0
CORRUPT_RETRY_SECONDS = 1.0
IDLE_SECONDS = 10.0
LET_GO_SECONDS = 2.0
"""What nobody takes for so long is dropped: a reader that stands still holds nothing."""
FIRST_ASK_BYTES = 32768
"""Of all partitions of a subscription together, at the start."""
LEAST_ASK_BYTES = 4096


class Reading(Protocol):
    """Who is told what the fetches bring."""

    def arrived(self, partition: int) -> None:
        """There is something to take where there was nothing."""

    def out_of_range(self, partition: int) -> None:
        """The partition does not hold the offset that was asked for."""

    def trouble(self, error: KatewayError) -> None:
        """The broker refuses, or holds what cannot be read."""


class _Lane:
    """One broker: what is under way to it."""

    def __init__(self) -> None:
        self.under_way: Deferred[bytes] | None = None
        self.waiting: IDelayedCall | None = None
        self.failures = 0
        self.short_wait_ms = SHORT_WAIT_MS


class Fetcher:
    """Keeps the buffers of a subscription's partitions filled."""

    def __init__(self, client: Client, pool: Pool, topic: str, reading: Reading) -> None:
        self._client = client
        self._reactor = client.reactor
        self._pool = pool
        self._topic = topic
        self._reading = reading
        self._most_bytes = client.config.fetch_max_bytes
        self._lanes: dict[int | None, _Lane] = {}
        self._held: set[int] = set()
        self._looking: IDelayedCall | None = None
        # while something is at hand: whether anybody takes it
        self._filling: IDelayedCall | None = None
        self._closed = False
        self.buffers: dict[int, Prefetch] = {}
        self._forget = client.watch(self.fill)

    def own(self, partitions: frozenset[int]) -> None:
        """Makes buffers; a partition is fetched once its buffer has a position."""
        first = max(LEAST_ASK_BYTES, FIRST_ASK_BYTES // max(1, len(partitions)))
        for partition in sorted(partitions):
            self.buffers[partition] = Prefetch(partition, min(first, self._most_bytes), self._most_bytes)

    def disown(self) -> None:
        """Forgets all partitions and what was asked for them."""
        self.buffers.clear()
        lanes, self._lanes = self._lanes, {}
        for node, lane in lanes.items():
            if lane.waiting is not None and lane.waiting.active():
                lane.waiting.cancel()
            if lane.under_way is not None:
                lane.under_way.cancel()
                if node is not None:
                    self._pool.abort(node)  # the next request would wait for the answer to this one

    def close(self) -> None:
        """Ends all."""
        self._closed = True
        self._forget()
        self.disown()
        for call in (self._looking, self._filling):
            if call is not None:
                call.cancel()
        self._looking = self._filling = None

    def wake(self, buffer: Prefetch) -> None:
        """Somebody takes again from where nobody did; often from other partitions, too, in the same turn."""
        buffer.asleep = False
        self.taken(buffer)

    def taken(self, buffer: Prefetch) -> None:
        """Something was taken: there may be room now. Hot."""
        buffer.taken_at = self._reactor.seconds()
        lane = self._lanes.get(self._client.leader(self._topic, buffer.partition))
        if lane is not None:
            lane.short_wait_ms = SHORT_WAIT_MS
            if lane.under_way is not None or lane.waiting is not None:
                return
        if self._filling is None and buffer.wants:
            # whoever took may say in this turn that it takes no more
            self._filling = self._reactor.callLater(0, self._fill_now)

    def _fill_now(self) -> None:
        self._filling = None
        self.fill()

    def fill(self) -> None:
        """Asks each broker that nothing is asked of for what there is room for."""
        if self._closed:
            return
        by_node: dict[int | None, list[Prefetch]] = {}
        for partition, buffer in self.buffers.items():
            if buffer.position is not None and partition not in self._held:
                by_node.setdefault(self._client.leader(self._topic, partition), []).append(buffer)
        for node, buffers in by_node.items():
            lane = self._lanes.get(node)
            if lane is None:
                lane = self._lanes[node] = _Lane()
            if lane.under_way is not None or lane.waiting is not None:
                continue
            if node is None:
                self._look_again(lane)
            else:
                self._ask(node, lane, buffers)

    def hold(self, partition: int) -> None:
        """Leaves a partition alone for a while: what it holds could not be read."""
        self._held.add(partition)
        lane = self._lanes.setdefault(None, _Lane())
        self._again(lane, CORRUPT_RETRY_SECONDS)

    def _ask(self, node: int, lane: _Lane, buffers: list[Prefetch]) -> None:
        wanted = [Wanted(buffer.partition, buffer.next_fetch, wants) for buffer in buffers if (wants := buffer.wants)]
        if not wanted:
            return
        wait_ms = MAX_WAIT_MS
        if len(wanted) < len(buffers):
            wait_ms = lane.short_wait_ms
            lane.short_wait_ms = min(MAX_WAIT_MS, wait_ms * 2)
        idle_since = self._reactor.seconds() - IDLE_SECONDS
        for buffer in buffers:
            if buffer.taken_at < idle_since:
                buffer.shrink()
        body = encode_fetch(self._topic, wanted, max_wait_ms=wait_ms, min_bytes=1, max_bytes=self._most_bytes)
        timeout = self._client.config.request_timeout_seconds + wait_ms / 1000
        lane.under_way = answer = self._pool.request(node, FETCH, FETCH_VERSION, body, timeout_seconds=timeout)
        asked = {want.partition: want.offset for want in wanted}
        answer.addCallbacks(self._answered, self._failed, callbackArgs=(lane, asked), errbackArgs=(lane,))
        answer.addErrback(self._broke, lane)

    def _answered(self, body: bytes, lane: _Lane, asked: dict[int, int]) -> None:
        lane.under_way = None
        error, partitions = decode_fetch(body)
        if error:
            self._reading.trouble(error_for(error, f"fetching from {self._topic}"))
            self._again(lane, MAX_RETRY_SECONDS)
            return
        lane.failures = 0
        reroute = False
        arrived: list[int] = []
        for found in partitions:
            buffer = self.buffers.get(found.partition)
            if buffer is None or buffer.position is None or buffer.next_fetch != asked.get(found.partition):
                continue  # moved meanwhile
            if buffer.asleep:
                continue  # nobody takes it any more
            if found.error:
                reroute = self._refused(buffer, found) or reroute
                continue
            buffer.end = found.end
            if found.records and self._take_in(buffer, found):
                arrived.append(found.partition)
        for partition in arrived:
            self._reading.arrived(partition)
        # only now: a slow reader has taken what it has room for, and wants no more
        if reroute:
            self._look_again(lane)
        else:
            self.fill()

    def _take_in(self, buffer: Prefetch, found: FetchedPartition) -> bool:
        """Whether there is something to take now where there was nothing."""
        had = buffer.readable
        try:
            buffer.fetched(found.records, found.aborted)
        except CorruptRecords as error:
            self.hold(buffer.partition)
            self._reading.trouble(error)
            return False
        if not had:
            buffer.taken_at = self._reactor.seconds()
            if self._looking is None:
                self._looking = self._reactor.callLater(LET_GO_SECONDS, self._let_go)
        # whoever gets data goes to the end: a broker fills a request's partitions in their order
        self.buffers[buffer.partition] = self.buffers.pop(buffer.partition)
        return not had and buffer.readable

    def _let_go(self) -> None:
        """Drops what nobody has taken for a while."""
        self._looking = None
        at_hand = False
        since = self._reactor.seconds() - LET_GO_SECONDS
        for buffer in self.buffers.values():
            if buffer.readable:
                if buffer.taken_at <= since:
                    buffer.let_go()
                else:
                    at_hand = True
        if at_hand:
            self._looking = self._reactor.callLater(LET_GO_SECONDS, self._let_go)

    def _refused(self, buffer: Prefetch, found: FetchedPartition) -> bool:
        """Whether the leaders have to be looked up again."""
        if found.error == OFFSET_OUT_OF_RANGE:
            if buffer.readable:  # first what is at hand; then it is asked and refused again
                self.hold(buffer.partition)
            else:
                buffer.position = None
                self._reading.out_of_range(buffer.partition)
            return False
        if found.error in REROUTE:
            return True
        self.hold(buffer.partition)
        self._reading.trouble(error_for(found.error, f"fetching from {self._topic} partition {buffer.partition}"))
        return False

    def _failed(self, failure: Failure, lane: _Lane) -> None:
        lane.under_way = None
        if not failure.check(CancelledError):
            failure.trap(RequestFailed)
            self._look_again(lane)

    def _broke(self, failure: Failure, lane: _Lane) -> None:
        failure.trap(MalformedResponse)
        self._again(lane, MAX_RETRY_SECONDS)

    def _look_again(self, lane: _Lane) -> None:
        lane.failures += 1
        self._client.refresh().addErrback(lambda failure: failure.trap(KatewayError, CancelledError) and None)
        self._again(lane, min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2 ** min(lane.failures - 1, 5)))

    def _again(self, lane: _Lane, seconds: float) -> None:
        if self._closed or lane.waiting is not None or lane not in self._lanes.values():
            return
        lane.waiting = self._reactor.callLater(seconds, self._go_on, lane)

    def _go_on(self, lane: _Lane) -> None:
        lane.waiting = None
        if lane is self._lanes.get(None):
            self._held.clear()
        self.fill()
