"""Serves the usage of applications over the admin API, by the hour: for bills."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from kateway.core.operator.known import Known
from kateway.core.operator.usage import FIGURES, UsageBook, UsageRow
from kateway.errors import InvalidParameter
from kateway.observe.parts import ALONE, OtherProcesses
from kateway.registry.documents import time_text
from kateway.web.admin.requests import AdminCall, answer
from kateway.web.exchange import NO_STORE, Response

USAGE_QUERY = frozenset({"application", "from", "to", "format"})
ASKED = "usage"
DEFAULT_SECONDS = 86400
MOST_ROWS = 50_000
COLUMNS = ("application", "from", "seconds", *FIGURES)


class UsageCalls:
    """Handlers. ``wall`` gives seconds since the epoch."""

    def __init__(
        self, book: UsageBook, known: Known, wall: Callable[[], float], others: OtherProcesses = ALONE
    ) -> None:
        self._book = book
        self._known = known
        self._wall = wall
        self._others = others

    async def usage(self, call: AdminCall) -> Response:
        """Shows the rows that begin within a time."""
        form = call.query.get("format", "json")
        if form not in {"json", "csv"}:
            raise InvalidParameter("format must be json or csv")
        end = _moment(call.query, "to", int(self._wall()) + 1)
        start = _moment(call.query, "from", end - DEFAULT_SECONDS)
        if start >= end:
            raise InvalidParameter(f"from ({time_text(start * 1000)}) must be before to ({time_text(end * 1000)})")
        application = call.query.get("application")
        # all processes write one file
        parts = await self._others.ask(ASKED)
        found = await self._book.read(application, start, end, MOST_ROWS)
        if application is not None and not found:
            # one that was deleted may have rows still
            self._known.application(application)
        if len(found) > MOST_ROWS:
            raise InvalidParameter(f"more than {MOST_ROWS} rows: ask for one application, or a shorter time")
        rows = [_row(row) for row in found]
        if form == "json":
            return answer(
                200, {"from": time_text(start * 1000), "to": time_text(end * 1000), "items": rows, **parts.named}
            )
        content = _csv(rows)
        etag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'.encode()
        kind = (b"Content-Type", b"text/csv; charset=utf-8")
        return Response(200, (kind, NO_STORE, (b"ETag", etag), *parts.headers), content)

    async def part(self, _arguments: Any) -> bool:
        """Writes what was used of late: another process is asked for it."""
        await self._book.write()
        return True


def _row(row: UsageRow) -> dict[str, Any]:
    figures = {name: getattr(row, name) for name in FIGURES}
    return {"application": row.application, "from": time_text(row.start * 1000), "seconds": row.seconds, **figures}


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _moment(query: Any, name: str, default: int) -> int:
    """A time in RFC 3339, or a day, in UTC where it has no offset; in seconds since the epoch."""
    given = query.get(name)
    if given is None:
        return default
    try:
        moment = datetime.fromisoformat(given)
        return int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError) as error:
        raise InvalidParameter(f"{name} must be a day or a time, such as 2026-11-30 or 2026-11-30T12:00:00Z") from error
