"""Publishes to Kafka: messages to lanes, lanes to brokers, outcomes to callers.

A message waits in its partition's lane (``lane.py``) until the leader's sender (``sender.py``) takes it. Nothing here
has a timer of its own but one sweep, which runs while anything is held: it settles overdue items, sends those that had
to wait, and looks for new leaders while brokers are silent.

acks=all is numbered (idempotent); acks=1 and acks=0 are not, and have lanes of their own; acks=0 has connections of
its own too, because any error there closes the connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from kateway.config.schema import KafkaStorageConfig
from kateway.errors import (
    Draining,
    KatewayError,
    OutcomeUnknown,
    Overloaded,
    PartitionNotFound,
    TopicNotFound,
    Unavailable,
)
from kateway.model import Message
from kateway.observe.cells import Histogram
from kateway.storage.interface import RECORD_OVERHEAD_BYTES, Outcome
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.producer.broker_sender import ANSWER_GRACE_SECONDS, SILENCE_SECONDS, PartitionLane, Sender
from kateway.storage.kafka.producer.metadata_waits import LOOKS, Lookup, Lookups
from kateway.storage.kafka.producer.partition_queue import QueuedBatch, Verdict
from kateway.storage.kafka.producer.pending import Handed, Pending, PendingCall
from kateway.storage.kafka.producer.producer_ids import Identities
from kateway.storage.kafka.producer.topic_route import TopicRoute
from kateway.storage.kafka.protocol.record_batches import encoded_size
from kateway.storage.partitioner import Partitioner

SWEEP_SECONDS = 0.05
_SCAN_SECONDS_PER_MESSAGE = 2e-6
"""Looking through a long queue for overdue messages is spaced out so that it takes a tenth of the time at most."""

PATIENCE_LEFT = 0.4
"""So much of a message's time is left over for what is not foreseen, where all that waits is of its topic. Where it is
the first of its topic beside others it may use its time up.
"""

_NEVER = float("inf")

_goes_on = Logger().failureHandler("a step of the producer broke; the others go on")


class Producer:
    """Publishes to one cluster. ``now_ms`` gives the timestamps of messages that have none."""

    def __init__(
        self,
        client: Client,
        config: KafkaStorageConfig,
        reactor: Any,
        *,
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
        queued: Histogram | None = None,
    ) -> None:
        """``queued`` counts how long batches wait to be sent."""
        self.held_bytes = 0
        self.held_records = 0
        """Of messages whose place is still needed; bounded by ``max_inflight_bytes``."""
        self._reactor = reactor
        self._seconds: Callable[[], float] = reactor.seconds
        self._config = config
        self._max_held_bytes = config.max_inflight_bytes
        self._client = client
        self._now_ms = now_ms
        self._queued = queued
        self._pools = {-1: client.pool("produce"), 0: client.pool("acks0")}
        self._pools[1] = self._pools[-1]
        self._identities = Identities(client, self._identified)
        self._routes: dict[tuple[str, int], TopicRoute] = {}
        self._partitioners: dict[str, Partitioner] = {}
        self._senders: dict[tuple[int, int], Sender] = {}
        self._active: dict[PartitionLane, None] = {}
        self._lookups = Lookups(client, self._try_lookup, self._looked, self._released)
        self._dropped: dict[tuple[str, int], float] = {}
        """Partitions whose lanes were dropped with requests under way, and when these are over at the latest."""
        self._turn: IDelayedCall | None = None
        self._sweeping: IDelayedCall | None = None
        self._stopping = False
        self._drained: Deferred[None] | None = None
        self._forget_watch = client.watch(self._view_changed)

    async def stop(self, grace_seconds: float) -> None:
        """Takes nothing more, lets held items finish for at most ``grace_seconds``, then settles the rest."""
        self._stopping = True
        if self.held_bytes and grace_seconds > 0:
            drained: Deferred[None] = Deferred()
            self._drained = drained
            late = self._reactor.callLater(grace_seconds, drained.callback, None)
            try:
                await drained
            finally:
                self._drained = None
                if late.active():
                    late.cancel()
        self._forget_watch()
        for lane in list(self._active):
            self._drop(lane, Draining("the gateway stopped before it was sent"))
        self._lookups.stop()
        for call in (self._turn, self._sweeping):
            if call is not None and call.active():
                call.cancel()
        self._identities.stop()
        for pool in {id(pool): pool for pool in self._pools.values()}.values():
            await pool.close()

    # --- publishing --------------------------------------------------------------------------------------------

    def publish(self, topic: str, messages: Sequence[Message], acks: int, deadline: float) -> Deferred[list[Outcome]]:
        """``Store.publish``. Hot: one message to a known topic takes the straight way down."""
        deferred: Deferred[list[Outcome]] = Handed()
        route = self._routes.get((topic, acks))
        if len(messages) == 1 and route is not None and not self._stopping:
            message = messages[0]
            lanes = route.lanes
            partition = message.partition
            if partition is None:
                partition = route.partition_for(message.key)
            if 0 <= partition < len(lanes):
                size = encoded_size(message)
                lane = lanes[partition]
                sender = lane.sender
                if sender is not None and sender.pace.behind and self._too_late(route, sender, deadline):
                    deferred.callback([_too_slow(lane, sender)])
                    return deferred
                if self._full(size, 1):
                    deferred.callback([self._overloaded()])
                    return deferred
                self.held_bytes += size
                self.held_records += 1
                self._push(lane, Pending(size, deadline, message, deferred, 0))
                return deferred
        self._publish_many(topic, messages, acks, deadline, deferred)
        return deferred

    def _publish_many(
        self, topic: str, messages: Sequence[Message], acks: int, deadline: float, deferred: Deferred[list[Outcome]]
    ) -> None:
        size = sum(map(encoded_size, messages))
        if self._stopping:
            deferred.callback([Draining("the gateway is shutting down")] * len(messages))
            return
        if not messages or self._full(size, len(messages)):
            deferred.callback([self._overloaded()] * len(messages))
            return
        self.held_bytes += size
        self.held_records += len(messages)
        route = self._route(topic, acks)
        if route is None or not route.holds(messages):
            self._lookups.add(Lookup(topic, messages, acks, deadline, size, deferred))
            self._sweep_soon()
            return
        self._enqueue(route, messages, deadline, deferred)

    def _enqueue(
        self, route: TopicRoute, messages: Sequence[Message], deadline: float, deferred: Deferred[list[Outcome]]
    ) -> None:
        """Puts messages, whose bytes count already, into their lanes: what a lane needs is done once for all of its."""
        call = PendingCall(deferred, len(messages))
        lanes = route.lanes
        count = len(lanes)
        by_lane: dict[int, list[Pending]] = {}
        for index, message in enumerate(messages):
            partition = message.partition
            if partition is None:
                partition = route.partition_for(message.key)
            size = encoded_size(message)
            if 0 <= partition < count:
                item = Pending(size, deadline, message, call, index)
                items = by_lane.get(partition)
                if items is None:
                    by_lane[partition] = [item]
                else:
                    items.append(item)
            else:
                self._released(size, 1)
                call.settle(index, PartitionNotFound(f"partition {partition}: the topic has {count}"))
        too_slow: dict[Sender, Overloaded | None] = {}
        """One error for all that a broker is too slow for: a hundred thousand would be 25 MB in the answer."""
        for partition, items in by_lane.items():
            lane = lanes[partition]
            sender = lane.sender
            if sender is not None and sender.pace.behind:
                if sender not in too_slow:
                    late = self._too_late(route, sender, deadline)
                    too_slow[sender] = _too_slow(lane, sender) if late else None
                error = too_slow[sender]
                if error is not None:
                    self._fail(items, error)
                    continue
            if not lane.queue:
                lane.since = self._seconds()
            lane.put_all(items[:-1])
            if sender is not None:
                sender.waiting_bytes += sum([item.size for item in items[:-1]])
            self._push(lane, items[-1])

    def _push(self, lane: PartitionLane, item: Pending) -> None:
        if not lane.queue:
            lane.since = self._seconds()
        lane.put(item)
        if item.deadline < lane.deadline:  # noqa: PLR1730  # min() costs a call
            lane.deadline = item.deadline
        if not lane.active:
            lane.active = True
            self._active[lane] = None
            if lane.wants_identity:
                self._identities.give(lane)
        sender = lane.sender
        if sender is None:
            self._lookups.wanted = True
        else:
            sender.ready[lane] = None
            sender.waiting_bytes += item.size
            if self._turn is None and sender.wants_a_turn:
                self._turn = self._reactor.callLater(0, self._end_of_turn)
        if self._sweeping is None:
            self._sweep_soon()

    def _turn_soon(self) -> None:
        if self._turn is None:
            self._turn = self._reactor.callLater(0, self._end_of_turn)

    def _end_of_turn(self) -> None:
        self._turn = None
        for sender in list(self._senders.values()):
            if sender.ready:
                sender.flush()

    def _too_late(self, route: TopicRoute, sender: Sender, deadline: float) -> bool:
        """Whether a message would most likely be answered after its deadline: it would only make others late. A topic
        that fills the queues is refused before one that has little in them, which so finds them short enough. A broker
        that has fallen silent is not slow but away: the deadline, the breaker and the handoff judge that.
        """
        now = self._seconds()
        wait, left = sender.wait_seconds(), deadline - now
        if wait <= left * (1 - PATIENCE_LEFT):
            return False
        if wait <= left * (1 - PATIENCE_LEFT * min(route.records / max(self.held_records, 1), 1.0)):
            return False
        return not sender.silent(now)

    def _overloaded(self) -> Overloaded:
        return Overloaded(f"{self.held_bytes} bytes are on their way to Kafka already")

    # --- where lanes are served --------------------------------------------------------------------------------

    def _route(self, topic: str, acks: int) -> TopicRoute | None:
        """A topic's lanes, as many as it has partitions; ``None`` where it is not known."""
        count = self._client.partition_count(topic)
        if count is None:
            return None
        route = self._routes.get((topic, acks))
        if route is None:
            partitioner = self._partitioners.setdefault(topic, Partitioner())
            route = self._routes[topic, acks] = TopicRoute(partitioner)
        if len(route.lanes) > count:
            self._shrink(route, count)
        for partition in range(len(route.lanes), count):
            numbered = acks == -1 and self._identities.allowed
            lane = PartitionLane(
                topic, partition, acks, numbered=numbered, max_batch_bytes=self._config.max_request_bytes
            )
            lane.sender = self._sender_of(topic, partition, acks)
            route.lanes.append(lane)
        return route

    def _shrink(self, route: TopicRoute, count: int) -> None:
        """Drops the lanes of partitions that a topic made anew does not have; one that holds messages only after
        ``LOOKS``, for brokers are told of new partitions one after the other. An item that was not sent and names no
        partition goes to those that there are.
        """
        kept = len(route.lanes)
        while kept > count and (route.lanes[kept - 1].empty or route.lanes[kept - 1].absent >= LOOKS):
            kept -= 1
        gone = route.lanes[kept:]
        if not gone:
            return
        del route.lanes[kept:]
        self._identities.forget()
        for lane in gone:
            unsent, lost = self._give_up(lane)
            self._fail(lost, OutcomeUnknown("it was sent and no answer came"))
            stays = [item for item in unsent if not item.settled and item.message.partition is None]
            fails = [item for item in unsent if item.settled or item.message.partition is not None]
            self._fail(fails, PartitionNotFound(f"partition {lane.partition}: the topic has {count}"))
            for item in stays:
                self._push(route.lanes[route.partition_for(item.message.key)], item)

    def _sender_of(self, topic: str, partition: int, acks: int) -> Sender | None:
        node_id = self._client.leader(topic, partition)
        if node_id is None:
            return None
        sender = self._senders.get((node_id, acks))
        if sender is None:
            sender = self._senders[node_id, acks] = Sender(
                self._reactor,
                self._config,
                self._pools[acks],
                node_id,
                acks,
                now_ms=self._now_ms,
                failed=self._failed,
                released=self._released,
                expire=self._expire,
                queued=self._queued,
            )
        return sender

    def _view_changed(self) -> None:
        self._identities.fetch_early()
        for (topic, acks), route in list(self._routes.items()):
            if self._route(topic, acks) is None:
                if not any(lane.active for lane in route.lanes):
                    del self._routes[topic, acks]
                    self._identities.forget()
                    self._partitioners.pop(topic, None)
                continue
            for lane in route.lanes:
                sender = self._sender_of(topic, lane.partition, acks)
                if sender is not lane.sender:
                    lane.sender = sender
                    lane.not_before = 0.0
                if sender is not None and lane.sendable:
                    sender.ready[lane] = None
        for key, sender in list(self._senders.items()):
            if key[0] not in self._client.view.brokers and not sender.flights:
                del self._senders[key]
        self._lookups.view_changed()
        self._turn_soon()

    def _identified(self, lane: PartitionLane) -> None:
        if lane.sender is not None:
            lane.sender.ready[lane] = None
            self._turn_soon()

    # --- looking for topics and leaders --------------------------------------------------------------------------

    def _try_lookup(self, lookup: Lookup, last: bool) -> bool:
        """Sends a publish on its way if its topic is known by now, and with ``last`` whatever is known."""
        route = self._route(lookup.topic, lookup.acks)
        if route is None or not (last or route.holds(lookup.messages)):
            return False
        self._enqueue(route, lookup.messages, lookup.deadline, lookup.deferred)
        return True

    def _looked(self) -> None:
        for lane in list(self._active):
            count = self._client.partition_count(lane.topic)
            if lane.empty or (count is not None and lane.partition < count):
                lane.absent = 0
                continue
            lane.absent += 1
            if lane.absent < LOOKS:
                # a broker that starts may tell of no topic at all; nothing is sent until another look
                lane.sender = None
                self._lookups.wanted = True
            elif count is None:
                self._drop(lane, TopicNotFound(f"there is no topic {lane.topic}"))
            else:
                self._shrink(self._routes[lane.topic, lane.acks], count)

    # --- outcomes ----------------------------------------------------------------------------------------------

    def _failed(self, lane: PartitionLane, batch: QueuedBatch[Pending], verdict: Verdict, error: KatewayError) -> None:
        """Told by a sender of a batch that was not simply written."""
        settled, lost = lane.answered(batch, verdict)
        if verdict in (Verdict.NOT_WRITTEN, Verdict.UNKNOWN):
            self._lookups.wanted = True
        self._fail(settled, error)
        self._fail(lost, error if error.maybe_written else OutcomeUnknown(error.detail))
        if lane.wants_identity:
            self._identities.give(lane)

    def _fail(self, items: list[Pending], error: KatewayError) -> None:
        """Settles items that have left their lane, all with the same error."""
        self._released(sum([item.size for item in items]), len(items))
        for item in items:
            if not item.settled:
                item.settle(error)

    def _drop(self, lane: PartitionLane, error: KatewayError) -> None:
        unsent, lost = self._give_up(lane)
        self._fail(unsent, error)
        self._fail(lost, OutcomeUnknown("it was sent and no answer came"))

    def _give_up(self, lane: PartitionLane) -> tuple[list[Pending], list[Pending]]:
        unsent, lost = lane.drop()
        if lost:
            # their requests are not over, and a broker may write them still
            wait = self._config.request_timeout_seconds + ANSWER_GRACE_SECONDS
            now = self._seconds()
            self._dropped = {name: until for name, until in self._dropped.items() if until > now}
            self._dropped[lane.topic, lane.partition] = now + wait
        return unsent, lost

    def _full(self, size: int, count: int) -> bool:
        held = self.held_bytes + size + (self.held_records + count) * RECORD_OVERHEAD_BYTES
        # a batch that is larger than that by its many records alone goes when nothing else does
        return held > self._max_held_bytes and (self.held_records > 0 or size > self._max_held_bytes)

    def _released(self, size: int, count: int) -> None:
        self.held_bytes -= size
        self.held_records -= count
        if self._drained is not None and not self.held_bytes and not self._drained.called:
            self._drained.callback(None)

    def undecided(self, topic: str, partition: int) -> bool:
        """``Store.undecided``."""
        until = self._dropped.get((topic, partition))
        if until is not None:
            if self._seconds() < until:
                return True
            del self._dropped[topic, partition]
        return any(lane.topic == topic and lane.partition == partition and lane.undecided for lane in self._active)

    def fail_unsent(self) -> None:
        """``Store.fail_unsent``."""
        for lane in list(self._active):
            unsent = lane.take_unsent()
            self._fail(unsent, Unavailable(self._why_unsent(lane)))
        self._lookups.fail_waiting()

    # --- the sweep ---------------------------------------------------------------------------------------------

    def _sweep_soon(self) -> None:
        if self._sweeping is None:
            self._sweeping = self._reactor.callLater(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        now = self._seconds()
        for lane in list(self._active):
            with _goes_on:
                self._sweep_lane(lane, now)
        with _goes_on:
            self._watch_silence(now)
            self._lookups.sweep(now)
            self._identities.retry(now)
        senders = list(self._senders.values())
        if any(sender.pace.behind for sender in senders):
            with _goes_on:
                self._count_waiting()
        for sender in senders:
            with _goes_on:
                sender.flush(force=True)
        if self._active or self._lookups.busy:
            self._sweep_soon()

    def _count_waiting(self) -> None:
        """Counts what waits for each broker and of each topic anew: records also leave a lane that is given up, runs
        out of time, or gets another leader.
        """
        bytes_of: dict[Sender, int] = {}
        records_of: dict[tuple[str, int], int] = {}
        for lane in self._active:
            if lane.sender is not None:
                bytes_of[lane.sender] = bytes_of.get(lane.sender, 0) + lane.queued_bytes
            topic = lane.topic, lane.acks
            records_of[topic] = records_of.get(topic, 0) + lane.records
        for sender in self._senders.values():
            sender.waiting_bytes = bytes_of.get(sender, 0)
        for topic, route in self._routes.items():
            route.records = records_of.get(topic, 0)

    def _sweep_lane(self, lane: PartitionLane, now: float) -> None:
        if lane.dropped_bytes:
            self._released(lane.dropped_bytes, lane.dropped_items)
            lane.dropped_bytes = lane.dropped_items = 0
        if lane.empty:
            lane.active = False
            lane.absent = 0
            lane.deadline = _NEVER
            del self._active[lane]
            return
        if lane.deadline <= now:
            self._expire(lane, now)
        if lane.wants_identity:
            self._identities.give(lane)
        if lane.sender is None:
            lane.sender = self._sender_of(lane.topic, lane.partition, lane.acks)
            self._lookups.wanted = True
        if lane.sender is not None and lane.sendable:
            lane.sender.ready[lane] = None

    def _expire(self, lane: PartitionLane, now: float) -> None:
        unsent, unknown = lane.expire(now)
        lane.deadline = max(lane.earliest_deadline(), now + _SCAN_SECONDS_PER_MESSAGE * len(lane.queue))
        kind, detail = lane.why or (Unavailable, self._why_unsent(lane))
        not_written = Unavailable(detail) if kind.maybe_written or not kind.retriable else kind(detail)
        for item in unsent:
            self._released(item.size, 1)
            item.settle(not_written)
        kind, detail = lane.why or (OutcomeUnknown, "the broker did not answer in time")
        not_known = kind(detail) if kind.maybe_written else OutcomeUnknown(detail)
        for item in unknown:
            item.settle(not_known)

    def _why_unsent(self, lane: PartitionLane) -> str:
        if lane.sender is None:
            return f"partition {lane.partition} of {lane.topic} has no leader just now"
        return lane.sender.why or "the broker takes no more just now"

    def _watch_silence(self, now: float) -> None:
        """Asks other brokers while one is silent, and gives it up for those partitions that another one leads now."""
        for sender in list(self._senders.values()):
            for flight in list(sender.flights):
                if now - flight.since < SILENCE_SECONDS:
                    break
                if now - self._lookups.looked_at >= SILENCE_SECONDS:
                    self._lookups.wanted = True
                leaders = {self._client.leader(lane.topic, lane.partition) for lane, _ in flight.batches}
                if leaders - {None, sender.node_id}:
                    sender.abandon(flight)


def _too_slow(lane: PartitionLane, sender: Sender) -> Overloaded:
    wait = sender.wait_seconds()
    return Overloaded(
        f"the leader of {lane.topic} {lane.partition} takes less than arrives: this would have waited {wait:.1f} s",
        retry_after_seconds=max(wait, 1.0),
        late=True,
    )
