"""One connection to one broker: framing, failures and what they say, spacing of attempts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from kateway.config.addresses import Address
from kateway.storage.kafka.cluster.connection import BrokerConnection, FrameReceiver, NeverSent, NoAnswer


class Broker:
    """The far end: a memory reactor that connects when told to."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.connection = BrokerConnection(self.reactor, TCP4ClientEndpoint, 1, Address("h", 1), "me")
        self.transport = AbortableTransport()
        self.protocol: FrameReceiver

    @property
    def attempts(self) -> int:
        return len(self.reactor.tcpClients)

    def accept(self) -> None:
        factory = self.reactor.tcpClients[-1][2]
        self.protocol = factory.buildProtocol(None)
        self.transport = AbortableTransport()
        self.protocol.makeConnection(self.transport)

    def refuse(self) -> None:
        self.reactor.tcpClients[-1][2].clientConnectionFailed(None, Failure(ConnectError()))

    def drop(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))

    def answer(self, correlation_id: int, body: bytes) -> None:
        self.protocol.dataReceived(frame(correlation_id, body))

    def ask(self, body: bytes = b"?", **options):
        return self.connection.request(3, 4, body, timeout_seconds=5, **options)


class AbortableTransport(StringTransport):
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


def frame(correlation_id: int, body: bytes) -> bytes:
    return (len(body) + 4).to_bytes(4, "big") + correlation_id.to_bytes(4, "big") + body


def outcome(deferred):
    seen = []
    deferred.addBoth(seen.append)
    return seen


@pytest.fixture
def broker():
    return Broker()


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6), st.data())
def test_answers_are_cut_right_however_the_stream_is_split(bodies, data):
    answers: list[tuple[int, bytes]] = []

    class Factory:
        def answered(self, correlation_id: int, body: bytes) -> None:
            answers.append((correlation_id, body))

    receiver = FrameReceiver()
    receiver.factory = Factory()
    stream = b"".join(frame(number, body) for number, body in enumerate(bodies))
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        receiver.dataReceived(stream[:size])
        stream = stream[size:]
    assert answers == list(enumerate(bodies))


def test_a_request_connects_and_is_answered_without_its_header(broker):
    seen = outcome(broker.ask(b"body"))
    assert broker.attempts == 1
    broker.accept()
    sent = broker.transport.value()
    assert sent == (len(sent) - 4).to_bytes(4, "big") + b"\0\3\0\4\0\0\0\1\0\2me" + b"body"
    broker.answer(1, b"hello")
    assert seen == [b"hello"]
    assert broker.reactor.getDelayedCalls() == []


def test_a_refused_connection_fails_what_waits_as_never_sent_and_is_not_tried_again_at_once(broker):
    first = outcome(broker.ask())
    broker.refuse()
    assert first[0].check(NeverSent)
    second = outcome(broker.ask())
    assert broker.attempts == 1
    broker.reactor.advance(0.2)
    assert broker.attempts == 2
    broker.accept()
    broker.answer(2, b"")
    assert second == [b""]
    assert broker.connection.backoff.seconds == 0


def test_unanswered_request_fails_when_the_connection_goes_and_is_not_sent_again(broker):
    seen = outcome(broker.ask())
    broker.accept()
    broker.drop()
    assert seen[0].check(NoAnswer)
    broker.reactor.advance(60)
    assert broker.attempts == 1


def test_connections_closed_right_after_they_were_accepted_are_spaced_out(broker):
    for _ in range(4):
        seen = outcome(broker.ask())
        broker.reactor.advance(1.0)
        broker.accept()
        broker.drop()
        assert "without an answer" in str(seen[0].value)
    before = broker.attempts
    outcome(broker.ask())
    broker.reactor.advance(0.3)
    assert broker.attempts == before
    assert broker.connection.backoff.seconds == 0.8


def test_an_overdue_answer_drops_the_connection_and_fails_all_behind_it(broker):
    first = outcome(broker.ask())
    broker.accept()
    broker.reactor.advance(3)
    second = outcome(broker.ask())
    broker.reactor.advance(2)
    assert first[0].check(NoAnswer)
    assert broker.transport.aborted
    broker.drop()
    assert second[0].check(NoAnswer)


def test_a_request_that_cannot_be_sent_in_time_was_never_sent(broker):
    seen = outcome(broker.ask())
    broker.reactor.advance(5)
    assert seen[0].check(NeverSent)


def test_the_answer_to_a_cancelled_request_is_dropped(broker):
    cancelled = broker.ask()
    seen = outcome(cancelled)
    broker.accept()
    cancelled.cancel()
    other = outcome(broker.ask())
    broker.answer(1, b"late")
    broker.answer(2, b"mine")
    assert other == [b"mine"]
    assert len(seen) == 1


def test_a_request_without_an_answer_is_done_when_it_is_handed_to_the_transport(broker):
    seen = outcome(broker.ask(expect_response=False))
    assert seen == []
    broker.accept()
    assert seen == [b""]
    assert outcome(broker.ask(expect_response=False)) == [b""]
    assert broker.reactor.getDelayedCalls() == []


@pytest.mark.parametrize(
    "words", [b"\x15\x03\x03\x00\x02\x02\x46\x00", b"HTTP/1.1 400 Bad Request\r\n", b"\0\0\0\1abcd"]
)
def test_server_that_does_not_talk_kafka_is_hung_up_on(broker, words):
    seen = outcome(broker.ask())
    broker.accept()
    broker.protocol.dataReceived(words)
    assert broker.transport.aborted
    broker.drop()
    assert "does not talk plain Kafka" in str(seen[0].value)


def test_closing_fails_what_is_under_way_and_refuses_what_comes(broker):
    seen = outcome(broker.ask())
    broker.accept()
    closed = outcome(broker.connection.close())
    assert seen[0].check(NoAnswer)
    assert closed == []
    broker.reactor.advance(1)
    assert broker.transport.aborted
    broker.drop()
    assert closed == [None]
    assert outcome(broker.ask())[0].check(NeverSent)
    assert outcome(broker.connection.close()) == [None]


def test_closing_while_connecting_ends_the_attempt(broker):
    seen = outcome(broker.ask())
    assert outcome(broker.connection.close()) == [None]
    assert seen[0].check(NeverSent)
    assert broker.reactor.getDelayedCalls() == []


def test_listener_may_close_the_subscription_that_tells_it_of_a_failure():
    for accepted in (True, False):
        broker = Broker()
        first, second = broker.ask(b"first"), broker.ask(b"second")
        first.addErrback(lambda _failure, second=second: second.cancel())
        if accepted:
            broker.accept()
            broker.drop()
        else:
            broker.refuse()
        second.addErrback(lambda failure: failure.trap(CancelledError))
        assert second.result is CancelledError
        assert first.result is None


def test_connection_may_be_closed_by_the_caller_whose_request_failed_when_it_was_lost(broker):
    seen = broker.ask()
    seen.addErrback(lambda _failure: broker.connection.close())
    broker.accept()
    broker.drop()
    assert outcome(seen) == [None]


# --- renewal -------------------------------------------------------------------------------------------------------


def connected() -> Broker:
    """A broker that has answered one request."""
    broker = Broker()
    answers: list[bytes] = []
    broker.ask().addCallback(answers.append)
    broker.accept()
    broker.answer(1, b"")
    assert answers == [b""]
    return broker


def test_unused_connection_is_left_at_once_and_made_again_when_there_is_something_to_send():
    broker = connected()
    broker.connection.proto.renew()
    assert broker.transport.disconnecting
    broker.drop()
    assert broker.reactor.getDelayedCalls() == []
    assert broker.attempts == 1
    answer = broker.ask(b"next")
    broker.accept()
    assert broker.transport.value().endswith(b"next")
    broker.answer(2, b"yes")
    assert answer.result == b"yes"


def test_requests_are_answered_before_a_connection_is_left_and_later_ones_go_over_the_next():
    broker = connected()
    before, old = broker.ask(b"before"), broker.transport
    broker.connection.proto.renew()
    after = broker.ask(b"after")
    assert not old.disconnecting
    assert not old.value().endswith(b"after")
    broker.answer(2, b"one")
    assert before.result == b"one"
    assert old.disconnecting
    assert broker.attempts == 1, "in their order: not while the old one is open"
    broker.drop()
    broker.accept()
    assert broker.transport.value().endswith(b"after")
    broker.answer(3, b"two")
    assert after.result == b"two"


def test_a_connection_that_is_lost_while_it_has_answers_to_come_is_a_failure_as_any():
    broker = connected()
    before = broker.ask(b"before")
    broker.connection.proto.renew()
    after = broker.ask(b"after")
    broker.drop()
    before.addErrback(lambda failure: failure.trap(NoAnswer))
    after.addErrback(lambda failure: failure.trap(NeverSent))
    assert (before.result, after.result) == (NoAnswer, NeverSent)


def test_a_broker_that_does_not_close_is_not_waited_for():
    broker = connected()
    broker.connection.proto.renew()
    answer = broker.ask()
    broker.reactor.advance(1.1)
    assert broker.transport.aborted
    broker.drop()
    broker.accept()
    broker.answer(2, b"yes")
    assert answer.result == b"yes"


def test_closing_while_it_is_left_waits_for_its_end():
    for asked in (False, True):
        broker = connected()
        waiting = broker.ask() if asked else None
        broker.connection.proto.renew()
        closed = broker.connection.close()
        assert not closed.called
        broker.drop()
        assert closed.called
        assert broker.reactor.getDelayedCalls() == []
        if waiting is not None:
            waiting.addErrback(lambda failure: failure.trap(NoAnswer))
            assert waiting.result is NoAnswer
