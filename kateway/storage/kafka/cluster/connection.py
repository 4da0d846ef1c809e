"""Connects to one broker: afkak's broker client, with its answer to every failure replaced.

afkak resends unanswered requests to the same broker for ever, and reconnects at once to a broker that closes every
connection. Here a request that cannot be answered fails, and says whether it was sent; connecting is spaced out
whether it is refused or closed after it was accepted. Answers are collected in linear time (twisted's
``Int32StringReceiver``, which afkak uses, is quadratic: a 16 MB answer blocks the reactor for 0.26 s).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from afkak.brokerclient import _KafkaBrokerClient
from twisted.internet import tcp
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.backoff import Backoff
from kateway.config.addresses import Address
from kateway.observe.store import StoreCells
from kateway.storage.kafka.protocol.primitives import request_header, size_and_correlation, string

MAX_ANSWER_BYTES = 1 << 28
"""A larger size is not a size: what talks there does not talk Kafka (TLS alerts and HTTP answers are caught by it)."""

FIRST_RECONNECT_DELAY_SECONDS = 0.1
MAX_RECONNECT_DELAY_SECONDS = 1.0
"""Short, because the return of a broker must be noticed within seconds."""
CLOSE_GRACE_SECONDS = 1.0

REQUEST_NAMES = {
    0: "produce", 1: "fetch", 2: "list-offsets", 3: "metadata", 8: "offset-commit", 9: "offset-fetch",
    10: "find-coordinator", 11: "join-group", 12: "heartbeat", 13: "leave-group", 14: "sync-group",
    15: "describe-groups", 17: "sasl-handshake", 18: "api-versions", 19: "create-topics", 20: "delete-topics",
    22: "init-producer-id", 32: "describe-configs", 36: "sasl-authenticate", 37: "create-partitions",
    44: "alter-configs", 68: "consumer-group-heartbeat", 69: "consumer-group-describe",
}  # fmt: skip
"""Kafka's api keys, as metrics name them."""

EndpointFactory = Callable[[Any, str, int], IStreamClientEndpoint]
"""Reactor, host and port to an endpoint: the seam where TLS and SASL come in."""


class RequestFailed(Exception):
    """A request got no answer; the message says why, for a person."""


class NeverSent(RequestFailed):
    """Nothing left for the broker: the request has certainly not been carried out."""


class NoAnswer(RequestFailed):
    """It was handed to the connection and no answer came: it may have been carried out."""


class _Broker(NamedTuple):
    """What afkak's broker client wants to know of a broker."""

    node_id: int
    host: str
    port: int


class FrameReceiver(Protocol):
    """Cuts a stream into answers: each byte is copied a fixed number of times, whatever the answer's size."""

    factory: BrokerConnection

    def __init__(self) -> None:
        self._held = bytearray()
        self._wanted = 8
        self.deadline: IDelayedCall | None = None
        """When it is closed at the latest, if it is being left."""

    def connectionMade(self) -> None:
        transport = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)

    def sendString(self, request: bytes) -> None:
        """Writes one request; the name is the one afkak calls."""
        data = len(request).to_bytes(4, "big") + request
        transport: Any = self.transport
        if isinstance(transport, tcp.Client) and not (transport.dataBuffer or transport._tempDataBuffer):
            # at once what the socket takes: Twisted would arm the descriptor and send in the next turn
            sent = transport.writeSomeData(data) if transport.connected and not transport.disconnecting else 0
            if sent == len(data):
                return
            if isinstance(sent, int) and sent > 0:
                data = data[sent:]
        transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        # hot: small answers come whole and are cut from ``data`` itself
        if self._held:
            self._held += data
            if len(self._held) < self._wanted:
                return
            data, self._held = bytes(self._held), bytearray()
        at, end = 0, len(data)
        self._wanted = 8
        while end - at >= 8:
            size, correlation_id = size_and_correlation(data, at)
            if not 4 <= size <= MAX_ANSWER_BYTES:
                self.factory.not_kafka()
                return
            if end - at < size + 4:
                self._wanted = size + 4
                break
            self.factory.answered(correlation_id, data[at + 8 : at + 4 + size])
            at += size + 4
        if at < end:
            self._held += data[at:] if at else data

    def renew(self) -> None:
        """Makes way for another connection once the requests on this one are answered."""
        self.factory.renew(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._held.clear()
        if self.deadline is not None and self.deadline.active():
            self.deadline.cancel()
        self.factory._connectionLost(reason)


class BrokerConnection(_KafkaBrokerClient):  # type: ignore[misc]
    """Requests to one broker in their order, over one connection that is made when there is something to send."""

    protocol = FrameReceiver
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        endpoint_factory: EndpointFactory,
        node_id: int,
        address: Address,
        client_id: str,
        heard: Callable[[], None] = lambda: None,
        cells: StoreCells | None = None,
    ) -> None:
        self.connector: Deferred[Any] | None
        self.proto: FrameReceiver | None
        super().__init__(reactor, endpoint_factory, _Broker(node_id, *address), client_id, self._pause)
        self.address = address
        self.backoff = Backoff(FIRST_RECONNECT_DELAY_SECONDS, MAX_RECONNECT_DELAY_SECONDS)
        """After connections that were refused, or were closed before anything was answered."""
        self.last_failure = ""
        self._client_id = string(client_id)
        self._heard = heard
        self._cells = cells
        self._correlation_id = 0
        self._answered_any = False
        self._not_before = 0.0
        self._leaving: FrameReceiver | None = None
        """A connection that is not to be used any more, while it has answers to come or is closing."""

    def request(
        self,
        api_key: int,
        api_version: int,
        body: bytes,
        *,
        timeout_seconds: float,
        expect_response: bool = True,
    ) -> Deferred[bytes]:
        """Sends a request and answers the response's body, without its header.

        Fails with ``NeverSent`` or ``NoAnswer``. An answer overdue drops the connection: Kafka answers in order,
        so everything behind it would be overdue too. Cancelling takes back an unsent request, else drops the answer.
        Without ``expect_response`` it answers ``b""`` when the request was handed to the transport.
        """
        self._correlation_id = correlation_id = (self._correlation_id + 1) & 0x7FFFFFFF
        request = request_header(api_key, api_version, correlation_id, self._client_id) + body
        if self._dDown is not None:
            return fail(NeverSent(f"the connection to {self.address} is closed"))
        answer: Deferred[bytes] = self.makeRequest(correlation_id, request, expect_response)
        if not expect_response and answer.called:
            return answer.addCallback(_nothing)
        overdue = self._reactor.callLater(timeout_seconds, self._overdue, correlation_id, timeout_seconds)
        answer.addBoth(self._settled, overdue)
        if self._cells is not None:
            answer.addBoth(self._count, api_key, self._reactor.seconds())
        return answer if expect_response else answer.addCallback(_nothing)

    def _count(self, result: Any, api_key: int, began: float) -> Any:
        assert self._cells is not None
        name = REQUEST_NAMES.get(api_key) or f"api-{api_key}"
        self._cells.ended(name, self._reactor.seconds() - began, result)
        return result

    def _settled(self, result: Any, overdue: IDelayedCall) -> Any:
        if overdue.active():
            overdue.cancel()
        return result

    def _overdue(self, correlation_id: int, timeout_seconds: float) -> None:
        state = self.requests.pop(correlation_id, None)
        if state is None:
            return
        if state.sent is None:
            why = f" ({self.last_failure})" if self.last_failure else ""
            state.d.errback(NeverSent(f"{self.address} could not be reached within {timeout_seconds:g} s{why}"))
            return
        self.last_failure = f"{self.address} did not answer within {timeout_seconds:g} s"
        if state.cancelled is None:
            state.d.errback(NoAnswer(self.last_failure))
        self.abort()

    def abort(self) -> None:
        """Drops the connection at once; requests under way fail with ``NoAnswer``, the next one connects again."""
        proto = self.proto or self._leaving
        if proto is not None:
            proto.transport.abortConnection()  # type: ignore[union-attr]

    def renew(self, proto: FrameReceiver) -> None:
        """Waits for the answers on this connection; later requests go over another: in their order."""
        if self.proto is proto and self._dDown is None:
            self.proto, self._leaving = None, proto
            self._leave()

    def _leave(self) -> None:
        leaving = self._leaving
        if leaving is None or leaving.deadline or any(state.sent is not None for state in self.requests.values()):
            return
        transport: Any = leaving.transport
        leaving.deadline = self._reactor.callLater(CLOSE_GRACE_SECONDS, transport.abortConnection)
        transport.loseConnection()

    def close(self) -> Deferred[None]:
        """Ends the connection for good; every request fails. Bounded by ``CLOSE_GRACE_SECONDS``."""
        if self._dDown is not None:
            closed: Deferred[None] = Deferred()
            self._dDown.chainDeferred(closed) if not self._dDown.called else closed.callback(None)
            return closed
        self.proto, self._leaving = self.proto or self._leaving, None
        waiting = dict(self.requests)
        self.requests.clear()  # afkak would fail them with an error of its own
        down: Deferred[None] = super().close()
        self.requests.update(waiting)
        self._fail_all(f"the connection to {self.address} was closed")
        if not down.called:
            late = self._reactor.callLater(CLOSE_GRACE_SECONDS, self.abort)
            down.addBoth(self._settled, late)
        return down

    def _pause(self, _failures: int) -> float:
        """afkak's retry policy."""
        return self.backoff.next()

    # --- what the wire does ------------------------------------------------------------------------------------

    def answered(self, correlation_id: int, body: bytes) -> None:
        """Gives an answer to its request."""
        if not self._answered_any:
            self._answered_any = True
            self.backoff.reset()
            self.last_failure = ""
        self._heard()
        state = self.requests.pop(correlation_id, None)
        if state is None:
            self._log.warn("{address} sent an answer without a request", address=str(self.address))
            self.abort()
        elif state.cancelled is None:
            state.d.callback(body)
        if self._leaving is not None:
            self._leave()

    def not_kafka(self) -> None:
        """The bytes received are no answer of Kafka's."""
        self.last_failure = f"what listens on {self.address} does not talk plain Kafka (TLS?)"
        self.abort()

    def _connectionLost(self, reason: Failure) -> None:
        left, self._leaving = self._leaving, None
        if left is not None and left.deadline is not None:
            if self.requests:
                self._connect()
            return
        self.proto = None
        now = self._reactor.seconds()
        if not self._answered_any and self.requests:
            # accepted, then closed without a word: as bad as refused
            if not self.last_failure:
                self.last_failure = f"{self.address} closed the connection without an answer"
            self._not_before = now + self.backoff.next()
        why = self.last_failure or _why(f"{self.address} closed the connection", reason)
        self._fail_all(why)
        if self._dDown is not None:
            # one of those whose requests just failed may have closed it, and then it was down at once
            if not self._dDown.called:
                self._dDown.callback(None)
        elif self.requests:  # asked for meanwhile, by those whose requests just failed
            self._connect()

    def _fail_all(self, why: str) -> None:
        waiting = list(self.requests.values())
        self.requests.clear()
        for state in waiting:
            # the callback of one failure may cancel others of them
            if state.cancelled is None and not state.d.called:
                state.d.errback(NeverSent(why) if state.sent is None else NoAnswer(why))

    def _cancelRequest(self, correlation_id: int, _answer: Deferred[bytes]) -> None:
        if correlation_id in self.requests:  # else it is failing just now
            super()._cancelRequest(correlation_id, _answer)

    def _connect(self) -> None:
        if self.connector is not None or self.proto is not None or self._leaving is not None:
            return
        delay = self._not_before - self._reactor.seconds()
        connecting = deferLater(self._reactor, delay, self._open) if delay > 0 else self._open()
        self.connector = connecting
        connecting.addCallbacks(self._connected, self._refused)

    def _open(self) -> Deferred[Any]:
        endpoint: IStreamClientEndpoint = self._endpointFactory(self._reactor, self.host, self.port)
        return endpoint.connect(self)

    def _connected(self, proto: FrameReceiver) -> None:
        self.connector = None
        self._answered_any = False
        if self._dDown is not None:
            self.proto = proto
            proto.transport.loseConnection()  # type: ignore[union-attr]
        elif proto.connected:
            self.proto = proto
            self._sendQueued()
        elif self.requests:
            self._connect()

    def _refused(self, reason: Failure) -> Failure | None:
        if self._dDown is not None:
            return reason  # close() waits for it
        self.connector = None
        self._not_before = self._reactor.seconds() + self.backoff.next()
        self.last_failure = _why(f"{self.address} cannot be reached", reason)
        self._fail_all(self.last_failure)
        return None


def _nothing(_result: object) -> bytes:
    return b""


def _why(what: str, reason: Failure) -> str:
    if isinstance(reason.value, ConnectionDone):
        return what
    text = reason.getErrorMessage().strip().rstrip(".").removeprefix("User timeout caused connection failure")
    return f"{what}: {text}" if text else what
