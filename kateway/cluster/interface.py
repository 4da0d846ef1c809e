"""The contract of links: what is called and streamed over one, and who answers.

A call is one request and its answer. A stream goes on until one end closes it; a link that breaks closes all of its
streams with an error. Answers and messages come on the reactor's thread, never from inside a call to the link.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred

from kateway.errors import KatewayError

UNIX = "unix:"
"""Begins the address of a process on this host."""


class Home(NamedTuple):
    """A gateway that holds partitions."""

    gateway: str
    """Its name in the list of gateways."""
    address: str
    """``host:port`` of its endpoint, or ``unix:PATH`` of a process on this host."""


class Place(NamedTuple):
    """One process of several of a gateway; its successor in an upgrade has the same index and another number."""

    gateway: str
    number: int
    """Its index."""
    pid: int


_PROCESS = re.compile(r"(.+)-(\d{1,4})-(\d{1,10})", re.ASCII)


def process_name(place: Place) -> str:
    """Names a process among all gateways."""
    return f"{place.gateway}-{place.number}-{place.pid}"


def place_of(name: str) -> Place | None:
    """The process of this name; ``None`` where a gateway is one process."""
    found = _PROCESS.fullmatch(name)
    return None if found is None else Place(found[1], int(found[2]), int(found[3]))


def same_place(one: str, other: str) -> bool:
    """Whether the gateways of two names are one, or processes of which one came after the other in its place."""
    mine, its = place_of(one), place_of(other)
    return one == other or (mine is not None and its is not None and mine[:2] == its[:2])


class Stream(Protocol):
    """One end of a stream."""

    def send(self, message: bytes) -> None:
        """Sends a message; nothing after ``close``."""

    def close(self, error: KatewayError | None = None) -> None:
        """Ends the stream; the other end is told why. Twice is fine."""

    @property
    def writable(self) -> bool:
        """Whether the link takes what it is given without keeping it in memory for long."""

    def on_writable(self, callback: Callable[[], None]) -> None:
        """Calls back once when it is so again."""


class StreamEnd(Protocol):
    """Hears what the other end of a stream says."""

    def message(self, message: bytes) -> None: ...

    def closed(self, error: KatewayError | None) -> None:
        """The other end has closed it, or the link broke (``GatewayUnavailable``). Once, and nothing behind it."""


class Answering(Protocol):
    """Answers what other gateways ask."""

    def call(self, request: bytes) -> Deferred[bytes]:
        """Answers a call; a ``KatewayError`` goes back as such."""

    def opened(self, stream: Stream, request: bytes) -> StreamEnd:
        """A stream that another gateway opens. ``KatewayError``: it is closed with it."""


class Linked(Protocol):
    """A link to one gateway."""

    peer: str

    def call(self, request: bytes, timeout_seconds: float) -> Deferred[bytes]:
        """Fails with the other end's ``KatewayError``, or with ``GatewayUnavailable`` where no answer came in time."""

    def open(self, request: bytes, end: StreamEnd) -> Stream:
        """Opens a stream. ``GatewayUnavailable``."""


class Linking(Protocol):
    """Links to all gateways."""

    def link(self, home: Home) -> Deferred[Linked]:
        """The link to a gateway, made where there is none. ``GatewayGone``, ``GatewayUnavailable``."""


class Directory(Protocol):
    """Which gateway holds which partitions of a group."""

    async def find(self, cluster: str, group: str, topic: str, *, fresh: bool = False) -> Holders:
        """As the group's coordinator said it within the last seconds; ``fresh``: as it says it now."""


class Holders(NamedTuple):
    """The gateways that hold the partitions of a topic in a group."""

    members: int
    """How many members read the topic, those that are no gateways included."""
    homes: Mapping[int, Home]
    """Of the partitions that gateways hold."""
    rebalancing: bool = False
    """Whether partitions change hands just now, so that it cannot be said of those that are not in ``homes``."""
    foreign: frozenset[int] = frozenset()
    """The partitions that members hold which are no gateways."""


NO_HOLDERS = Holders(0, {})
