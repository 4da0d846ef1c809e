"""Plans a write: from a snapshot and a wish to the changes that fulfil it, or to the error that refuses it.

Pure: a driver that loses a race plans again on the newer snapshot. All rules that hold between entries are here, so
every driver has the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs
import orjson

from kateway.errors import (
    Conflict,
    NotFound,
    PreconditionFailed,
    RegistryEntryNotFound,
    StillReferred,
    TopicNotFound,
)
from kateway.registry.documents import Kind, kind_of, name_of, to_table
from kateway.registry.interface import (
    ABSENT,
    ANY,
    DEAD_SUFFIX,
    Application,
    Binding,
    Entry,
    Key,
    Placement,
    Snapshot,
    Topic,
    Transforms,
)
from kateway.registry.storage_names import check_storage, holds_dead_letters, same_topic, source_of

MOST_NAMED = 10
"""So many referrers are named; of the rest only the number."""


@attrs.frozen
class Change:
    """An entry as it shall be; ``None``: gone."""

    kind: Kind
    name: str
    entry: Entry | None


Plan = Callable[[Snapshot], Sequence[Change]]


def lookup_name(kind: Kind, name: str) -> Any:
    """A name as the snapshot's mappings have it: a text, or a tuple where it has parts."""
    return tuple(name.split("/")) if kind in {"topics", "bindings", "transforms", "placements"} else name


def found(snapshot: Snapshot, kind: Kind, name: str) -> Entry | None:
    entries: Mapping[Any, Entry] = getattr(snapshot, kind)
    return entries.get(lookup_name(kind, name))


def put(entry: Entry, expected: str | None) -> Plan:
    """To have an entry as given; no change where it is so already."""
    kind, name = kind_of(entry), name_of(entry)

    def plan(snapshot: Snapshot) -> Sequence[Change]:
        old = found(snapshot, kind, name)
        if expected == ABSENT and old is not None:
            raise Conflict(f"{kind}: {name} exists already")
        _expect(kind, name, old, expected)
        wanted = _completed(entry, old)
        _check_references(snapshot, wanted)
        return () if old is not None and same(wanted, old) else (Change(kind, name, wanted),)

    return plan


def put_topic(topic: Topic, expected: str | None, placement: Placement | None) -> Plan:
    """To have a topic as given, and a placement where it is new: to any other one records may be on their way."""
    plan_topic = put(topic, expected)

    def plan(snapshot: Snapshot) -> Sequence[Change]:
        changes = list(plan_topic(snapshot))
        if placement is not None and placement.name not in snapshot.topics:
            changes.append(Change("placements", name_of(placement), placement))
        return changes

    return plan


def put_placement(placement: Placement, expected: str | None) -> Plan:
    """To have a placement as given. What it goes over to is told in the topic's entry as soon as it is in force."""
    plan_placement = put(placement, expected)

    def plan(snapshot: Snapshot) -> Sequence[Change]:
        changes = list(plan_placement(snapshot))
        topic = snapshot.topics.get(placement.name)
        if changes and topic is not None and placement.state == "reading":
            partitions = max(placement.next_partitions, topic.partitions or 0)
            if topic.partitions != partitions:
                changes.append(Change("topics", name_of(topic), attrs.evolve(topic, partitions=partitions)))
        return changes

    return plan


def same(entry: Entry, other: Entry) -> bool:
    """Whether two entries say the same: for Python 1 and true are equal, in a schema they are not."""
    if not isinstance(entry, (Binding, Transforms)):
        return entry == other
    told = [attrs.evolve(each, generation=1) if isinstance(each, Transforms) else each for each in (entry, other)]
    return orjson.dumps(to_table(told[0])) == orjson.dumps(to_table(told[1]))


def delete(kind: Kind, name: str, expected: str | None) -> Plan:
    """To have an entry gone; ``NotFound`` where there is none."""

    def plan(snapshot: Snapshot) -> Sequence[Change]:
        old = found(snapshot, kind, name)
        if old is None:
            raise (TopicNotFound if kind == "topics" else RegistryEntryNotFound)(f"{kind}: there is no {name}")
        _expect(kind, name, old, expected)
        _check_referrers(snapshot, kind, name)
        changes = [Change(kind, name, None)]
        if kind == "applications":
            changes += [Change("keys", key.key, None) for key in snapshot.keys_of(name)]
        if kind == "topics":
            also: tuple[Kind, ...] = ("transforms", "placements")
            changes += [Change(each, name, None) for each in also if found(snapshot, each, name) is not None]
        return changes

    return plan


def delete_key(application: str, key: str, expected: str | None) -> Plan:
    """To have an application's key gone; another application's is as good as none."""
    plan_delete = delete("keys", key, expected)

    def plan(snapshot: Snapshot) -> Sequence[Change]:
        old = snapshot.keys.get(key)
        if old is not None and old.application != application:
            raise RegistryEntryNotFound(f"keys: {application} has no {key}")
        return plan_delete(snapshot)

    return plan


def apply(snapshot: Snapshot, changes: Iterable[Change], revision: int) -> Snapshot:
    """The snapshot after the changes. Only the mappings that change are copied."""
    touched: dict[str, dict[Any, Entry]] = {}
    for change in changes:
        if change.kind not in touched:
            # the mapping proxy's own copy is the dict's: ten times faster than dict(), which hashes every name anew
            touched[change.kind] = getattr(snapshot, change.kind).copy()
        entries = touched[change.kind]
        if change.entry is None:
            entries.pop(lookup_name(change.kind, change.name), None)
        else:
            entries[lookup_name(change.kind, change.name)] = change.entry
    frozen: dict[str, Any] = {kind: MappingProxyType(entries) for kind, entries in touched.items()}
    return attrs.evolve(snapshot, revision=revision, **frozen)


def with_generations(snapshot: Snapshot, before: Snapshot) -> Snapshot:
    """Returns a snapshot that was read as a whole, its changed transforms a generation after those of ``before``."""
    entries = {
        name: entry
        if (old := before.transforms.get(name)) is None
        else attrs.evolve(entry, generation=old.generation + (not same(entry, old)))
        for name, entry in snapshot.transforms.items()
    }
    return attrs.evolve(snapshot, transforms=MappingProxyType(entries))


def build(entries: Iterable[Entry], revision: int) -> Snapshot:
    """A snapshot of just these entries."""
    return apply(Snapshot(), (Change(kind_of(entry), name_of(entry), entry) for entry in entries), revision)


def faults(snapshot: Snapshot) -> list[str]:
    """Lists the faults between the entries of a whole snapshot, each with its entry's name."""
    problems = []
    entries: list[Entry] = [*snapshot.keys.values(), *snapshot.topics.values(), *snapshot.bindings.values()]
    entries += snapshot.transforms.values()
    owners: dict[tuple[str, str], Topic] = {}
    for entry in entries:
        try:
            _check_references(snapshot, entry, alone=False)
        except NotFound as error:
            problems.append(f"{kind_of(entry)}.{name_of(entry)}: {error.detail}")
        if isinstance(entry, Topic):
            other = owners.setdefault((entry.cluster, entry.stored_as), entry)
            if other is not entry:
                problems.append(f"topics.{name_of(entry)}: {same_topic(other)}")
            elif entry.stored_as.endswith(DEAD_SUFFIX) and (source := source_of(snapshot, entry)) is not None:
                problems.append(f"topics.{name_of(entry)}: {holds_dead_letters(entry, source)}")
    return problems


def _expect(kind: Kind, name: str, old: Entry | None, expected: str | None) -> None:
    if expected is None or expected == ABSENT:
        return
    if old is None:
        raise PreconditionFailed(f"{kind}: there is no {name} any more")
    if expected not in {ANY, old.etag}:
        raise PreconditionFailed(f"{kind}: {name} has changed: read it again and repeat the change on that")


def _completed(entry: Entry, old: Entry | None) -> Entry:
    if isinstance(entry, Topic) and isinstance(old, Topic) and entry.deprecated is None and entry.state != "active":
        return attrs.evolve(entry, deprecated=old.deprecated)
    if isinstance(entry, Transforms):
        return attrs.evolve(entry, generation=old.generation + 1 if isinstance(old, Transforms) else 1)
    return entry


def _check_references(snapshot: Snapshot, entry: Entry, *, alone: bool = True) -> None:
    """Checks that the entries referred to exist; ``alone``: and that the entry takes no other entry's place."""
    match entry:
        case Key():
            _check_application(snapshot, entry.application)
            old = snapshot.keys.get(entry.key)
            if alone and old is not None and old.application != entry.application:
                raise Conflict(f"keys: {entry.key} exists already")
        case Topic():
            _check_application(snapshot, entry.application)
            if alone:
                check_storage(snapshot, entry)
        case Binding():
            _check_application(snapshot, entry.subscriber)
            if entry.name[1:] not in snapshot.topics:
                raise TopicNotFound(f"there is no topic {'/'.join(entry.name[1:])}")
        case Transforms() | Placement():
            if entry.name not in snapshot.topics:
                raise TopicNotFound(f"there is no topic {'/'.join(entry.name)}")
        case Application():
            pass


def _check_application(snapshot: Snapshot, name: str) -> None:
    if name not in snapshot.applications:
        raise RegistryEntryNotFound(f"there is no application {name}")


def _check_referrers(snapshot: Snapshot, kind: Kind, name: str) -> None:
    referrers: list[str] = []
    if kind == "applications":
        referrers += [f"topic {name_of(topic)}" for topic in snapshot.topics.values() if topic.application == name]
        referrers += [
            f"binding {name_of(binding)}"
            for binding in snapshot.bindings.values()
            if name in (binding.subscriber, binding.application)
        ]
    elif kind == "topics":
        topic = lookup_name(kind, name)
        referrers += [
            f"binding {name_of(binding)}" for binding in snapshot.bindings.values() if binding.name[1:] == topic
        ]
    if referrers:
        named = sorted(referrers)[:MOST_NAMED]
        more = f" and {len(referrers) - MOST_NAMED} more" if len(referrers) > MOST_NAMED else ""
        raise StillReferred(f"{kind}: {name} is referred to by {', '.join(named)}{more}")
