"""How the registry lies in ZooKeeper: one node per entry, and one, ``revision``, that every write changes.

``docs/registry.rst`` shows it. A write is one transaction: the entries' nodes and ``revision``, on condition that
``revision`` is still what the writer planned on. So writes have one order, none is lost, and what one checked
(no entry refers to this topic) holds when it is done. ``revision`` also holds the last changes, each with the
transaction (zxid) that made it: a gateway that watches that one node knows the changes to its snapshot without
reading anything else, and reads everything only when those changes do not reach back to its own revision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

import attrs
import orjson

from kateway.errors import BadRequest
from kateway.registry import plans
from kateway.registry.documents import Kind, from_table, to_table
from kateway.registry.interface import Entry, Snapshot
from kateway.registry.plans import Change
from kateway.registry.zookeeper.client import Operation
from kateway.registry.zookeeper.multi_read import Node

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
MAX_STEPS: Final = 100
MAX_REVISION_BYTES: Final = 65536
"""ZooKeeper takes nodes and transactions of up to 1 MB."""


@attrs.frozen
class Step:
    """The change of one write: kind, name and the entry's table (``None``: gone), and its writer."""

    zxid: int
    """0 in the stored form of the last step: a writer cannot know it, a reader has it from the node's stat."""
    writer: str
    changes: tuple[tuple[Kind, str, Mapping[str, Any] | None], ...]


@attrs.frozen
class Revision:
    """The ``revision`` node as read: the registry's state as a whole is that of transaction ``zxid``."""

    zxid: int
    version: int
    """The node's own version, which a write must find unchanged."""
    base: int
    """The state that the first of ``steps`` was made on."""
    steps: tuple[Step, ...] = ()
    writer: str = ""
    """Of the last write, whether its step is in the node or was too large."""

    def since(self, zxid: int) -> Sequence[Step] | None:
        """The steps that lead from the state of ``zxid`` to this one; ``None`` where that is not known."""
        if zxid == self.base:
            return self.steps
        for number, step in enumerate(self.steps):
            if step.zxid == zxid:
                return self.steps[number + 1 :]
        return None

    def has(self, writer: str) -> bool:
        """Whether a write is known to be in this state."""
        return writer == self.writer or any(step.writer == writer for step in self.steps)


def read_revision(data: bytes, stat: Any) -> Revision:
    """The node's content, or where it has none (new, or emptied by hand) a revision without a past."""
    try:
        document = orjson.loads(data)
        steps = [
            Step(zxid, writer, tuple((kind, name, table) for kind, name, table in changes))
            for zxid, writer, changes in document["steps"]
        ]
        base, writer = int(document["base"]), str(document["writer"])
    except (ValueError, KeyError, TypeError):
        return Revision(stat.mzxid, stat.version, stat.mzxid)
    if steps:
        steps[-1] = attrs.evolve(steps[-1], zxid=stat.mzxid)
    else:
        base = stat.mzxid
    return Revision(stat.mzxid, stat.version, base, tuple(steps), writer)


def next_revision(revision: Revision, writer: str, changes: Iterable[Change]) -> bytes:
    """The node's content after a write on ``revision``: the oldest steps go when they are too many or too large."""
    tables = tuple(
        (change.kind, change.name, None if change.entry is None else to_table(change.entry)) for change in changes
    )
    steps = [*revision.steps, Step(0, writer, tables)][-MAX_STEPS:]
    while True:
        dropped = len(revision.steps) + 1 - len(steps)
        base = revision.base if dropped == 0 else [*revision.steps, Step(0, "", ())][dropped - 1].zxid
        document = {"base": base, "writer": writer, "steps": [attrs.astuple(step, recurse=False) for step in steps]}
        data = orjson.dumps(document)
        if len(data) <= MAX_REVISION_BYTES:
            return data
        # half of them at a time, so that few writes have to
        steps = steps[len(steps) // 2 + 1 :]


def operations(root: str, changes: Iterable[Change], exists: Iterable[bool]) -> list[Operation]:
    """The changes as operations of a transaction; ``exists`` says of each whether its node is there."""
    done: list[Operation] = []
    for change, there in zip(changes, exists, strict=True):
        path = path_of(root, change.kind, change.name)
        if change.entry is None:
            done.append(("delete", path, b"", -1))
        else:
            done.append(("set" if there else "create", path, orjson.dumps(to_table(change.entry)), -1))
    return done


def path_of(root: str, kind: str, name: str) -> str:
    """Names have no dots, so that a dot can stand for the slash that a node's name cannot have."""
    return f"{root}/{kind}/{name.replace('/', '.')}"


def entry_of(kind: Kind, node: str, data: bytes, stat: Any) -> Entry:
    """Returns the entry that a node holds; ``BadRequest`` names its fault."""
    try:
        table = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"not JSON: {error}") from error
    return read_leniently(kind, node.replace(".", "/"), table, etag_of(stat.mzxid))


def read_leniently(kind: Kind, name: str, table: Any, etag: str) -> Entry:
    """Returns an entry, without the members that a newer gateway may have added. Transforms that are not understood
    whole become a step that does not compile: without them records would go out unmasked.
    """
    if kind != "transforms":
        return from_table(kind, name, table, etag, lenient=True)
    try:
        return from_table(kind, name, table, etag)
    except BadRequest as error:
        unknown = [{"not understood": error.detail}]
        return from_table(kind, name, {"in": unknown, "out": unknown}, etag)


def read_entries(nodes: Mapping[Kind, Mapping[str, Node]], zxid: int) -> tuple[Snapshot, list[str]]:
    """Returns the snapshot of all nodes (by kind and path) that can be read, and the faults of the others."""
    entries: list[Entry] = []
    left_out: list[str] = []
    for kind, found in nodes.items():
        for path, (data, stat) in found.items():
            try:
                entries.append(entry_of(kind, path.rpartition("/")[2], data, stat))
            except BadRequest as error:
                left_out.append(f"{path}: {error.detail}")
    return plans.build(entries, zxid), left_out


def change_of(zxid: int, kind: Kind, name: str, table: Mapping[str, Any] | None) -> Change:
    """A change as a step tells it."""
    if table is None:
        return Change(kind, name, None)
    return Change(kind, name, read_leniently(kind, name, table, etag_of(zxid)))


def etag_of(zxid: int) -> str:
    return f"{zxid:x}"
