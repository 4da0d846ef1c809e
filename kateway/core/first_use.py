"""Publishes to topics that are not known yet: they wait in order until the topic is found or made."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kateway.errors import KatewayError, Unavailable
from kateway.storage.interface import Outcome

_log = Logger()

Send = Callable[[], Deferred[list[Outcome]]]


@attrs.define(eq=False)
class _Waiting:
    send: Send
    count: int
    answer: Deferred[list[Outcome]]
    late: IDelayedCall | None = None


class FirstUse:
    """The topics that are being looked for or made, each with the publishes that wait for it.

    Without it, a publish that is repeated after its topic was made could come behind later ones of its connection.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: dict[Any, deque[_Waiting]] = {}

    def __contains__(self, topic: Any) -> bool:
        return topic in self._waiting

    def wait(
        self, topic: Any, send: Send, count: int, deadline: float, make: Callable[[], Awaitable[object]]
    ) -> Deferred[list[Outcome]]:
        """Calls ``send`` for a publish of ``count`` messages when ``make`` is done, behind those that came before.
        Where it fails, or is not done by the deadline, each message has that error as its outcome.
        """
        waiting = _Waiting(send, count, Deferred())
        waiting.late = self._clock.callLater(max(deadline - self._clock.seconds(), 0.0), self._too_late, topic, waiting)
        queue = self._waiting.get(topic)
        if queue is not None:
            queue.append(waiting)
            return waiting.answer
        self._waiting[topic] = deque([waiting])
        making = Deferred.fromCoroutine(_done(make))
        making.addCallback(lambda error: self._made(topic, error))
        making.addErrback(
            lambda failure: _log.failure("the publishes that waited for {topic} broke", failure, topic=topic)
        )
        return waiting.answer

    def _made(self, topic: Any, error: KatewayError | None) -> None:
        queue = self._waiting[topic]
        while queue:
            # one that is sent may bring another, which belongs behind those that are left
            waiting = queue.popleft()
            if waiting.late is not None:
                waiting.late.cancel()
            if error is None:
                # one that breaks must not hold up those behind it
                maybeDeferred(waiting.send).addCallbacks(waiting.answer.callback, waiting.answer.errback)
            else:
                waiting.answer.callback([error] * waiting.count)
        del self._waiting[topic]

    def _too_late(self, topic: Any, waiting: _Waiting) -> None:
        waiting.late = None
        self._waiting[topic].remove(waiting)
        error = Unavailable("the topic was not found or made by the deadline")
        waiting.answer.callback([error] * waiting.count)


async def _done(make: Callable[[], Awaitable[object]]) -> KatewayError | None:
    try:
        await make()
    except KatewayError as error:
        return error
    except Exception:
        _log.failure("a topic could not be made on its first use")
        return KatewayError("the topic could not be made; the gateway's log says why")
    return None
