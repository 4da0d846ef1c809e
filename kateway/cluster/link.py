"""Runs one link on its connection: handshake, frames in and out, heartbeats, and the end when a peer is silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from kateway.cluster.frames import BadFrame, FrameReader, FrameWriter, Kind
from kateway.cluster.handshake import Acceptor, Dialer, Elsewhere, Refused
from kateway.cluster.interface import Answering, Stream, StreamEnd
from kateway.cluster.rare_log import RareLog
from kateway.cluster.relay import Relay
from kateway.cluster.session import Session
from kateway.config.schema import ClusterConfig
from kateway.errors import GatewayUnavailable, KatewayError

REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
"""Says no more to a gateway with another secret than to a browser that came by mistake."""
IDLE_SECONDS = 60.0
"""After so long without a call or a stream its dialer closes a link; the next one makes it again."""
CODES_BYTES = 64
"""Beside what a frame may carry: the first byte of an answer."""

TLS_HINT = "does it run, and do both gateways speak TLS, or both not, with certificates that the other trusts?"
_log = Logger()


@implementer(IPushProducer)
class Link(Protocol):
    """One end of a link. ``established`` fires with it, or fails with why it is none."""

    transport: Any

    def __init__(
        self,
        clock: Any,
        config: ClusterConfig,
        ends: Dialer | Acceptor,
        answering: Answering,
        gone: Callable[[Link], None],
        *,
        certified: bool = False,
        pass_through: Callable[[Link, Elsewhere], None] | None = None,
        address: str = "",
        log: RareLog | None = None,
    ) -> None:
        """``certified``: the other end has to show a certificate. ``pass_through`` sets ``relay``. ``address``: of the
        gateway that is dialed.
        """
        self._address = address
        self._rare_log = log or RareLog(clock.seconds)
        self.relay: Relay | None = None
        self._pass_through = pass_through
        self.established: Deferred[Link] = Deferred()
        self.peer = ""
        self.since = clock.seconds()
        self.bytes_received = 0
        self.bytes_sent = 0
        self._clock = clock
        self._config = config
        self._handshake: Dialer | Acceptor | None = ends
        self._dialed = isinstance(ends, Dialer)
        self._gone = gone
        self._certified = certified
        self._answering = answering
        self.session: Session | None = None
        self._reader: FrameReader | None = None
        self._writer: FrameWriter | None = None
        self._heard = self._spoke = self._used = clock.seconds()
        self._beat: IDelayedCall | None = None
        self.over = False

    # --- the connection ------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport = self.transport
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        self._beat = self._clock.callLater(self._config.silence_seconds, self._too_late)
        if isinstance(self._handshake, Dialer):
            transport.write(self._handshake.begin())

    def dataReceived(self, data: bytes) -> None:
        self._heard = self._clock.seconds()
        self.bytes_received += len(data)
        if self.relay is not None:
            self.relay.forward(data)
            return
        if self._handshake is None and self.session is None:
            # it waits for another process, and a dialer says nothing before that has answered; TLS gives what was read
            # already, and each record would make one more way to the process
            self._cut("it goes on before it is answered")
            return
        try:
            if self._handshake is not None:
                data = self._shake_hands(self._handshake, data)
            if data and self._reader is not None and self.session is not None:
                for frame in self._reader.feed(data):
                    self.session.receive(frame)
        except Elsewhere as elsewhere:
            self._let_through(elsewhere)
        except Refused as refused:
            self._refuse(str(refused))
        except BadFrame as bad:
            _log.warn("the link to {peer} is cut: {why}", peer=self.peer, why=bad)
            self._cut(f"the link to {self.peer} was cut: {bad}")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.relay is not None:
            self.relay.end()
        if self.session is not None or not self._dialed:
            self._end(GatewayUnavailable(f"the link to the gateway {self.peer} broke; try again"))
            return
        why = "" if reason.check(ConnectionDone, ConnectionLost) else f" ({reason.getErrorMessage()})"
        self._not_linked(f"it ended the connection before there was a link{why}", TLS_HINT)

    def pauseProducing(self) -> None:
        if self.session is not None:
            self.session.full = True

    def resumeProducing(self) -> None:
        if self.session is not None:
            self.session.drained()

    def stopProducing(self) -> None:
        """The connection is over; ``connectionLost`` says the rest."""

    # --- its life ------------------------------------------------------------------------------------------------

    def _shake_hands(self, ends: Dialer | Acceptor, data: bytes) -> bytes:
        if self._certified and self.transport.getPeerCertificate() is None:
            raise Refused("it shows no certificate")
        answer = ends.feed(data)
        if answer:
            self.transport.write(answer)
        if ends.keys is None:
            return b""
        self._handshake = None
        self.peer = ends.peer
        most = self._config.max_frame_bytes
        self._writer = FrameWriter(ends.keys.sending)
        self._reader = FrameReader(ends.keys.receiving, most + CODES_BYTES)
        self.session = Session(
            self._send,
            self._answering,
            dialed=self._dialed,
            max_begun=self._config.max_link_streams,
            max_payload=most,
        )
        self.transport.registerProducer(self, True)
        self._used = self._clock.seconds()
        if self._beat is not None:
            self._beat.cancel()
        self._beat = self._clock.callLater(self._config.heartbeat_seconds, self._look)
        self.established.callback(self)
        return ends.rest

    def _let_through(self, elsewhere: Elsewhere) -> None:
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
        if self._pass_through is None:
            self._refuse("it looks for another process")
            return
        self._handshake = None
        # nothing is read before the process is there to take it
        self.transport.pauseProducing()
        self._pass_through(self, elsewhere)

    def _send(self, kind: Kind, number: int, payload: bytes) -> None:
        assert self._writer is not None
        frame = self._writer.write(kind, number, payload)
        self.bytes_sent += len(frame)
        self._spoke = self._clock.seconds()
        self.transport.write(frame)

    def _look(self) -> None:
        """Speaks where nothing else did, and ends a link on which the other end is silent, or that is of no use."""
        now = self._clock.seconds()
        session = self.session
        assert session is not None
        if now - self._heard >= self._config.silence_seconds:
            _log.warn("the gateway {peer} is silent: its link is cut", peer=self.peer)
            self._cut(f"the gateway {self.peer} was silent for {self._config.silence_seconds:g} s; try again")
            return
        if not session.idle:
            self._used = now
        elif self._dialed and now - self._used >= IDLE_SECONDS:
            self._cut("it was idle")
            return
        if now - self._spoke >= self._config.heartbeat_seconds * 0.9:
            self._send(Kind.HEARTBEAT, 0, b"")
        self._beat = self._clock.callLater(self._config.heartbeat_seconds, self._look)

    def _too_late(self) -> None:
        self._beat = None
        self.transport.abortConnection()
        self._not_linked("it did not answer in time", TLS_HINT)

    def _refuse(self, why: str) -> None:
        if not self._dialed:
            peer = _address(self.transport)
            self._rare_log.warn(f"a link from {peer.rpartition(':')[0] or peer} is refused: {why}")
            self.transport.write(REFUSAL)
            self.transport.loseConnection()
        else:
            self.transport.abortConnection()
        self._not_linked(why, "do both gateways have the same [cluster] secret_file, and is advertise right?")

    def _not_linked(self, why: str, hint: str) -> None:
        if self._dialed and not self.over:
            self._rare_log.warn(f"the gateway at {self._address} cannot be linked to: {why}; {hint}")
        self._end(GatewayUnavailable(f"the gateway that holds the group cannot be linked to: {why}; {hint}"))

    def _cut(self, why: str) -> None:
        self.transport.abortConnection()
        self._end(GatewayUnavailable(why))

    @property
    def streams(self) -> int:
        """How many streams it has."""
        return 0 if self.session is None else self.session.streams

    def close(self) -> None:
        """Ends the link with what is under way; what was said before still arrives."""
        if self.session is None:
            if self.transport is not None:
                self._cut("the gateway is shutting down")
            return
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._end(GatewayUnavailable("the gateway is shutting down"))

    def _end(self, error: KatewayError) -> None:
        if self.over:
            return
        self.over = True
        if self._beat is not None and self._beat.active():
            self._beat.cancel()
        self._beat = None
        # first: those that fail now may ask for a new link
        self._gone(self)
        if self.session is not None:
            self.session.lose(error)
        else:
            self.established.errback(error)

    # --- what is done over it (interface.Linked) -------------------------------------------------------------------

    def call(self, request: bytes, timeout_seconds: float) -> Deferred[bytes]:
        """Calls the other gateway."""
        assert self.session is not None
        answer = self.session.call(request)

        def late(failure: Failure, seconds: float) -> Any:
            failure.trap(TookTooLong)
            raise GatewayUnavailable(f"the gateway {self.peer} did not answer within {seconds:g} s; try again")

        answer.addTimeout(timeout_seconds, self._clock)
        answer.addErrback(_in_time, late, timeout_seconds)
        return answer

    def open(self, request: bytes, end: StreamEnd) -> Stream:
        """Opens a stream to the other gateway."""
        assert self.session is not None
        return self.session.open(request, end)


def _in_time(failure: Failure, late: Callable[[Failure, float], Any], seconds: float) -> Any:
    return late(failure, seconds) if failure.check(TookTooLong) else failure


def _address(transport: Any) -> str:
    peer = transport.getPeer()
    return f"{peer.host}:{peer.port}" if hasattr(peer, "port") else str(getattr(peer, "name", "") or "unix socket")
