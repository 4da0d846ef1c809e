"""Calls and streams of a link: answered once, closed once, bounded, and failed together when the link breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from links_in_memory import Pipe
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from kateway.cluster.frames import BadFrame, Frame, Kind
from kateway.cluster.interface import Stream
from kateway.cluster.session import Session
from kateway.errors import GatewayUnavailable, GroupBusy, KatewayError, TooLarge


class End:
    """Notes what a stream's other end says."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.closings: list[KatewayError | None] = []

    def message(self, message: bytes) -> None:
        assert not self.closings
        self.messages.append(message)

    def closed(self, error: KatewayError | None) -> None:
        self.closings.append(error)


class Answering:
    """Answers calls as the test says, and keeps the streams that are opened."""

    def __init__(self, call: Callable[[bytes], Deferred[bytes]] = succeed) -> None:
        self._call = call
        self.ends: list[End] = []
        self.streams: list[Stream] = []

    def call(self, request: bytes) -> Deferred[bytes]:
        return self._call(request)

    def opened(self, stream: Stream, request: bytes) -> End:
        if request == b"refuse":
            raise GroupBusy("it has readers")
        self.streams.append(stream)
        self.ends.append(End())
        return self.ends[-1]


def outcome(call: Deferred[bytes]) -> list[Any]:
    found: list[Any] = []
    call.addBoth(found.append)
    return found


def test_call_is_answered_and_an_error_comes_as_its_class() -> None:
    answers = {b"good": succeed(b"yes"), b"bad": fail(GroupBusy("it has readers"))}
    pipe = Pipe(Clock(), Answering(answers.__getitem__))
    good, bad = outcome(pipe.near.call(b"good")), outcome(pipe.near.call(b"bad"))
    pipe.pump()
    assert good == [b"yes"]
    assert isinstance(bad[0].value, GroupBusy)
    assert bad[0].value.detail == "it has readers"
    assert pipe.near.idle
    assert pipe.far.idle


def test_answer_to_a_call_that_was_given_up_goes_nowhere() -> None:
    pending: Deferred[bytes] = Deferred()
    pipe = Pipe(Clock(), Answering(lambda _: pending))
    given_up = outcome(call := pipe.near.call(b"slow"))
    pipe.pump()
    call.cancel()
    pending.callback(b"late")
    pipe.pump()
    assert len(given_up) == 1
    assert pipe.near.idle


def test_calls_and_streams_beyond_the_bound_are_refused_and_the_others_go_on() -> None:
    waiting: list[Deferred[bytes]] = []

    def keep(_request: bytes) -> Deferred[bytes]:
        waiting.append(Deferred())
        return waiting[-1]

    answering = Answering(keep)
    pipe = Pipe(Clock(), answering)
    calls = [outcome(pipe.near.call(b"x")) for _ in range(101)]
    ends = [End() for _ in range(101)]
    streams = [pipe.near.open(b"x", end) for end in ends]
    pipe.pump()
    assert [len(found) for found in calls] == [0] * 100 + [1]
    assert isinstance(calls[-1][0].value, GatewayUnavailable)
    assert [len(end.closings) for end in ends] == [0] * 100 + [1]
    for answer in waiting:
        answer.callback(b"")
    streams[0].close()
    again = End()
    pipe.pump()
    pipe.near.open(b"x", again)
    pipe.pump()
    assert not again.closings
    assert all(found == [b""] for found in calls[:100])


def test_what_is_too_large_is_refused_where_it_is_sent() -> None:
    pipe = Pipe(Clock(), Answering(lambda _: succeed(b"x" * (1 << 20))))
    with pytest.raises(TooLarge):
        pipe.near.call(b"x" * ((1 << 20) + 1))
    answer = outcome(pipe.near.call(b""))
    pipe.pump()
    assert isinstance(answer[0].value, TooLarge)


def test_stream_that_is_refused_is_closed_with_why() -> None:
    pipe = Pipe(Clock(), Answering())
    pipe.near.open(b"refuse", end := End())
    pipe.pump()
    assert isinstance(end.closings[0], GroupBusy)


def test_broken_link_fails_all_that_is_under_way_at_both_ends() -> None:
    pending: Deferred[bytes] = Deferred()
    answering = Answering(lambda _: pending)
    pipe = Pipe(Clock(), answering)
    call, stream = outcome(pipe.near.call(b"x")), pipe.near.open(b"x", end := End())
    pipe.pump()
    pipe.lose(GatewayUnavailable("it broke"))
    assert call[0].check(GatewayUnavailable)
    assert len(end.closings) == len(answering.ends[0].closings) == 1
    with pytest.raises(GatewayUnavailable):
        pipe.near.call(b"x")
    stream.send(b"into nothing")
    stream.close()
    pipe.lose(GatewayUnavailable("again"))
    pending.addErrback(lambda _: None)


@pytest.mark.parametrize("frame", [Frame(Kind.CALL, 2, b""), Frame(Kind.OPEN, 4, b"")])
def test_number_of_the_other_ends_ends_the_link(frame: Frame) -> None:
    pipe = Pipe(Clock(), Answering())
    with pytest.raises(BadFrame):
        pipe.far.receive(frame)


def test_streams_wait_for_room_and_are_told_once() -> None:
    pipe = Pipe(Clock(), Answering())
    stream = pipe.near.open(b"x", End())
    pipe.near.full = True
    assert not stream.writable
    told: list[int] = []
    stream.on_writable(lambda: told.append(1))
    pipe.near.drained()
    pipe.near.drained()
    assert told == [1]
    assert stream.writable


class SessionMachine(RuleBasedStateMachine):
    """Streams opened from both ends, written to and closed at random, with frames on their way all the time."""

    @initialize()
    def begin(self) -> None:
        self.answering = {"near": Answering(), "far": Answering()}
        self.pipe = Pipe(Clock(), self.answering["far"], self.answering["near"])
        self.opened: list[tuple[str, Any, End, list[bytes]]] = []

    def session(self, side: str) -> Session:
        return self.pipe.near if side == "near" else self.pipe.far

    @rule(side=st.sampled_from(["near", "far"]))
    def open(self, side: str) -> None:
        end = End()
        self.opened.append((side, self.session(side).open(b"x", end), end, []))

    @precondition(lambda self: self.opened)
    @rule(data=st.data(), message=st.binary(max_size=5))
    def send(self, data: st.DataObject, message: bytes) -> None:
        _side, stream, _end, sent = data.draw(st.sampled_from(self.opened))
        if not stream.over:
            sent.append(message)
        stream.send(message)

    @precondition(lambda self: self.opened)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.opened))[1].close()

    @rule(data=st.data(), side=st.sampled_from(["near", "far"]))
    def close_there(self, data: st.DataObject, side: str) -> None:
        if self.answering[side].streams:
            data.draw(st.sampled_from(self.answering[side].streams)).close(GroupBusy("enough"))

    @rule()
    def pump(self) -> None:
        self.pipe.pump()

    @invariant()
    def closed_once(self) -> None:
        ends = [end for _, _, end, _ in self.opened] + [end for each in self.answering.values() for end in each.ends]
        assert all(len(end.closings) <= 1 for end in ends)

    def teardown(self) -> None:
        if not hasattr(self, "pipe"):
            return
        self.pipe.pump()
        for side in ("near", "far"):
            other = self.answering["far" if side == "near" else "near"]
            mine = [each for each in self.opened if each[0] == side]
            for (_side, _stream, _end, sent), there in zip(mine, other.ends, strict=True):
                assert there.messages == sent[: len(there.messages)]
        for _, stream, _, _ in self.opened:
            stream.close()
        self.pipe.pump()
        assert self.pipe.near.idle
        assert self.pipe.far.idle
        assert self.pipe.near._begun == self.pipe.far._begun == 0


SessionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSessions = SessionMachine.TestCase


def test_broken_link_fails_all_though_the_end_of_one_call_gives_another_up() -> None:
    pipe = Pipe(Clock(), Answering(lambda _: Deferred()))
    first, second = pipe.near.call(b"x"), pipe.near.call(b"y")
    given_up = outcome(second)
    first.addErrback(lambda _: second.cancel())
    third = outcome(pipe.near.call(b"z"))
    pipe.near.open(b"x", end := End())
    pipe.pump()
    pipe.lose(GatewayUnavailable("it broke"))
    assert (len(given_up), len(third), len(end.closings)) == (1, 1, 1)


def test_stream_that_another_ones_end_closes_hears_nothing_of_the_broken_link() -> None:
    pipe = Pipe(Clock(), Answering())
    streams: list[Stream] = []

    class Closing(End):
        def closed(self, error: KatewayError | None) -> None:
            super().closed(error)
            streams[1].close()

    streams.append(pipe.near.open(b"x", Closing()))
    streams.append(pipe.near.open(b"x", other := End()))
    pipe.pump()
    pipe.lose(GatewayUnavailable("it broke"))
    assert other.closings == []


@pytest.mark.parametrize("kind", [Kind.OPEN, Kind.CALL])
def test_frame_behind_the_end_of_a_link_begins_nothing(kind: Kind) -> None:
    called: list[bytes] = []

    def call(request: bytes) -> Deferred[bytes]:
        called.append(request)
        return Deferred()

    answering = Answering(call)
    pipe = Pipe(Clock(), answering)
    pipe.far.lose(GatewayUnavailable("the gateway is shutting down"))
    # TLS gives what had arrived before the other end has answered the end
    pipe.far.receive(Frame(kind, 1, b"x"))
    assert (answering.ends, called) == ([], [])
    assert pipe.far.idle
