"""Shows a record or a message to expressions: its fields by name, each converted once and only when it is asked for."""

from __future__ import annotations

import json
from typing import Any

import orjson

from kateway.core.transforms.paths import Wanted, pruned
from kateway.errors import TransformFailed
from kateway.model import Headers, Message, Record

FREE_PARSE_BYTES = 262_144
"""Parsed in 12 ms whatever is in it."""
MAX_PARSE_BYTES = 8 * 1024 * 1024
PARSE_NS = 25_000_000
PARSE_VALUE_NS = 60
PARSE_BYTE_NS = 3
UNREAD: Any = object()
MAX_MEMBERS_BYTES = 262_144
"""Of a value in which a member may be there twice: looking at each takes 20 ns a byte."""


class RecordView:
    """The fields ``key``, ``value``, ``json``, ``headers``, ``partition``, ``offset`` and ``timestamp`` of a record.

    Key, value and header values are text, or bytes where they are not UTF-8, or null; the last of headers of one
    name is the one that is seen. ``json`` is the parsed value, null for a tombstone. ``partition``, ``offset`` and
    ``timestamp`` (milliseconds since the epoch) are null where they are not known yet, as on the way in.
    """

    __slots__ = ("_json", "headers", "key", "offset", "partition", "timestamp", "value")

    def __init__(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None,
        offset: int | None,
        timestamp: int | None,
    ) -> None:
        self.key = key
        self.value = value
        self.headers = headers
        self.partition = partition
        self.offset = offset
        self.timestamp = timestamp
        self._json = UNREAD

    @classmethod
    def of(cls, source: Message | Record, partition: int | None = None) -> RecordView:
        """The view of a record of a partition, or of a message; a message that names its partition has it."""
        if isinstance(source, Record):
            return cls(source.key, source.value, source.headers, partition, source.offset, source.timestamp)
        at = source.partition if partition is None else partition
        return cls(source.key, source.value, source.headers, at, None, source.timestamp)

    def with_json(self, value: bytes, document: Any) -> RecordView:
        """The record with another value, of which the parsed form is known."""
        changed = RecordView(self.key, value, self.headers, self.partition, self.offset, self.timestamp)
        changed._json = document
        return changed

    @property
    def json(self) -> Any:
        """The value as JSON, parsed once. ``TransformFailed`` names the fault of one that is not."""
        if self._json is UNREAD:
            self._json = None if self.value is None else parsed(self.value)
        return self._json

    def fields(self, parts: Wanted) -> dict[str, Any]:
        """The wanted fields, as expressions see them."""
        found: dict[str, Any] = {}
        for name, below in parts.items():
            if name == "json":
                found[name] = pruned(self.json, below)
            elif name == "value":
                found[name] = _text(self.value)
            elif name == "key":
                found[name] = _text(self.key)
            elif name == "headers":
                found[name] = {header: _text(value) for header, value in self.headers}
            else:
                found[name] = getattr(self, name)
        return found

    def header_bytes(self) -> int:
        """The bytes of all headers, names and values, and four for each, which an empty one costs too."""
        return sum(4 + len(name) + len(value or b"") for name, value in self.headers)


def parsed(value: bytes) -> Any:
    """The value as JSON. ``TransformFailed`` names the fault of one that is not, or that takes too long to parse."""
    if len(value) > FREE_PARSE_BYTES and (
        len(value) > MAX_PARSE_BYTES or separators(value) * PARSE_VALUE_NS + len(value) * PARSE_BYTE_NS > PARSE_NS
    ):
        raise TransformFailed(f"the value takes too long to parse ({len(value)} bytes)")
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise TransformFailed(f"the value is not JSON: {error}") from error
    if type(found) is dict or type(found) is list:
        _check_members(value, found)
    return found


def _check_members(value: bytes, found: object) -> None:
    """Refuses a value that has a member twice: of these the parser shows the last one only, and another program may see
    the first. ``TransformFailed``, also for one that is nested too deeply to be written.
    """
    try:
        written = orjson.dumps(found)
    except TypeError as error:
        raise TransformFailed("the value is nested more deeply than 254 levels") from error
    if written.count(b":") == value.count(b":") and b"\\u003" not in value:
        # each member has its colon, and the colons of texts are in both
        return
    if len(value) > MAX_MEMBERS_BYTES:
        raise TransformFailed("the value is too large to tell whether it has a member twice")
    try:
        json.loads(value, object_pairs_hook=_once)
    except RecursionError as error:
        raise TransformFailed("the value is nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise TransformFailed("the value has a member twice: which one counts is not known")
    return members


def separators(value: bytes) -> int:
    """The values in a JSON text but the first, from above: each comes after a comma or an opening bracket."""
    # in one pass, at 1 ns a byte
    return len(value) - len(value.translate(None, b",[{"))


def _text(value: bytes | None) -> str | bytes | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
