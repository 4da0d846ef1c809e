"""Expressions: what they see, where they are wrong, and that none lasts."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kateway.core.transforms.expressions import Expression
from kateway.core.transforms.record_view import RecordView
from kateway.errors import ExpressionInvalid, TransformFailed
from kateway.model import Message, Record

NOW = 1_700_000_000.5
CPU_SECONDS = 0.25
"""Of the thread. A tracer and a busy machine make 50 ms as long; what is not bounded takes seconds."""
"""Of the thread: the machine may have other work."""


def view(
    value: object = None, key: bytes | None = b"k", headers: tuple[tuple[str, bytes | None], ...] = ()
) -> RecordView:
    raw = value if isinstance(value, bytes) or value is None else orjson.dumps(value)
    return RecordView.of(Message(raw, key, headers))


def lasts_at_least(run: Callable[[], object]) -> float:
    """The thread's seconds of a run; of the best of three, as the test's own garbage can be collected in between."""
    best = CPU_SECONDS
    for _ in range(3):
        begun = time.thread_time()
        run()
        best = min(best, time.thread_time() - begun)
        if best < CPU_SECONDS:
            break
    return best


def result(text: str, of: RecordView) -> object:
    return Expression.compile(text).evaluate(of, NOW)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("record.json.amount > 0", True),
        ("record.json.user.id", 7),
        ("{'id': record.json.user.id}", {"id": 7}),
        ("record.json['amount'] + 1", 4),
        ("record.key == 'k'", True),
        ("record.value.startsWith('{')", True),
        ("record.headers['env'] == 'test'", True),
        ("has(record.json.nothing)", False),
        ("'env' in record.headers", True),
        ("record.offset == null && record.partition == null", True),
        ("record.json.tags.all(t, t.size() == 1)", True),
        ("record.json.tags.map(t, t + '!')", ["a!", "b!"]),
        ("record.json.tags.map(t, t == 'a', t)", ["a"]),
        ("record.json.tags.exists(t, record.json.tags.exists_one(u, u == t))", True),
        ("now", 1_700_000_000_500),
        ("true ? 'yes' : 'no' // told", "yes"),
        ("!!true && -(-3) == 3", True),
        ("r\"\\d\" + '''x\ny''' + \"\\\"\"", '\\dx\ny"'),
        ("record.value.matches('^.*\"amount\":[0-9]+.*$')", True),
        ("type(record.json.amount) == int", True),
        ("timestamp('2024-01-01T00:00:00Z').getFullYear() == 2024", True),
        ("[1, 2,] + [3]", [1, 2, 3]),
    ],
)
def test_expression_on_record_gives_result(text: str, expected: object) -> None:
    document = {"amount": 3, "user": {"id": 7}, "tags": ["a", "b"]}
    assert result(text, view(document, headers=(("env", b"prod"), ("env", b"test")))) == expected


def test_stored_record_shows_its_place() -> None:
    seen = RecordView.of(Record(7, 1234, None, b"x"), partition=2)
    assert result("[record.partition, record.offset, record.timestamp]", seen) == [2, 7, 1234]


def test_bytes_that_are_not_utf8_are_bytes() -> None:
    seen = view(b"\xff", key=b"\xfe", headers=(("h", b"\xfd"), ("n", None)))
    found = result("[record.value, record.key, record.headers.h, record.headers.n]", seen)
    assert found == [
        b"\xff",
        b"\xfe",
        b"\xfd",
        None,
    ]


def test_tombstone_is_null() -> None:
    assert result("record.value == null && record.json == null", view(None)) is True


def test_invalid_json_fails_only_an_expression_that_needs_it() -> None:
    seen = view(b"{")
    assert result("record.key == 'k'", seen) is True
    with pytest.raises(TransformFailed, match="not JSON"):
        result("record.json.a == 1", seen)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("record.json.amount >", "1:21"),
        ("record.json.a\n  && nothing > 1", "2:6"),
        ("record.nothing", "1:8"),
        ("record.json.a.foo()", "1:15"),
        ("foo(1)", "1:1"),
        ("", "1:1"),
        ("'abc", "1:1"),
        ("1 # 2", "1:3"),
        ("has(1)", "1:1"),
        ("record.json.all(record, true)", "1:17"),
        ("record.json.all(x)", "1:13"),
        ("x.all(x, true)", "1:1"),
        ("record.value.matches(record.key)", "1:14"),
        ("a.b{c: 1}", "1:1"),
        ("'\\q'", "1:1"),
        ("record.value.matches('(')", "1:22"),
        ("now > 1 && matches(record.value, r'[')", "1:34"),
        ("timestamp(record.value).getHours('Europe/Berlin') > 3", "1:34"),
        ("timestamp('yesterday') > timestamp(record.value)", "1:11"),
        ("record.json.all(x, duration(x) > duration('5x'))", "1:43"),
        ("timestamp(1700000000) > timestamp(record.value)", "1:11"),
    ],
)
def test_wrong_expression_names_its_place(text: str, place: str) -> None:
    with pytest.raises(ExpressionInvalid) as caught:
        Expression.compile(text)
    assert caught.value.detail.startswith(place + " ")


def test_expression_that_is_not_boolean_fails_as_condition() -> None:
    with pytest.raises(TransformFailed, match="a number, neither true nor false"):
        Expression.compile("record.json").is_true(view(1), NOW)


@pytest.mark.parametrize("text", ["record.json.b", "1 / record.json.a", "record.json.a + 'x'", "record.json.a[3]"])
def test_expression_that_fails_on_record_says_why(text: str) -> None:
    with pytest.raises(TransformFailed) as caught:
        result(text, view({"a": 0}))
    assert caught.value.detail.startswith(text)


HOSTILE = [
    "record.json.a",
    "record",
    "record.json == record.json",
    "record.json.a.all(x, x >= 0 && x + 1 > 0)",
    "record.json.a.map(x, x)",
    "record.json.a.map(x, record.json.a)",
    "record.json.a.map(x, record.value)",
    "record.json.a.filter(x, true)",
    "record.json.a.all(x, record.json.a.all(y, y >= 0))",
    "record.json.a.all(x, x in record.json.a)",
    "record.json.a.map(x, {'a': x, 'b': x})",
    "record.json" + ".a" * 25,
    "+".join(["record.value"] * 30),
    "record.value.matches('(a|b)*a(a|b){20}c')",
    r"record.value.matches('\\w{10}')",
    r"record.value.matches('\\w{100}')",
    "record.value.matches('((a{100}){100}){100}')",
    "['aaaaaaaa']" + ".map(x, x + x)" * 20,
    "[record.value]" + ".map(x, x + x)" * 4,
    "[1, 2].map(x, " * 12 + "1" + ")" * 12,
    "(" * 500 + "1" + ")" * 500,
    "!" * 1000 + "true",
    "-" * 1000 + "1",
    "[" * 500 + "]" * 500,
    "1" + " + 1" * 250,
    "true ? 1 : " * 90 + "1",
    "record" + ".a" * 500,
]
VALUES = [
    orjson.dumps({"a": [1] * 100}),
    orjson.dumps({"a": [1] * 500_000}),
    orjson.dumps({"a": ["xyz" * 5] * 10_000}),
    orjson.dumps({"a": [{}] * 100_000}),
    orjson.dumps({"a": [[1] * 100] * 100}),
    orjson.dumps({str(number): number for number in range(20_000)}),
    b"ab" * 500_000,
    b'{"a":' * 900 + b"1" + b"}" * 900,
    b"[" * 1_000_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:30])
def test_hostile_expression_is_refused_or_ends_in_time(text: str) -> None:
    for value in VALUES:
        bounded(text, value)


def test_text_longer_than_allowed_is_refused() -> None:
    with pytest.raises(ExpressionInvalid, match="at most 1024"):
        Expression.compile("1" * 1025)
    with pytest.raises(ExpressionInvalid, match="at most 4 "):
        Expression.compile("12345", max_length=4)


LEAVES = st.one_of(
    st.sampled_from(["record.json", "record.json.a", "record.key", "record.value", "record.headers", "record", "now"]),
    st.sampled_from(["x", "1", "2u", "1.5", "'abc'", "b'x'", "true", "null", "[]", "{}"]),
)
TREES = st.recursive(
    LEAVES,
    lambda below: st.one_of(
        st.tuples(below, st.sampled_from(["+", "-", "*", "/", "%", "==", "<", "&&", "||", "in"]), below).map(
            lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
        ),
        st.tuples(st.sampled_from(["all", "exists", "exists_one", "map", "filter"]), below, below).map(
            lambda parts: f"{parts[1]}.{parts[0]}(x, {parts[2]})"
        ),
        st.tuples(st.sampled_from(["size", "string", "int", "type", "bytes", "timestamp", "!", "-"]), below).map(
            lambda parts: f"{parts[0]}({parts[1]})"
        ),
        st.tuples(below, below).map(lambda parts: f"{parts[0]}[{parts[1]}]"),
        st.tuples(below, below).map(lambda parts: f"[{parts[0]}, {parts[1]}]"),
        st.tuples(below, below).map(lambda parts: f"{{{parts[0]}: {parts[1]}}}"),
        st.tuples(below, below, below).map(lambda parts: f"({parts[0]} ? {parts[1]} : {parts[2]})"),
    ),
    max_leaves=12,
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text()),
    lambda below: st.one_of(st.lists(below), st.dictionaries(st.sampled_from(["a", "b", ""]), below)),
    max_leaves=30,
)


def bounded(text: str, value: bytes) -> None:
    """Compiles and runs: neither raises anything but its own error, nor lasts."""

    def compile_() -> None:
        with suppress(ExpressionInvalid):
            Expression.compile(text)

    assert lasts_at_least(compile_) < CPU_SECONDS
    try:
        expression = Expression.compile(text)
    except ExpressionInvalid:
        return

    def evaluate() -> None:
        with suppress(TransformFailed):
            expression.evaluate(view(value), NOW)

    assert lasts_at_least(evaluate) < CPU_SECONDS


FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FUZZ
@given(TREES, JSON)
def test_any_expression_on_any_json_ends_in_time(text: str, document: object) -> None:
    bounded(text, orjson.dumps(document))


@FUZZ
@given(TREES, st.sampled_from(VALUES))
def test_any_expression_on_a_large_record_ends_in_time(text: str, value: bytes) -> None:
    bounded(text, value)


@FUZZ
@given(st.text(alphabet="record.json ax()[]{}'\"\\+-*/?:,&|!=<>0123456789.\n", max_size=60) | st.text(max_size=40))
def test_any_text_is_compiled_or_refused(text: str) -> None:
    bounded(text, b'{"a":1}')
