"""Serves server-sent events over the admin API: at most so many streams a session, ended with it, and at a drain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.errors import KatewayError, TooManyRequests
from kateway.web.admin.actors import Actor
from kateway.web.admin.requests import AdminCall
from kateway.web.exchange import NO_STORE, Exchange, Header, Request, Response
from kateway.web.formats.sse import MEDIA_TYPE

STEP_SECONDS = 1.0
COMMENT_SECONDS = 15.0
MOST_STREAMS = 4
"""Of one session, or of one address without; a page that gets none asks again and again instead."""
RETRY_SECONDS = 5.0
PATIENCE_SECONDS = 0.5
LOOK_SECONDS = 0.05
# the last one is for nginx, which would keep the events back
_HEADERS: tuple[Header, ...] = ((b"Content-Type", MEDIA_TYPE), NO_STORE, (b"X-Accel-Buffering", b"no"))
_COMMENT = b":\n\n"

Event = tuple[str, Any]
"""Its kind, and its data, which becomes JSON."""
Step = Callable[[], Coroutine[Any, Any, Event | None]]
"""Gives the event of this second; ``None`` where there is none."""
OnEnd = Callable[[Actor, Callable[[], None]], Callable[[], None]]
"""Has a function called when a caller's session or token ends; what it returns gives that up."""

_log = Logger()


class EventStreams:
    """All streams. ``allowed`` raises where a request may not make a call of this name any more."""

    def __init__(self, allowed: Callable[[Request, str], None], on_end: OnEnd, clock: IReactorTime) -> None:
        self._allowed = allowed
        self._on_end = on_end
        self._clock = clock
        self._streams: dict[_Stream, None] = {}
        self._draining = False

    def __len__(self) -> int:
        return len(self._streams)

    async def check(self, call: AdminCall) -> Response | None:
        """``TooManyRequests`` where the caller has as many streams as it may; the whole answer of a HEAD."""
        if call.request.method == b"HEAD":
            return Response(200, (*_HEADERS, (b"ETag", b'"live"')), b"")
        waited = 0.0
        # a page that goes over to another stream may be quicker than the end of its last one
        while self._full(call) and waited < PATIENCE_SECONDS:
            await deferLater(self._clock, LOOK_SECONDS)
            waited += LOOK_SECONDS
        if self._full(call):
            whose = "session" if call.actor.session else "address"
            detail = f"this {whose} has {MOST_STREAMS} streams open: ask every {RETRY_SECONDS:g} s instead"
            raise TooManyRequests(detail, retry_after_seconds=RETRY_SECONDS)
        return None

    def _full(self, call: AdminCall) -> bool:
        return Counter(stream.owner for stream in self._streams)[_owner(call)] >= MOST_STREAMS

    def begin(self, call: AdminCall, name: str, step: Step) -> None:
        """Begins a stream, that of the call of this name."""
        exchange = call.exchange
        stream = _Stream(_owner(call), exchange, step, lambda: self._allowed(exchange.request, name), self._clock)
        self._streams[stream] = None
        stream.start(lambda: self._streams.pop(stream, None))
        give_up = self._on_end(call.actor, stream.end)
        if stream in self._streams:
            stream.give_up = give_up
        else:
            give_up()  # its first step was its last: a session that it was taken for would never be idle
        if self._draining:
            stream.end()  # its request had arrived before

    def drain(self) -> None:
        """Ends the streams, also those that begin later."""
        self._draining = True
        for stream in list(self._streams):
            stream.end()


def _owner(call: AdminCall) -> bytes | str:
    return call.actor.session or call.request.peer


class _Stream:
    """One client's stream."""

    def __init__(
        self,
        owner: bytes | str,
        exchange: Exchange,
        step: Step,
        allowed: Callable[[], None],
        clock: IReactorTime,
    ) -> None:
        self.owner = owner
        self.give_up: Callable[[], None] | None = None
        self._exchange = exchange
        self._step = step
        self._allowed = allowed
        self._clock = clock
        self._number = 0
        self._running: Deferred[None] | None = None

    def start(self, over: Callable[[], object]) -> None:
        """Sends the head and goes on until the client goes, or ``end``; then ``over`` is called."""
        self._exchange.begin(200, _HEADERS)
        self._running = Deferred.fromCoroutine(self._run())
        self._exchange.on_gone(self.end)
        self._running.addErrback(self._failed)
        self._running.addBoth(lambda _: self._over(over))

    def end(self) -> None:
        """Ends the response."""
        if self._running is not None:
            self._running.cancel()

    def _over(self, over: Callable[[], object]) -> None:
        if self.give_up is not None:
            self.give_up()
        over()

    def _failed(self, failure: Failure) -> None:
        # a client that comes back hears by a problem what a KatewayError was
        if failure.check(CancelledError, KatewayError):
            self._exchange.finish()
        else:
            _log.failure("a live stream broke", failure)
            self._exchange.abort()

    async def _run(self) -> None:
        written_at = float("-inf")
        while True:
            # what a slow client does not take is not sent: the next step has all that changed meanwhile
            if self._exchange.writable():
                event = await self._step()
                sent = None if event is None else self._event(*event)
                if sent is None and self._clock.seconds() - written_at >= COMMENT_SECONDS:
                    sent = _COMMENT
                if sent is not None:
                    self._exchange.write([sent])
                    written_at = self._clock.seconds()
            await deferLater(self._clock, STEP_SECONDS)
            self._allowed()

    def _event(self, kind: str, data: Any) -> bytes:
        self._number += 1
        return b"event: %b\nid: %d\ndata: %b\n\n" % (kind.encode(), self._number, orjson.dumps(data))
