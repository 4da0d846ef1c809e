"""Runs a thread that owns one SQLite connection, so that the reactor never waits for the disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from kateway.observe.store import StoreCells

ANSWERS_AT_ONCE = 8
"""That may wait for the reactor's thread where it only reads: each may be large."""

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class Reactor(Protocol):
    """What the store needs of the reactor: its clock, and a way back from its threads."""

    def seconds(self) -> float: ...

    def callLater(self, delay: float, call: Callable[..., Any], /, *args: Any) -> IDelayedCall: ...

    def callFromThread(self, call: Callable[..., Any], /, *args: Any) -> None: ...


class SqlThread:
    """Runs calls one after the other, each with the connection; answers come back on the reactor's thread."""

    def __init__(self, reactor: Reactor, name: str, *, reads: bool = False, cells: StoreCells | None = None) -> None:
        """``cells`` count the calls by their functions' names. ``reads``: nothing is ever changed. Then a call that was
        cancelled before its turn is left out, and the thread waits while answers do.
        """
        self._reactor = reactor
        self._cells = cells
        self._name = name
        self._room = Semaphore(ANSWERS_AT_ONCE) if reads else None
        self._jobs: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], Deferred[Any]] | None] = SimpleQueue()
        self._ended: Deferred[None] = Deferred()

    def start(self, connect: Callable[[], sqlite3.Connection]) -> Deferred[None]:
        """Starts the thread and connects; where that fails the thread ends."""
        opened: Deferred[None] = Deferred()
        Thread(target=self._run, args=(connect, opened), name=self._name, daemon=True).start()
        return opened

    def call(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        """Runs ``function`` on the thread, behind earlier calls. Cancelling abandons the answer alone."""
        assert not kwargs
        answer: Deferred[T] = Deferred()
        if self._cells is not None:
            answer.addBoth(self._count, function.__name__, self._reactor.seconds())
        self._jobs.put((function, args, answer))
        return answer

    def hand_over(
        self, function: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Deferred[T]:
        """As ``call``, for a caller that counts by itself."""
        assert not kwargs
        answer: Deferred[T] = Deferred()
        self._jobs.put((function, args, answer))
        return answer

    def _count(self, result: R, name: str, began: float) -> R:
        """Counts a call, its wait for the thread included."""
        assert self._cells is not None
        self._cells.ended(name, self._reactor.seconds() - began, result)
        return result

    def stop(self) -> Deferred[None]:
        """Lets the calls asked for so far end, closes the connection, ends the thread."""
        self._jobs.put(None)
        return self._ended

    def _run(self, connect: Callable[[], sqlite3.Connection], opened: Deferred[None]) -> None:
        back = self._reactor.callFromThread
        room = self._room
        try:
            connection = connect()
        except BaseException:
            back(opened.errback, Failure())
            return
        back(opened.callback, None)
        while (job := self._jobs.get()) is not None:
            function, args, answer = job
            if room is not None:
                room.acquire()
                if answer.called:
                    room.release()
                    continue
            result: Any
            try:
                result = function(connection, *args)
            except BaseException:
                back(self._fire, answer.errback, Failure())
            else:
                back(self._fire, answer.callback, result)
                del result
            del job, function, args, answer
        try:
            connection.close()
        finally:
            back(self._ended.callback, None)

    def _fire(self, fire: Callable[[Any], None], result: Any) -> None:
        if self._room is not None:
            self._room.release()
        fire(result)
