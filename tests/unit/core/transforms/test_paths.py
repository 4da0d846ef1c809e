"""What an expression reads of a record, and that it gives the same with no more than that."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.core.transforms.expressions import Expression
from kateway.core.transforms.paths import pruned, wanted
from kateway.core.transforms.record_view import RecordView
from kateway.core.transforms.syntax import parse
from kateway.errors import TransformFailed
from kateway.model import Message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("record.json.a.b > 0 && record.json.a.c == record.key", {"json": {"a": {"b": None, "c": None}}, "key": None}),
        ("record.json['a']['b']", {"json": {"a": {"b": None}}}),
        ("record.json.a[0].b", {"json": {"a": None}}),
        ("record.json.a.b == record.json.a", {"json": {"a": None}}),
        ("record.json.a == record.json.a.b", {"json": {"a": None}}),
        ("has(record.json.a) && record.json[record.key] == 1", {"json": None, "key": None}),
        ("record.json.a.all(x, x.b == record.json.c)", {"json": {"a": None, "c": None}}),
        ("record == 1", None),
        ("now > 1", {}),
    ],
)
def test_expression_wants_what_it_reads(text: str, parts: object) -> None:
    assert wanted(parse(text, 32)) == parts


def test_pruned_document_has_the_wanted_members_alone() -> None:
    document = {"a": {"b": 1, "x": 2}, "l": [1], "y": 3}
    assert pruned(document, {"a": {"b": None, "none": None}, "l": {"z": None}}) == {"a": {"b": 1}, "l": []}


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from(["a", "b"])),
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "c"]), below)),
    max_leaves=12,
)
READS = st.lists(st.sampled_from([".a", ".b", ".c", "['a']", "[0]"]), max_size=4).map(
    lambda members: "record.json" + "".join(members)
)


@given(READS, READS, st.sampled_from(["==", "<", "in", "+"]), JSON)
def test_expression_gives_the_same_on_a_pruned_record(left: str, right: str, sign: str, document: object) -> None:
    view = RecordView.of(Message(orjson.dumps(document)))

    def outcome(text: str) -> object:
        try:
            return Expression.compile(text).evaluate(view, 1.0)
        except TransformFailed as error:
            return error.detail[len(text) :]

    for one in (f"{left} {sign} {right}", left):
        # the second reads the record as a whole
        assert outcome(one) == outcome(one.replace("record.", "[record][0]."))


def test_large_record_of_which_little_is_read_is_read() -> None:
    view = RecordView.of(Message(orjson.dumps({"kind": "a", "items": [{"n": 1}] * 50_000})))
    assert Expression.compile("record.json.kind == 'a'").is_true(view, 1.0)
    with pytest.raises(TransformFailed, match="too large"):
        Expression.compile("record.json.items.size() > 0").is_true(view, 1.0)
