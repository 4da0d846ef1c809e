"""Calls listeners in the reactor's next turn, so that none is called from inside a call of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from kateway.storage.sqlite.thread import Reactor

_goes_on = Logger().failureHandler("a listener of the embedded store failed")


class NextTurn:
    """Queues calls and makes all of them in the next turn, in their order; one delayed call for all."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._due: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._turn: IDelayedCall | None = None

    def __call__(self, call: Callable[..., Any], *args: Any) -> None:
        self._due.append((call, args))
        if self._turn is None:
            self._turn = self._reactor.callLater(0, self._run)

    def _run(self) -> None:
        due, self._due = self._due, deque()
        self._turn = None
        for call, args in due:
            with _goes_on:
                call(*args)
