"""Serves live rows over the admin API, as server-sent events: first a whole state, then each second what changed. Or as
JSON, for a caller that has as many streams as it may: the state of now, to be asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from kateway.errors import Denied, InvalidParameter
from kateway.observe.parts import ALONE, UNANSWERED, OtherProcesses
from kateway.web.admin.event_streams import Event, EventStreams
from kateway.web.admin.requests import AdminCall, answer
from kateway.web.admin.rows import Row
from kateway.web.exchange import Response
from kateway.web.formats.sse import MEDIA_TYPE
from kateway.web.messages.negotiate import choose

LIVE_QUERY = frozenset({"view", "ids"})
MOST_ROWS = 200
"""Of a stream; a page shows a hundred."""
STATUS = "status"
"""The name of the gateway's own row."""

Rows = Mapping[str, Row]
"""By their names."""
View = Callable[[Sequence[str] | None], Coroutine[Any, Any, Rows]]
"""Gives the rows of these names, or of the first ones; asks no store."""


JSON_TYPE = b"application/json"
_FORMS = {MEDIA_TYPE: MEDIA_TYPE, JSON_TYPE: JSON_TYPE}
_WILD = {b"*/*": MEDIA_TYPE, b"text/*": MEDIA_TYPE, b"application/*": JSON_TYPE}
_OWN: Mapping[str, Callable[[Row], str]] = {
    "groups": lambda row: str(row["reader"]),
    "errors": lambda row: str(row["application"]),
    "applications": lambda row: str(row["name"]),
    "topics": lambda row: str(row["name"]).partition("/")[0],
}
"""The views of which a tenant sees rows: those of the application that this gives."""


class LiveCalls:
    """Handlers."""

    def __init__(self, views: Mapping[str, View], streams: EventStreams, others: OtherProcesses = ALONE) -> None:
        self._others = others
        self._views = views
        self._streams = streams

    async def live_rows(self, call: AdminCall) -> Response | None:
        """Begins a stream, or answers the state."""
        actor = call.actor
        view = self._views.get(call.query.get("view", ""))
        if view is None:
            raise InvalidParameter(f"view must be one of {', '.join(self._views)}")
        names = None
        if "ids" in call.query:
            names = [name for name in call.query["ids"].split(",") if name]
            if len(names) > MOST_ROWS:
                raise InvalidParameter(f"ids: at most {MOST_ROWS} at once")
        if actor.application and call.query["view"] not in _OWN:
            raise Denied("this is not for an application's own session")

        async def rows() -> Rows:
            found = await view(names)
            owner = _OWN.get(call.query["view"])
            if owner is None or not actor.application:
                return found
            return {name: row for name, row in found.items() if actor.sees(owner(row))}

        accept = call.request.listed(b"accept")
        if accept and choose(accept, _FORMS, _WILD) == JSON_TYPE:
            return answer(200, {"rows": list((await rows()).values()), **_absent(self._others)})
        answered = await self._streams.check(call)
        if answered is None:
            self._streams.begin(call, "live_rows", _Changes(rows, lambda: _absent(self._others)).step)
        return answered


class _Changes:
    """Tells what has changed of rows since it told the last time."""

    def __init__(self, rows: Callable[[], Coroutine[Any, Any, Rows]], absent: Callable[[], Mapping[str, Any]]) -> None:
        self._rows = rows
        self._absent = absent
        self._absent_then: Mapping[str, Any] = {}
        self._told: Rows | None = None

    async def step(self) -> Event | None:
        rows, before = await self._rows(), self._told
        known = before or {}
        changed = [row for name, row in rows.items() if known.get(name) != row]
        gone = [name for name in known if name not in rows]
        absent = self._absent()
        if before is not None and not changed and not gone and absent == self._absent_then:
            return None
        self._told, self._absent_then = dict(rows), absent
        return ("change" if before is not None else "state"), {"rows": changed, "gone": gone, **absent}


def _absent(others: OtherProcesses) -> dict[str, Any]:
    """Names the processes that the rows cannot be of."""
    return {UNANSWERED: list(others.absent)} if others.absent else {}
