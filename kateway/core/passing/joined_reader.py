"""Reads a group at several gateways for one response: at the first as ever, at others while that one gives nothing.

Without it a client would wait in vain at a gateway whose partitions are read up, while records lie in partitions of
another gateway that no client asks just now.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kateway.cluster.interface import Home
from kateway.core.delivery.batch import Batch
from kateway.core.delivery.confirmation import Span
from kateway.core.groups.reader import Reader
from kateway.core.groups.wanted import Mode
from kateway.errors import GatewayGone, GatewayUnavailable, KatewayError, NotHere

FIRST_LOOK_SECONDS = 0.02
"""After which a client that was given nothing looks elsewhere: records at hand come sooner."""
LONGEST_PAUSE_SECONDS = 10.0
"""Between two looks elsewhere: each doubles the pause, from the first on, until another gateway gives records."""
MOST_GATEWAYS = 8
"""At which one response reads at a time."""
_log = Logger()


class Elsewhere(Protocol):
    """Where else the group can be read for the same response."""

    async def homes(self, besides: Collection[str]) -> Sequence[Home]:
        """Gateways that hold partitions, besides those named (this one has no name), in an order of chance."""

    async def reader(self, home: Home) -> Reader:
        """A reader there, a spare one where it is another gateway. ``KatewayError`` where it gives none."""


class JoinedReader:
    """A reader (``groups.group_reader.GroupReader``) that takes from its parts in turn.

    Each part watches the connection and settles by itself. Only the first one's end ends it; what becomes of the
    others is looked after here.
    """

    def __init__(self, first: Reader, elsewhere: Elsewhere, clock: IReactorTime) -> None:
        self._first = first
        self._elsewhere = elsewhere
        self._clock = clock
        self._parts = [first]
        self._turn = 0
        self._taken: dict[Batch, Reader] = {}
        self._hungry = True
        self._on_readable: Callable[[], None] | None = None
        self._read: dict[int, int] = {}
        self._pause = FIRST_LOOK_SECONDS
        self._next_look: IDelayedCall | None = None
        self._looking: Deferred[None] | None = None
        self._opening: list[Deferred[None]] = []
        self._unavailable: GatewayUnavailable | None = None
        """Of the last look."""
        self._looked = False
        """Whether every gateway that could be asked has said once whether there is something."""

    # --- as the first says -------------------------------------------------------------------------------------------

    @property
    def mode(self) -> Mode:
        return self._first.mode

    @property
    def gateway(self) -> str:
        return self._first.gateway

    @property
    def last_error(self) -> KatewayError | None:
        """That of the first; or why another gateway, which may have records, cannot be asked."""
        return self._first.last_error or self._unavailable

    @property
    def blocked_seconds(self) -> float | None:
        return self._first.blocked_seconds

    @blocked_seconds.setter
    def blocked_seconds(self, seconds: float | None) -> None:
        self._first.blocked_seconds = seconds

    def arrived(self) -> int | None:
        return self._first.arrived()

    def on_failed(self, callback: Callable[[KatewayError], None] | None) -> None:
        self._first.on_failed(callback)

    # --- as all say --------------------------------------------------------------------------------------------------

    @property
    def blocked(self) -> bool:
        return any(part.blocked for part in self._parts)

    @property
    def available_since(self) -> float | None:
        return min((part.available_since for part in self._parts if part.available_since is not None), default=None)

    def expects(self) -> bool:
        return not self._looked or any(part.expects() for part in self._parts)

    def take(self, max_records: int, max_bytes: int) -> Batch | None:
        self._hungry = True
        parts = self._parts
        for step in range(len(parts)):
            turn = (self._turn + step) % len(parts)
            batch = parts[turn].take(max_records, max_bytes)
            if batch is not None:
                self._hungry = False
                if turn:
                    self._pause = FIRST_LOOK_SECONDS
                self._turn = turn + 1
                self._taken[batch] = parts[turn]
                return batch
        self._look_soon()
        return None

    def sent(self, batch: Batch, span: Span) -> None:
        part = self._taken.pop(batch, None)
        if part is not None:
            part.sent(batch, span)

    def release(self, batch: Batch) -> None:
        part = self._taken.pop(batch, None)
        if part is not None:
            part.release(batch)

    def pause(self) -> None:
        for part in self._parts:
            part.pause()

    def on_readable(self, callback: Callable[[], None] | None) -> None:
        self._on_readable = callback
        for part in self._parts:
            part.on_readable(None if callback is None else self._call)

    def settled(self, read: Mapping[int, int]) -> None:
        self._read.update(read)
        for part in self._parts:
            part.settled(read)

    def finish(self) -> None:
        self._on_readable = None
        self._taken.clear()
        for part in list(self._parts):
            part.finish()
        # only now: no look begins any more
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        if self._looking is not None:
            self._looking.cancel()
        for opening in self._opening:
            opening.cancel()

    def _call(self) -> None:
        if self._hungry and self._on_readable is not None:
            self._hungry = False
            self._on_readable()

    # --- elsewhere ---------------------------------------------------------------------------------------------------

    def _look_soon(self) -> None:
        if self._next_look is None and self._looking is None and self._first.reading:
            self._next_look = self._clock.callLater(self._pause, self._look)

    def _look(self) -> None:
        self._next_look = None
        if not self._hungry:
            return  # when it is given nothing again
        self._looking = looking = Deferred.fromCoroutine(self._add_parts())
        looking.addErrback(lambda failure: failure.trap(CancelledError) and None)
        looking.addErrback(lambda failure: _log.failure("looking at other gateways broke", failure))
        looking.addCallback(self._looked_around)
        # it may be over by now
        self._looking = None if looking.called else looking

    def _looked_around(self, _result: object) -> None:
        self._looking = None
        if self._hungry:
            self._look_soon()

    async def _add_parts(self) -> None:
        # a gateway may give a reader, again and again, that then gives nothing
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        try:
            homes = await self._elsewhere.homes({part.gateway for part in self._parts})
            self._unavailable = None
            room = max(MOST_GATEWAYS - len(self._parts), 0)
            self._opening = [Deferred.fromCoroutine(self._join(home)) for home in homes[:room]]
            # each is bounded by the time that a request to another gateway may take
            await DeferredList(self._opening)
        finally:
            self._opening = []
            self._looked = True

    async def _join(self, home: Home) -> None:
        try:
            part = await self._elsewhere.reader(home)
        except (NotHere, GatewayGone, CancelledError):
            return
        except KatewayError as error:
            # its readers have what it holds, or it is away: it is asked again
            if isinstance(error, GatewayUnavailable):
                self._unavailable = error
            return
        except Exception:
            _log.failure("a reader at the gateway {gateway} broke", gateway=home.gateway)
            return
        part.share_response(self._first)
        if self._read:
            part.settled(self._read)
        self._parts = [*self._parts, part]
        part.on_failed(lambda _error: self._drop(part))
        part.on_readable(None if self._on_readable is None else self._call)
        if part.error is not None:
            self._drop(part)

    def _drop(self, part: Reader) -> None:
        """A part cannot go on: what it sent is settled all the same, the rest comes at its gateway or at another."""
        self._parts = [each for each in self._parts if each is not part]
        if part.must_begin_anew and part.error is not None:
            # the partition could not be read within this response again, whichever part had it
            self._first.fail(part.error)
        part.finish()
