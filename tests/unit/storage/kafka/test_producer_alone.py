"""The write side against brokers that answer by hand, on a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack
from typing import Any, NamedTuple

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from kateway.config.schema import KafkaStorageConfig
from kateway.errors import (
    Denied,
    Draining,
    NotEnoughReplicas,
    OutcomeUnknown,
    Overloaded,
    PartitionNotFound,
    TooLarge,
    TopicNotFound,
    Unavailable,
    WrittenTooNarrowly,
)
from kateway.model import Health, Message, Receipt
from kateway.storage.interface import Outcome
from kateway.storage.kafka.cluster.connection import NeverSent, NoAnswer
from kateway.storage.kafka.producer.producer import Producer
from kateway.storage.kafka.protocol import record_batches as records
from kateway.storage.kafka.protocol.metadata import API_VERSIONS
from kateway.storage.kafka.protocol.primitives import ByteReader, array, i32, string
from kateway.storage.kafka.protocol.produce_requests import INIT_PRODUCER_ID, PRODUCE


class Sent(NamedTuple):
    """One batch as it went out."""

    producer_id: int
    sequence: int
    values: list[bytes | None]


class Request:
    """A Produce request that waits for the test to answer it."""

    def __init__(self, node: int, body: bytes) -> None:
        self.node = node
        self.cancelled = False
        self.answer: Deferred[bytes] = Deferred(lambda _: setattr(self, "cancelled", True))
        read = ByteReader(body)
        read.nullable_string()
        self.acks = read.i16()
        read.i32()

        def partition() -> tuple[int, bytes]:
            return read.i32(), read.data()

        def topic() -> list[tuple[tuple[str, int], bytes]]:
            name = read.string()
            return [((name, number), batch) for number, batch in read.array(partition)]

        self.batches = {place: sent(batch) for found in read.array(topic) for place, batch in found}

    def reply(self, error: int = 0, offset: int = 0) -> None:
        def topic(place: tuple[str, int]) -> bytes:
            return string(place[0]) + array([pack(">ihqqq", place[1], error, offset if not error else -1, -1, 0)])

        self.answer.callback(array(map(topic, self.batches)) + i32(0))


def sent(batch: bytes) -> Sent:
    (found,) = records.batches(batch)
    producer_id, _, sequence = int.from_bytes(batch[43:51], "big", signed=True), 0, int.from_bytes(batch[53:57], "big")
    return Sent(producer_id, sequence, [record.value for record in records.decode(found)])


class Brokers:
    """What the producer knows as its client and its pools: leaders as the test says, ids as they are asked for."""

    def __init__(self) -> None:
        self.reactor = Clock()
        self.view = self
        self.brokers = {1: "one", 2: "two"}
        self.leaders: dict[str, list[int | None]] = {"t": [1, 1]}
        self.reachable = True
        self.id_errors: list[int] = []
        self.ids = 0
        self.looks: list[Deferred[None]] = []
        self.looks_answered = True
        self.looks_had = 0
        self.requests: list[Request] = []
        self.changed: Callable[[], None] = lambda: None

    def pool(self, _purpose: str) -> Brokers:
        return self

    def connected(self, _node: int) -> bool:
        return self.reachable

    def close(self) -> Deferred[None]:
        for request in self.requests:
            if not request.answer.called:
                request.answer.errback(NoAnswer("closed"))
        return succeed(None)

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        self.changed = changed
        return lambda: None

    def health(self) -> Health:
        return Health(False, "no broker answers")

    def leader(self, topic: str, partition: int) -> int | None:
        leaders = self.leaders.get(topic, [])
        return leaders[partition] if partition < len(leaders) else None

    def partition_count(self, topic: str) -> int | None:
        return len(self.leaders[topic]) if topic in self.leaders else None

    def refresh(self) -> Deferred[None]:
        self.looks_had += 1
        look: Deferred[None] = Deferred(lambda _: None)
        if self.looks_answered:
            self.changed()
            look.callback(None)
        else:
            self.looks.append(look)
        return look

    def request(self, node: int, api_key: int, _version: int, body: bytes, **_options: Any) -> Deferred[bytes]:
        if api_key == PRODUCE:
            self.requests.append(request := Request(node, body))
            return request.answer
        answer: Deferred[bytes] = Deferred()
        if not self.reachable:
            answer.errback(NeverSent("nobody listens there"))
        elif api_key == INIT_PRODUCER_ID:
            error = self.id_errors.pop(0) if self.id_errors else 0
            self.ids += not error
            answer.callback(pack(">ihqh", 0, error, -1 if error else self.ids, 0))
        else:
            assert api_key == API_VERSIONS
            answer.callback(b"")
        return answer

    def pass_time(self, seconds: float) -> None:
        self.reactor.pump([0.01] * round(seconds * 100))


@pytest.fixture
def brokers() -> Brokers:
    return Brokers()


@pytest.fixture
def producer(brokers: Brokers) -> Producer:
    return made(brokers)


def made(brokers: Any, **options: Any) -> Producer:
    config = KafkaStorageConfig(driver="kafka", **options)
    return Producer(brokers, config, brokers.reactor, now_ms=lambda: 1)


def publish(
    producer: Producer, *values: bytes, topic: str = "t", acks: int = -1, seconds: float = 5.0, partition: int = 0
) -> list[Outcome]:
    """The list fills when the outcomes are there."""
    found: list[Outcome] = []
    messages = [Message(value, partition=partition) for value in values]
    now: float = producer._reactor.seconds()
    producer.publish(topic, messages, acks, now + seconds).addCallback(found.extend)
    return found


def test_messages_of_one_turn_go_in_one_request(brokers: Brokers, producer: Producer) -> None:
    outcomes = [publish(producer, b"%d" % n, partition=n % 2) for n in range(4)]
    brokers.pass_time(0.01)
    (request,) = brokers.requests
    assert request.batches == {("t", 0): Sent(1, 0, [b"0", b"2"]), ("t", 1): Sent(1, 0, [b"1", b"3"])}
    request.reply(offset=70)
    assert outcomes == [[Receipt(0, 70)], [Receipt(1, 70)], [Receipt(0, 71)], [Receipt(1, 71)]]


def test_batch_that_cannot_be_encoded_is_answered_and_those_behind_it_go(
    brokers: Brokers, producer: Producer, logged_errors: list[dict[str, Any]]
) -> None:
    first: list[Outcome] = []
    # beyond the field's 64 bits, as no edge lets through: it stands for want of memory
    broken = Message(b"a", partition=0, timestamp=1 << 70)
    producer.publish("t", [broken], -1, producer._reactor.seconds() + 5.0).addCallback(first.extend)
    brokers.pass_time(0.01)
    second = publish(producer, b"b")
    brokers.pass_time(0.1)
    brokers.requests[0].reply(offset=5)
    assert second == [Receipt(0, 5)]
    assert [type(each) for each in first] == [Unavailable]
    assert producer.held_bytes == 0
    assert len(logged_errors) == 1
    logged_errors.clear()


def test_an_idle_producer_has_no_timer(brokers: Brokers, producer: Producer) -> None:
    publish(producer, b"a")
    brokers.pass_time(0.01)
    brokers.requests[0].reply()
    brokers.pass_time(0.1)
    assert brokers.reactor.getDelayedCalls() == []
    assert producer.held_bytes == 0


def test_message_never_sent_by_its_deadline_is_unavailable(brokers: Brokers, producer: Producer) -> None:
    brokers.reachable = False
    outcome = publish(producer, b"a", seconds=1)
    brokers.pass_time(0.99)
    assert outcome == []
    brokers.pass_time(0.1)
    assert isinstance(outcome[0], Unavailable)
    assert "nobody listens" in outcome[0].detail
    assert brokers.requests == []
    assert producer.held_bytes == 0


def test_unsent_publishes_fail_at_once_when_they_are_given_up_and_later_ones_are_written(
    brokers: Brokers, producer: Producer
) -> None:
    brokers.reachable = False
    alone, many = publish(producer, b"a"), publish(producer, b"b", b"c", partition=1)
    brokers.looks_answered = False
    unknown = publish(producer, b"d", topic="new")
    brokers.pass_time(0.1)
    producer.fail_unsent()
    assert [type(each) for each in alone + many + unknown] == [Unavailable] * 4
    assert producer.held_bytes == 0
    brokers.reachable = True
    brokers.looks_answered = True
    later = publish(producer, b"e")
    brokers.pass_time(0.5)
    assert brokers.requests[0].batches == {("t", 0): Sent(1, 0, [b"e"])}
    brokers.requests[0].reply()
    assert later == [Receipt(0, 0)]


def test_sent_publishes_keep_their_chance_when_the_unsent_are_given_up(brokers: Brokers, producer: Producer) -> None:
    sent = publish(producer, b"a")
    brokers.pass_time(0.01)
    producer.fail_unsent()
    assert sent == []
    brokers.requests[0].reply()
    assert sent == [Receipt(0, 0)]


def overloaded(brokers: Brokers, producer: Producer) -> None:
    """A broker that takes 100 records of 1,000 bytes a second has its hands full for some seconds."""
    publish(producer, b"first", seconds=60)
    brokers.pass_time(0.1)
    brokers.requests[-1].reply()
    for _ in range(5):
        publish(producer, *[b"x" * 1000] * 100, seconds=60)
        brokers.pass_time(0.01)
    brokers.pass_time(1.0)
    brokers.requests[1].reply()
    brokers.pass_time(0.06)


def test_message_that_would_be_answered_after_its_deadline_is_refused_at_once(
    brokers: Brokers, producer: Producer
) -> None:
    overloaded(brokers, producer)
    sent = len(brokers.requests)
    (alone,) = publish(producer, b"late", seconds=2)
    many = publish(producer, b"late", b"later", seconds=2)
    assert [type(each) for each in (alone, *many)] == [Overloaded] * 3
    assert isinstance(alone, Overloaded)
    assert alone.retry_after_seconds is not None
    assert 3 < alone.retry_after_seconds < 6
    patient = publish(producer, b"patient", seconds=60)
    while len(brokers.requests) > sent or not patient:
        brokers.requests[sent - 1 if not brokers.requests[sent - 1].answer.called else -1].reply()
        sent = len(brokers.requests)
        brokers.pass_time(0.2)
    assert patient == [Receipt(0, 0)]


def test_topic_with_little_under_way_is_refused_later_than_the_one_that_floods(
    brokers: Brokers, producer: Producer
) -> None:
    brokers.leaders["calm"] = [1]
    overloaded(brokers, producer)
    wait = publish(producer, b"late", seconds=0.1)[0]
    assert isinstance(wait, Overloaded)
    assert wait.retry_after_seconds is not None
    seconds = wait.retry_after_seconds * 1.2
    assert [type(each) for each in publish(producer, b"flood", seconds=seconds)] == [Overloaded]
    publish(producer, b"calm", topic="calm", seconds=60)
    assert publish(producer, b"calm", topic="calm", seconds=seconds) == []


def test_batch_that_a_slow_broker_would_answer_too_late_has_one_error_with_its_wait(
    brokers: Brokers, producer: Producer
) -> None:
    overloaded(brokers, producer)
    found: list[Outcome] = []
    messages = [Message(b"%d" % number, partition=number % 2) for number in range(1000)]
    producer.publish("t", messages, -1, brokers.reactor.seconds() + 1).addCallback(found.extend)
    assert len(found) == 1000
    assert all(each is found[0] for each in found)
    assert isinstance(found[0], Overloaded)
    assert found[0].retry_after_seconds is not None
    assert found[0].retry_after_seconds >= 1


def test_slow_broker_that_falls_silent_is_judged_by_deadlines(brokers: Brokers, producer: Producer) -> None:
    overloaded(brokers, producer)
    brokers.pass_time(30)
    outcome = publish(producer, b"a", seconds=1)
    assert outcome == []
    brokers.pass_time(1.1)
    assert isinstance(outcome[0], (Unavailable, OutcomeUnknown))
    assert not isinstance(outcome[0], Overloaded)


def test_records_that_left_the_queue_unsent_do_not_count_as_waiting(brokers: Brokers, producer: Producer) -> None:
    overloaded(brokers, producer)
    (sender,) = producer._senders.values()
    publish(producer, b"the last that is sent at once", seconds=60)
    brokers.pass_time(0.06)
    for give_up in (producer.fail_unsent, lambda: brokers.pass_time(20)):
        publish(producer, *[b"x" * 1000] * 100, seconds=15)
        brokers.pass_time(0.06)
        assert sender.waiting_bytes >= 100_000
        give_up()
        brokers.pass_time(0.06)
        assert sender.waiting_bytes == 0


def test_records_whose_leader_moved_do_not_wait_for_the_old_one(brokers: Brokers, producer: Producer) -> None:
    overloaded(brokers, producer)
    (old,) = producer._senders.values()
    publish(producer, b"the last that is sent at once", seconds=60)
    brokers.pass_time(0.06)
    publish(producer, *[b"x" * 1000] * 100, seconds=60)
    brokers.leaders["t"] = [2, 2]
    brokers.changed()
    brokers.pass_time(0.06)
    assert sum(lane.queued_bytes for lane in producer._active) >= 100_000
    assert old.waiting_bytes == 0


def test_broker_that_has_caught_up_is_given_everything_again(brokers: Brokers, producer: Producer) -> None:
    overloaded(brokers, producer)
    while any(not request.answer.called for request in brokers.requests):
        for request in brokers.requests:
            if not request.answer.called:
                request.reply()
        brokers.pass_time(0.1)
    brokers.pass_time(2)
    for _ in range(2):
        outcome = publish(producer, b"quick", seconds=0.1)
        brokers.pass_time(0.01)
        brokers.requests[-1].reply()
        assert outcome == [Receipt(0, 0)]
    assert producer.held_bytes == 0


def test_unanswered_batch_is_of_unknown_outcome_and_keeps_its_number(brokers: Brokers, producer: Producer) -> None:
    outcome = publish(producer, b"a", seconds=1)
    brokers.pass_time(1.1)
    assert isinstance(outcome[0], OutcomeUnknown)
    assert producer.held_bytes > 0
    brokers.requests[0].answer.errback(NoAnswer("cut"))
    late = publish(producer, b"b")
    brokers.pass_time(0.2)
    assert brokers.requests[1].batches[("t", 0)] == Sent(1, 0, [b"a"])
    brokers.requests[1].reply()
    brokers.pass_time(0.1)
    assert brokers.requests[2].batches[("t", 0)] == Sent(1, 1, [b"b"])
    brokers.requests[2].reply(offset=1)
    assert late == [Receipt(0, 1)]
    assert producer.held_bytes == 0


def test_an_id_is_asked_for_again_after_a_coordinator_that_is_loading(brokers: Brokers) -> None:
    brokers.id_errors = [14, 14, 14]
    producer = made(brokers)
    publish(producer, b"a")
    brokers.pass_time(0.5)
    assert brokers.requests[0].batches[("t", 0)].producer_id == 1


def test_where_ids_are_denied_one_request_is_in_flight_without_numbers(brokers: Brokers) -> None:
    brokers.id_errors = [31]
    producer = made(brokers)
    outcome = publish(producer, b"a")
    brokers.pass_time(0.1)
    assert brokers.requests[0].batches[("t", 0)].producer_id == -1
    publish(producer, b"b")
    brokers.pass_time(0.3)
    assert len(brokers.requests) == 1
    brokers.requests[0].answer.errback(NoAnswer("cut"))
    assert isinstance(outcome[0], OutcomeUnknown)
    brokers.pass_time(0.3)
    assert brokers.requests[1].batches[("t", 0)].values == [b"b"]


def test_acks_1_is_not_sent_again_when_it_may_have_been_written(brokers: Brokers, producer: Producer) -> None:
    outcome = publish(producer, b"a", acks=1)
    brokers.pass_time(0.01)
    assert brokers.requests[0].acks == 1
    brokers.requests[0].answer.errback(NoAnswer("cut"))
    assert isinstance(outcome[0], OutcomeUnknown)
    brokers.pass_time(1)
    assert len(brokers.requests) == 1


def test_a_silent_broker_is_left_for_the_new_leader_under_the_same_number(brokers: Brokers, producer: Producer) -> None:
    outcome = publish(producer, b"a")
    brokers.pass_time(1.2)
    assert brokers.looks_had >= 1
    brokers.leaders["t"] = [2, 2]
    brokers.pass_time(1.2)
    first, second = brokers.requests
    assert first.cancelled
    assert (second.node, second.batches) == (2, first.batches)
    second.reply(offset=3)
    assert outcome == [Receipt(0, 3)]


def test_a_partition_whose_leader_moved_is_sent_there(brokers: Brokers, producer: Producer) -> None:
    outcome = publish(producer, b"a")
    brokers.pass_time(0.01)
    brokers.leaders["t"] = [2, 2]
    brokers.requests[0].reply(error=6)
    brokers.pass_time(0.3)
    assert (brokers.requests[1].node, brokers.requests[1].batches) == (2, {("t", 0): Sent(1, 0, [b"a"])})
    brokers.requests[1].reply()
    assert outcome == [Receipt(0, 0)]


def test_batch_that_a_replaced_leader_refuses_may_be_written_and_keeps_its_number(
    brokers: Brokers, producer: Producer
) -> None:
    first = publish(producer, b"a")
    brokers.pass_time(0.01)
    second = publish(producer, b"b")
    brokers.requests[0].reply(error=6)
    brokers.pass_time(0.3)
    assert brokers.requests[1].batches == {("t", 0): Sent(1, 0, [b"a"])}
    brokers.requests[1].reply(error=46, offset=5)
    brokers.pass_time(0.1)
    assert brokers.requests[2].batches == {("t", 0): Sent(1, 1, [b"b"])}
    brokers.requests[2].reply(offset=6)
    assert [type(first[0]), second] == [Receipt, [Receipt(0, 6)]]


@pytest.mark.parametrize(
    ("code", "kind", "written"),
    [
        (19, NotEnoughReplicas, False),
        (20, WrittenTooNarrowly, True),
        (7, OutcomeUnknown, True),
        (6, OutcomeUnknown, True),
    ],
)
def test_an_error_that_lasts_to_the_deadline_is_what_the_caller_is_told(
    brokers: Brokers, producer: Producer, code: int, kind: type[Exception], written: bool
) -> None:
    outcome = publish(producer, b"a", seconds=1)
    for _ in range(120):
        brokers.pass_time(0.01)
        for request in brokers.requests:
            if not request.answer.called:
                request.reply(error=code)
    assert type(outcome[0]) is kind
    assert outcome[0].maybe_written is written
    assert {request.batches[("t", 0)].sequence for request in brokers.requests} == {0}


@pytest.mark.parametrize(("code", "kind"), [(10, TooLarge), (29, Denied)])
def test_a_refusal_settles_at_once_and_its_number_is_given_to_the_next(
    brokers: Brokers, producer: Producer, code: int, kind: type[Exception]
) -> None:
    refused = publish(producer, b"a")
    brokers.pass_time(0.01)
    brokers.requests[0].reply(error=code)
    assert type(refused[0]) is kind
    outcome = publish(producer, b"b")
    brokers.pass_time(0.1)
    assert brokers.requests[1].batches[("t", 0)] == Sent(1, 0, [b"b"])
    brokers.requests[1].reply()
    assert outcome == [Receipt(0, 0)]


def test_an_answer_that_says_nothing_costs_the_id(brokers: Brokers, producer: Producer) -> None:
    outcome = publish(producer, b"a")
    brokers.pass_time(0.01)
    brokers.requests[0].reply(error=77)
    assert isinstance(outcome[0], OutcomeUnknown)
    publish(producer, b"b")
    brokers.pass_time(0.2)
    assert brokers.requests[1].batches[("t", 0)] == Sent(2, 0, [b"b"])


def test_an_answer_that_cannot_be_read_is_no_answer(brokers: Brokers, producer: Producer) -> None:
    outcome = publish(producer, b"a")
    brokers.pass_time(0.01)
    brokers.requests[0].answer.callback(b"\0\0")
    brokers.pass_time(0.2)
    brokers.requests[1].reply(offset=5)
    assert outcome == [Receipt(0, 5)]


def test_publishes_to_unknown_topics_share_a_look_and_keep_their_order(brokers: Brokers, producer: Producer) -> None:
    brokers.looks_answered = False
    first, second = publish(producer, b"a", topic="new"), publish(producer, b"b", topic="new")
    other = publish(producer, b"c", topic="other")
    brokers.pass_time(0.1)
    assert brokers.looks_had == 1
    brokers.leaders["new"] = [1]
    brokers.changed()
    third = publish(producer, b"d", topic="new")
    brokers.looks_answered = True
    brokers.looks[0].callback(None)
    brokers.pass_time(0.1)
    assert brokers.requests[0].batches[("new", 0)].values == [b"a", b"b", b"d"]
    assert other == [], "brokers may tell of it a little after they made it"
    brokers.pass_time(0.3)
    assert isinstance(other[0], TopicNotFound)
    brokers.requests[0].reply()
    assert first + second + third == [Receipt(0, 0), Receipt(0, 1), Receipt(0, 2)]
    assert producer.held_bytes == 0


def test_messages_without_a_key_avoid_partitions_without_a_leader(brokers: Brokers, producer: Producer) -> None:
    brokers.leaders["t"] = [None, 2]
    outcomes: list[Outcome] = []
    for n in range(40):
        producer.publish("t", [Message(b"%d" % n)], -1, 5).addCallback(outcomes.extend)
    brokers.pass_time(0.01)
    assert list(brokers.requests[0].batches) == [("t", 1)]
    brokers.requests[0].reply()
    assert outcomes == [Receipt(1, n) for n in range(40)]


def test_a_topic_deleted_under_way_is_not_found(brokers: Brokers, producer: Producer) -> None:
    outcome = publish(producer, b"a")
    brokers.pass_time(0.01)
    del brokers.leaders["t"]
    brokers.requests[0].reply(error=3)
    brokers.pass_time(0.5)
    assert isinstance(outcome[0], TopicNotFound)
    assert producer.held_bytes == 0


def test_a_publish_of_nothing_is_answered_with_nothing(producer: Producer) -> None:
    assert producer.publish("t", [], -1, 5).result == []  # type: ignore[comparison-overlap]


def test_stopping_waits_for_what_is_on_its_way(brokers: Brokers, producer: Producer) -> None:
    outcome = publish(producer, b"a")
    brokers.pass_time(0.01)
    stopping = Deferred.fromCoroutine(producer.stop(5))
    assert isinstance(publish(producer, b"b")[0], Draining)
    brokers.pass_time(1)
    assert not stopping.called
    brokers.requests[0].reply()
    assert stopping.called
    assert outcome == [Receipt(0, 0)]
    assert brokers.reactor.getDelayedCalls() == []


def test_publishes_left_when_the_grace_is_over_are_told_apart(brokers: Brokers, producer: Producer) -> None:
    outcome = publish(producer, b"a")
    brokers.pass_time(0.01)
    waiting = publish(producer, b"b")
    stopping = Deferred.fromCoroutine(producer.stop(0.5))
    brokers.pass_time(0.6)
    assert stopping.called
    assert isinstance(outcome[0], OutcomeUnknown)
    assert isinstance(waiting[0], Draining)
    assert brokers.reactor.getDelayedCalls() == []
    assert producer.held_bytes == 0


def test_a_request_is_bounded(brokers: Brokers) -> None:
    producer = made(brokers, max_request_bytes=10000)
    for n in range(30):
        publish(producer, bytes(1000), partition=n % 2)
    for _ in range(12):
        brokers.pass_time(0.02)
        for request in brokers.requests:
            if not request.answer.called:
                assert sum(len(batch.values) for batch in request.batches.values()) <= 9
                request.reply()
    assert producer.held_bytes == 0


class HandedAtOnce(Brokers):
    """Brokers that acks=0 is published to: a request is answered when it was handed over."""

    def request(self, node: int, api_key: int, _version: int, body: bytes, **options: Any) -> Deferred[bytes]:
        answer = super().request(node, api_key, _version, body, **options)
        if api_key == PRODUCE:
            answer.callback(b"")
        return answer


def test_acks_0_after_an_outage_answers_every_publish_however_many_requests_that_takes() -> None:
    brokers = HandedAtOnce()
    producer = made(brokers, max_request_bytes=10000)
    brokers.reachable = False
    outcomes = [publish(producer, bytes(5000), acks=0, seconds=60) for _ in range(1200)]
    brokers.pass_time(0.1)
    brokers.reachable = True
    brokers.pass_time(1)
    assert outcomes == [[Receipt(0, None)]] * 1200
    assert producer.held_bytes == 0


def test_topic_made_anew_with_fewer_partitions_takes_every_key(brokers: Brokers, producer: Producer) -> None:
    brokers.leaders["t"] = [None] * 5
    outcomes: list[Outcome] = []

    def publish_keys() -> None:
        for n in range(20):
            producer.publish("t", [Message(b"v", key=b"%d" % n)], -1, 60).addCallback(outcomes.extend)

    publish_keys()
    named = publish(producer, b"v", partition=4, seconds=60)
    brokers.leaders["t"] = [1, 1]
    brokers.changed()
    publish_keys()
    for _ in range(10):
        brokers.pass_time(0.1)
        for request in brokers.requests:
            if not request.answer.called:
                request.reply()
    assert isinstance(named[0], PartitionNotFound)
    assert [type(outcome) for outcome in outcomes] == [Receipt] * 40
    assert producer.held_bytes == 0


def test_partitions_that_went_and_came_back_are_numbered_under_another_id(brokers: Brokers, producer: Producer) -> None:
    publish(producer, b"a", partition=1)
    brokers.pass_time(0.1)
    brokers.requests[0].reply()
    for leaders in ([1], [1, 1]):
        brokers.leaders["t"] = list(leaders)
        brokers.changed()
    publish(producer, b"b", partition=1)
    brokers.pass_time(0.1)
    assert brokers.requests[1].batches[("t", 1)] == Sent(2, 0, [b"b"])


def test_one_listing_without_the_topic_drops_nothing(brokers: Brokers, producer: Producer) -> None:
    outcome = publish(producer, b"a")
    brokers.pass_time(0.01)
    leaders = brokers.leaders.pop("t")
    brokers.requests[0].reply(error=6)
    looks = brokers.looks_had
    while brokers.looks_had == looks:
        brokers.pass_time(0.01)
    brokers.leaders["t"] = leaders
    brokers.pass_time(1)
    brokers.requests[1].reply()
    assert outcome == [Receipt(0, 0)]
    assert producer.held_bytes == 0


def test_partition_whose_topic_went_while_a_request_was_under_way_is_undecided_until_that_is_over(
    brokers: Brokers, producer: Producer
) -> None:
    outcome = publish(producer, b"a")
    brokers.pass_time(0.01)
    del brokers.leaders["t"]
    producer._lookups.wanted = True
    brokers.pass_time(1)
    assert isinstance(outcome[0], OutcomeUnknown)
    assert producer.undecided("t", 0)
    brokers.pass_time(12)
    assert not producer.undecided("t", 0)
    assert not producer._dropped


def test_looks_that_fail_do_not_count_as_looks_at_a_topic(brokers: Brokers, producer: Producer) -> None:
    brokers.looks_answered = False
    outcome: list[Outcome] = []
    producer.publish("u", [Message(b"a")], -1, 30).addCallback(outcome.extend)
    for _ in range(3):
        brokers.pass_time(0.5)
        for look in brokers.looks:
            if not look.called:
                look.errback(Unavailable("no broker answers"))
    brokers.looks_answered = True
    had = brokers.looks_had
    while brokers.looks_had == had:
        brokers.pass_time(0.01)
    assert outcome == []
    brokers.leaders["u"] = [1]
    brokers.pass_time(0.6)
    brokers.requests[0].reply()
    assert outcome == [Receipt(0, 0)]


def test_batch_that_a_broker_always_fails_over_is_given_up_and_those_behind_it_go_on(
    brokers: Brokers, producer: Producer
) -> None:
    outcome = publish(producer, b"poison", seconds=1000)
    for attempt in range(5):
        while len(brokers.requests) <= attempt:
            brokers.pass_time(0.01)
        if attempt == 4:
            behind = publish(producer, b"good", seconds=1000)
        brokers.requests[attempt].reply(error=-1)
    assert isinstance(outcome[0], OutcomeUnknown)
    while len(brokers.requests) == 5:
        brokers.pass_time(0.01)
    brokers.requests[5].reply()
    assert behind == [Receipt(0, 0)]


def test_refused_batch_that_waits_for_others_in_flight_is_answered_at_its_deadline(
    brokers: Brokers, producer: Producer
) -> None:
    first = publish(producer, b"proves")
    brokers.pass_time(0.01)
    brokers.requests[0].reply()
    refused = publish(producer, b"a", seconds=2)
    brokers.pass_time(0.01)
    producer._senders[1, -1]._flew_at = -1.0
    slow = publish(producer, b"b", seconds=60)
    brokers.pass_time(0.01)
    brokers.requests[1].reply(error=19)
    brokers.pass_time(2.2)
    assert first == [Receipt(0, 0)]
    assert isinstance(refused[0], OutcomeUnknown)
    assert slow == []


def look_had(brokers: Brokers, producer: Producer) -> None:
    """One more listing, of what the test says now."""
    producer._lookups.wanted = True
    had = brokers.looks_had
    while brokers.looks_had == had:
        brokers.pass_time(0.01)


def test_one_listing_with_fewer_partitions_drops_nothing(brokers: Brokers, producer: Producer) -> None:
    outcome = publish(producer, b"a", partition=1)
    brokers.pass_time(0.01)
    brokers.leaders["t"] = [1]
    look_had(brokers, producer)
    brokers.leaders["t"] = [1, 1]
    brokers.changed()
    brokers.pass_time(0.6)
    assert outcome == []
    brokers.requests[0].reply(offset=4)
    assert outcome == [Receipt(1, 4)]
    brokers.pass_time(0.1)
    assert producer.held_bytes == 0


def test_partition_that_two_listings_lack_is_dropped_and_undecided_while_its_request_is_under_way(
    brokers: Brokers, producer: Producer
) -> None:
    outcome = publish(producer, b"a", partition=1)
    brokers.pass_time(0.01)
    brokers.leaders["t"] = [1]
    brokers.changed()
    brokers.pass_time(0.6)
    assert isinstance(outcome[0], OutcomeUnknown)
    assert producer.undecided("t", 1)
    assert producer.held_bytes == 0
    brokers.pass_time(12)
    assert not producer.undecided("t", 1)


def test_listings_without_the_topic_that_do_not_follow_each_other_drop_nothing(
    brokers: Brokers, producer: Producer
) -> None:
    for value in (b"a", b"b"):
        outcome = publish(producer, value)
        brokers.pass_time(0.01)
        leaders = brokers.leaders.pop("t")
        look_had(brokers, producer)
        brokers.leaders["t"] = leaders
        brokers.requests[-1].reply()
        brokers.changed()
        assert outcome == [Receipt(0, 0)]
        brokers.pass_time(1)


def test_look_that_failed_for_a_partition_that_moved_is_made_again(brokers: Brokers, producer: Producer) -> None:
    outcome = publish(producer, b"a")
    brokers.pass_time(0.01)
    brokers.looks_answered = False
    brokers.requests[0].reply(error=6)
    brokers.pass_time(0.3)
    brokers.leaders["t"] = [2, 2]
    brokers.looks_answered = True
    assert brokers.looks_had == 1
    brokers.looks[0].errback(Unavailable("no broker answers"))
    brokers.pass_time(0.3)
    assert brokers.looks_had == 2
    brokers.requests[1].answer.errback(NoAnswer("cut"))
    brokers.pass_time(0.3)
    brokers.requests[2].reply()
    assert (brokers.requests[2].node, outcome) == (2, [Receipt(0, 0)])


@pytest.mark.parametrize("body", [array([]) + i32(0), b"\0\0"], ids=["not named", "not readable"])
def test_batch_that_no_answer_speaks_of_is_given_up_and_those_behind_it_go_on(
    brokers: Brokers, producer: Producer, body: bytes
) -> None:
    outcome = publish(producer, b"poison", seconds=1000)
    for attempt in range(5):
        while len(brokers.requests) <= attempt:
            brokers.pass_time(0.01)
        assert outcome == []
        if attempt == 4:
            behind = publish(producer, b"good", seconds=1000)
        brokers.requests[attempt].answer.callback(body)
    assert isinstance(outcome[0], OutcomeUnknown)
    brokers.pass_time(1)
    brokers.requests[5].reply()
    assert behind == [Receipt(0, 0)]
    brokers.pass_time(0.1)
    assert producer.held_bytes == 0


def test_batch_that_is_never_answered_is_not_given_up(brokers: Brokers, producer: Producer) -> None:
    outcome = publish(producer, b"a", seconds=1000)
    for attempt in range(8):
        while len(brokers.requests) <= attempt:
            brokers.pass_time(0.01)
        brokers.requests[attempt].answer.errback(NoAnswer("cut"))
    brokers.pass_time(1)
    brokers.requests[8].reply()
    assert outcome == [Receipt(0, 0)]


def test_null_key_that_kafka_before_2_4_calls_corrupt_fails_alone(brokers: Brokers, producer: Producer) -> None:
    outcomes = [publish(producer, value) for value in (b"a", b"bad", b"c", b"d")]
    answered = 0
    for _ in range(40):
        brokers.pass_time(0.05)
        for request in brokers.requests[answered:]:
            request.reply(error=2 if b"bad" in request.batches[("t", 0)].values else 0)
            answered += 1
    assert [type(outcome[0]) is Receipt for outcome in outcomes] == [True, False, True, True]
    assert not outcomes[1][0].maybe_written  # type: ignore[union-attr]
    assert producer.held_bytes == 0
