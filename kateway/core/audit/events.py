"""Sends audit events (actor, action, object, outcome) to sinks, without delaying the action.

``record`` puts an event in a bounded queue and returns. Each sink has a queue of its own, so that a slow one holds up
no other, and writes the events that were queued meanwhile; an event that finds a queue full, or fails to be written, is
counted as dropped. A sink of another package that failed too often in a row is left alone for a while, and its events
stay in their queue. Sinks are found by the entry point group ``kateway.audit_sinks``. No payloads, no secrets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from kateway.config.schema import AuditConfig, PluginsConfig
from kateway.core import entry_points
from kateway.core.plugin_watch import Watch, Watches
from kateway.errors import Problems
from kateway.model import Principal
from kateway.storage.interface import Store

ENTRY_POINTS: Final = entry_points.AUDIT_SINKS
MAX_EVENTS_PER_WRITE = 1000
MOST_KEPT = 5000
"""Of the newest events, for those who ask over the admin API."""
ROOM_FOR_CHANGES = 1000
"""Events of administration that are taken when traffic's have filled a queue."""

_log = Logger()
R = TypeVar("R")


class Event(NamedTuple):
    """Something that was done, or refused."""

    time: float
    """Seconds since the epoch."""
    actor: str
    """``application/key`` on the public listener; on the other a token's name, ``admin``, ``portal:application``."""
    action: str
    """``publish``, ``topic.put``, ``key.rotate`` …"""
    object: str
    """The object: ``app1/foobar/v1``."""
    outcome: str
    """``ok``, or the code of the error."""
    request_id: str = ""
    address: str = ""
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    """The entry that was changed, where the event tells it; left out where both are missing."""
    gateway: str = ""
    """The gateways that answered, where it was passed on; else left out."""


def actor(principal: Principal) -> str:
    """Names the actor on the public listener."""
    return f"{principal.application}/{principal.key}" if principal.key else principal.application


class Sink(Protocol):
    """Where events go."""

    async def write(self, events: Sequence[Event]) -> None:
        """Writes events; raises where it could not. One call at a time; not cancelled."""

    async def close(self) -> None:
        """Frees the sink's resources; the last call."""


@attrs.frozen(kw_only=True)
class SinkContext:
    """The arguments of a sink's factory: ``factory(context) -> Sink``, or ``factory(context, options)`` where it has
    ``Options``. ``ConfigError`` names its faulty options.
    """

    config: AuditConfig
    data_directory: Path
    stores: Mapping[str, Store]
    seconds: Callable[[], float]
    """The reactor's clock, for deadlines."""
    in_thread: Callable[[Callable[[], None]], Deferred[None]]
    """Runs a blocking function off the reactor's thread (``deferToThreadPool``)."""

    def options(self, name: str) -> Mapping[str, Any]:
        """The table ``[audit.options.NAME]``."""
        return self.config.options.get(name, {})


class _Lane:
    """A sink with its queue."""

    def __init__(self, name: str, sink: Sink, max_queued: int, watch: Watch) -> None:
        self.name = name
        self.sink = sink
        self.watch = watch
        self.queue: deque[Event] = deque()
        self.dropped = 0
        self._max_queued = max_queued
        self._writing = False
        self._held: Deferred[None] | None = None
        """The newest drain. A sink may wait for a Deferred that nothing else refers to: were the drain not held, it
        would be garbage-collected with it, and the write would look as if it had ended.
        """
        self._idle: Deferred[None] | None = None
        """Waited for by ``close`` while something is being written."""
        self._failing = False

    def put(self, event: Event, room: int) -> None:
        if len(self.queue) >= self._max_queued + room:
            self.dropped += 1
        else:
            self.queue.append(event)
        # with a full queue too: it is how a sink that was taken out is tried again
        if not self._writing and self.watch.admit():
            self._begin()

    def _begin(self) -> None:
        if not self._writing:
            self._writing = True
            self._held = Deferred.fromCoroutine(self._drain()).addErrback(
                lambda failure: _log.failure("audit sink {sink}", failure, sink=self.name)
            )

    async def _drain(self) -> None:
        try:
            while True:
                batch = [self.queue.popleft() for _ in range(min(len(self.queue), MAX_EVENTS_PER_WRITE))]
                try:
                    await self.watch.write(lambda batch=batch: self.sink.write(batch))  # type: ignore[misc]
                except Exception as error:  # a CancelledError too: only the sink itself cancels its write
                    self.dropped += len(batch)
                    self._complain(error)
                else:
                    self._failing = False
                if not self.queue or not self.watch.admit():
                    break
        finally:
            self._writing = False
            if self._idle is not None:
                idle, self._idle = self._idle, None
                idle.callback(None)

    def _complain(self, error: Exception) -> None:
        # once until it goes well again: a full disk must not fill the log too
        if not self._failing:
            _log.warn("audit sink {sink} cannot write, its events are lost: {error}", sink=self.name, error=error)
        self._failing = True

    async def close(self) -> None:
        if self.queue:
            # what a sink that is taken out did not get: this is its last chance
            self._begin()
        if self._writing:
            self._idle = Deferred(lambda _idle: setattr(self, "_idle", None))
            await self._idle
        await self.sink.close()


class Audit:
    """The events' way to the sinks. Which kinds of traffic are recorded is for the callers to ask, beforehand."""

    def __init__(
        self,
        sinks: Mapping[str, Sink],
        *,
        now: Callable[[], float],
        config: AuditConfig | None = None,
        watches: Watches | None = None,
    ) -> None:
        watches = Watches(PluginsConfig(), now) if watches is None else watches
        config = AuditConfig() if config is None else config
        self.configure(config)
        self._now = now
        self.newest: deque[Event] = deque(maxlen=MOST_KEPT)
        """The last events, the newest at the end."""
        self._lanes = [
            _Lane(name, sink, config.max_queued_events, watches.of(ENTRY_POINTS, name)) for name, sink in sinks.items()
        ]

    def configure(self, config: AuditConfig) -> None:
        """Which kinds of traffic are recorded from now on."""
        self.publishes = config.publishes
        self.subscribes = config.subscribes
        self.acknowledgements = config.acknowledgements

    @property
    def dropped(self) -> int:
        """Events that a sink did not get, since the start."""
        return sum(lane.dropped for lane in self._lanes)

    def dropped_by_sink(self) -> list[tuple[str, int]]:
        """The same for each sink, by its name."""
        return [(lane.name, lane.dropped) for lane in self._lanes]

    @property
    def queued(self) -> int:
        return sum(len(lane.queue) for lane in self._lanes)

    def record(
        self,
        actor: str,
        action: str,
        object: str,
        outcome: str,
        *,
        request_id: str = "",
        address: str = "",
        change: bool = False,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        gateway: str = "",
    ) -> None:
        """Takes an event. Never waits, never raises. A ``change`` of the registry has room in the queues that no
        traffic can use up.
        """
        event = Event(self._now(), actor, action, object, outcome, request_id, address, before, after, gateway)
        self.newest.append(event)
        for lane in self._lanes:
            lane.put(event, ROOM_FOR_CHANGES if change else 0)

    async def stop(self) -> None:
        """Writes the queued events and closes the sinks. A cancel gives up those that are left."""
        for lane in self._lanes:
            try:
                await lane.close()
            except CancelledError:
                raise
            except Exception as error:
                _log.warn("audit sink {sink} did not close: {error}", sink=lane.name, error=error)


def _sink(name: str, context: SinkContext, watches: Watches) -> Sink:
    factory = entry_points.load(ENTRY_POINTS, name, "audit.sinks")
    sink: Sink = entry_points.make(factory, context, context.options(name), f"audit.options.{name}", reads_table=True)
    watches.loaded(ENTRY_POINTS, name)
    return sink


def build_audit(context: SinkContext, now: Callable[[], float], watches: Watches) -> Audit:
    """The sinks that ``[audit] sinks`` names. ``ConfigError`` names every fault; ``now`` is seconds since the epoch."""
    sinks: dict[str, Sink] = {}
    problems = Problems()
    for name in context.config.sinks:
        sink = problems.take(_sink, name, context, watches)
        if sink is not None:
            sinks[name] = sink
    problems.refuse()
    return Audit(sinks, now=now, config=context.config, watches=watches)
