"""Serves ``GET /metrics``: what was counted, as Prometheus, OpenMetrics or InfluxDB reads it.

Written in slices between which the reactor runs, by one request at a time: those behind it wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime

from kateway.errors import InvalidParameter
from kateway.loop_turns import LoopTurns
from kateway.observe.exposition import Sampler, exposed, gathered
from kateway.observe.families import FAMILIES, SUBSCRIBE_READERS
from kateway.observe.render import (
    INFLUX,
    OPENMETRICS,
    TEXT,
    Body,
    Labels,
    Samples,
    Value,
    in_bodies,
    in_slices,
    influx,
    openmetrics,
    text,
)
from kateway.observe.series import Series
from kateway.observe.together import encode
from kateway.registry.interface import Snapshot
from kateway.web.admin.access import Guard
from kateway.web.admin.requests import query_of
from kateway.web.admin.rights import check
from kateway.web.coroutine_handler import serve
from kateway.web.exchange import NO_STORE, Exchange, Request, Response

_QUERY = frozenset({"family", "format"})
_VARY = (b"Vary", b"Accept, Accept-Encoding")


Join = Callable[[Samples, Collection[Labels]], Coroutine[Any, Any, Samples]]
"""Adds the figures of other processes to this one's."""


class MetricsEdge:
    """Serves ``/metrics``. ``guard`` gives the one in force, ``tags`` are those of InfluxDB's lines."""

    def __init__(
        self,
        series: Series,
        samplers: Sequence[Sampler],
        guard: Callable[[], Guard],
        clock: IReactorTime,
        tags: dict[str, str],
        *,
        ticking: Callable[[], float] = time.perf_counter,
        wall: Callable[[], float] = time.time,
        turns: LoopTurns | None = None,
        join: Join | None = None,
    ) -> None:
        """``turns`` are those of all work that may wait. ``join`` adds the figures of other processes; it is told the
        groups that this one is a member of. ``ticking`` is a clock that runs within a turn of the reactor's loop,
        ``wall`` gives seconds since the epoch.
        """
        self._series = series
        self._samplers = samplers
        self._guard = guard
        self._turns = LoopTurns(clock) if turns is None else turns
        self._tags = tags
        self._ticking = ticking
        self._wall = wall
        self._join = join
        self._one_at_a_time = DeferredLock()

    def handle(self, exchange: Exchange) -> None:
        """Answers a request, whatever comes of it."""
        serve(exchange, self._answer(exchange.request))

    async def _answer(self, request: Request) -> Response:
        guard = self._guard()
        guard.check_origin(request)
        check(guard.identify(request), "metrics", {}, {}, Snapshot())
        query = query_of(request.target.partition(b"?")[2], _QUERY)
        wanted = _wanted(query.get("family"))
        form = query.get("format", "")
        if form not in {"", "influx"}:
            raise InvalidParameter("format is influx, or left out: then Accept says which of Prometheus' it is")
        gzip = _accepts_gzip(request)
        media_type = INFLUX if form else OPENMETRICS if _prefers_openmetrics(request) else TEXT
        body = await self._one_at_a_time.run(
            lambda: Deferred.fromCoroutine(self._scrape(wanted, media_type, bool(form), gzip))
        )
        headers = [(b"Content-Type", media_type.encode()), NO_STORE, _VARY]
        if gzip:
            headers.append((b"Content-Encoding", b"gzip"))
        return Response(200, headers, body)

    async def exposition(self) -> bytes:
        """All figures of now in Prometheus' text format, for those that they are sent to."""
        return await self._one_at_a_time.run(
            lambda: Deferred.fromCoroutine(self._scrape(FAMILIES, TEXT, as_lines=False, gzip=False))
        )

    async def lines(self, tags: Mapping[str, str], max_lines: int) -> list[Body]:
        """All figures of now as InfluxDB's lines, with these tags beside the gateway's, in bodies of so many lines."""
        return await self._one_at_a_time.run(lambda: Deferred.fromCoroutine(self._bodies(tags, max_lines)))

    async def _bodies(self, tags: Mapping[str, str], max_lines: int) -> list[Body]:
        found = await self._found(FAMILIES)
        pieces = influx(found, {**self._tags, **tags}, self._wall())
        return await in_bodies(pieces, max_lines, self._ticking, self._pause)

    async def samples(self) -> bytes:
        """All figures of this process alone, for another to add up."""
        return encode(await self._found(FAMILIES, alone=True))

    async def _found(self, wanted: Collection[str], *, alone: bool = False) -> Samples:
        sampled: dict[str, dict[Labels, Value]] = {}
        needed = wanted if self._join is None else {*wanted, SUBSCRIBE_READERS.name}
        await in_slices(gathered(self._samplers, needed, sampled), self._ticking, self._pause)
        found = exposed(self._series, wanted, sampled)
        if self._join is None or alone:
            return found
        return await self._join(found, sampled.get(SUBSCRIBE_READERS.name, {}).keys())

    async def _scrape(self, wanted: Collection[str], media_type: str, as_lines: bool, gzip: bool) -> bytes:
        found = await self._found(wanted)
        if as_lines:
            pieces = influx(found, self._tags, self._wall())
        else:
            pieces = openmetrics(found) if media_type == OPENMETRICS else text(found)
        return await in_slices(pieces, self._ticking, self._pause, gzip=gzip)

    async def _pause(self) -> None:
        await self._turns.pause()


def _wanted(given: str | None) -> Collection[str]:
    """The families that ``?family=`` names, separated by commas; all without it."""
    if given is None:
        return FAMILIES
    stems = {family.stem: name for name, family in FAMILIES.items()}
    names = set()
    for name in given.split(","):
        found = name if name in FAMILIES else stems.get(name)
        if found is None:
            raise InvalidParameter(f"family: there is no family {name[:64]!r}")
        names.add(found)
    return names


def _prefers_openmetrics(request: Request) -> bool:
    qualities = _qualities(request.listed(b"accept") or b"")
    named = qualities.get(b"application/openmetrics-text", 0.0)
    return named > 0 and named >= qualities.get(b"text/plain", qualities.get(b"text/*", 0.0))


def _accepts_gzip(request: Request) -> bool:
    qualities = _qualities(request.listed(b"accept-encoding") or b"")
    return qualities.get(b"gzip", qualities.get(b"*", 0.0)) > 0


def _qualities(header: bytes) -> dict[bytes, float]:
    """RFC 9110 12.4.2: the highest weight of each name, without its other parameters."""
    found: dict[bytes, float] = {}
    for part in header.lower().split(b","):
        name, *parameters = (piece.strip() for piece in part.split(b";"))
        given = next((piece[2:] for piece in parameters if piece.startswith(b"q=")), b"1")
        try:
            quality = float(given)
        except ValueError:
            quality = 0.0
        found[name] = max(quality, found.get(name, 0.0))
    return found
