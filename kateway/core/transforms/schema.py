"""Checks values against JSON Schema 2020-12, compiled once; it fetches nothing, and no check lasts long.

References go to places in the schema itself. Patterns are those of the linear engine: one with a look around or a
back reference is refused, and so is one that compiles to more than ``MAX_PATTERN_BYTES``. What a check can cost is
the schema's weight (``schema_weight``) times the values in the record; more than the bounds below fails before it
begins. Measured: whether a value is good, 40 ns a comparison; where it is not, 0.4 to 28 µs a subschema and value,
because the library gathers every fault before it gives the first (20,000 faults: 0.56 s). So all three places are
named for a small record, the first one for a larger one, and none for one that is larger still.
"""

from __future__ import annotations

from typing import Any

import attrs
import jsonschema_rs
import orjson

from kateway.core.transforms import pointers
from kateway.core.transforms.record_view import parsed, separators
from kateway.core.transforms.schema_weight import MAX_DEPTH, Weight, weigh
from kateway.errors import BadRequest, TransformFailed

MAX_SCHEMA_BYTES = 65_536
MAX_PATTERN_BYTES = 1 << 20
MAX_COMPARISONS = 600_000
MAX_VALUE_BYTES = 4 * 1024 * 1024
MAX_STATES = 6_000_000
"""Bytes of a record times states of patterns, at 4 ns each."""
MAX_ALL_PLACES = 500
"""Values of a record times subschemas up to which all places are gathered."""
MAX_FIRST_PLACE = 60_000
MAX_FIRST_PLACE_WAYS = 128
MAX_FAULTS = 3


@attrs.frozen
class Schema:
    """A compiled schema."""

    document: Any
    _validator: Any = attrs.field(repr=False, eq=False)
    _weight: Weight = attrs.field(repr=False, eq=False)

    @classmethod
    def compile(cls, document: object) -> Schema:
        """Compiles a schema. ``BadRequest`` names its fault."""
        if not isinstance(document, dict):
            raise BadRequest("a schema is a JSON object")
        try:
            size = len(orjson.dumps(document))
        except (TypeError, ValueError) as error:
            raise BadRequest(f"a schema is a JSON object: {error}") from error
        if size > MAX_SCHEMA_BYTES:
            raise BadRequest(f"the schema has {size} bytes; at most {MAX_SCHEMA_BYTES} are allowed")
        if _depth(document) > MAX_DEPTH:
            raise BadRequest(f"the schema is nested deeper than {MAX_DEPTH} levels")
        try:
            weight = weigh(document)
            validator = jsonschema_rs.Draft202012Validator(
                document,
                offline=True,
                pattern_options=jsonschema_rs.RegexOptions(
                    size_limit=MAX_PATTERN_BYTES, dfa_size_limit=MAX_PATTERN_BYTES
                ),
            )
        except BadRequest:
            raise
        except Exception as error:
            raise BadRequest(_fault(error)) from error
        return cls(document, validator, weight)

    def check(self, value: bytes) -> list[str]:
        """The first three places where a value is not what the schema asks for; none if it is.

        ``TransformFailed`` if the value has more than can be checked in the time that a record has.
        """
        if len(value) > MAX_VALUE_BYTES or len(value) * self._weight.states > MAX_STATES:
            raise TransformFailed(f"the value is too long ({len(value)} bytes) to be checked against the schema")
        values = 1 + separators(value)
        if values * (self._weight.ways + self._weight.members) > MAX_COMPARISONS:
            raise TransformFailed(f"the value has too many members ({values}) to be checked against the schema")
        try:
            document = parsed(value)
        except TransformFailed as error:
            return [error.detail]
        try:
            return [] if self._validator.is_valid(document) else self._faults(document, values)
        except ValueError as error:
            # the library goes down 255 levels
            raise TransformFailed(f"the value cannot be checked against the schema: {str(error)[:200]}") from error

    def _faults(self, document: object, values: int) -> list[str]:
        work = values * self._weight.ways
        if work <= MAX_ALL_PLACES:
            errors = list(self._validator.iter_errors(document))[:MAX_FAULTS]
            return [_place(error) for error in errors]
        if work <= MAX_FIRST_PLACE and self._weight.ways <= MAX_FIRST_PLACE_WAYS:
            try:
                self._validator.validate(document)
            except jsonschema_rs.ValidationError as error:
                return [_place(error)]
        return ["the value: it is not what the schema asks for; it is too large to say where"]


def _place(error: Any) -> str:
    return f"{pointers.written(error.instance_path) or 'the value'}: {error.message[:200]}"


def _fault(error: Exception) -> str:
    if isinstance(error, jsonschema_rs.ValidationError):
        return _place(error).replace("the value:", "the schema:")
    return str(error).split("\n")[0][:200]


def _depth(document: object) -> int:
    levels, found = 0, [document]
    while found:
        levels += 1
        found = [
            below
            for each in found
            if isinstance(each, dict | list)
            for below in (each.values() if isinstance(each, dict) else each)
        ]
    return levels
