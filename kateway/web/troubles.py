"""Notes requests that were refused or slow, with what they asked for."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from kateway.observe.troubles import ErrorLog, Failed, Slow, Slowest
from kateway.web.exchange import Request

MOST_DETAIL_CHARACTERS = 300
WAITS_FOR_RECORDS = frozenset({"subscribe", "read"})
"""Operations whose response may wait for records to come: that is not slow."""
UNKNOWN_TOPIC = frozenset(
    {"topic-not-found", "not-found", "invalid-topic", "invalid-name", "ambiguous-topic", "unauthorized", "denied"}
)
"""Reasons with which any name may come: it is not kept, so that no caller can fill the groups."""

TELLS_CONTENTS = frozenset({"invalid-against-schema", "transform-failed"})
"""Reasons whose detail can have values of a record: the right to see errors is not the right to see contents."""
NO_PROBLEM = "status-"
"""Before the status of a response whose body is none of ours, in the place of a reason."""
OF_PEOPLE = frozenset({"admin", "metrics", "ui"})
"""Operations of the admin listener."""
NOT_KEPT = "not kept, as it can have values of the record; the client was told"


class Troubles:
    """Notes both. ``wall`` gives seconds since the epoch."""

    def __init__(self, errors: ErrorLog, slowest: Slowest, wall: Callable[[], float]) -> None:
        self.slowest = slowest
        self._errors = errors
        self._wall = wall

    def refused(self, request: Request, operation: str, caller: str, status: int, body: bytes) -> None:
        """Notes a request that is answered with a problem."""
        try:
            problem = orjson.loads(body)
            reason = str(problem["type"]).rpartition(":")[2]
            detail = NOT_KEPT if reason in TELLS_CONTENTS else str(problem["detail"])[:MOST_DETAIL_CHARACTERS]
        except (ValueError, LookupError, TypeError):
            reason, detail = f"{NO_PROBLEM}{status}", ""
        topic = "" if reason in UNKNOWN_TOPIC or not caller else _topic(request.target)
        application, actor = _caller(operation, caller)
        failed = Failed(self._wall(), request.id, operation, status, detail, actor)
        self._errors.note(reason, application, topic, failed)

    def slow(
        self,
        request: Request,
        operation: str,
        caller: str,
        status: int,
        seconds: float,
        waited_seconds: float,
        store_seconds: float | None,
    ) -> None:
        """Notes a request whose response begins late; ``store_seconds``: ``None`` where no store was asked."""
        if operation in WAITS_FOR_RECORDS:
            return
        topic = _topic(request.target)
        application, actor = _caller(operation, caller)
        self.slowest.note(
            Slow(
                seconds,
                self._wall(),
                request.id,
                operation,
                status,
                application,
                topic,
                waited_seconds,
                actor,
                store_seconds,
            )
        )


def _caller(operation: str, caller: str) -> tuple[str, str]:
    """The application and the actor of a request: on the admin listener a caller is a token's name, ``portal:APP`` of
    an application's own session.
    """
    if operation not in OF_PEOPLE:
        return caller.partition("/")[0], ""
    kind, _, application = caller.partition(":")
    return application if kind == "portal" else "", caller


def _topic(target: bytes) -> str:
    """The topic that a path of the message plane names, as ``topic/version``; else nothing."""
    segments = target.partition(b"?")[0].split(b"/")
    if len(segments) < 4 or segments[2] != b"topics" or not segments[3]:
        return ""
    return f"{segments[3].decode('latin-1')}/{segments[1].decode('latin-1')}"[:200]
