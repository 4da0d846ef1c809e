"""Maps acknowledged ciphertext back to plaintext, and keeps a TLS connection open behind its client's close alert."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from OpenSSL.SSL import RECEIVED_SHUTDOWN, Error
from twisted.internet import main
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from kateway.web.tcp.transport import PromptConnection

_MOST_PAIRS = 1024


@implementer(IHalfCloseableProtocol)
class CountingTls(TLSMemoryBIOProtocol):
    """TLS that sends each write at once and maps acknowledged ciphertext back to plaintext."""

    plain_offered = 0
    plain_confirmed = 0
    notified = False
    """The client said by TLS's own close alert that it sends no more."""
    leaving: Callable[[], bool] | None = None
    """Asked when the client says that it sends no more, by the alert or by a FIN: whether the connection is to stay."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)  # type: ignore[no-untyped-call]
        self._pairs: deque[tuple[int, int]] = deque()
        self._stays = False

    @property
    def wire(self) -> PromptConnection | None:
        """The TCP connection below."""
        below = self.transport
        # the endpoint's own wrapping: startTLS's bypass or the server itself
        return below if isinstance(below, PromptConnection) else None

    def write(self, data: bytes) -> None:
        if self._lostTLSConnection:
            return  # after the client's alert nothing may be sent but ours
        self.plain_offered += len(data)
        super().write(data)  # type: ignore[no-untyped-call]
        wire = self.wire
        # bytes that wait for the handshake have no ciphertext yet; a later write's pair covers them
        if wire is not None and not self._appSendBuffer:
            pairs = self._pairs
            pairs.append((self.plain_offered, wire.offered))
            if len(pairs) > _MOST_PAIRS:
                self.confirmed()
                if len(pairs) > _MOST_PAIRS:
                    # fewer marks: confirmed later than it could be, never earlier
                    self._pairs = deque(list(pairs)[1::2])

    def send_close_alert(self) -> None:
        """Sends our close alert, and leaves the connection open."""
        with suppress(Error):  # in the middle of a handshake
            self._tlsConnection.shutdown()
        self._flushSendBIO()  # type: ignore[no-untyped-call]

    def half_close(self) -> None:
        """Sends our close alert and our FIN. The connection stays until the client's own FIN, or its reset."""
        self._stays = True
        self.send_close_alert()
        if self.wire is not None:
            self.wire.loseWriteConnection()  # type: ignore[no-untyped-call]

    def confirmed(self) -> int | None:
        """As ``PromptConnection.confirmed``, in plaintext."""
        wire = self.wire
        ciphertext = wire.confirmed() if wire is not None else None
        if ciphertext is None:
            return None
        pairs = self._pairs
        while pairs and pairs[0][1] <= ciphertext:
            self.plain_confirmed = pairs.popleft()[0]
        return self.plain_confirmed

    # --- the wire's side ----------------------------------------------------------------------------------------------

    def readConnectionLost(self) -> None:
        if self.wire is not None and not self._may_stay():
            self.wire.connectionLost(Failure(main.CONNECTION_DONE))

    def writeConnectionLost(self) -> None:
        """Does nothing: a TLS connection is never closed in one direction alone."""

    def _unbufferPendingWrites(self) -> None:
        super()._unbufferPendingWrites()  # type: ignore[no-untyped-call]
        wire = self.wire
        if wire is not None and not self._appSendBuffer:
            self._pairs.append((self.plain_offered, wire.offered))

    def _shutdownTLS(self) -> None:
        connection = self._tlsConnection
        if not self.notified and connection is not None and connection.get_shutdown() & RECEIVED_SHUTDOWN:
            self.notified = True
            self._stays = self._stays or (not self.disconnecting and self._may_stay())
        if not self._stays:
            super()._shutdownTLS()  # type: ignore[no-untyped-call]

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        if reason is None and self._stays:
            self._lostTLSConnection = True
        else:
            super()._tlsShutdownFinished(reason)  # type: ignore[no-untyped-call]

    def _may_stay(self) -> bool:
        return self.leaving is not None and self.leaving()
