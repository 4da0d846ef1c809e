"""Hands a retiring process's connections and memberships to its successor, one message each, a connection with its
descriptor.

The successor says first which clusters it knows; one of an older version says nothing, and is given no membership.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from kateway.daemon.processes.peers import encode

MOST_BYTES = 100_000
"""Of a message, less than the other end reads of one."""
KEYS_AT_ONCE = 100
LOOK_SECONDS = 0.01
SAID_SECONDS = 1.0
"""How long the successor may take to say what it knows."""
ROOM_SECONDS = 1.0
"""How long a message waits for room."""
_NEWS_BYTES = 65536


class Successor:
    """The retiring process's end of the link between two generations."""

    def __init__(self, end: socket.socket, clock: IReactorTime) -> None:
        self._end = end
        self._clock = clock
        end.setblocking(False)
        self.clusters: frozenset[str] = frozenset()
        """Those whose memberships it goes on with."""
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

    async def listens(self) -> None:
        """Waits until it has said what it knows."""
        until = self._clock.seconds() + SAID_SECONDS
        while True:
            try:
                said = json.loads(self._end.recv(_NEWS_BYTES) or b"{}")
                self.clusters = frozenset(said.get("clusters", ()))
                return
            except BlockingIOError:
                if self._clock.seconds() >= until:
                    return
            except (OSError, ValueError):
                return
            await deferLater(self._clock, LOOK_SECONDS)

    async def announce(self, keys: Iterable[Sequence[str]]) -> None:
        """Says which memberships it will be given: its readers wait for those."""
        rows = [list(key) for key in keys if key[0] in self.clusters]
        for start in range(0, len(rows), KEYS_AT_ONCE):
            await self._send({"coming": rows[start : start + KEYS_AT_ONCE]})
        await self._send({"coming": [], "all": True})

    async def give(self, membership: Mapping[str, Any]) -> bool:
        """Gives it a membership; ``False`` where it has gone, or the message is too long."""
        return await self._send({"membership": membership})

    async def keep_from(self, key: Sequence[str]) -> None:
        """Says of an announced membership that it does not come."""
        await self._send({"not-coming": list(key)})

    async def _send(self, message: Mapping[str, Any]) -> bool:
        if not self.clusters:
            return False
        data = encode(message)
        until = self._clock.seconds() + ROOM_SECONDS
        while len(data) <= MOST_BYTES:
            try:
                self._end.send(data)
                return True
            except BlockingIOError:
                if self._clock.seconds() >= until:
                    break
            except OSError:
                break
            await deferLater(self._clock, LOOK_SECONDS)
        return False

    def close(self) -> None:
        """Ends it: no more come."""
        with suppress(OSError):
            self._end.close()
