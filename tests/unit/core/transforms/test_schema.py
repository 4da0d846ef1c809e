"""Schemas: what they say of a value, what they refuse to be, and that no check lasts."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kateway.core.transforms.schema import Schema
from kateway.errors import BadRequest, TransformFailed

CPU_SECONDS = 0.25
"""Of the thread. A tracer and a busy machine make 50 ms as long; what is not bounded takes seconds."""
TREE = {"$ref": "#/$defs/node", "$defs": {"node": {"properties": {"children": {"items": {"$ref": "#/$defs/node"}}}}}}


def doubled(times: int) -> dict[str, Any]:
    defs: dict[str, Any] = {"s0": {"type": "string"}}
    for number in range(1, times + 1):
        below = {"$ref": f"#/$defs/s{number - 1}"}
        defs[f"s{number}"] = {"anyOf": [below, below]}
    return {"$ref": f"#/$defs/s{times}", "$defs": defs}


def deep(times: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(times):
        schema = {"items": schema}
    return schema


def test_value_that_fits_has_no_faults() -> None:
    schema = Schema.compile({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}})
    assert schema.check(b'{"a":1}') == []


def test_value_that_does_not_fit_names_its_first_three_places() -> None:
    schema = Schema.compile(
        {"properties": {"a": {"items": {"type": "integer"}}, "b/c": {"pattern": "^x$"}}, "required": ["z"]}
    )
    assert schema.check(b'{"a":[1,"x"],"b/c":"y"}') == [
        'the value: "z" is a required property',
        '/a/1: "x" is not of type "integer"',
        '/b~1c: "y" does not match "^x$"',
    ]
    assert len(schema.check(b'{"a":["x","y","z","w"]}')) == 3


def test_value_that_is_not_json_says_so() -> None:
    assert "not JSON" in Schema.compile({}).check(b"{")[0]


def test_large_value_names_its_first_place() -> None:
    schema = Schema.compile({"items": {"required": ["q"]}})
    assert schema.check(orjson.dumps([{"q": 1}] * 2000 + [{"a": 1}])) == ['/2000: "q" is a required property']


def test_schema_that_refers_to_itself_through_members_is_good() -> None:
    schema = Schema.compile(TREE)
    assert schema.check(b'{"children":[{"children":[]}]}') == []


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ([], "a schema is a JSON object"),
        ({"type": "nope"}, "/type"),
        ({"pattern": "("}, "pattern"),
        ({"pattern": "(?=a)b"}, "regex"),
        ({"pattern": r"((\w{100}){100}){100}"}, "regex"),
        ({"$ref": "http://127.0.0.1:1/schema.json"}, "/$ref"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "/properties/a/$ref"),
        ({"$ref": "#/$defs/none"}, "/$ref"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "/$schema"),
        ({"items": {"$id": "http://elsewhere/"}}, "/items/$id"),
        ({"anyOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]}, "more than one way"),
        ({"description": "x" * 70_000}, "65536"),
        (deep(200), "64 levels"),
        (doubled(12), "256"),
        (doubled(40), "refers to too much"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_schema_that_cannot_be_bounded_is_refused(document: object, named: str) -> None:
    begun = time.thread_time()
    with pytest.raises(BadRequest) as caught:
        Schema.compile(document)
    assert named in caught.value.detail
    assert time.thread_time() - begun < CPU_SECONDS


VALUES = [
    orjson.dumps([{"a": 1}] * 100_000),
    orjson.dumps([{"a": 1}] * 5_000),
    orjson.dumps([[number] for number in range(2_000)]),
    orjson.dumps([-1.5] * 20_000),
    orjson.dumps({"a": [1] * 10_000}),
    orjson.dumps("ab" * 500_000),
    orjson.dumps("ab" * 500),
    b"[" * 900 + b"]" * 900,
    b"[" * 1_000_000,
    b"1",
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{len(value)}-{value[:8]!r}")
@pytest.mark.parametrize(
    "document",
    [
        {"items": {"required": ["q"]}},
        {"uniqueItems": True},
        {"allOf": [{"uniqueItems": True}] * 200},
        {"items": {"enum": list(range(5_000))}},
        {"anyOf": [{"required": ["x"]}] * 200},
        {"pattern": "(a|b)*a(a|b){20}c"},
        {"items": {"$ref": "#"}},
        {"not": {"$ref": "#"}},
        {"contains": {"const": 1}},
        doubled(6),
    ],
    ids=lambda value: str(value)[:30],
)
def test_check_of_hostile_value_ends_in_time(document: dict[str, Any], value: bytes) -> None:
    schema = Schema.compile(document)
    spent = []
    for _ in range(3):
        begun = time.thread_time()
        with suppress(TransformFailed):
            schema.check(value)
        spent.append(time.thread_time() - begun)
    assert min(spent) < CPU_SECONDS


SCHEMAS = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.text(max_size=3), st.sampled_from(["#", "#/items", "#/$defs/a"])),
    lambda below: st.one_of(
        st.lists(below, max_size=3),
        st.dictionaries(
            st.sampled_from(["$ref", "items", "anyOf", "allOf", "not", "properties", "$defs", "a", "type", "pattern"]),
            below,
            max_size=3,
        ),
    ),
    max_leaves=15,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["$ref", "items", "anyOf", "properties", "$defs", "not", "if"]), SCHEMAS))
def test_any_document_is_a_schema_or_refused(document: dict[str, Any]) -> None:
    try:
        schema = Schema.compile(document)
    except BadRequest:
        return
    assert isinstance(schema.check(b'[{"a":[1,"b",null]}]'), list)
