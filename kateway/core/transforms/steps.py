"""Runs one step on a record; each kind of step is a class that knows its table of the document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import attrs
import orjson

from kateway.core.transforms import pointers
from kateway.core.transforms.expressions import Expression
from kateway.core.transforms.pointers import Pointer
from kateway.core.transforms.record_view import RecordView
from kateway.core.transforms.schema import Schema
from kateway.errors import SchemaInvalid, TransformFailed, TransformRejected
from kateway.model import Headers

MAX_VALUE_BYTES = 16 * 1024 * 1024
"""Of a value that a step makes. What the store takes is the store's to say."""


class Fields(NamedTuple):
    """A record as plugins and traces see it: bytes, and null for what there is not or not yet."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int | None
    offset: int | None
    timestamp: int | None


class Plugin(Protocol):
    """A transform of another package."""

    def transform(self, fields: Fields, now: float) -> Fields | None:
        """The record to go on with; the same object for an unchanged one, ``None`` to drop or refuse it."""


class Step(Protocol):
    """A step of a list."""

    kind: ClassVar[str]

    def run(self, view: RecordView, now: float) -> RecordView | None:
        """The record to go on with, the same object if nothing changed; ``None``: dropped. Raises to refuse."""

    def table(self) -> dict[str, Any]:
        """The step's table of the document."""


@attrs.frozen
class Require:
    """Refuses a record of which the expression is not true."""

    kind: ClassVar[str] = "require"
    condition: Expression
    message: str = ""

    def run(self, view: RecordView, now: float) -> RecordView:
        if not self.condition.is_true(view, now):
            raise TransformRejected(self.message or f"the topic requires {self.condition.text}")
        return view

    def table(self) -> dict[str, Any]:
        told = {"message": self.message} if self.message else {}
        return {"require": self.condition.text, **told}


@attrs.frozen
class Drop:
    """Drops a record of which the expression is true."""

    kind: ClassVar[str] = "drop"
    condition: Expression

    def run(self, view: RecordView, now: float) -> RecordView | None:
        return None if self.condition.is_true(view, now) else view

    def table(self) -> dict[str, Any]:
        return {"drop": self.condition.text}


@attrs.frozen
class Set:
    """Sets value, key, headers and partition; all expressions see the record as it was before the step."""

    kind: ClassVar[str] = "set"
    value: Expression | None = None
    key: Expression | None = None
    headers: Mapping[str, Expression | None] = attrs.field(factory=dict)
    topic_partition: Expression | None = None

    def run(self, view: RecordView, now: float) -> RecordView:
        value = view.value if self.value is None else as_bytes(self.value, self.value.evaluate(view, now))
        key = view.key if self.key is None else as_bytes(self.key, self.key.evaluate(view, now))
        headers = self._headers(view, now) if self.headers else view.headers
        partition = view.partition
        if self.topic_partition is not None:
            partition = _partition(self.topic_partition, self.topic_partition.evaluate(view, now))
        if (value, key, headers, partition) == (view.value, view.key, view.headers, view.partition):
            return view
        return RecordView(key, value, headers, partition, view.offset, view.timestamp)

    def _headers(self, view: RecordView, now: float) -> Headers:
        """The headers with the named ones replaced where they stand, the new ones last."""
        made = {
            name: None if each is None else as_bytes(each, each.evaluate(view, now))
            for name, each in self.headers.items()
        }
        found: list[tuple[str, bytes | None]] = []
        for name, value in view.headers:
            if name not in self.headers:
                found.append((name, value))
            elif (new := made.pop(name, None)) is not None:
                found.append((name, new))
        return (*found, *((name, value) for name, value in made.items() if value is not None))

    def table(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            name: each.text for name in ("value", "key", "topic_partition") if (each := getattr(self, name)) is not None
        }
        if self.headers:
            told["headers"] = {name: None if each is None else each.text for name, each in self.headers.items()}
        return {"set": told}


@attrs.frozen
class Mask:
    """Replaces members of a JSON value. A value in which something is masked is written anew, in compact form."""

    kind: ClassVar[str] = "mask"
    pointers: tuple[str, ...]
    with_: str
    _members: tuple[Pointer, ...] = attrs.field(
        init=False,
        repr=False,
        eq=False,
        default=attrs.Factory(lambda self: tuple(map(pointers.parse, self.pointers)), takes_self=True),
    )

    def run(self, view: RecordView, now: float) -> RecordView:
        document = view.json
        try:
            masked = pointers.mask(document, self._members, self.with_)
        except ValueError as error:
            raise TransformFailed(f"mask: {error}") from error
        if masked is document:
            return view
        return view.with_json(orjson.dumps(masked), masked)

    def table(self) -> dict[str, Any]:
        return {"mask": list(self.pointers), "with": self.with_}


@attrs.frozen
class SchemaStep:
    """Refuses a record whose value is not what the schema asks for; a tombstone passes."""

    kind: ClassVar[str] = "schema"
    schema: Schema

    def run(self, view: RecordView, now: float) -> RecordView:
        if view.value is not None and (faults := self.schema.check(view.value)):
            raise SchemaInvalid("; ".join(faults))
        return view

    def table(self) -> dict[str, Any]:
        return {"schema": self.schema.document}


@attrs.frozen
class PluginStep:
    """Passes a record through a plugin; its time limit and its breaker are the plugin's owner's business."""

    kind: ClassVar[str] = "plugin"
    name: str
    options: Mapping[str, Any]
    plugin: Plugin = attrs.field(repr=False, eq=False)
    incoming: bool = False

    def run(self, view: RecordView, now: float) -> RecordView | None:
        fields = fields_of(view)
        try:
            made = self.plugin.transform(fields, now)
        except (TransformRejected, SchemaInvalid, TransformFailed):
            raise
        # a plugin is called and returns: there is nothing that could be cancelled meanwhile
        except Exception as error:
            raise TransformFailed(f"plugin {self.name}: {type(error).__name__}: {str(error)[:200]}") from error
        if made is fields:
            return view
        if made is not None and not isinstance(made, Fields):
            raise TransformFailed(f"plugin {self.name}: it gives {type(made).__name__}, not Fields or None")
        if made is not None and not _sound(made):
            raise TransformFailed(f"plugin {self.name}: it gives a record with members of other types")
        if made is None and self.incoming:
            raise TransformRejected(f"plugin {self.name} does not let the record in")
        return None if made is None else RecordView(*made)

    def table(self) -> dict[str, Any]:
        told = {"options": dict(self.options)} if self.options else {}
        return {"plugin": self.name, **told}


def _sound(fields: Fields) -> bool:
    key, value, headers, partition, _, timestamp = fields
    return (
        all(each is None or isinstance(each, bytes) for each in (key, value))
        and isinstance(headers, tuple)
        and all(
            isinstance(each, tuple)
            and len(each) == 2
            and isinstance(each[0], str)
            and (each[1] is None or isinstance(each[1], bytes))
            for each in headers
        )
        and all(each is None or type(each) is int for each in (partition, timestamp))
    )


def fields_of(view: RecordView) -> Fields:
    """The fields of a record, as bytes."""
    return Fields(view.key, view.value, view.headers, view.partition, view.offset, view.timestamp)


def as_bytes(by: Expression, found: object) -> bytes | None:
    """What an expression gave, as bytes: text in UTF-8, bytes as they are, null as none, all else as compact JSON."""
    if found is None or isinstance(found, bytes):
        return found
    if isinstance(found, str):
        return found.encode()
    try:
        # in the order of the names: the library gives the members of a map in another one each time
        made = orjson.dumps(found, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError) as error:
        raise TransformFailed(f"{by.text}: its result cannot be written as JSON: {error}") from error
    if len(made) > MAX_VALUE_BYTES:
        raise TransformFailed(f"{by.text}: its result has {len(made)} bytes; at most {MAX_VALUE_BYTES} are allowed")
    return made


def _partition(by: Expression, found: object) -> int | None:
    if found is None or (type(found) is int and 0 <= found <= 0x7FFFFFFF):
        return found
    raise TransformFailed(f"{by.text}: it must give a partition, a number from 0, or null")
