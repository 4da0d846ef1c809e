"""Fetches for one subscription: the partitions that one broker leads in one request, each a long poll, the next when it
is answered. Plain callbacks: this is the hot path of reading.

Asks only for partitions whose buffer has room. While some have none, the polls of the others are short, so that a
reader that begins to take again does not wait for a long one to end.

With many partitions a broker keeps the request (``fetch_session``), and the work here for each request is in
proportion to the changes: buffers note themselves in their lane's ``changes``. The broker itself looks at every
partition of a request before it answers for one. So thousands are shared out to several requests, each on a connection
of its own.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.errors import CorruptRecords, KatewayError
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.cluster.connection import RequestFailed
from kateway.storage.kafka.cluster.pool import Pool
from kateway.storage.kafka.consumer.fetch_lane import (
    IDLE_WAIT_MS,
    MAX_RETRY_SECONDS,
    MAX_WAIT_MS,
    NOWHERE,
    SHORT_WAIT_MS,
    Lane,
    Way,
)
from kateway.storage.kafka.consumer.prefetch import Prefetch
from kateway.storage.kafka.protocol.errors import OFFSET_OUT_OF_RANGE, REROUTE, SESSION_LOST, error_for
from kateway.storage.kafka.protocol.primitives import MalformedResponse
from kateway.storage.kafka.protocol.requests import (
    FETCH,
    FETCH_VERSION,
    FetchedPartition,
    Wanted,
    decode_fetch,
    encode_fetch,
)

CORRUPT_RETRY_SECONDS = 1.0
IDLE_SECONDS = 10.0
LET_GO_SECONDS = 2.0
"""Records not taken for so long are dropped: a reader that stands still holds no memory."""
FIRST_ASK_BYTES = 32768
"""Of all partitions of a subscription together, at the start."""
LEAST_ASK_BYTES = 4096
SESSION_PARTITIONS = 16
"""From so many on a session is worth one of the broker's slots (a thousand by default)."""
SHARE_PARTITIONS = 256
"""In one request, about. Two thousand in one cost a broker some 20 ms each time that one of them had something."""
MAX_SHARES = 16
"""Connections to one broker."""


class Reading(Protocol):
    """The fetcher's owner: notified of arrivals and errors."""

    def arrived(self, partition: int) -> None:
        """There is something to take where there was nothing."""

    def out_of_range(self, partition: int) -> None:
        """The partition does not hold the offset that was asked for."""

    def report_error(self, error: KatewayError) -> None:
        """The broker refuses, or holds records that cannot be read."""


class Fetcher:
    """Keeps the buffers of a subscription's partitions filled."""

    _log = Logger()

    def __init__(self, client: Client, purpose: str, topic: str, reading: Reading) -> None:
        self._client = client
        self._reactor = client.reactor
        self._pools: list[Pool] = []
        """One for each share."""
        self._purpose = purpose
        self._topic = topic
        self._reading = reading
        self._most_bytes = client.config.fetch_max_bytes
        self._share_of: dict[int, int] = {}
        self._lanes: dict[Way, Lane] = {}
        self._lane_of: dict[int, Lane] = {}
        self._sessions: dict[Way, int] = {}
        """What brokers may still hold of lanes that are gone: the next request to one ends it."""
        self._held: set[int] = set()
        self._looking: IDelayedCall | None = None
        # while records are at hand: looks whether they are taken
        self._filling: IDelayedCall | None = None
        self._closed = False
        self.buffers: dict[int, Prefetch] = {}
        self._forget = client.watch(self._leaders_changed)

    def own(self, partitions: frozenset[int]) -> None:
        """Makes buffers; a partition is fetched once its buffer has a position."""
        first = max(LEAST_ASK_BYTES, FIRST_ASK_BYTES // max(1, len(partitions)))
        shares = min(MAX_SHARES, -(-len(partitions) // SHARE_PARTITIONS))
        for number, partition in enumerate(sorted(partitions)):
            self.buffers[partition] = Prefetch(partition, min(first, self._most_bytes), self._most_bytes)
            self._share_of[partition] = number % shares
        while len(self._pools) < shares:
            self._pools.append(self._client.pool(self._purpose))
        self._route()

    def give_up(self, partitions: frozenset[int]) -> None:
        """Forgets some partitions. A request under way goes on; what it brings for them is not looked at."""
        if partitions.issuperset(self.buffers):
            self.disown()
            return
        for partition in partitions:
            if self.buffers.pop(partition, None) is not None:
                del self._share_of[partition]
                lane = self._lane_of.pop(partition)
                del lane.buffers[partition]
                lane.changes.add(partition)
                self._held.discard(partition)

    def disown(self) -> None:
        """Forgets all partitions and their requests."""
        self.buffers.clear()
        self._share_of.clear()
        self._lane_of.clear()
        self._held.clear()  # the call that would end the hold is cancelled below
        lanes, self._lanes = self._lanes, {}
        for way, lane in lanes.items():
            if lane.session.id:
                self._sessions[way] = lane.session.id
            if lane.waiting is not None and lane.waiting.active():
                lane.waiting.cancel()
            self._end_poll(lane)

    def close(self) -> Deferred[None]:
        """Ends all; answers when the connections are closed."""
        self._closed = True
        self._forget()
        self.disown()
        for call in (self._looking, self._filling):
            if call is not None:
                call.cancel()
        self._looking = self._filling = None
        pools, self._pools = self._pools, []
        return gatherResults([pool.close() for pool in pools]).addCallback(lambda _: None)

    def wake(self, buffer: Prefetch) -> None:
        """A reader takes again from a partition at rest; often from other partitions, too, in the same turn."""
        buffer.wake()
        self.taken(buffer)

    def taken(self, buffer: Prefetch) -> None:
        """Something was taken: there may be room now. Hot."""
        buffer.taken_at = self._reactor.seconds()
        lane = self._lane_of.get(buffer.partition)
        if lane is not None:
            lane.short_wait_ms = SHORT_WAIT_MS
            if lane.waiting is not None or (lane.under_way is not None and lane.wait_ms <= MAX_WAIT_MS):
                return
        if self._filling is None and buffer.wants:
            # the reader may pause the partition in this turn
            self._filling = self._reactor.callLater(0, self._fill_now)

    def _fill_now(self) -> None:
        self._filling = None
        self.fill()

    def fill(self) -> None:
        """Asks each broker that nothing is asked of for what there is room for."""
        if self._closed:
            return
        for lane in list(self._lanes.values()):
            if lane.waiting is not None:
                continue
            if lane.under_way is not None:
                self._cut_off(lane)
                continue
            if lane.way.node is not None:
                self._ask(lane.way.node, lane)
            elif any(buffer.position is not None for buffer in lane.buffers.values()):
                self._look_again(lane)

    def _cut_off(self, lane: Lane) -> None:
        """Ends a long poll under way where it is not for what is wanted by now, and begins another."""
        if lane.wait_ms > MAX_WAIT_MS and lane.misses(self._held):
            self._end_poll(lane)
            self._again(lane, 0)  # the connection is gone with the reactor's next turn

    def _end_poll(self, lane: Lane) -> None:
        if lane.under_way is None:
            return
        lane.under_way.cancel()
        if lane.way.node is not None:
            self._pools[lane.way.share].abort(lane.way.node)  # the next request would wait for the answer to this one

    def hold(self, partition: int) -> None:
        """Leaves a partition alone for a while: what it holds could not be read."""
        self._held.add(partition)
        self._changed(partition)
        self._again(self._lane(NOWHERE), CORRUPT_RETRY_SECONDS)

    def _leaders_changed(self) -> None:
        self._route()
        self.fill()

    def _route(self) -> None:
        """Puts each partition into the lane of its leader."""
        for partition, buffer in self.buffers.items():
            node = self._client.leader(self._topic, partition)
            lane = self._lane(NOWHERE if node is None else Way(node, self._share_of[partition]))
            before = self._lane_of.get(partition)
            if lane is not before:
                if before is not None:
                    del before.buffers[partition]
                    before.changes.add(partition)
                self._lane_of[partition] = lane
                lane.buffers[partition] = buffer
                buffer.changes = lane.changes
                lane.changes.add(partition)

    def _lane(self, way: Way) -> Lane:
        lane = self._lanes.get(way)
        if lane is None:
            lane = self._lanes[way] = Lane(way, self._sessions.pop(way, 0))
        return lane

    def _changed(self, partition: int) -> None:
        lane = self._lane_of.get(partition)
        if lane is not None:
            lane.changes.add(partition)

    def _ask(self, node: int, lane: Lane) -> None:
        buffers = lane.buffers

        def wanted(partition: int) -> Wanted | None:
            buffer = buffers.get(partition)
            if buffer is None or partition in self._held or not (wants := buffer.wants):
                return None
            return Wanted(partition, buffer.next_fetch, wants)

        asking = lane.session.ask(buffers, lane.changes, wanted, keep=len(buffers) >= SESSION_PARTITIONS)
        if asking is None:
            return
        lane.changes.clear()
        wait_ms = lane.wait_ms
        if len(lane.session.asked) < len(buffers):
            lane.wait_ms = MAX_WAIT_MS
            wait_ms = lane.short_wait_ms
            lane.short_wait_ms = min(MAX_WAIT_MS, wait_ms * 2)
        body = encode_fetch(
            self._topic,
            asking.wanted,
            max_wait_ms=wait_ms,
            min_bytes=1,
            max_bytes=self._most_bytes,
            session=asking.session,
            epoch=asking.epoch,
            forgotten=asking.forgotten,
        )
        timeout = self._client.config.request_timeout_seconds + wait_ms / 1000
        pool = self._pools[lane.way.share]
        lane.under_way = answer = pool.request(node, FETCH, FETCH_VERSION, body, timeout_seconds=timeout)
        answer.addCallbacks(self._answered, self._failed, callbackArgs=(lane,), errbackArgs=(lane,))
        answer.addErrback(self._broke, lane)

    def _answered(self, body: bytes, lane: Lane) -> None:
        lane.under_way = None
        error, session, partitions = decode_fetch(body)
        if error:
            self._refused_all(error, lane)
            return
        asked = lane.session.asked
        lane.session.answered(session)
        lane.backoff.reset()
        reroute = False
        lane.wait_ms = min(lane.wait_ms * 2, IDLE_WAIT_MS)
        arrived: list[int] = []
        for found in partitions:
            buffer, want = lane.buffers.get(found.partition), asked.get(found.partition)
            if buffer is None or buffer.position is None or want is None or buffer.next_fetch != want.offset:
                continue  # moved meanwhile
            if buffer.asleep:
                continue  # not read any more
            if found.error:
                reroute = self._refused(buffer, found) or reroute
                continue
            buffer.end = found.end
            if found.records:
                lane.wait_ms = MAX_WAIT_MS
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
            self._reading.report_error(error)
            return False
        if not had:
            buffer.taken_at = self._reactor.seconds()
            self._look_later()
        # a partition with data goes to the end: a broker fills a request's partitions in their order
        buffers = self._lane_of[buffer.partition].buffers
        buffers[buffer.partition] = buffers.pop(buffer.partition)
        return not had and buffer.readable

    def _look_later(self) -> None:
        if self._looking is None:
            self._looking = self._reactor.callLater(LET_GO_SECONDS, self._let_go)

    def _let_go(self) -> None:
        """Drops records that were not taken for a while; shrinks the fetch size where none was for longer."""
        self._looking = None
        again = False
        now = self._reactor.seconds()
        for buffer in self.buffers.values():
            if buffer.readable and buffer.taken_at <= now - LET_GO_SECONDS:
                buffer.let_go()
            elif buffer.grown and buffer.taken_at < now - IDLE_SECONDS:
                buffer.shrink()
            again = again or buffer.readable or buffer.grown
        if again:
            self._look_later()

    def _refused_all(self, error: int, lane: Lane) -> None:
        """The broker has refused the whole request."""
        lane.session.lost()
        if error in SESSION_LOST:
            # it keeps only so many, and none over its restart
            first = not lane.backoff.seconds
            lane.backoff.next()
            self._again(lane, 0 if first else MAX_RETRY_SECONDS)
            return
        self._reading.report_error(error_for(error, f"fetching from {self._topic}"))
        self._again(lane, MAX_RETRY_SECONDS)

    def _refused(self, buffer: Prefetch, found: FetchedPartition) -> bool:
        """Whether the leaders have to be looked up again."""
        if found.error == OFFSET_OUT_OF_RANGE:
            if buffer.readable:  # first the records at hand; then it is asked and refused again
                self.hold(buffer.partition)
            else:
                buffer.lose_place()
                self._reading.out_of_range(buffer.partition)
            return False
        if found.error in REROUTE:
            return True
        self.hold(buffer.partition)
        self._reading.report_error(error_for(found.error, f"fetching from {self._topic} partition {buffer.partition}"))
        return False

    def _failed(self, failure: Failure, lane: Lane) -> None:
        lane.under_way = None
        lane.wait_ms = MAX_WAIT_MS
        lane.session.lost()
        if not failure.check(CancelledError):
            failure.trap(RequestFailed)
            self._look_again(lane)

    def _broke(self, failure: Failure, lane: Lane) -> None:
        if not failure.check(MalformedResponse):
            self._log.failure("fetching from {topic} failed; it is tried again", failure=failure, topic=self._topic)
        lane.session.lost()
        self._again(lane, MAX_RETRY_SECONDS)

    def _look_again(self, lane: Lane) -> None:
        self._client.refresh().addErrback(lambda failure: failure.trap(KatewayError, CancelledError) and None)
        self._again(lane, lane.backoff.next())

    def _again(self, lane: Lane, seconds: float) -> None:
        if self._closed or lane.waiting is not None or lane is not self._lanes.get(lane.way):
            return
        lane.waiting = self._reactor.callLater(seconds, self._go_on, lane)

    def _go_on(self, lane: Lane) -> None:
        lane.waiting = None
        if lane.way == NOWHERE:
            for partition in self._held:
                self._changed(partition)
            self._held.clear()
        self.fill()
