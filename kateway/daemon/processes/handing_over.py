"""Hands a retiring process's connections to its successor, one message and one descriptor each."""

from __future__ import annotations

import socket
from collections.abc import Callable

from kateway.daemon.processes.peers import encode


class Successor:
    """The retiring process's end of the link between two generations."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setblocking(False)
        self.given = 0
        """How many connections it has taken."""

    def takes(self, listener: str) -> Callable[[int], bool]:
        """Returns what gives it a connection of ``public`` or ``admin`` by its descriptor, which stays the caller's;
        ``False`` where it cannot be given now.
        """
        message = encode({"listener": listener})

        def take(descriptor: int) -> bool:
            try:
                socket.send_fds(self._end, [message], [descriptor])
            except OSError:
                return False
            self.given += 1
            return True

        return take

    def close(self) -> None:
        """Ends it: no more come."""
        self._end.close()
