"""Serves the history over the admin API: series of the gateway, or of an application, topic or group, over a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from kateway.core.operator.known import Known
from kateway.core.operator.lags_of_left import group_named
from kateway.errors import InvalidParameter, KatewayError, NotFound
from kateway.observe.gateway_series import QUANTILES, SHARES, SHOWN, bucket
from kateway.observe.history import SHAPES, History, Kind, Labels
from kateway.observe.parts import ALONE, OtherProcesses, Parts
from kateway.observe.points_together import together
from kateway.observe.quantiles import quantile
from kateway.observe.rings import Points, Rings, Shape
from kateway.registry.documents import time_text
from kateway.web.admin.requests import AdminCall, answer
from kateway.web.admin.rows import Row
from kateway.web.exchange import Response

HISTORY_QUERY = frozenset({"series", "window", "object"})
WINDOWS = {"15m": 900, "1h": 3600, "3h": 10800, "24h": 86400, "2d": 172800, "7d": 604800}
DEFAULT_WINDOW = "1h"
GATEWAY = "gateway"
HIGHEST = "_max"
"""Behind a series' name: the highest samples of each step."""
TRUE_TO = 0.0003
MOST_SERIES = 50
SLICE_SECONDS = 0.001
"""For so long at most series are read before other requests have their turn."""
ASKED = "history"
_KINDS: dict[int, Kind] = {1: "application", 3: "topic", 5: "group"}


class Asked(NamedTuple):
    """The object whose history is asked for."""

    kind: Kind
    labels: Labels


class Wanted(NamedTuple):
    """What the processes ask each other for."""

    kind: Kind
    objects: Sequence[Labels] | None
    """``None``: the first ones, ``most`` of them."""
    most: int
    series: Sequence[str]
    tier: int
    wall: float
    seconds: float


Kept = dict[str, Points]
"""Points by their series."""
Found = dict[str, Kept]
"""By the objects' names."""


class HistoryCalls:
    """Handlers. ``wall`` gives seconds since the epoch."""

    def __init__(
        self,
        history: History,
        known: Known,
        clock: IReactorTime,
        wall: Callable[[], float],
        others: OtherProcesses = ALONE,
    ) -> None:
        self._history = history
        self._known = known
        self._clock = clock
        self._wall = wall
        self._others = others

    async def history(self, call: AdminCall) -> Response:
        """Shows series, ``null`` where nothing is known."""
        kind, labels = asked_object(call.query.get("object"))
        window = call.query.get("window", DEFAULT_WINDOW)
        seconds = WINDOWS.get(window)
        if seconds is None:
            raise InvalidParameter(f"window must be one of {', '.join(WINDOWS)}")
        names = _series(call.query.get("series"), known_series(kind))
        tier = self._shape(kind).tier(seconds)
        asked = Wanted(kind, [labels], 1, _kept(names), tier, self._wall(), seconds)
        found, parts = await self._of_all(asked)
        series = found.get("/".join(labels))
        if series is None:
            await self._check_there(call, kind, labels)
            series = await self._none(asked)
        shown_series = {name: _shown(name, series) for name in names}
        first = next(iter(shown_series.values()))
        step = first.step_seconds
        shown: dict[str, Any] = {
            "object": call.query.get("object"),
            "window": window,
            "step_seconds": step,
            "from": time_text(first.start * 1000),
            "to": time_text((first.start + step * len(first.figures)) * 1000),
            "series": {name: [clean(figure) for figure in points.figures] for name, points in shown_series.items()},
            **parts.named,
        }
        return answer(200, shown)

    async def _check_there(self, call: AdminCall, kind: Kind, labels: Labels) -> None:
        """``NotFound`` for an object that is not there; of one that is and did nothing yet all figures are unknown."""
        try:
            if kind == "application":
                self._known.application(*labels)
            elif kind == "topic":
                await self._known.topic(*labels)
            elif kind == "group":
                name, dead = group_named(labels)
                await self._known.group(name, dead=dead)
        except KatewayError as error:
            if call.actor.application:
                # in other words it would tell whether there is such a topic of another application
                raise NotFound("there is no such application, topic or group") from error
            raise

    async def rows(self, kind: Kind, names: Sequence[str] | None, most: int) -> dict[str, Row]:
        """Returns the last figures of objects of a kind by their names: those that are asked for, or the first ones."""
        wanted = None if names is None else [tuple(name.split("/")) for name in names]
        found = await self._last(kind, wanted, most, SHAPES[kind].series)
        order = sorted(found)[:most] if names is None else [name for name in names if name in found]
        return {name: found[name] for name in order}

    async def gateway(self, _names: Sequence[str] | None) -> dict[str, Row]:
        """Returns the gateway's last figures as the one row that there is."""
        found = await self._last("gateway", [()], 1, SHOWN)
        return {GATEWAY: {**found[""], "name": GATEWAY}}

    async def _last(
        self, kind: Kind, objects: Sequence[Labels] | None, most: int, series: Sequence[str]
    ) -> dict[str, Row]:
        step = self._shape(kind).tiers[0].step_seconds
        found, _parts = await self._of_all(Wanted(kind, objects, most, _kept(series), 0, self._wall(), step))
        rows: dict[str, Row] = {}
        for name, kept in found.items():
            shown = {each: _shown(each, kept) for each in series}
            last = next(iter(shown.values()))
            at = (last.start + last.step_seconds * (len(last.figures) - 1)) * 1000
            figures = {each: clean(points.figures[-1]) for each, points in shown.items()}
            rows[name] = {"name": name, "at": time_text(at), **figures}
        return rows

    # --- of this process, and of all --------------------------------------------------------------------------------

    async def part(self, arguments: Any) -> dict[str, dict[str, list[Any]]]:
        """This process's series of the objects that another process asks for."""
        kind, objects, *rest = arguments
        found = await self._here(Wanted(kind, objects and [tuple(labels) for labels in objects], *rest))
        return {name: {each: list(points) for each, points in kept.items()} for name, kept in found.items()}

    async def _of_all(self, wanted: Wanted) -> tuple[dict[str, Kept], Parts]:
        """The series that every process keeps, added up, by the objects' names."""
        parts = await self._others.ask(ASKED, list(wanted))
        of_all = [await self._here(wanted), *parts.all]
        if len(of_all) == 1:
            return of_all[0], parts
        by_object: dict[str, dict[str, list[Points]]] = {}
        for found in of_all:
            for name, series in found.items():
                for each, points in series.items():
                    by_object.setdefault(name, {}).setdefault(each, []).append(Points(*points))
        began = self._clock.seconds()
        added: dict[str, Kept] = {}
        for name, series_of_all in by_object.items():
            added[name] = {each: together(each, points) for each, points in series_of_all.items()}
            began = await self._pause(began)
        return added, parts

    async def _here(self, wanted: Wanted) -> Found:
        history, kind = self._history, wanted.kind
        objects = wanted.objects
        if objects is None:
            known = sorted((labels for one, labels in history.objects if one == kind), key="/".join)
            objects = known[: wanted.most]
        found: Found = {}
        began = self._clock.seconds()
        for labels in objects:
            rings = history.find(kind, tuple(labels))
            if rings is None:
                continue
            series: Kept = {}
            found["/".join(labels)] = series
            for name in wanted.series:
                series[name] = _points(rings, name, wanted)
                began = await self._pause(began)
        return found

    async def _none(self, wanted: Wanted) -> Kept:
        rings = Rings(self._shape(wanted.kind))
        return {name: _points(rings, name, wanted) for name in wanted.series}

    def _shape(self, kind: Kind) -> Shape:
        return self._history.gateway.shape if kind == "gateway" else SHAPES[kind]

    async def _pause(self, began: float) -> float:
        """Lets other requests have their turn where it is time for that."""
        if self._clock.seconds() - began <= SLICE_SECONDS:
            return began
        await deferLater(self._clock, 0)
        return self._clock.seconds()


def _points(rings: Rings, name: str, wanted: Wanted) -> Points:
    where = wanted.tier, wanted.wall, wanted.seconds
    if name in rings.shape.series:
        return rings.points(name, *where)
    return rings.points(name.removesuffix(HIGHEST), *where, peak=True)


def _kept(names: Sequence[str]) -> list[str]:
    """The series that are kept, of which those that are asked for are worked out."""
    kept: list[str] = []
    for name in names:
        histogram = _histogram(name)
        kept += [name] if histogram is None else _buckets(histogram)
    return list(dict.fromkeys(kept))


def _shown(name: str, kept: Kept) -> Points:
    """A series as it is asked for."""
    histogram = _histogram(name)
    if histogram is None:
        return kept[name]
    buckets = [kept[each] for each in _buckets(histogram)]
    share, bounds = SHARES[name.rpartition("_")[2]], QUANTILES[histogram][0].buckets
    figures = [
        quantile(bounds, [count or 0.0 for count in counts], share)
        for counts in zip(*(each.figures for each in buckets), strict=True)
    ]
    return buckets[0]._replace(figures=figures)


def _histogram(name: str) -> str | None:
    histogram, _, share = name.rpartition("_")
    return histogram if share in SHARES and histogram in QUANTILES else None


def _buckets(histogram: str) -> list[str]:
    return [bucket(histogram, place) for place in range(len(QUANTILES[histogram][0].buckets) + 1)]


def known_series(kind: Kind) -> tuple[str, ...]:
    """Returns what may be asked for of a kind of object."""
    if kind == "gateway":
        return SHOWN
    shape = SHAPES[kind]
    return (*shape.series, *(f"{name}{HIGHEST}" for name in shape.peaks))


def asked_object(text: str | None) -> Asked:
    """Takes an object's name apart: an application, a topic, or a group as the list of groups names it. In open mode,
    and of an application's own topic, a group's reader need not be said.
    """
    if text is None:
        return Asked("gateway", ())
    parts = tuple(text.split("/"))
    if len(parts) == 4:
        parts = (parts[0], *parts)
    kind = _KINDS.get(len(parts))
    if kind is None or not all(parts):
        raise InvalidParameter("object must be application, application/topic/version, or a group's whole name")
    # a group's name begins with its reader, which is the last of its labels
    return Asked(kind, (*parts[1:], parts[0]) if kind == "group" else parts)


def _series(given: str | None, known: Sequence[str]) -> list[str]:
    if given is None:
        return list(known)
    names = list(dict.fromkeys(given.split(",")))
    if len(names) > MOST_SERIES:
        raise InvalidParameter(f"series: at most {MOST_SERIES} at once")
    for name in names:
        if name not in known:
            raise InvalidParameter(f"series: there is no {name[:64]!r}, only {', '.join(known)}")
    return names


def clean(figure: float | None) -> float | None:
    """A figure without digits that are not kept; a whole number where it can have been one."""
    if figure is None:
        return None
    whole = round(figure)
    return float(whole) if abs(figure - whole) <= figure * TRUE_TO else float(f"{figure:.4g}")
