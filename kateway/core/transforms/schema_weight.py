"""Weighs a JSON Schema before it is compiled: how often and with how much one value of a record can be checked.

The library follows every branch: ``{"anyOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/a"}]}`` doubled sixteen times
takes 14 s to say where a number is wrong. So references are followed here in the same way, with a count; a schema
that refers back to itself may do so once on the way to any one member, or the count would double with each level of
the record.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from kateway.core.transforms import pointers
from kateway.errors import BadRequest

MAX_DEPTH = 64
MAX_WAYS = 256
"""Subschemas that one value may be checked with."""
LEAST_MULTIPLE = 1e-6
MULTIPLE_MEMBERS = 500
"""What looking for a multiple costs, in comparisons of 40 ns: 20 µs for a number of 300 digits."""
COUNTS = re.compile(r"\{(\d+)(?:,(\d*))?\}")

ALL = ("allOf", "anyOf", "oneOf")
ONE = (
    "not",
    "if",
    "then",
    "else",
    "items",
    "contains",
    "additionalProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
)
NAMED = ("patternProperties", "dependentSchemas")
REFUSED = ("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$anchor", "dependencies", "additionalItems")
DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Weight(NamedTuple):
    """What one value can meet: subschemas, the members that these compare it with, states of patterns, ways back."""

    ways: int
    members: int
    states: int
    back: int


def weigh(schema: dict[str, Any]) -> Weight:
    """The weight of a schema. ``BadRequest`` names what is not bounded, by its JSON pointer."""
    if schema.get("$schema", DIALECT).rstrip("#") != DIALECT:
        raise BadRequest(f"/$schema: only {DIALECT} is understood")
    return _Scales(schema).subschema(schema, (), ())


class _Scales:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._met = 0

    def subschema(self, schema: object, at: tuple[str, ...], above: tuple[int, ...]) -> Weight:
        self._met += 1
        if self._met > 8 * MAX_WAYS * MAX_DEPTH or len(above) > MAX_DEPTH:
            raise self._fault(at, f"the schema is nested deeper than {MAX_DEPTH} levels, or refers to too much")
        if not isinstance(schema, dict):
            return Weight(1, 0, 0, 0)
        for name in REFUSED if not at else (*REFUSED, "$id"):
            if name in schema:
                raise self._fault((*at, name), "it is not allowed here; use $defs and #/$defs/name")
        multiple = schema.get("multipleOf", 1)
        if isinstance(multiple, (int, float)) and not LEAST_MULTIPLE <= multiple <= 1 / LEAST_MULTIPLE:
            raise self._fault((*at, "multipleOf"), f"it must be from {LEAST_MULTIPLE:g} to {1 / LEAST_MULTIPLE:g}")
        above = (*above, id(schema))
        parts = [
            *(
                self.subschema(each, (*at, name, str(number)), above)
                for name in ALL
                for number, each in enumerate(_listed(schema.get(name)))
            ),
            *(self.subschema(schema[name], (*at, name), above) for name in ONE if name in schema),
            *(
                self.subschema(each, (*at, name, below), above)
                for name in NAMED
                for below, each in _named(schema.get(name)).items()
            ),
        ]
        if "$ref" in schema:
            parts.append(self._reference(schema["$ref"], (*at, "$ref"), above))
        # a member of an object or a list meets one of these at most
        apart = [
            self.subschema(each, (*at, "properties", name), above)
            for name, each in _named(schema.get("properties")).items()
        ] + [
            self.subschema(each, (*at, "prefixItems", str(number)), above)
            for number, each in enumerate(_listed(schema.get("prefixItems")))
        ]
        patterns = [schema["pattern"]] if "pattern" in schema else []
        patterns += _named(schema.get("patternProperties"))
        own = Weight(
            1,
            sum(_members(schema[name]) for name in ("enum", "const", "required", "dependentRequired") if name in schema)
            + len(_named(schema.get("properties")))
            + (MULTIPLE_MEMBERS if "multipleOf" in schema else 0),
            sum(_states(each) for each in patterns),
            0,
        )
        whole = Weight(*(sum(column) for column in zip(own, *parts, *_highest(apart), strict=True)))
        if whole.ways > MAX_WAYS:
            raise self._fault(at, f"one value can be checked with more than {MAX_WAYS} subschemas")
        if whole.back > 1:
            raise self._fault(at, "it refers back to what it is in by more than one way for the same member")
        return whole

    def _reference(self, reference: object, at: tuple[str, ...], above: tuple[int, ...]) -> Weight:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise self._fault(at, "only references within the schema are followed: #/$defs/name")
        found: Any = self._root
        for member in pointers.parse(reference[1:]) if reference != "#" else ():
            if isinstance(found, list) and member.isdecimal() and int(member) < len(found):
                found = found[int(member)]
            elif isinstance(found, dict) and member in found:
                found = found[member]
            else:
                raise self._fault(at, f"there is nothing at {reference[:64]}")
        if id(found) in above:
            return Weight(1, 0, 0, 1)
        return self.subschema(found, at, above)

    @staticmethod
    def _fault(at: tuple[str, ...], fault: str) -> BadRequest:
        return BadRequest(f"{pointers.written(at[:16]) or 'the schema'}: {fault}")


def _listed(found: object) -> list[Any]:
    return found if isinstance(found, list) else []


def _named(found: object) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _highest(apart: list[Weight]) -> list[Weight]:
    return [Weight(*(max(column) for column in zip(*apart, strict=True)))] if apart else []


def _members(found: object) -> int:
    """The values in a part of the document."""
    below: Callable[[object], int] = _members
    if isinstance(found, dict):
        return 1 + sum(below(each) for each in found.values())
    return 1 + sum(below(each) for each in found) if isinstance(found, list) else 1


def _states(pattern: object) -> int:
    """The states of a compiled pattern, from above: its length times all its counts."""
    states = len(str(pattern))
    for low, high in COUNTS.findall(str(pattern)):
        states *= max(1, min(int(low[:6]), 99_999), min(int((high or "0")[:6]), 99_999))
    return states
