"""A subscription over a WebSocket: each record a message, acknowledgements as messages, pings that settle."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import orjson
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from kateway.core.delivery.confirmation import Span
from kateway.core.delivery.ledger import Ack, Batch
from kateway.core.groups.group_reader import GroupReader
from kateway.errors import KatewayError
from kateway.web.formats.frames import frame
from kateway.web.formats.jsonrecord import objects
from kateway.web.http1.websocket import BINARY, GOING_AWAY, INTERNAL, NORMAL, POLICY, TEXT, Socket
from kateway.web.messages.acks import parse_acks, results
from kateway.web.problems import problem_object

FRAMES = b"kateway.frames"
MAX_WAITING_MESSAGES = 100
MAX_WAITING_BYTES = 1 << 20
"""Of acknowledgements that have been read; beyond either no more is read from the client until some are applied."""
MAX_UNREAD_BYTES = 65536
"""Of answers to acknowledgements that a client has no room for; beyond it no more are applied until it has."""
Acknowledge = Callable[[Sequence[Ack]], Coroutine[Any, Any, list[KatewayError | None]]]


class SocketOutlet:
    """Feeds a WebSocket. After each batch a ping is sent; its pong says that the client's program has read so far.

    At most one ping is unanswered at a time, so little is kept. One that stays unanswered for two heartbeats means
    that the client is gone.
    """

    def __init__(self, socket: Socket, reader: GroupReader, acknowledge: Acknowledge, request_id: str) -> None:
        self._socket = socket
        self._reader = reader
        self._acknowledge = acknowledge
        self._request_id = request_id
        self._binary = socket.subprotocol == FRAMES
        self._sent: dict[int, int] = {}
        """Partition → last offset sent."""
        self._pinged: dict[int, int] | None = None
        """The same when the ping was sent that is not answered yet."""
        self._pings = 0
        self._beats = 0
        self._messages: deque[str | bytes] = deque()
        self._waiting_bytes = 0
        self._applying = False
        self._over = False
        self._unread_bytes = 0
        self._on_writable: Callable[[], None] | None = None
        socket.on_writable(self._has_room)
        socket.listen(self._message, self._pong)

    # --- Outlet ----------------------------------------------------------------------------------------------

    def send(self, batch: Batch) -> tuple[int, Span]:
        if self._binary:
            pieces = [frame(batch.partition, record) for record in batch.records]
        else:
            pieces = objects(batch.partition, batch.records, batch.attempts, batch.leases)
        span = self._socket.send(BINARY if self._binary else TEXT, pieces)
        self._sent[batch.partition] = batch.records[-1].offset
        if self._pinged is None:
            self._ping()
        return span.end - span.start, span

    def writable(self) -> bool:
        return self._socket.writable()

    def on_writable(self, callback: Callable[[], None] | None) -> None:
        self._on_writable = callback

    def on_gone(self, callback: Callable[[], None] | None) -> None:
        self._socket.on_gone(callback)

    def beat(self) -> None:
        if self._pinged is None:
            self._ping()
            return
        self._beats += 1
        if self._beats > 1:
            self._socket.cut()

    def end(self, last_error: KatewayError | None, *, leaving: bool) -> None:
        if last_error is None:
            self._socket.close(GOING_AWAY if leaving else NORMAL)
        else:
            self._fail(last_error)
        self._end()

    def fail(self, error: KatewayError) -> None:
        self._fail(error)
        self._end()

    def _end(self) -> None:
        """Applies what the client had sent; it hears no more of it."""
        self._over = True
        self._apply_rest()

    def _fail(self, error: KatewayError) -> None:
        self._socket.send(TEXT, [orjson.dumps(problem_object(error, self._request_id))])
        self._socket.close(INTERNAL if error.status >= 500 else POLICY, error.code)

    def _has_room(self) -> None:
        self._apply_rest()
        if self._on_writable is not None:
            self._on_writable()

    # --- pings -----------------------------------------------------------------------------------------------

    def _ping(self) -> None:
        self._pings += 1
        self._beats = 0
        self._pinged = dict(self._sent)
        self._socket.ping(b"%d" % self._pings)

    def _pong(self, payload: bytes) -> None:
        if self._pinged is None or payload != b"%d" % self._pings:
            return  # an unsolicited one is allowed (RFC 6455 5.5.3)
        read, self._pinged = self._pinged, None
        if read and self._reader.mode == "auto":
            self._reader.settled(read)
        if read != self._sent:
            self._ping()

    # --- acknowledgements ------------------------------------------------------------------------------------

    def _message(self, message: str | bytes) -> None:
        """Takes an array of acknowledgements; a message at a time is applied, answered only where one does not hold.

        The connection is read meanwhile: its end is noticed, and what the client had read by then is settled.
        """
        self._messages.append(message)
        self._waiting_bytes += len(message)
        if len(self._messages) > MAX_WAITING_MESSAGES or self._waiting_bytes > MAX_WAITING_BYTES:
            self._socket.pause()
        if not self._applying:
            self._apply_next()

    def _apply_rest(self) -> None:
        """Applies those that waited for the client to read its answers."""
        self._unread_bytes = 0
        if self._messages and not self._applying:
            self._apply_next()

    def _apply_next(self) -> None:
        while self._messages:
            if self._unread_bytes > MAX_UNREAD_BYTES:
                self._socket.pause()
                return
            message = self._messages.popleft()
            self._waiting_bytes -= len(message)
            self._applying = True
            applying = Deferred.fromCoroutine(self._apply(message)).addErrback(self._failed)
            if not applying.called:
                applying.addCallback(self._applied)
                return
            self._applying = False
        self._socket.resume()

    def _applied(self, _none: None) -> None:
        self._applying = False
        self._apply_next()

    async def _apply(self, message: str | bytes) -> None:
        acks = parse_acks(message.encode() if isinstance(message, str) else message)
        outcomes = await self._acknowledge(acks)
        if any(outcome is not None for outcome in outcomes):
            self._answer({"results": results(acks, outcomes, self._request_id)})

    def _failed(self, failure: Failure) -> None:
        self._answer(problem_object(failure.value or KatewayError(), self._request_id))

    def _answer(self, answer: dict[str, Any]) -> None:
        if self._over:
            return
        data = orjson.dumps(answer)
        self._socket.send(TEXT, [data])
        if not self._socket.writable():
            self._unread_bytes += len(data)
