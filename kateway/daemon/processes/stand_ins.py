"""Has another process accept the connections of one that has ended, until its successor serves.

Each process has a socket of its own, over which the kernel spreads new connections whether anything accepts there or
not: without a stand-in half of the clients of two processes waited, for as long as a successor could not start.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Protocol

Sockets = dict[str, dict[str, socket.socket]]
"""A place's listening ones, by ``public``, ``admin`` or ``cluster`` and their endpoints."""


class Serving(Protocol):
    """A process, as far as it can stand in."""

    @property
    def link(self) -> Sending: ...
    @property
    def able(self) -> bool:
        """Whether it serves, and has not ended or been killed."""


class Sending(Protocol):
    def send(self, message: Mapping[str, object], descriptors: Sequence[int] = ()) -> bool: ...


class StandIns:
    """Which process accepts for which other one. ``sockets`` are those of each process, by its index."""

    def __init__(self, sockets: Sequence[Sockets]) -> None:
        self._sockets = sockets
        self._by_index: dict[int, Serving] = {}
        self._failed: dict[int, list[Serving]] = {}
        """Those that could not accept at each endpoint of a place, by its index."""

    def arrange(self, current: Mapping[int, Serving]) -> None:
        """Finds a process for each place whose own does not serve, and ends it where that is no longer needed.
        ``current`` are the processes by their places.
        """
        able = [child for child in current.values() if child.able]
        for index, sockets in enumerate(self._sockets):
            own = current.get(index)
            at = self._by_index.get(index)
            if own is not None and own.able:
                self._failed.pop(index, None)
                if at is not None:
                    at.link.send({"do": "stand-down", "index": index})
                    del self._by_index[index]
            elif at not in able:
                self._by_index.pop(index, None)
                self._find(index, sockets, able)
            elif at in self._failed.get(index, ()):
                self._find(index, sockets, able, at)

    def failed(self, index: int, child: Serving) -> None:
        """Notes that a process could not accept at each endpoint of a place, for want of descriptors for example:
        another one is asked the next time, or it again where none is left.
        """
        if self._by_index.get(index) is child:
            self._failed.setdefault(index, []).append(child)

    def _find(self, index: int, sockets: Sockets, able: Sequence[Serving], at: Serving | None = None) -> None:
        """``at``: the one that accepts at some of the place's endpoints."""
        places = [(kind, endpoint, one) for kind, listed in sockets.items() for endpoint, one in listed.items()]
        order = {"do": "stand-in", "index": index, "places": [place[:2] for place in places]}
        descriptors = [one.fileno() for _kind, _endpoint, one in places]
        standing = list(self._by_index.values())
        failed = self._failed.get(index, [])
        untried: Sequence[Serving] = [child for child in able if child not in failed]
        if not untried:
            untried = able if at is None else [at]
            failed[:] = [child for child in failed if child not in untried]
        for child in sorted(untried, key=standing.count):
            if child.link.send(order, descriptors):
                if at is not None and at is not child:
                    at.link.send({"do": "stand-down", "index": index})
                self._by_index[index] = child
                return
