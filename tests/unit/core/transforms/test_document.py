"""Documents of transforms: read, refused with every place, written back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.core.transforms import document
from kateway.core.transforms.steps import Fields, Plugin
from kateway.errors import BadRequest, ExpressionInvalid, InvalidParameter, KatewayError


@attrs.frozen
class Same:
    """Gives back what it gets."""

    def transform(self, fields: Fields, now: float) -> Fields:
        return fields


def same(options: Mapping[str, Any]) -> Plugin:
    if "wrong" in options:
        raise InvalidParameter("there is no option wrong")
    return Same()


PLUGINS = {"same": same}

IN_STEPS = st.one_of(
    st.sampled_from(
        [
            {"require": "record.json.amount > 0", "message": "amount must be positive"},
            {"require": "true"},
            {"schema": {"type": "object"}},
            {"set": {"topic_partition": "1", "key": "record.json.id"}},
        ]
    )
)
BOTH_STEPS = st.sampled_from(
    [
        {"set": {"value": "{'id': record.json.user.id}", "headers": {"region": "'eu'", "secret": None}}},
        {"mask": ["/card/number", "/user/*/email"], "with": "****"},
        {"plugin": "same", "options": {"a": [1]}},
        {"plugin": "same"},
    ]
)


@given(
    st.lists(IN_STEPS | BOTH_STEPS, min_size=1, max_size=5),
    st.lists(BOTH_STEPS | st.just({"drop": "record.headers['env'] == 'test'"}), min_size=1, max_size=5),
    st.sampled_from(["pass", "stop"]),
)
def test_document_is_written_as_it_was_read(in_: list[Any], out: list[Any], on_error: str) -> None:
    told = {"in": in_, "out": out, "on_error": on_error}
    assert document.read(told, PLUGINS).to_document() == told


def test_members_that_say_nothing_are_left_out() -> None:
    told = {"in": [{"set": {"value": "1", "topic_partition": None}}], "out": [], "on_error": "dead"}
    assert document.read(told, {}).to_document() == {"in": [{"set": {"value": "1"}}]}
    assert document.read({}, {}).to_document() == {}


@pytest.mark.parametrize(
    ("told", "kind", "fault"),
    [
        ([], BadRequest, "the document: it must be an object"),
        ({"on": []}, BadRequest, "/on: there is no such member"),
        ({"in": {}}, BadRequest, "/in: it must be a list"),
        ({"in": [{"require": "true"}] * 33}, BadRequest, "/in: it must be a list of at most 32"),
        ({"on_error": "die"}, BadRequest, "/on_error: it must be dead, pass or stop"),
        ({"in": [1]}, BadRequest, "/in/0: a step is an object"),
        ({"in": [{"require": "true", "drop": "true"}]}, BadRequest, "/in/0: a step is an object with one of"),
        ({"in": [{"require": "record.json.a >"}]}, ExpressionInvalid, "/in/0/require: 1:16 the end is not expected"),
        ({"in": [{"require": 1}]}, BadRequest, "/in/0/require: an expression is a text"),
        ({"in": [{"require": "true", "message": 1}]}, BadRequest, "/in/0/message: it must be a text"),
        ({"in": [{"require": "true", "with": "x"}]}, BadRequest, "/in/0/with: there is no such member of require"),
        ({"in": [{"drop": "true"}]}, BadRequest, "/in/0/drop: such a step can be in out only"),
        ({"out": [{"require": "true"}]}, BadRequest, "/out/0/require: such a step can be in in only"),
        ({"out": [{"schema": {}}]}, BadRequest, "/out/0/schema: such a step"),
        ({"in": [{"set": {}}]}, BadRequest, "/in/0/set: it must be an object with"),
        ({"in": [{"set": {"a/b": "1"}}]}, BadRequest, "/in/0/set/a~1b: there is no such member"),
        ({"in": [{"set": {"headers": {"a": "nothing"}}}]}, ExpressionInvalid, "/in/0/set/headers/a: 1:1 there is no"),
        ({"out": [{"set": {"topic_partition": "1"}}]}, BadRequest, "/out/0/set/topic_partition: a record's partition"),
        ({"in": [{"mask": []}]}, BadRequest, "/in/0/mask: it must be a list"),
        ({"in": [{"mask": ["/a", "b"]}]}, BadRequest, "/in/0/mask/1: 'b' is no JSON pointer"),
        ({"in": [{"mask": [3]}]}, BadRequest, "/in/0/mask/0: it must be a text"),
        ({"in": [{"mask": ["/a"], "with": None}]}, BadRequest, "/in/0/with: it must be a text"),
        ({"in": [{"schema": {"type": "nope"}}]}, BadRequest, "/in/0/schema: /type:"),
        ({"in": [{"plugin": "none"}]}, BadRequest, "/in/0/plugin: there is no such plugin (same)"),
        ({"in": [{"plugin": "same", "options": []}]}, BadRequest, "/in/0/options: it must be an object"),
        ({"in": [{"plugin": "same", "options": {"wrong": 1}}]}, BadRequest, "/in/0/options: there is no option wrong"),
    ],
)
def test_wrong_document_names_the_place(told: object, kind: type[KatewayError], fault: str) -> None:
    with pytest.raises(kind) as caught:
        document.read(told, PLUGINS)
    assert type(caught.value) is kind
    assert fault in caught.value.detail


def test_every_fault_is_named() -> None:
    told = {"in": [{"require": "x"}, {"mask": ["a"]}], "out": [{"drop": "1 +"}]}
    with pytest.raises(ExpressionInvalid) as caught:
        document.read(told, {})
    for place in ("/in/0/require: 1:1", "/in/1/mask/0:", "/out/0/drop: 1:4"):
        assert place in caught.value.detail


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda below: st.one_of(
        st.lists(below, max_size=3),
        st.dictionaries(st.sampled_from(["require", "set", "mask", "with", "schema", "plugin", "value"]), below),
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["in", "out", "on_error"]), ANYTHING | st.lists(ANYTHING)))
def test_any_document_is_read_or_refused(told: object) -> None:
    try:
        found = document.read(told, PLUGINS)
    except BadRequest:
        return
    assert document.read(found.to_document(), PLUGINS).to_document() == found.to_document()
