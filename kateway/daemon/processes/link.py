"""Carries messages and descriptors over a SOCK_SEQPACKET pair: each message arrives whole, with its descriptors."""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from kateway.daemon.processes.peers import encode

MAX_MESSAGE_BYTES = 131072
"""What is longer would arrive cut off."""
MAX_DESCRIPTORS = 64
_MOST_IN_A_TURN = 64

_log = Logger()
Received = Callable[[dict[str, Any], list[int]], None]


def pair() -> tuple[socket.socket, socket.socket]:
    """Makes the two ends of a link."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (one, other):
        end.setblocking(False)
    return one, other


@implementer(IReadDescriptor)
class Link:
    """One end. ``received`` is called with each message and its descriptors, and takes those that it keeps out of the
    list: the rest is closed. ``lost`` is called once, when the other end is gone.
    """

    def __init__(self, reactor: Any, end: socket.socket, received: Received, lost: Callable[[], None]) -> None:
        self._reactor = reactor
        self._end = end
        self._received = received
        self._lost = lost
        self.open = True
        end.setblocking(False)
        reactor.addReader(self)

    def send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> bool:
        """Sends a message; ``False`` where the other end is gone, or has not read for so long that there is no room,
        and where it is too long.
        """
        if not self.open:
            return False
        data = encode(message)
        if len(data) > MAX_MESSAGE_BYTES:
            _log.warn("a message of {size} bytes does not fit between processes", size=len(data))
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            self._end.sendmsg([data], rights)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Ends it; ``lost`` is not called."""
        if self.open:
            self.open = False
            self._reactor.removeReader(self)
            self._end.close()

    # --- IReadDescriptor --------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._end.fileno()

    def logPrefix(self) -> str:
        return "link"

    def doRead(self) -> None:
        """Called by the reactor when there is something to read."""
        for _ in range(_MOST_IN_A_TURN):
            if not self.open:
                return
            try:
                data, ancillary, _flags, _address = self._end.recvmsg(
                    MAX_MESSAGE_BYTES, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                data, ancillary = b"", []
            descriptors = _descriptors(ancillary)
            if not data:
                self.close()
                self._lost()
                return
            try:
                self._received(json.loads(data), descriptors)
            except Exception:
                _log.failure("a message between processes could not be handled")
            finally:
                close_all(descriptors)

    def connectionLost(self, _reason: Failure) -> None:
        """Called by the reactor when it ends, or has found that the other end is gone."""
        if self.open:
            self.close()
            self._lost()


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def close_all(descriptors: Sequence[int]) -> None:
    """Closes descriptors that came and are not wanted."""
    for descriptor in descriptors:
        os.close(descriptor)
