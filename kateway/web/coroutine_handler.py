"""Runs a handler that is a coroutine: its value is the response, its error a problem, its cancel the client's going."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from kateway.web.exchange import Exchange, Response
from kateway.web.problems import problem_of


def serve(exchange: Exchange, handler: Coroutine[Any, Any, Response | None]) -> None:
    """Answers with what ``handler`` returns; ``None`` says that it has streamed its answer itself.

    A client that goes away cancels the handler. A handler that streams ends its own failures (``abort``).
    """
    serving = Deferred.fromCoroutine(handler)
    if not serving.called:
        # one that is done already may stream, and has set its own callback for a client that goes
        exchange.on_gone(serving.cancel)

    def succeeded(response: Response | None) -> None:
        if response is not None:
            exchange.respond(response)

    def failed(failure: Failure) -> None:
        if failure.check(CancelledError):
            exchange.abort()  # nothing to do where it was its client that went; else it would wait for ever
        else:
            exchange.respond(problem_of(failure, exchange.request.id))

    serving.addCallbacks(succeeded, failed)
