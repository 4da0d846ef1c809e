"""Repeats work while the gateway runs; what fails is tried again at its next time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from kateway.errors import KatewayError

_log = Logger()


class RegularWork:
    """Each piece of work now and then every so many seconds, never twice at once."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._loops: list[LoopingCall] = []

    def every(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A ``KatewayError``, and the end of what was waited for, is passed over until the next time. Anything else is
        a fault of ours: it is logged, and the work is done again at its next time all the same.
        """

        async def once() -> None:
            try:
                await work()
            except (CancelledError, KatewayError) as error:
                # nothing cancels the work itself: what it waited for was
                _log.debug("{error!r}", error=error)
            except Exception:
                _log.failure("a regular task failed; it is tried again in {seconds:g} s", seconds=seconds)

        loop = LoopingCall(lambda: Deferred.fromCoroutine(once()))
        loop.clock = self._clock
        loop.start(seconds, now=True).addErrback(lambda failure: _log.failure("a regular task ended", failure))
        self._loops.append(loop)

    def stop(self) -> None:
        """Begins no further call; calls under way go on to their end."""
        for loop in self._loops:
            if loop.running:
                loop.stop()
