"""Estimates what an expression can cost on a record of a given size, from above; runs nothing.

The library (0.10) has no limit of its own, and copies what it touches: a field that is read is copied with all below
it, ``map`` and ``filter`` copy the list that they build at each element, ``matches`` compiles its pattern at each
call. Measured on the project's machine: ``a.map(x, x)`` over 1,000 numbers 24 ms, over 10,000 2.1 s; ``a.map(x, a)``
over 1,000 31 s; ``a.all(x, a.all(y, …))`` over 1,000 0.27 s; a conversion 0.1 to 1 µs a value; ``matches`` with
``\\w`` 0.24 ms for each ``\\w``, counted ones each. The figures below are of the same measurements, rounded up.

Each part of an expression is bounded by sums and products of the bounds of its parts. A macro's body is reckoned
twice: once with all of the list in one element, and as often as there are elements with an empty one. For sums of
products that is never less than any way in which the list can be divided, and it is linear where the body is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from kateway.core.transforms.syntax import Node

STEP_NS = 300
"""Of a part that is evaluated, beside what it copies."""
COPY_NS = 200
"""A value (number, text, member of a map) that is copied."""
BUILD_NS = 60
"""A value in a list that map or filter builds, copied at every element."""
CONVERT_NS = 1000
"""A value that goes from Python to the library or back."""
BYTE_NS = 1
PARSE_NS = 3
"""A byte of JSON that is parsed."""
CLASS_NS = 250_000
"""A Unicode class in a pattern: compiled at each call."""
PATTERN_NS = 3_000
"""Any other character of a pattern."""
STATE_NS = 4
"""A byte of text for each state of a pattern."""

CLASSES = re.compile(r"\\[wWdDsSbBpP]|\(\?|\[\^|\[\[|\.|[^\x00-\x7f]|\\[xuU]")
COUNTS = re.compile(r"\{(\d+)(?:,(\d*))?\}")


class Size(NamedTuple):
    """The bounds of a value: values in it (itself too), bytes of text, members of all lists and maps in it."""

    values: float
    bytes: float
    members: float


class Bound(NamedTuple):
    """The bounds of what a part gives and of the time until it has."""

    values: float
    bytes: float
    members: float
    ns: float


ONE = Size(1, 0, 0)
SCALAR_BYTES = 32
"""A number, a time or a type as text."""


def estimate(node: Node, record: Size) -> Bound:
    """The bounds of an expression on a record, conversions of the record and the result among them."""
    found = _bound(node, record, {})
    conversion = (record.values + found.values) * CONVERT_NS + (record.bytes + found.bytes) * BYTE_NS
    return found._replace(ns=found.ns + conversion + record.bytes * PARSE_NS)


def measured(document: object, most: int) -> Size | None:
    """The exact size of a parsed document; ``None`` if it has more values than ``most``."""
    values, bytes_ = 0, 0
    left = [document]
    while left:
        found = left.pop()
        values += 1
        if isinstance(found, str | bytes):
            # at most four bytes a character
            bytes_ += len(found) if isinstance(found, bytes) or found.isascii() else 4 * len(found)
        elif isinstance(found, dict):
            if values + len(left) + 2 * len(found) > most:
                return None
            left += found
            left += found.values()
        elif isinstance(found, list):
            if values + len(left) + len(found) > most:
                return None
            left += found
    return Size(values, bytes_, values)


def _bound(node: Node, record: Size, variables: Mapping[str, Size]) -> Bound:
    if node.kind == "literal":
        return Bound(1, len(node.text), 0, STEP_NS)
    if node.kind == "name":
        size = variables.get(node.text, record if node.text == "record" else Size(1, SCALAR_BYTES, 0))
        return Bound(*size, STEP_NS + _copy(size))
    if node.kind == "select" and node.parts[0].kind == "name" and node.parts[0].text == "record":
        # read in place, and then copied
        size = _field(node.text, record)
        return Bound(*size, 2 * STEP_NS + _copy(size))
    if node.kind == "macro":
        return _macro(node, record, variables)
    parts = [_bound(each, record, variables) for each in node.parts]
    spent = STEP_NS + sum(each.ns for each in parts)
    whole = Size(
        sum(each.values for each in parts), sum(each.bytes for each in parts), sum(each.members for each in parts)
    )
    if node.kind == "select":
        return Bound(*whole, spent + _copy(whole) + len(node.text))
    if node.kind == "index":
        return Bound(*parts[0][:3], spent + _copy(whole))
    if node.kind == "choice":
        return Bound(*whole, spent)
    if node.kind in ("list", "map"):
        return Bound(whole.values + 1, whole.bytes, whole.members + len(parts), spent + _copy(whole))
    if node.kind == "operator" and node.text == "+":
        return Bound(*whole, spent + _copy(whole))
    if node.kind == "operator":
        return Bound(1, SCALAR_BYTES, 0, spent + _copy(whole))
    if node.text == "matches":
        return Bound(1, 0, 0, spent + _matching(node, whole.bytes))
    return Bound(1 + whole.values, whole.bytes + SCALAR_BYTES, whole.members, spent + 2 * _copy(whole))


def _field(name: str, record: Size) -> Size:
    if name in ("json", "headers"):
        return record
    return Size(1, record.bytes if name in ("key", "value") else SCALAR_BYTES, 0)


def _copy(size: Size) -> float:
    return size.values * COPY_NS + size.bytes * BYTE_NS


def _macro(node: Node, record: Size, variables: Mapping[str, Size]) -> Bound:
    over = _bound(node.parts[0], record, variables)
    whole = Size(*over[:3])
    values = bytes_ = members = 0.0
    spent = STEP_NS + over.ns
    for body in node.parts[1:]:
        full = _bound(body, record, {**variables, node.variable: whole})
        empty = _bound(body, record, {**variables, node.variable: ONE})
        values += full.values + over.members * empty.values
        bytes_ += full.bytes + over.members * empty.bytes
        members += full.members + over.members
        spent += full.ns + over.members * (empty.ns + 2 * STEP_NS)
    if node.text not in ("map", "filter"):
        return Bound(1, 0, 0, spent)
    if node.text == "filter":
        values, bytes_, members = whole
    return Bound(values + 1, bytes_, members, spent + over.members * (values * BUILD_NS + bytes_ * BYTE_NS))


def _matching(node: Node, text_bytes: float) -> float:
    """The time to compile the pattern and to run it over the text. A pattern that is no literal costs infinitely."""
    pattern = node.parts[-1]
    if pattern.kind != "literal" or len(node.parts) != 2:
        return math.inf
    spelling = re.sub(r"\\\\", r"\\", pattern.text)
    counted = 1
    for low, high in COUNTS.findall(spelling):
        counted *= max(1, min(int(low[:6]), 99_999), min(int((high or "0")[:6]), 99_999))
    compiling = counted * (len(CLASSES.findall(spelling)) * CLASS_NS + len(spelling) * PATTERN_NS)
    return compiling + text_bytes * len(spelling) * counted * STATE_NS
