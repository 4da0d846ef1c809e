"""The ``revision`` node: what it tells of the last changes, and to whom that is enough."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.core.transforms.in_force import Failed, TransformsInForce
from kateway.core.transforms.pipeline import Rejected
from kateway.errors import BadRequest
from kateway.model import Message, Record
from kateway.registry.interface import Application, Entry, Snapshot, Transforms
from kateway.registry.plans import Change, apply
from kateway.registry.zookeeper.layout import (
    MAX_REVISION_BYTES,
    MAX_STEPS,
    Revision,
    change_of,
    etag_of,
    next_revision,
    path_of,
    read_entries,
    read_revision,
)


def stat(zxid: int, version: int = 0) -> SimpleNamespace:
    return SimpleNamespace(mzxid=zxid, version=version)


def follow(snapshot: Snapshot, revision: Revision) -> Snapshot | None:
    steps = revision.since(snapshot.revision)
    if steps is None:
        return None
    changes = [change_of(step.zxid, *change) for step in steps for change in step.changes]
    return apply(snapshot, changes, revision.zxid)


WRITES = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from("abc"), st.booleans(), st.integers(0, 9)), min_size=1, max_size=150
)


@given(WRITES, st.data())
def test_reader_that_follows_the_steps_has_the_written_records(
    writes: list[tuple[int, str, bool, int]], data: st.DataObject
) -> None:
    revision = read_revision(b"", stat(10))
    now = Snapshot(revision=10)
    history = [now]
    for gap, name, gone, number in writes:
        zxid = now.revision + gap
        entry = None if gone else Application(name=name, description=str(number), etag=etag_of(zxid))
        changes = [Change("applications", name, entry)]
        content = next_revision(revision, f"writer-{zxid}", changes)
        revision = read_revision(content, stat(zxid, revision.version + 1))
        now = apply(now, changes, zxid)
        history.append(now)
    behind = data.draw(st.sampled_from(history))
    came_to = follow(behind, revision)
    missed = len(history) - 1 - history.index(behind)
    assert (came_to is None) == (missed > MAX_STEPS)
    if came_to is not None:
        assert came_to.applications == now.applications
        assert etags(came_to) == etags(now)
        assert came_to.revision == now.revision
    assert revision.has(f"writer-{now.revision}")
    assert not revision.has("another")


def etags(snapshot: Snapshot) -> dict[str, str]:
    found: dict[str, Entry] = dict(snapshot.applications)
    return {name: entry.etag for name, entry in found.items()}


def test_a_step_too_large_to_be_told_is_known_to_be_missing() -> None:
    revision = read_revision(b"", stat(10))
    large = [
        Change("applications", f"app{number}", Application(name=f"app{number}", description="x" * 1000))
        for number in range(100)
    ]
    content = next_revision(revision, "me", large)
    assert len(content) <= MAX_REVISION_BYTES
    after = read_revision(content, stat(11, 1))
    assert after.since(10) is None
    assert after.since(11) == ()
    assert after.has("me")
    small = next_revision(after, "you", [Change("applications", "app1", None)])
    later = read_revision(small, stat(12, 2))
    assert [step.writer for step in later.since(11) or ()] == ["you"]
    assert later.since(10) is None


def test_a_node_emptied_or_spoilt_by_hand_has_no_past() -> None:
    for content in (b"", b"{}", b"not json", b"[]", b'{"steps":[[1]],"base":1,"writer":""}', b"null"):
        revision = read_revision(content, stat(12, 3))
        assert revision == Revision(12, 3, 12)
        assert revision.since(11) is None


def test_a_name_is_one_node() -> None:
    assert path_of("/kateway", "bindings", "app2/app1/t/v1") == "/kateway/bindings/app2.app1.t.v1"


@pytest.mark.parametrize(
    "table",
    [
        {"out": [{"mask": ["/a"]}], "on_error": "a word of a newer gateway"},
        {"out": [{"mask": ["/a"]}], "member_of_a_newer_gateway": 1},
        {"out": [{}] * 100},
        {"generation": 0},
    ],
)
def test_transforms_that_are_not_understood_are_there_and_do_not_compile(table: dict[str, Any]) -> None:
    node = ("/k/transforms/a.t.v1", (orjson.dumps(table), stat(5)))
    snapshot, left_out = read_entries({"transforms": dict([node])}, 5)
    assert not left_out
    change = change_of(5, "transforms", "a/t/v1", table)
    in_force = TransformsInForce(lambda: snapshot, lambda: 0.0)
    for entry in (snapshot.transforms["a", "t", "v1"], change.entry):
        assert isinstance(entry, Transforms)
        with pytest.raises(BadRequest):
            in_force.compile(entry)
    pipeline = in_force.incoming(("a", "t", "v1"))
    assert pipeline is not None
    assert isinstance(pipeline.apply(Message(b"{}"), 0.0), Rejected)
    outgoing = in_force.outgoing("a", ("a", "t", "v1"), None)
    assert outgoing is not None
    shown = outgoing.show(Record(0, 0, None, b"{}"), 0, 0.0)
    assert isinstance(shown, Failed)
    assert shown.on_error == "stop"
