"""Pipelines: what they make of messages and records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.core.transforms.document import Direction
from kateway.core.transforms.pipeline import Dropped, Kept, Pipeline, Rejected
from kateway.core.transforms.record_view import RecordView
from kateway.core.transforms.steps import Fields, Plugin
from kateway.errors import Conflict, SchemaInvalid, TransformFailed, TransformRejected
from kateway.model import Message, Record

NOW = 1_700_000_000.0


@attrs.frozen
class Calls:
    """A plugin that is one function."""

    function: Callable[[Fields], Fields | None]

    def transform(self, fields: Fields, now: float) -> Fields | None:
        return self.function(fields)


def raises(_fields: Fields) -> Fields:
    raise RuntimeError("boom")


def plugin(function: Callable[[Fields], Fields | None]) -> Callable[[Mapping[str, Any]], Plugin]:
    return lambda _options: Calls(function)


def conflicts(_fields: Fields) -> Fields:
    raise Conflict("no")


def refuses(_fields: Fields) -> Fields:
    raise TransformRejected("not on Sundays")


PLUGINS = {
    "same": plugin(lambda fields: fields),
    "equal": plugin(lambda fields: Fields(*fields)),
    "none": plugin(lambda _fields: None),
    "upper": plugin(lambda fields: fields._replace(value=(fields.value or b"").upper())),
    "raises": plugin(raises),
    "text": plugin(lambda _fields: "x"),  # type: ignore[arg-type, return-value]
    "conflict": plugin(conflicts),
    "refuses": plugin(refuses),
}


def pipeline(*steps: Mapping[str, Any], direction: Direction = "in", generation: int = 7) -> Pipeline:
    return Pipeline.compile({direction: list(steps)}, direction, PLUGINS, generation=generation)


def message(document: object, **rest: Any) -> Message:
    return Message(document if isinstance(document, bytes) or document is None else orjson.dumps(document), **rest)


def kept(outcome: object) -> Any:
    assert isinstance(outcome, Kept)
    return outcome.record


def rejected(outcome: object) -> Rejected:
    assert isinstance(outcome, Rejected)
    return outcome


IDENTITIES = st.sampled_from(
    [
        {"require": "true"},
        {"mask": ["/nothing/*", "/x"], "with": "****"},
        {"set": {"value": "record.value"}},
        {"set": {"key": "record.key"}},
        {"set": {"headers": {"not-there": None, "nor-this": "null"}}},
        {"set": {"topic_partition": "record.partition"}},
        {"schema": {}},
        {"plugin": "same"},
        {"plugin": "equal"},
    ]
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text()),
    lambda below: st.one_of(st.lists(below), st.dictionaries(st.sampled_from(["a", "b"]), below)),
    max_leaves=10,
)


@given(
    st.lists(IDENTITIES, max_size=6),
    JSON,
    st.none() | st.binary(),
    st.lists(st.tuples(st.sampled_from(["h", "g"]), st.none() | st.binary())),
    st.none() | st.integers(0, 9),
)
def test_identities_give_the_same_message(
    steps: list[Any], value: object, key: bytes | None, headers: list[Any], partition: int | None
) -> None:
    told = message(value, key=key, headers=tuple(headers), partition=partition)
    assert kept(pipeline(*steps).apply(told, NOW)) is told


def test_requirement_that_is_met_lets_the_message_in() -> None:
    told = message({"amount": 3})
    assert kept(pipeline({"require": "record.json.amount > 0"}).apply(told, NOW)) is told


def test_requirement_that_is_not_met_rejects_with_its_message() -> None:
    lines = pipeline({"require": "record.json.amount > 0", "message": "amount must be positive"})
    outcome = rejected(lines.apply(message({"amount": -1}), NOW))
    assert (outcome.code, outcome.detail) == ("rejected-by-transform", "amount must be positive")
    assert isinstance(outcome.error, TransformRejected)


def test_requirement_that_fails_is_transform_failed() -> None:
    outcome = rejected(pipeline({"require": "record.json.amount > 0"}).apply(message({}), NOW))
    assert outcome.code == "transform-failed"
    assert "'amount'" in outcome.detail
    assert isinstance(outcome.error, TransformFailed)


def test_drop_on_the_way_out_drops_what_it_is_true_of() -> None:
    lines = pipeline({"drop": "record.headers['env'] == 'test'"}, direction="out")
    assert lines.apply(Record(1, 2, None, b"x", (("env", b"test"),)), NOW) == Dropped()
    told = Record(1, 2, None, b"x", (("env", b"live"),))
    assert kept(lines.apply(told, NOW)) is told


def test_set_makes_value_key_headers_and_partition_from_the_message_before() -> None:
    lines = pipeline(
        {
            "set": {
                "value": "{'id': record.json.user.id}",
                "key": "record.json.user.id",
                "headers": {"region": "'eu'", "secret": None, "old": "record.key"},
                "topic_partition": "record.json.user.id - 5",
            }
        }
    )
    told = message({"user": {"id": 7}}, key=b"k", headers=(("secret", b"1"), ("old", b"2"), ("x", b"3")), timestamp=9)
    assert kept(lines.apply(told, NOW)) == Message(
        b'{"id":7}', b"7", (("old", b"k"), ("x", b"3"), ("region", b"eu"), ("kateway-transformed", b"7")), 2, 9
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("null", None),
        ("'ä'", "ä".encode()),
        (r"b'\xff'", b"\xff"),
        ("[1, 2.5, 'x', null]", b'[1,2.5,"x",null]'),
        ("{1: true}", b'{"1":true}'),
        ("1.5", b"1.5"),
        ("false", b"false"),
        ("timestamp('2024-01-01T00:00:00Z')", b'"2024-01-01T00:00:00+00:00"'),
    ],
)
def test_set_value_becomes_bytes(text: str, expected: bytes | None) -> None:
    assert kept(pipeline({"set": {"value": text}}).apply(message({}), NOW)).value == expected


@pytest.mark.parametrize("text", ["[b'x']", "duration('1s')"])
def test_set_value_that_is_no_json_fails(text: str) -> None:
    outcome = rejected(pipeline({"set": {"value": text}}).apply(message({}), NOW))
    assert "cannot be written as JSON" in outcome.detail


@pytest.mark.parametrize("text", ["-1", "'1'", "1.5", "true", "4294967296"])
def test_set_partition_that_is_none_fails(text: str) -> None:
    outcome = rejected(pipeline({"set": {"topic_partition": text}}).apply(message({}), NOW))
    assert outcome.code == "transform-failed"


def test_mask_writes_the_value_anew_and_marks_it() -> None:
    lines = pipeline({"mask": ["/card/number", "/user/*/email"], "with": "****"})
    told = message({"card": {"number": "4711"}, "user": [{"email": "a@b"}]})
    assert kept(lines.apply(told, NOW)) == Message(
        b'{"card":{"number":"****"},"user":[{"email":"****"}]}', headers=(("kateway-transformed", b"7"),)
    )


def test_step_after_a_mask_sees_the_masked_value() -> None:
    lines = pipeline(
        {"mask": ["/a"], "with": "x"}, {"set": {"key": "record.json.a"}}, {"set": {"value": "record.value"}}
    )
    found = kept(lines.apply(message({"a": 1}), NOW))
    assert (found.key, found.value) == (b"x", b'{"a":"x"}')


def test_mask_of_what_is_not_json_fails_and_of_a_tombstone_passes() -> None:
    lines = pipeline({"mask": ["/a"]})
    assert rejected(lines.apply(message(b"{"), NOW)).code == "transform-failed"
    tombstone = message(None)
    assert kept(lines.apply(tombstone, NOW)) is tombstone


def test_schema_rejects_with_the_places() -> None:
    lines = pipeline({"schema": {"required": ["a"]}})
    outcome = rejected(lines.apply(message({}), NOW))
    assert (outcome.code, outcome.detail) == ("invalid-against-schema", 'the value: "a" is a required property')
    assert isinstance(outcome.error, SchemaInvalid)
    tombstone = message(None)
    assert kept(lines.apply(tombstone, NOW)) is tombstone


def test_plugin_changes_drops_refuses_and_fails() -> None:
    assert kept(pipeline({"plugin": "upper"}).apply(message(b"x"), NOW)).value == b"X"
    assert pipeline({"plugin": "none"}, direction="out").apply(Record(1, 2, None, b"x"), NOW) == Dropped()
    assert rejected(pipeline({"plugin": "none"}).apply(message(b"x"), NOW)).code == "rejected-by-transform"
    outcome = rejected(pipeline({"plugin": "raises"}).apply(message(b"x"), NOW))
    assert (outcome.code, outcome.detail) == ("transform-failed", "plugin raises: RuntimeError: boom")
    for name in ("text", "conflict"):
        assert rejected(pipeline({"plugin": name}).apply(message(b"x"), NOW)).code == "transform-failed"
    assert rejected(pipeline({"plugin": "refuses"}).apply(message(b"x"), NOW)).detail == "not on Sundays"


def test_record_on_its_way_out_keeps_its_place() -> None:
    lines = pipeline({"set": {"value": "string(record.partition) + record.value"}}, direction="out", generation=8)
    told = Record(5, 6, b"k", b"x", (("kateway-transformed", b"7"),))
    assert kept(lines.apply(told, NOW, partition=3)) == Record(5, 6, b"k", b"3x", (("kateway-transformed", b"8"),))


def test_change_and_change_back_gives_the_same_message() -> None:
    told = message({"a": 1})
    lines = pipeline({"set": {"key": "'x'"}}, {"set": {"key": "null"}})
    assert kept(lines.apply(told, NOW)) is told


def test_steps_that_take_too_long_together_fail() -> None:
    times, used = iter([0.0, 0.04, 0.06]), iter([7.0, 7.06])
    told = {"in": [{"require": "true"}] * 3}
    lines = Pipeline.compile(told, "in", {}, seconds=lambda: next(times), used=lambda: next(used))
    assert "took longer" in rejected(lines.apply(message({}), NOW)).detail


def test_record_is_not_failed_by_a_machine_that_stood_still_between_two_steps() -> None:
    times, used = iter([0.0, 5.0, 9.0]), iter([7.0, 7.01, 7.02])
    told = {"in": [{"require": "true"}] * 3}
    lines = Pipeline.compile(told, "in", {}, seconds=lambda: next(times), used=lambda: next(used))
    assert kept(lines.apply(message({}), NOW)) == message({})


def test_on_error_and_direction_are_of_the_document() -> None:
    told = {"in": [{"require": "true"}], "out": [{"drop": "true"}, {"drop": "true"}], "on_error": "stop"}
    lines = Pipeline.compile(told, "out", {})
    assert (len(lines.steps), lines.on_error) == (2, "stop")


def test_trace_shows_each_step_until_one_ends_it() -> None:
    told = message({"a": 1}, key=b"k")
    lines = pipeline({"set": {"key": "'x'"}}, {"require": "record.key == 'k'"}, {"require": "true"})
    first, second = lines.trace(told, NOW)
    assert (first.kind, first.before.key, first.after and first.after.key, first.error) == ("set", b"k", b"x", None)
    assert (second.kind, second.before.key, second.after) == ("require", b"x", None)
    assert isinstance(second.error, TransformRejected)
    assert second.seconds >= 0
    (dropped,) = pipeline({"drop": "true"}, direction="out").trace(Record(1, 2, None, None), NOW, partition=0)
    assert dropped.dropped


@pytest.mark.parametrize(
    "value",
    [
        orjson.dumps([[{"a": 1, "b": 2}] * 100] * 1000),
        orjson.dumps([{"a": 1}] * 500),
        orjson.dumps({str(number): number for number in range(100_000)}),
        orjson.dumps([1] * 30_000),
        b"[" * 900 + b"]" * 900,
        orjson.dumps(["x" * 1_000_000] * 7),
        b"[{}," * 3_000_000,
    ],
    ids=lambda value: str(len(value)),
)
def test_mask_of_a_large_value_ends_in_time(value: bytes) -> None:
    masks = ["/*", "/*/*", "/*/*/a", "/*/*/*", "/5", "/*/b", "/9/9", "/99/*"]
    step = pipeline({"mask": [f"{each}{suffix}" for each in masks for suffix in ("", "/x", "/y/*", "/z")]}).steps[0]
    spent = []
    for _ in range(3):
        view = RecordView.of(Message(value))
        begun = time.thread_time()
        with suppress(TransformFailed):
            step.run(view, NOW)
        spent.append(time.thread_time() - begun)
    # 50 ms, which a tracer and a busy machine make as long; what is not bounded takes seconds
    assert min(spent) < 0.25
