"""Serves groups over the admin API: their figures, their readers, moves of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from twisted.internet.interfaces import IReactorTime

from kateway.core.administration import Administration
from kateway.core.gateway import Gateway
from kateway.core.groups.membership import Membership
from kateway.core.groups.memberships import Memberships
from kateway.core.operator.group_parts import LINGERING, NOT_READ_HERE, READING, from_table, together
from kateway.core.operator.group_state import GroupState, PartitionState, ReaderState, full_state
from kateway.core.operator.naming import GroupName, GroupPlace, Names
from kateway.errors import InvalidParameter, NotFound
from kateway.model import Committed
from kateway.observe.parts import ALONE, OtherProcesses
from kateway.observe.verdicts import STATES
from kateway.registry.validators import VERSION
from kateway.storage.interface import At
from kateway.web.admin.group_rows import ASKED, CLOSELY, GroupRows, Listed
from kateway.web.admin.requests import AdminCall, answer, by
from kateway.web.admin.rows import check_choice, page_of
from kateway.web.exchange import Response
from kateway.web.messages.groups import destination, offsets_object

FIGURES = (
    "lag",
    "oldest_seconds",
    "oldest_unacknowledged_seconds",
    "unacknowledged_records",
    "drain_seconds",
    "blocked_share",
    "severity",
)
SORTABLE = (*FIGURES, "readers", "application", "topic", "group", "reader", "state")
GROUP_QUERY = frozenset({"queue"})
MOVE_QUERY = GROUP_QUERY | {"dry_run"}
MOST_NAMED = 32
"""Partitions that an event of the audit names."""


class GroupCalls:
    """Handlers."""

    def __init__(
        self,
        names: Names,
        gateway: Gateway,
        groups: Memberships,
        administration: Administration,
        clock: IReactorTime,
        rows: GroupRows,
        others: OtherProcesses = ALONE,
    ) -> None:
        self._names = names
        self._gateway = gateway
        self._groups = groups
        self._do = administration
        self._clock = clock
        self._rows = rows
        self._others = others

    async def groups(self, call: AdminCall) -> Response:
        """Lists the groups that are read through this gateway, or were within the last day; asks no store. Figures are
        worked out of those on the page alone, unless it is sorted by one or of one verdict.
        """
        check_choice(call.query, "state", (READING, LINGERING, NOT_READ_HERE, *STATES))
        query, state, sees = dict(call.query), call.query.get("state"), call.actor.sees
        if query.get("sort") in FIGURES or state in STATES:
            rows = [row for row in (await self._rows.of_all()).values() if sees(row["reader"])]
            if state in STATES:
                del query["state"]
                rows = [row for row in rows if row["verdict"]["state"] == state]
            return answer(200, {**page_of(rows, query, SORTABLE), **self._rows.asked.named})
        listed = await self._rows.all()
        brief = [
            {**self._rows.named(each.name, each.dead), "state": each.state, "readers": each.readers}
            for each in listed.values()
            if sees(each.name.reader)
        ]
        page = page_of(brief, query, SORTABLE)
        page["items"] = await self._rows.figures([row["name"] for row in page["items"]])
        return answer(200, {**page, **self._rows.asked.named})

    async def group(self, call: AdminCall) -> Response:
        name, dead = group_name(call), queue_dead(call)
        found = self._names.group(name, dead=dead)
        member = self._live(found)
        state = await full_state(self._gateway, found, member, self._clock, self._do.now_ms())
        asked = {"names": [self._rows.listed_as(name, dead)], "figures": True, "closely": True}
        answers = await self._others.ask(ASKED, asked)
        others = [table for tables in answers.all for table in tables]
        state = _with_held(state, others)
        listed = Listed(name, dead, member, found.place)
        part = self._rows.part_here(listed, state)
        if others:
            closely = [{key: one for key, one in each.items() if key not in CLOSELY} for each in others]
            own = self._rows.part_here(listed, self._rows.live_state_of(listed))
            part = together([own, *map(from_table, closely)])
            situation = part.situation
            part = part._replace(
                partitions=len(state.partitions),
                total=len(state.partitions),
                lag=state.lag,
                lag_age_seconds=0.0,
                oldest_seconds=state.oldest_seconds if state.oldest_seconds is not None else part.oldest_seconds,
                situation=None if situation is None else situation._replace(lag=state.lag),
            )
        if not part.read and all(each.committed is None for each in state.partitions):
            raise NotFound(f"the group {self._names.shown(name)} has committed nothing there, and is not read here")
        partitions = [
            {
                "partition": each.partition,
                "end": each.end,
                "committed": each.committed,
                "lag": each.lag,
                "leased": each.leased,
                "oldest_seconds": each.oldest_seconds,
                "oldest_leased_seconds": each.oldest_leased_seconds,
            }
            for each in state.partitions
        ]
        readers = [_reader(each._asdict()) for each in state.readers]
        row = {**self._rows.row(part), "readers": readers, "partitions": partitions}
        return answer(200, {**row, **answers.named})

    async def move_group(self, call: AdminCall) -> Response:
        """Moves a group as a client does, or with ``dry_run`` tells the changes that this would make."""
        name, dead, dry_run = group_name(call), queue_dead(call), call.flag("dry_run")
        to = destination(call.table())
        place, group = self._names.group(name, dead=dead)
        if dry_run:
            moves = [move._asdict() for move in await self._gateway.moves(place, group, to)]
            listed = (await self._rows.all()).get(self._rows.listed_as(name, dead))
            readers = 0 if listed is None else listed.readers
            return answer(200, {"dry_run": True, "readers": readers, "partitions": moves, **self._rows.asked.named})

        async def move() -> Mapping[int, Committed | None]:
            await self._gateway.reset(place, group, to)
            return await self._gateway.committed(place, group)

        event = f"{self._names.shown(name)}{' dead' if dead else ''} {_where(to)}"
        return answer(200, offsets_object(await self._do.audited(move(), by(call), "group.offsets", event)))

    def _live(self, group: GroupPlace) -> Membership | None:
        place = group.place
        return self._groups.live.get((place.cluster, group.group, place.topic))


def _with_held(state: GroupState, others: Iterable[Mapping[str, Any]]) -> GroupState:
    """A group's state with what other processes hold of it."""
    partitions = {each.partition: each for each in state.partitions}
    readers = list(state.readers)
    for table in others:
        for partition, leased, oldest in table["held"]:
            found = partitions.get(partition, PartitionState(partition, None, None, None, None, None, None))
            if found.leased is None or leased:
                partitions[partition] = found._replace(leased=leased, oldest_leased_seconds=oldest)
        for row in table["clients"]:
            # of its members only the partitions are a list
            told: list[Any] = [tuple(each) if isinstance(each, list) else each for each in row]
            readers.append(ReaderState(*told))
    return state._replace(partitions=[partitions[number] for number in sorted(partitions)], readers=readers)


def group_name(call: AdminCall) -> GroupName:
    """The group that the path names."""
    names = call.names
    return GroupName(names["reader"], names["app"], names["topic"], names["version"], names["group"])


def queue_dead(call: AdminCall) -> bool:
    """Whether the group's dead letters are meant."""
    queue = call.query.get("queue")
    if queue not in {None, "dead"}:
        raise InvalidParameter("queue must be dead, or left out")
    return queue is not None


def _where(to: At | Mapping[int, int]) -> str:
    """A destination as the audit names it."""
    if not isinstance(to, Mapping):
        return f"to {to}"
    named = [f"{partition}:{offset}" for partition, offset in sorted(to.items())]
    return f"to {' '.join(named[:MOST_NAMED])}{' …' if len(named) > MOST_NAMED else ''}"


def with_reader(segments: list[str]) -> list[str]:
    """In open mode a group's path may have four parts, ``default/topic/version/group``: puts the reader, ``default``,
    before them. One that has it already stays as it is.
    """
    if len(segments) < 5 or segments[:2] != ["groups", "default"] or not VERSION.fullmatch(segments[3]):
        return segments
    if len(segments) > 5 and segments[2] == "default" and VERSION.fullmatch(segments[4]):
        return segments
    return ["groups", "default", *segments[1:]]


def _reader(state: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(state)
    found["unsettled_records"] = found.pop("unsettled")
    return found
