"""Traces where memory was allocated, while that is switched on: it doubles the cost of each allocation."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred

from kateway.errors import Conflict
from kateway.shield import shield


class Place(NamedTuple):
    """A line of code, and its allocations that are still there."""

    file: str
    line: int
    bytes: int
    blocks: int


class Memory(NamedTuple):
    """The memory that is traced, and the lines that hold most of it."""

    traced_bytes: int
    peak_bytes: int
    top: list[Place]


InThread = Callable[[Callable[[], Memory]], Coroutine[Any, Any, Memory]]


class MemoryTracing:
    """Switches tracing on and off, and answers for it one at a time. ``in_thread`` runs a function off the reactor's
    thread: a snapshot of a large process takes seconds.
    """

    def __init__(self, in_thread: InThread) -> None:
        self._in_thread = in_thread
        self._ours = False
        self._running = False

    def configure(self, frames: int) -> None:
        """Traces with so many frames of each allocation, or with 0 not at all; tracing that the environment
        switched on (``PYTHONTRACEMALLOC``) goes on.
        """
        if self._ours:
            if frames == tracemalloc.get_traceback_limit():
                return
            tracemalloc.stop()
            self._ours = False
        if frames and not tracemalloc.is_tracing():
            tracemalloc.start(frames)
            self._ours = True

    async def top(self, limit: int) -> Memory:
        """The lines that hold most. ``Conflict`` where nothing is traced, or another call is under way: one whose
        caller has gone is, until its thread is done.
        """
        if not tracemalloc.is_tracing():
            raise Conflict("memory is not traced: set [admin] trace_memory_frames to 1 and reload")
        if self._running:
            raise Conflict("memory is being looked at already: one at a time")
        self._running = True
        return await shield(Deferred.fromCoroutine(self._look(limit)))

    async def _look(self, limit: int) -> Memory:
        try:
            return await self._in_thread(lambda: _top(limit))
        finally:
            self._running = False


def _top(limit: int) -> Memory:
    traced, peak = tracemalloc.get_traced_memory()
    snapshot = tracemalloc.take_snapshot()
    statistics = snapshot.filter_traces([tracemalloc.Filter(False, tracemalloc.__file__)]).statistics("lineno")
    places = [
        Place(each.traceback[0].filename, each.traceback[0].lineno, each.size, each.count)
        for each in statistics[:limit]
    ]
    return Memory(traced, peak, places)
