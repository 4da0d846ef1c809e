"""Keeps the calls and streams of one link, from established to broken. Pure: frames in, frames out, callbacks.

Each end numbers what it begins, the dialer oddly and the acceptor evenly. What is bounded: calls and streams that the
other end has begun and that are not over (``GatewayUnavailable`` beyond), and a frame's payload.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.cluster.errors import error_object, error_of
from kateway.cluster.frames import BadFrame, Frame, Kind
from kateway.cluster.interface import Answering, StreamEnd
from kateway.errors import GatewayUnavailable, KatewayError, TooLarge

_log = Logger()
_goes_on = _log.failureHandler("a stream between gateways broke; the others of its link go on")
GOOD, BAD = b"+", b"-"
Send = Callable[[Kind, int, bytes], None]


class Session:
    """Calls and streams over one link; ``send`` writes a frame."""

    def __init__(self, send: Send, answering: Answering, *, dialed: bool, max_begun: int, max_payload: int) -> None:
        self._send = send
        self._answering = answering
        self._next = 1 if dialed else 2
        self._theirs = 0 if dialed else 1
        self._max_begun = max_begun
        self._max_payload = max_payload
        self._calls: dict[int, Deferred[bytes]] = {}
        self._streams: dict[int, SessionStream] = {}
        self._answers: dict[int, Deferred[Any]] = {}
        # what is being answered here
        self._begun = 0
        # streams that the other end has begun
        self._writable: list[Callable[[], None]] = []
        self.full = False
        """The link has more to write than it should hold."""
        self.broken: KatewayError | None = None

    @property
    def idle(self) -> bool:
        """Whether no call and no stream is under way."""
        return not self._calls and not self._streams and not self._answers

    @property
    def streams(self) -> int:
        return len(self._streams)

    def call(self, request: bytes) -> Deferred[bytes]:
        """Calls the other end; cancelling abandons the answer."""
        self._check(request)
        number = self._number()

        def give_up(_answer: Deferred[Any]) -> None:
            self._calls.pop(number, None)

        answer: Deferred[bytes] = Deferred(give_up)
        self._calls[number] = answer
        self._send(Kind.CALL, number, request)
        return answer

    def open(self, request: bytes, end: StreamEnd) -> SessionStream:
        """Opens a stream to the other end."""
        self._check(request)
        number = self._number()
        stream = self._streams[number] = SessionStream(self, number, theirs=False)
        stream.end = end
        self._send(Kind.OPEN, number, request)
        return stream

    def receive(self, frame: Frame) -> None:
        """Takes a frame; one behind the end is passed over. ``BadFrame``."""
        if self.broken is not None:
            # TLS gives what has arrived until the other end has answered ours: a stream would be opened for good
            return
        kind, number, payload = frame
        if kind is Kind.HEARTBEAT:
            return
        if kind is Kind.CALL or kind is Kind.OPEN:
            if number % 2 != self._theirs or number in self._answers or number in self._streams:
                raise BadFrame(f"number {number} cannot be begun")
            if kind is Kind.CALL:
                self._called(number, payload)
            else:
                self._opened(number, payload)
        elif kind is Kind.ANSWER:
            self._answered(number, payload)
        else:
            self._streamed(kind, number, payload)

    def lose(self, error: KatewayError) -> None:
        """The link is broken: fails what is under way."""
        if self.broken is not None:
            return
        self.broken = error
        calls, self._calls = self._calls, {}
        streams, self._streams = self._streams, {}
        answers, self._answers = self._answers, {}
        self._writable.clear()
        for answer in answers.values():
            answer.cancel()
        # the end of one may give up, or close, others
        for call in calls.values():
            if not call.called:
                call.errback(error)
        for stream in streams.values():
            if stream.over:
                continue
            stream.over = True
            with _goes_on:
                if stream.end is not None:
                    stream.end.closed(error)

    def drained(self) -> None:
        """There is room again for what is to be written."""
        self.full = False
        waiting, self._writable = self._writable, []
        for callback in waiting:
            with _goes_on:
                callback()

    def when_writable(self, callback: Callable[[], None]) -> None:
        self._writable.append(callback)

    def write(self, stream: SessionStream, kind: Kind, payload: bytes) -> None:
        if len(payload) > self._max_payload:
            raise _too_large(len(payload))
        if self.broken is None:
            self._send(kind, stream.number, payload)

    def forget(self, stream: SessionStream) -> None:
        if self._streams.pop(stream.number, None) is not None and stream.theirs:
            self._begun -= 1

    def _check(self, request: bytes) -> None:
        if self.broken is not None:
            raise self.broken
        if len(request) > self._max_payload:
            raise _too_large(len(request))

    def _number(self) -> int:
        number = self._next
        self._next = number + 2 if number + 2 < 1 << 32 else number % 2 or 2
        return number

    def _called(self, number: int, request: bytes) -> None:
        if len(self._answers) >= self._max_begun:
            self._answer_badly(number, GatewayUnavailable("the other gateway has too many calls under way"))
            return
        try:
            answer = self._answering.call(request)
        except KatewayError as error:
            self._answer_badly(number, error)
            return
        self._answers[number] = answer
        answer.addCallbacks(self._answer_well, self._answer_failed, (number,), {}, (number,), {})
        answer.addErrback(lambda failure: _log.failure("an answer to another gateway broke", failure))

    def _answer_well(self, answer: bytes, number: int) -> None:
        if self._answers.pop(number, None) is None:
            return
        if len(answer) >= self._max_payload:
            self._answer_badly(number, TooLarge("the answer is too large to pass between gateways"))
        else:
            self._send(Kind.ANSWER, number, GOOD + answer)

    def _answer_failed(self, failure: Failure, number: int) -> None:
        if self._answers.pop(number, None) is None or failure.check(CancelledError):
            return
        error = failure.value
        if not isinstance(error, KatewayError):
            _log.failure("an answer to another gateway broke", failure)
            error = KatewayError("the other gateway failed; its log says why")
        self._answer_badly(number, error)

    def _answer_badly(self, number: int, error: KatewayError) -> None:
        if self.broken is None:
            self._send(Kind.ANSWER, number, BAD + orjson.dumps(error_object(error)))

    def _answered(self, number: int, payload: bytes) -> None:
        call = self._calls.pop(number, None)
        if call is None:
            return  # given up meanwhile
        if payload[:1] == GOOD:
            call.callback(payload[1:])
        else:
            call.errback(_read_error(payload[1:]))

    def _opened(self, number: int, request: bytes) -> None:
        stream = SessionStream(self, number, theirs=True)
        if self._begun >= self._max_begun:
            stream.close(GatewayUnavailable("the other gateway has too many streams open"))
            return
        self._streams[number] = stream
        self._begun += 1
        try:
            stream.end = self._answering.opened(stream, request)
        except KatewayError as error:
            stream.close(error)
        except Exception:
            _log.failure("opening a stream for another gateway broke")
            stream.close(KatewayError("the other gateway failed; its log says why"))

    def _streamed(self, kind: Kind, number: int, payload: bytes) -> None:
        stream = self._streams.get(number)
        if stream is None or stream.end is None:
            return  # closed here meanwhile
        if kind is Kind.MESSAGE:
            try:
                stream.end.message(payload)
            except BadFrame:
                raise
            except Exception:
                _log.failure("a message of another gateway broke its stream")
                stream.fail(KatewayError("a stream between gateways broke; the gateway's log says why"))
            return
        self.forget(stream)
        stream.over = True
        with _goes_on:
            stream.end.closed(_read_error(payload) if payload else None)


class SessionStream:
    """One end of a stream."""

    __slots__ = ("_session", "end", "number", "over", "theirs")

    def __init__(self, session: Session, number: int, *, theirs: bool) -> None:
        self._session = session
        self.number = number
        self.theirs = theirs
        self.end: StreamEnd | None = None
        self.over = False

    def send(self, message: bytes) -> None:
        """Sends a message. ``TooLarge``."""
        if not self.over:
            self._session.write(self, Kind.MESSAGE, message)

    def close(self, error: KatewayError | None = None) -> None:
        """Ends it."""
        if self.over:
            return
        self.over = True
        self._session.forget(self)
        payload = b"" if error is None else orjson.dumps(error_object(error))
        self._session.write(self, Kind.CLOSE, payload)

    def fail(self, error: KatewayError) -> None:
        """Ends it for both ends."""
        self.close(error)
        with _goes_on:
            if self.end is not None:
                self.end.closed(error)

    @property
    def writable(self) -> bool:
        return not self._session.full

    def on_writable(self, callback: Callable[[], None]) -> None:
        self._session.when_writable(callback)


def _too_large(size: int) -> TooLarge:
    return TooLarge(f"{size} bytes do not pass between gateways; [cluster] max_frame_bytes says how many do")


def _read_error(payload: bytes) -> KatewayError:
    try:
        return error_of(orjson.loads(payload))
    except orjson.JSONDecodeError:
        return GatewayUnavailable("the other gateway failed; its log says why")
