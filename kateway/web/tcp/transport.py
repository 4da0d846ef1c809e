"""Sends at once on server sockets, counts what the client's TCP has acknowledged, and tells a FIN from a reset.

Twisted's own transport buffers every write, arms the descriptor, sends in the next turn of the loop and disarms it.
These try the socket first. They also still have the descriptor when a connection ends, which is where delivery is
confirmed: bytes the kernel took, less ``SIOCOUTQ`` (sent and not acknowledged, or not sent yet).
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
from collections.abc import Callable
from errno import EAGAIN, ENOBUFS, EPIPE, EWOULDBLOCK
from typing import Any, cast

from twisted.internet import main, tcp, unix
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

# linux/sockios.h: SIOCOUTQ, the same number as TIOCOUTQ
_SIOCOUTQ = 0x5411
# linux/tcp.h: struct tcp_info up to tcpi_min_rtt; tcpi_rtt and tcpi_rttvar; times in microseconds
_TCP_INFO_BYTES = 152
_TCPI_RTT, _TCPI_NOTSENT_BYTES, _TCPI_MIN_RTT = 68, 144, 148
_NEAR_MICROSECONDS = 1000
_COUNTS = sys.platform == "linux"
AT_ONCE_BYTES = 1 << 19
"""Sent in one call: copying a megabyte takes the kernel 1 to 2 ms. More than a batch of any stream."""


class PromptConnection(tcp.Connection):
    """What both kinds of socket share: prompt sends, counts, and the memory of how the client ended.

    ``handed`` counts the bytes that the kernel has taken, ``offered`` those that were written.
    """

    counts = False
    handed = 0
    offered = 0
    fin = False
    """The client's FIN was seen."""
    reset = False
    """A reset was met by whichever call met it first."""
    last_confirmed: int | None = None
    drained: Callable[[], None] | None = None
    """Called each time that waiting bytes have all been handed to the socket."""
    _looked_at = -1

    def write(self, data: bytes) -> None:
        """Sends at once what the socket takes when nothing is queued before it; queues the rest."""
        if not self.connected or self._writeDisconnected:
            return
        size = len(data)
        if self.offered == self.handed and not self.reset:
            self.offered += size
            try:
                sent = self.socket.send(data if size <= AT_ONCE_BYTES else memoryview(data)[:AT_ONCE_BYTES])
            except OSError as error:
                if error.errno not in (EWOULDBLOCK, EAGAIN, ENOBUFS):
                    self._met(error)
                    # the reactor finds the hang-up and ends the connection; not here, under the writer's feet
                    self.startWriting()  # type: ignore[no-untyped-call]
                    return
                sent = 0
            self.handed += sent
            if sent == size:
                return
            data = data[sent:]
        else:
            self.offered += size
        FileDescriptor.write(self, data)

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

    def writeSomeData(self, data: bytes) -> int | ConnectionLost:
        if not data:
            return 0  # nothing is asked: the kernel would answer EPIPE after a shutdown of our own
        try:
            sent = self.socket.send(memoryview(data)[: FileDescriptor.SEND_LIMIT])
        except OSError as error:
            if error.errno in (EWOULDBLOCK, EAGAIN, ENOBUFS):
                return 0
            self._met(error)
            return main.CONNECTION_LOST
        self.handed += sent
        return sent

    def doWrite(self) -> Any:
        if self.reset:
            return main.CONNECTION_LOST
        result = FileDescriptor.doWrite(self)
        if result is None and self.offered == self.handed and self.drained is not None:
            self.drained()
        return result

    def doRead(self) -> Any:
        try:
            data = self.socket.recv(65536)
        except OSError as error:
            if error.errno in (EWOULDBLOCK, EAGAIN):
                return None
            self._met(error)
            return main.CONNECTION_LOST
        if not data:
            # with the error taken by an earlier call, a reset connection reads as ended
            if self.reset:
                return main.CONNECTION_LOST
            self.fin = True
            return main.CONNECTION_DONE
        return self._dataReceived(data)

    def readConnectionLost(self, reason: Failure) -> None:
        # epoll's hang-up without anything to read comes here as well
        self.look_for_error()
        if self.reset:
            self.connectionLost(Failure(main.CONNECTION_LOST))
            return
        self.fin = True
        super().readConnectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        if hasattr(self, "socket"):
            # the last look, before the descriptor is closed: the protocol hears of it only after that
            self.last_confirmed = self.confirmed()
            self.look_for_error()
            self.drained = None
        super().connectionLost(reason)

    def detach(self) -> None:
        """Ends this end of a connection that another process goes on with: nothing is shut down."""
        self._shouldShutdown = False
        self.connectionLost(Failure(main.CONNECTION_DONE))

    def confirmed(self) -> int | None:
        """How many of the bytes offered the client's TCP has acknowledged; ``None`` where that cannot be known."""
        if not self.counts:
            return None
        try:
            (unacknowledged,) = struct.unpack("i", fcntl.ioctl(self.socket.fileno(), _SIOCOUTQ, b"\0\0\0\0"))
        except (OSError, AttributeError):
            return self.last_confirmed
        # a FIN of ours that is under way counts as one byte: too few for a moment, never too many
        return max(self.handed - cast(int, unacknowledged), 0)

    def keep_unsent_below(self, size: int) -> None:
        """Limits the kernel's buffer beyond the bytes on their way to the client: the cost of a slow one."""
        if self.counts:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, size)

    def round_trip_seconds(self) -> float:
        """Estimates, from the kernel's measurements, how long an answer to bytes sent now may take."""
        if not self.counts:
            return 0.0
        try:
            if self.socket.getpeername()[0] == self.socket.getsockname()[0]:
                return 0.0  # within the machine: it is there before the call that sends returns
            mean, deviation = self._told("II", _TCPI_RTT)
            (least,) = self._told("I", _TCPI_MIN_RTT)
        except (OSError, AttributeError, struct.error):
            return 0.0
        # near by, delayed acknowledgements are most of the mean; far away, the net's own moods
        return float(3 * least if least < _NEAR_MICROSECONDS else 2 * (mean + 4 * deviation)) / 1e6

    def unsent(self) -> bool:
        """Whether bytes wait that the kernel has not sent even once: the client's window is shut."""
        if not self.counts:
            return False
        try:
            (waiting,) = self._told("I", _TCPI_NOTSENT_BYTES)
        except (OSError, AttributeError, struct.error):
            return False
        return bool(waiting) or self.handed < self.offered

    def _told(self, kind: str, at: int) -> tuple[int, ...]:
        """A part of ``TCP_INFO``."""
        return struct.unpack_from(
            kind, self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES), at
        )

    def stalled(self) -> bool:
        """Bytes wait, in the process or in the kernel, and none has moved since the last look."""
        moved = self.handed if (confirmed := self.confirmed()) is None else confirmed
        waiting = moved < self.offered
        stuck = waiting and moved == self._looked_at
        self._looked_at = moved
        return stuck

    def _met(self, error: OSError) -> None:
        """Notes an error that the kernel tells only once: ECONNRESET, or EPIPE for a reset after a FIN."""
        self.reset = True
        if error.errno == EPIPE:
            self.fin = True

    def look_for_error(self) -> None:
        """Asks the kernel for an error that no call has met yet."""
        try:
            number = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except (OSError, AttributeError):
            return
        if number:
            self._met(OSError(number, "pending socket error"))


class PromptServer(PromptConnection, tcp.Server):
    """A TCP connection."""

    counts = _COUNTS

    def __init__(self, sock: socket.socket, *arguments: Any) -> None:
        super().__init__(sock, *arguments)
        # answers leave at once: Nagle would hold a small one back behind an unacknowledged other
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class PromptUnixServer(PromptConnection, unix.Server):
    """A connection on a UNIX socket: nothing is acknowledged there, so ``confirmed`` is ``None``."""
