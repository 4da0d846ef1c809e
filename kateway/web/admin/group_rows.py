"""Works out the rows of groups, of what every process of the gateway knows of them; asks no store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime

from kateway.core.access.control import Place
from kateway.core.groups.membership import Membership
from kateway.core.groups.memberships import Memberships
from kateway.core.operator.group_parts import (
    LINGERING,
    NOT_READ_HERE,
    READING,
    Before,
    GroupPart,
    drain_seconds,
    from_table,
    to_table,
    together,
)
from kateway.core.operator.group_state import NOT_READ, GroupState, live_state
from kateway.core.operator.lags_of_left import group_named, labels_of
from kateway.core.operator.naming import GroupName, Names
from kateway.core.operator.situations import Situations, judged
from kateway.errors import KatewayError
from kateway.loop_turns import SLICE_SECONDS
from kateway.observe.parts import ALONE, NO_PARTS, OtherProcesses, Parts
from kateway.observe.verdicts import SEVERITIES, Verdict
from kateway.web.admin.rows import Row

LISTED_SECONDS = 0.9
"""So old may be what is known of all groups: a page and several streams ask for them each second or so."""
JUDGED_SECONDS = 1.9
MOST_WORST = 10
"""Groups of a verdict that are told of as the worst, and of those furthest behind."""
ASKED = "groups"
"""What the processes ask each other for."""
CLOSELY = ("held", "clients")
"""Beside the part of a group that is looked at closely: its partitions there, its readers."""
NO_HISTORY = Verdict("unknown", "no history of samples is kept that could say")


class Listed(NamedTuple):
    """A group that this process reads or has read within the last day, and where."""

    name: GroupName
    dead: bool
    member: Membership | None
    place: Place


class GroupRows:
    """The rows of this gateway's groups."""

    def __init__(
        self,
        names: Names,
        groups: Memberships,
        clock: IReactorTime,
        situations: Situations | None,
        others: OtherProcesses = ALONE,
    ) -> None:
        """``situations``: ``None`` where no history is kept."""
        self._situations = situations
        self._others = others
        self._worst: dict[str, Row] = {}
        self._judged_at = float("-inf")
        self._brief: dict[str, GroupPart] = {}
        self._brief_at = float("-inf")
        self._here: dict[str, Listed] = {}
        self._here_at = float("-inf")
        self._whole: dict[str, Row] = {}
        self._whole_at = float("-inf")
        self._one_at_a_time = DeferredLock()
        self.asked: Parts = NO_PARTS
        """As of the last time that all groups were asked for."""
        self._names = names
        self._groups = groups
        self._clock = clock

    async def part(self, arguments: Any) -> list[dict[str, Any]]:
        """This process's part of an answer: all groups without their figures, or those that are named with them; one
        that is looked at closely with its readers and partitions.
        """
        names, closely = arguments["names"], arguments.get("closely", False)
        listed = await self._all_here()
        wanted = list(listed) if names is None else [name for name in names if name in listed]
        if not arguments["figures"]:
            return [to_table(self._brief_part(listed[name])) for name in wanted]
        parts = await self._parts_here([listed[name] for name in wanted])
        tables = [to_table(part) for part in parts]
        if closely:
            for table, name in zip(tables, wanted, strict=True):
                state = self.live_state_of(listed[name])
                table["held"] = [[each.partition, each.leased, each.oldest_leased_seconds] for each in state.partitions]
                table["clients"] = [list(reader) for reader in state.readers]
        return tables

    async def of_all(self) -> dict[str, Row]:
        """Whole rows of all groups by their names, worked out once for all that ask at the same time."""
        return await self._one_at_a_time.run(lambda: Deferred.fromCoroutine(self._work_out()))

    async def _work_out(self) -> dict[str, Row]:
        if self._clock.seconds() - self._whole_at >= LISTED_SECONDS:
            rows = await self.figures(None)
            self._whole, self._whole_at = {row["name"]: row for row in rows}, self._clock.seconds()
        return self._whole

    async def rows(self, names: Sequence[str] | None, most: int) -> dict[str, Row]:
        """Returns rows of the list by their names: those that are asked for and there, or the first ones. Which groups
        there are may be a second old: several streams ask for them each second.
        """
        now = self._clock.seconds()
        if now - self._brief_at >= LISTED_SECONDS:
            self._brief, self._brief_at = await self.all(), now
        listed = self._brief
        wanted = sorted(listed)[:most] if names is None else [name for name in names if name in listed]
        return {row["name"]: row for row in await self.figures(wanted)}

    async def worst(self) -> dict[str, Row]:
        """Returns the rows of the groups that are worst off, by verdict and by lag. All are judged for that,
        so it is done once in a while for all that ask.
        """
        if self._clock.seconds() - self._judged_at >= JUDGED_SECONDS:
            behind = sorted((await self.of_all()).values(), key=lambda row: -(row["lag"] or 0))
            of_verdicts: dict[str, list[Row]] = defaultdict(list)
            for row in behind:
                of_verdicts[row["verdict"]["state"]].append(row)
            told = [*behind[:MOST_WORST], *(row for rows in of_verdicts.values() for row in rows[:MOST_WORST])]
            self._worst = {row["name"]: row for row in told}
            self._judged_at = self._clock.seconds()
        return self._worst

    async def all(self) -> dict[str, GroupPart]:
        """All groups that any process knows, without their figures."""
        here = await self._all_here()
        parts = defaultdict(list, {name: [self._brief_part(each)] for name, each in here.items()})
        return await self._with_others(parts, {"names": None, "figures": False})

    async def _all_here(self) -> dict[str, Listed]:
        found = {}
        began = self._clock.seconds()
        for each in self._known():
            found[self.listed_as(each.name, each.dead)] = each
            if self._clock.seconds() - began > SLICE_SECONDS:
                await self._groups.turns.pause()
                began = self._clock.seconds()
        self._here, self._here_at = found, self._clock.seconds()
        return found

    async def _with_others(self, parts: dict[str, list[GroupPart]], arguments: Any) -> dict[str, GroupPart]:
        """The parts of all processes, added up in slices."""
        answers = await self._others.ask(ASKED, arguments)
        self.asked = answers
        began = self._clock.seconds()
        for tables in answers.all:
            for table in tables:
                part = from_table(table)
                parts[self.listed_as(part.name, part.dead)].append(part)
                if self._clock.seconds() - began > SLICE_SECONDS:
                    await self._groups.turns.pause()
                    began = self._clock.seconds()
        return {name: together(found) for name, found in parts.items()}

    def _known(self) -> Iterator[Listed]:
        for (cluster, group, topic), member in list(self._groups.live.items()):
            found = self._names.found(cluster, group, topic)
            # else its topic was deleted from the registry a moment ago
            if found is not None:
                yield Listed(*found, member, Place(cluster, self._names.store(cluster), topic))
        if self._situations is None:
            return
        for labels in list(self._situations.watches.by_labels):
            name, dead = group_named(labels)
            with suppress(KatewayError):  # it is not registered any more
                place, group = self._names.group(name, dead=dead)
                if (place.cluster, group, place.topic) not in self._groups.live:
                    yield Listed(name, dead, None, place)

    async def figures(self, names: Sequence[str] | None) -> list[dict[str, Any]]:
        """Whole rows of groups, of those that are named and there, or of all."""
        listed = self._here
        if names is None or self._clock.seconds() - self._here_at >= LISTED_SECONDS:
            listed = await self._all_here()
        here = [listed[name] for name in (listed if names is None else names) if name in listed]
        parts: dict[str, list[GroupPart]] = defaultdict(list)
        for part in await self._parts_here(here):
            parts[self.listed_as(part.name, part.dead)].append(part)
        found = await self._with_others(parts, {"names": names, "figures": True})
        wanted = found if names is None else [name for name in names if name in found]
        return [self.row(found[name]) for name in wanted]

    async def _parts_here(self, listed: Iterable[Listed]) -> list[GroupPart]:
        """What this process knows of groups, in slices: a group may have thousands of partitions."""
        parts = []
        began = self._clock.seconds()
        for each in listed:
            parts.append(self.part_here(each, self.live_state_of(each)))
            if self._clock.seconds() - began > SLICE_SECONDS:
                await self._groups.turns.pause()
                began = self._clock.seconds()
        return parts

    def live_state_of(self, listed: Listed) -> GroupState:
        place = listed.place
        return NOT_READ if listed.member is None else live_state(listed.member, place.store, place.topic)

    def listed_as(self, name: GroupName, dead: bool) -> str:
        return self._names.shown(name) + ("?queue=dead" if dead else "")

    def named(self, name: GroupName, dead: bool) -> dict[str, Any]:
        return {
            "name": self.listed_as(name, dead),
            "reader": name.reader,
            "application": name.application,
            "topic": name.topic,
            "version": name.version,
            "group": name.group,
            "queue": "dead" if dead else None,
        }

    def _brief_part(self, listed: Listed) -> GroupPart:
        member = listed.member
        return GroupPart(listed.name, listed.dead, _state(member), 0 if member is None else len(member.readers))

    def part_here(self, listed: Listed, state: GroupState) -> GroupPart:
        """What this process knows of a group in this state."""
        name, dead, member, place = listed
        labels, now = labels_of(name, dead), self._clock.seconds()
        watch = None if self._situations is None else self._situations.watch(labels)
        lags = [each.lag for each in state.partitions]
        lag = None if not lags or None in lags else sum(each or 0 for each in lags)
        whole = state.lag
        situation, looked = None, False
        if self._situations is not None:
            situation, looked = self._situations.of(labels, member, place.cluster, whole)
        lag_at: float | None = now
        if watch is not None and member is None and whole is None:
            lag, lag_at = watch.lag, watch.lag_at
        oldest = state.oldest_seconds
        if watch is not None and oldest is None and lag != 0:
            oldest = watch.oldest_seconds
        before = None if watch is None else watch.before(now)
        return GroupPart(
            name,
            dead,
            _state(member),
            0 if member is None else len(member.readers),
            len(state.partitions),
            _total(state, listed),
            lag,
            None if lag is None or lag_at is None else now - lag_at,
            oldest,
            state.unacknowledged,
            state.oldest_unacknowledged_seconds,
            state.rebalancing,
            state.last_error,
            None if watch is None else watch.rates(),
            None if before is None else Before(*before),
            None if watch is None else watch.blocked_share,
            situation,
            looked,
        )

    def row(self, part: GroupPart) -> dict[str, Any]:
        lag, oldest, rates, watched = part.whole_lag, part.oldest_seconds, part.rates, part.rates is not None
        verdict = NO_HISTORY if self._situations is None else judged(part.situation, part.looked)
        drain = drain_seconds(lag, part.before) if watched else None
        row: dict[str, Any] = {
            **self.named(part.name, part.dead),
            "state": part.state,
            "rebalancing": part.rebalancing,
            "last_error": part.last_error,
            "lag": lag,
            "lag_age_seconds": None if lag is None or part.lag_age_seconds is None else round(part.lag_age_seconds, 1),
            "oldest_seconds": oldest,
            "unacknowledged_records": part.unacknowledged,
            "oldest_unacknowledged_seconds": part.oldest_unacknowledged_seconds,
            "readers": part.readers,
            "rates": None if rates is None else {series: round(figure, 3) for series, figure in rates.items()},
            "drain_seconds": None if drain is None else round(drain, 1),
            "blocked_share": None if part.blocked_share is None else round(part.blocked_share, 3),
            "verdict": verdict._asdict(),
            "severity": SEVERITIES[verdict.state],
        }
        unknown = [figure for figure in ("lag", "rates") if row[figure] is None]
        if not watched:
            unknown += ["drain_seconds", "blocked_share"]
        if oldest is None and lag != 0:
            unknown.append("oldest_seconds")
        if verdict.state == "unknown":
            unknown.append("verdict")
        return {**row, "unknown": unknown}


def _total(state: GroupState, listed: Listed) -> int | None:
    """How many partitions the topic has, where that matters: of what is read here."""
    if state.complete:
        return len(state.partitions)
    return None if listed.member is None else listed.place.store.partitions(listed.place.topic)


def _state(member: Membership | None) -> str:
    return NOT_READ_HERE if member is None else READING if member.readers else LINGERING
