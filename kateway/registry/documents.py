"""Turns entries into plain tables and back: the form of the admin API, the registry file and the drivers.

An entry's name is never in its table: it is the path, the heading or the key that the table is found under. Times
are RFC 3339 texts in tables (a TOML date-time is fine too) and milliseconds since the epoch in entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import attrs

from kateway.errors import BadRequest, InvalidName, InvalidParameter
from kateway.registry.interface import (
    Application,
    Binding,
    Elastic,
    Entry,
    GatewayEntry,
    Growth,
    Key,
    OutgoingTransforms,
    Placement,
    Quota,
    Topic,
    Transforms,
)

Kind = Literal["applications", "keys", "topics", "bindings", "transforms", "placements"]
Table = dict[str, Any]

CLASSES: Mapping[Kind, type[Entry]] = {
    "applications": Application,
    "keys": Key,
    "topics": Topic,
    "bindings": Binding,
    "transforms": Transforms,
    "placements": Placement,
}
NAME_MEMBERS: Mapping[Kind, tuple[str, ...]] = {
    "applications": ("name",),
    "keys": ("key",),
    "topics": ("application", "topic", "version"),
    "bindings": ("subscriber", "application", "topic", "version"),
    "transforms": ("application", "topic", "version"),
    "placements": ("application", "topic", "version"),
}
_KINDS: Mapping[type[Entry], Kind] = {kind: name for name, kind in CLASSES.items()}
_TIMES = frozenset({"made", "rotated_until", "deprecated", "sunset"})
_SELDOM = frozenset({"deprecated", "sunset", "transforms", "filter", "elastic"})
"""Left out where they are not set."""
_BOOLEANS = frozenset({"dead_letter"})
_ATTRIBUTES = {"in": "incoming", "out": "outgoing"}
"""Members whose names are words of Python's."""
_TABLE_NAMES = {attribute: member for member, attribute in _ATTRIBUTES.items()}


def _members(kind: type, *without: str) -> tuple[str, ...]:
    names = (field.name for field in attrs.fields(kind) if field.init and field.name not in {*without, "etag"})
    return tuple(_TABLE_NAMES.get(name, name) for name in names)


_MEMBERS: Mapping[Kind, tuple[str, ...]] = {
    kind: _members(CLASSES[kind], *names) for kind, names in NAME_MEMBERS.items()
}
_QUOTA_MEMBERS = _members(Quota)
_OUTGOING_MEMBERS = _members(OutgoingTransforms)
_ELASTIC_MEMBERS = _members(Elastic)
_GROWTH_MEMBERS = _members(Growth)


def kind_of(entry: Entry) -> Kind:
    return _KINDS[type(entry)]


def name_of(entry: Entry) -> str:
    """The entry's name as one text: ``app``, ``app/topic/version``, ``subscriber/app/topic/version``."""
    return "/".join(getattr(entry, member) for member in NAME_MEMBERS[kind_of(entry)])


def to_table(entry: Entry) -> Table:
    """Returns the entry's members, name and etag aside. A key's has its hashes: not for any response."""
    kind = kind_of(entry)
    shown = {member: _shown(member, getattr(entry, _ATTRIBUTES.get(member, member))) for member in _MEMBERS[kind]}
    return {member: value for member, value in shown.items() if value is not None or member not in _SELDOM}


def from_table(kind: Kind, name: str, table: object, etag: str = "", *, lenient: bool = False) -> Entry:
    """The entry that a table describes; members left out have their defaults. ``BadRequest`` names the first fault.

    ``lenient``: members that this version does not know are passed over (a newer gateway may have written them).
    """
    if lenient and isinstance(table, Mapping):
        table = {member: value for member, value in table.items() if member in _MEMBERS[kind]}
    given = _taken("", table, _MEMBERS[kind])
    parts = name.split("/")
    members = NAME_MEMBERS[kind]
    if len(parts) != len(members):
        raise InvalidName(f"must be {'/'.join(members)}, is {name[:300]!r}")
    required = {"keys": ("application", "kind", "secret_hash"), "bindings": ("groups",)}.get(kind, ())
    for member in required:
        if member not in given:
            raise InvalidParameter(f"{member} is missing")
    if kind == "applications" and given.get("quota") is None:
        given.pop("quota", None)
    given |= {**dict(zip(members, parts, strict=True)), "etag": etag}
    return CLASSES[kind](**given)


def _taken(of: str, table: object, members: tuple[str, ...]) -> Table:
    if not isinstance(table, Mapping):
        raise BadRequest(f"{of} must be a table of {', '.join(members)}".lstrip())
    unknown = sorted(str(member) for member in table if member not in members)
    if unknown:
        raise InvalidParameter(f"{unknown[0]}: there is no such member, only {', '.join(members)}")
    given: Table = {}
    for member, value in table.items():
        name: str = _ATTRIBUTES.get(member) or member
        given[name] = _read(member, value)
    return given


def _read(member: str, value: Any) -> Any:
    if member == "quota" and value is not None:
        return Quota(**_taken("quota", value, _QUOTA_MEMBERS))
    if member in _TIMES:
        return _milliseconds(member, value)
    if member == "transforms" and value is not None:
        return OutgoingTransforms(**_taken("transforms", value, _OUTGOING_MEMBERS))
    if member in _ATTRIBUTES and not isinstance(value, (list, tuple)):
        raise InvalidParameter(f"{member} must be a list of steps, each an object")
    if member == "generation" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidParameter("generation must be a whole number from 1")
    if member == "elastic" and value is not None:
        return Elastic(**_taken("elastic", value, _ELASTIC_MEMBERS))
    if member == "growths":
        return [Growth(**_taken("growths", growth, _GROWTH_MEMBERS)) for growth in value]
    if member == "groups" and not isinstance(value, (list, tuple)):
        raise InvalidParameter("groups must be a list of texts")
    if member == "groups" and not all(isinstance(group, str) for group in value):
        raise InvalidParameter("groups must be a list of texts")
    if member in _BOOLEANS and not isinstance(value, bool):
        raise InvalidParameter(f"{member} must be true or false")
    return value


def _shown(member: str, value: Any) -> Any:
    if isinstance(value, Quota):
        return attrs.asdict(value, filter=lambda _field, limit: limit is not None)
    if isinstance(value, Elastic):
        return attrs.asdict(value)
    if member == "growths":
        return [attrs.asdict(growth) for growth in value]
    if member == "fence":
        return dict(value)
    if isinstance(value, OutgoingTransforms):
        return {"out": list(value.outgoing), "on_error": value.on_error}
    if member in _ATTRIBUTES:
        return list(value)
    if member == "groups":
        return sorted(value)
    if member in _TIMES and value is not None:
        return time_text(value)
    return value


def time_text(milliseconds: int) -> str:
    """A moment as RFC 3339, in UTC, with its milliseconds where it has any."""
    seconds, rest = divmod(milliseconds, 1000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000)
    return moment.isoformat(timespec="milliseconds" if rest else "seconds").replace("+00:00", "Z")


def _milliseconds(member: str, value: Any) -> int | None:
    if value is None:
        return 0 if member in {"made", "rotated_until"} else None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise InvalidParameter(f"{member} must be a time such as 2026-11-22T10:00:00Z") from error
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidParameter(f"{member} must be a time with its zone, such as 2026-11-22T10:00:00Z")
    return round(value.timestamp() * 1000)


def gateway_to_table(entry: GatewayEntry) -> Table:
    """Returns this gateway's entry as a table, its name aside."""
    return {
        "public": list(entry.public),
        "admin": list(entry.admin),
        **({"cluster": entry.cluster, "links": list(entry.links)} if entry.cluster else {}),
        "version": entry.version,
        "started": time_text(entry.started),
        "load": dict(entry.load),
        **({"processes": entry.processes} if entry.processes > 1 else {}),
        **({"placed": dict(entry.placed)} if entry.placed else {}),
        **({"readers": {topic: dict(groups) for topic, groups in entry.readers.items()}} if entry.readers else {}),
    }


def gateway_from_table(name: str, table: Mapping[str, Any]) -> GatewayEntry:
    """Returns another gateway's entry; members that this version does not know are ignored."""
    return GatewayEntry(
        name=name,
        public=tuple(table.get("public", ())),
        admin=tuple(table.get("admin", ())),
        cluster=table.get("cluster", ""),
        links=tuple(table.get("links", ())),
        version=table.get("version", ""),
        started=_milliseconds("started", table.get("started", "1970-01-01T00:00:00Z")) or 0,
        load=dict(table.get("load", {})),
        processes=int(table.get("processes", 1)),
        placed=dict(table.get("placed", {})),
        readers={topic: dict(groups) for topic, groups in table.get("readers", {}).items()},
    )
