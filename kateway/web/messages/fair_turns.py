"""The order in which requests are handled when more arrive than can be: fair by application, refused early.

Requests are handled as they are read until a turn of the reactor's loop has taken ``TURN_SECONDS``. Those beyond it
wait, a line for each application, and are handled from the next turn on: always the next request of the application
that has had the least time (start-time fair queuing, Goyal et al. 1996). So an application with few connections is not
behind the five hundred of another, and a turn stays short, which everything else on the loop depends on.

A line's pace is measured, so a request that would wait longer than its client does is refused when it arrives.
Queueing it would cost the work twice: a client that has given up comes again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from math import ceil, inf

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kateway.bounded_cache import BoundedCache
from kateway.drain_pace import DrainPace
from kateway.errors import Overloaded
from kateway.observe.cells import Counter
from kateway.web.exchange import Exchange, Request
from kateway.web.problems import problem

TURN_SECONDS = 0.01
"""Longer turns would be hardly cheaper: one of this length has some 200 publishes, and what it sends goes together."""

SHARED_TURN_SECONDS = 0.002
"""While several applications want their turn: a client with few connections waits for two turns in each round trip."""

SHARED_SECONDS = 0.5
"""After the last request of another application turns are taken to be shared for so long."""

PATIENCE_USED = 0.8
"""A request is refused where waiting would take more of its time than this: it has to be handled, too."""

MOST_REMEMBERED = 4096
"""Applications that have used their turn up and are remembered until the others have had as much."""

LEAST_SERVED = 16
"""A line's pace is known when so many of its requests were handled."""

Handler = Callable[[Exchange], None]


class Line:
    """The requests of one application that wait."""

    __slots__ = ("began", "name", "pace", "used", "waiting")

    def __init__(self, name: str, used: float, began: float) -> None:
        self.name = name
        self.used = used
        """Seconds of handling, on the scale of ``FairTurns``."""
        self.began = began
        self.waiting: deque[Exchange] = deque()
        self.pace = DrainPace(LEAST_SERVED)

    def __lt__(self, other: Line) -> bool:
        return self.used < other.used


class FairTurns:
    """Hands requests to ``handler``. ``patience`` gives the seconds that a request's client will wait for its answer;
    no request waits longer than ``max_wait_seconds`` for its turn.
    """

    def __init__(
        self,
        clock: IReactorTime,
        handler: Handler,
        patience: Callable[[Request], float],
        max_wait_seconds: float,
        refusals: Counter | None = None,
    ) -> None:
        self.max_wait_seconds = max_wait_seconds
        """A reload may change it."""
        self._refusals = refusals
        self.refused = 0
        """Requests that would have waited too long."""
        self.waiting = 0
        self._seconds: Callable[[], float] = clock.seconds
        self._later: Callable[..., IDelayedCall] = clock.callLater
        self._handler = handler
        self._patience = patience
        self._lines: dict[str, Line] = {}
        self._order: list[Line] = []
        """A heap: the line that has had the least time is the next."""
        self._used = 0.0
        """Of the line that was served last: a line that begins is not owed the time before."""
        self._ahead: BoundedCache[str, float] = BoundedCache(MOST_REMEMBERED)
        """The time of lines that are empty. One that begins again before the others have had as much goes on from it:
        else an application with one slow request at a time would have every other turn.
        """
        self.handled_at = -inf
        """When the last turn of the loop that handled requests began to."""
        self._turn: IDelayedCall | None = None
        self._until = 0.0
        self._last = ""
        """Whose request waited last."""
        self._shared_until = 0.0

    def handle(self, exchange: Exchange) -> None:
        """Handles a request now, where this turn has time left, or in its application's turn. Hot."""
        if self._turn is None:
            # called when all that this turn has read is handled, before anything more is read
            self._turn = self._later(0, self._next)
            self.handled_at = self._seconds()
            self._until = self.handled_at + TURN_SECONDS
        elif self._order or exchange.request.received > self._until:
            self._wait(exchange)
            return
        self._handler(exchange)

    def _wait(self, exchange: Exchange) -> None:
        now = self._seconds()
        name = _application(exchange)
        if name != self._last:
            if self._last:
                self._shared_until = now + SHARED_SECONDS
            self._last = name
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = Line(name, max(self._used, self._ahead.pop(name, 0.0)), now)
            line.waiting.append(exchange)
            heappush(self._order, line)
            self.waiting += 1
            return
        wait = len(line.waiting) * line.pace.seconds_per_item
        request = exchange.request
        left = request.received + self._patience(request) - now
        if wait > min(left * PATIENCE_USED, self.max_wait_seconds):
            self._refuse(exchange, wait)
            return
        line.waiting.append(exchange)
        self.waiting += 1

    def _next(self) -> None:
        """Serves the lines for one turn."""
        self._turn = None
        order = self._order
        if not order:
            return
        now = self.handled_at = self._seconds()
        self._until = until = now + (SHARED_TURN_SECONDS if now < self._shared_until else TURN_SECONDS)
        self._turn = self._later(0, self._next)
        while order and now < until:
            line = heappop(order)
            exchange = line.waiting.popleft()
            self.waiting -= 1
            self._used = line.used
            try:
                self._serve(exchange, now)
            finally:
                # whatever becomes of one request, those behind it keep their place
                began, now = now, self._seconds()
                line.used += now - began
                line.pace.served(1, line.began, now)
                if line.waiting:
                    heappush(order, line)
                else:
                    del self._lines[line.name]
                    self._ahead.keep(line.name, line.used)

    def _serve(self, exchange: Exchange, now: float) -> None:
        if exchange.connection.gone:
            # nothing was begun, and no client waits for it
            return
        request = exchange.request
        waited = exchange.waited_seconds = now - request.received
        try:
            if waited > self._patience(request):
                self._refuse(exchange, waited)
                return
            self._handler(exchange)
        except CancelledError:
            exchange.abort()
        except Exception as error:
            # a handler answers what it foresees; this is logged, with the request's id
            _fail(exchange, error)

    def _refuse(self, exchange: Exchange, wait: float) -> None:
        self.refused += 1
        if self._refusals is not None:
            self._refusals.value += 1
        retry_after = max(ceil(wait), 1)
        exchange.connection.told_to_wait(retry_after)
        detail = f"more requests arrive than can be handled: this one would have waited {wait:.1f} s for its turn"
        exchange.respond(problem(Overloaded(detail, retry_after_seconds=retry_after), exchange.request.id))


def _fail(exchange: Exchange, error: Exception) -> None:
    answer = problem(error, exchange.request.id)
    try:
        exchange.respond(answer)
    except RuntimeError:
        # the response has begun: it must not be taken for whole
        exchange.abort()


def _application(exchange: Exchange) -> str:
    """The application that was admitted last on a connection; without one, the client's address."""
    last = exchange.connection.remembered  # ``admission.Remembered``
    return "@" + exchange.request.peer if last is None else str(last.authorized.principal.application)
