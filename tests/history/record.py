"""What happened, as the clients saw it: every publish, every record that a reader's program had whole, every fault."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import NamedTuple


class Ident(NamedTuple):
    """A record's name: the ``number``-th of a lane. A lane is one writer's one key, so its order is kept."""

    lane: str
    number: int

    def value(self, size: int = 0) -> bytes:
        """The record's value, padded to ``size`` bytes."""
        return f"{self.lane}/{self.number}/".encode().ljust(size, b".")


def ident(value: bytes) -> Ident:
    """Whose value it is; raises ``ValueError`` for one that no writer of ours wrote."""
    lane, number, _ = value.split(b"/", 2)
    return Ident(lane.decode(), int(number))


class Place(NamedTuple):
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Publish:
    """One record of one request. ``status`` 0: no answer came. ``maybe_written``: what a failure said of itself."""

    ident: Ident
    status: int
    place: Place | None = None
    maybe_written: bool | None = None
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A reader's program had all of a record. ``late``: after it had said by a half-close that it was leaving, when
    another may have been given what it had not confirmed.
    """

    session: int
    ident: Ident
    place: Place | None = None
    at: float = 0.0
    late: bool = False


@dataclass(slots=True)
class Session:
    """One response that a reader took. ``clean_at``: it was read to its end and the connection closed in order or
    used again, so that what it carried is settled.
    """

    reader: str
    clean_at: float | None = None
    begun_at: float = 0.0
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A record that a reader acknowledged explicitly and was told 200."""

    place: Place
    at: float


@dataclass(frozen=True, slots=True)
class Fault:
    at: float
    name: str


@dataclass
class History:
    """What writers and readers say while they run; safe to use from many threads."""

    published: list[Publish] = field(default_factory=list)
    delivered: list[Delivery] = field(default_factory=list)
    sessions: dict[int, Session] = field(default_factory=dict)
    acknowledged: list[Acknowledged] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def publish(self, name: Ident, status: int, place: Place | None = None, maybe_written: bool | None = None) -> None:
        with self._lock:
            self.published.append(Publish(name, status, place, maybe_written, time.monotonic()))

    def begin(self, reader: str) -> int:
        with self._lock:
            number = len(self.sessions)
            self.sessions[number] = Session(reader, begun_at=time.monotonic())
            return number

    def deliver(
        self,
        session: int,
        name: Ident,
        place: Place | None = None,
        *,
        late: bool = False,
        at: float | None = None,
    ) -> None:
        """``at``: when it was, by the clock that all processes share, where that is told later."""
        with self._lock:
            self.delivered.append(Delivery(session, name, place, time.monotonic() if at is None else at, late))

    def clean(self, session: int) -> None:
        with self._lock:
            self.sessions[session].clean_at = time.monotonic()

    def end(self, session: int) -> None:
        with self._lock:
            self.sessions[session].ended_at = time.monotonic()

    def acknowledge(self, place: Place) -> None:
        with self._lock:
            self.acknowledged.append(Acknowledged(place, time.monotonic()))

    def fault(self, name: str) -> None:
        with self._lock:
            self.faults.append(Fault(time.monotonic(), name))
