"""Reads and writes the document of a topic's transforms; names each fault by its JSON pointer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import attrs

from kateway.core.transforms import pointers
from kateway.core.transforms.expressions import Expression
from kateway.core.transforms.schema import Schema
from kateway.core.transforms.steps import Drop, Mask, Plugin, PluginStep, Require, SchemaStep, Set, Step
from kateway.errors import BadRequest, ExpressionInvalid, KatewayError
from kateway.registry.interface import OnError
from kateway.registry.validators import MAX_STEPS

Direction = Literal["in", "out"]
Plugins = Mapping[str, Callable[[Mapping[str, Any]], Plugin]]
"""By name, what makes a transform from the step's options; it raises ``KatewayError`` for options that it refuses."""

T = TypeVar("T")

MAX_POINTERS = 64
MAX_HEADERS = 32
MAX_TEXT_CHARACTERS = 256

ALLOWED: Mapping[str, frozenset[str]] = {
    "require": frozenset(["message"]),
    "drop": frozenset(),
    "set": frozenset(),
    "mask": frozenset(["with"]),
    "schema": frozenset(),
    "plugin": frozenset(["options"]),
}
"""The kinds of steps, and the members that each has beside the one that names it."""
ONLY: Mapping[str, Direction] = {"require": "in", "schema": "in", "drop": "out"}


@attrs.frozen
class Transforms:
    """The steps of both directions. ``on_error`` is what becomes of a record on which a step of ``out`` fails."""

    in_: tuple[Step, ...] = ()
    out: tuple[Step, ...] = ()
    on_error: OnError = "dead"

    def to_document(self) -> dict[str, Any]:
        """The document that this was read from; members that say nothing are left out."""
        told: dict[str, Any] = {}
        if self.in_:
            told["in"] = [each.table() for each in self.in_]
        if self.out:
            told["out"] = [each.table() for each in self.out]
        if self.on_error != "dead":
            told["on_error"] = self.on_error
        return told


def read(document: object, plugins: Plugins) -> Transforms:
    """Reads a document. ``ExpressionInvalid`` or ``BadRequest`` names every fault and its place."""
    reader = _Reader(plugins)
    found = reader.document(document)
    if reader.faults:
        kind = ExpressionInvalid if reader.in_expressions else BadRequest
        raise kind("; ".join(reader.faults))
    return found


class _Reader:
    """Reads what it can and gathers the faults, so that a person reads all of them at once."""

    def __init__(self, plugins: Plugins) -> None:
        self.faults: list[str] = []
        self.in_expressions = False
        self._plugins = plugins

    def _fault(self, at: str, fault: str) -> None:
        self.faults.append(f"{at or 'the document'}: {fault}")

    def document(self, document: object) -> Transforms:
        if not isinstance(document, dict):
            self._fault("", "it must be an object with in, out and on_error")
            return Transforms()
        for name in document:
            if name not in ("in", "out", "on_error"):
                self._fault(pointers.written([name]), "there is no such member; there are in, out and on_error")
        on_error = document.get("on_error", "dead")
        if on_error not in ("dead", "pass", "stop"):
            self._fault("/on_error", "it must be dead, pass or stop")
            on_error = "dead"
        return Transforms(self._steps(document, "in"), self._steps(document, "out"), on_error)

    def _steps(self, document: Mapping[str, Any], direction: Direction) -> tuple[Step, ...]:
        listed = document.get(direction, [])
        if not isinstance(listed, list) or len(listed) > MAX_STEPS:
            self._fault(f"/{direction}", f"it must be a list of at most {MAX_STEPS} steps")
            return ()
        found = [self._step(each, direction, f"/{direction}/{number}") for number, each in enumerate(listed)]
        return tuple(each for each in found if each is not None)

    def _step(self, table: object, direction: Direction, at: str) -> Step | None:
        kinds = [name for name in ALLOWED if isinstance(table, dict) and name in table]
        if not isinstance(table, dict) or len(kinds) != 1:
            self._fault(at, f"a step is an object with one of {', '.join(ALLOWED)}")
            return None
        kind = kinds[0]
        if ONLY.get(kind, direction) != direction:
            self._fault(f"{at}/{kind}", f"such a step can be in {ONLY[kind]} only")
        for name in table:
            if name != kind and name not in ALLOWED[kind]:
                self._fault(at + pointers.written([name]), f"there is no such member of {kind}")
        return getattr(self, f"_{kind}")(table, direction, at)  # type: ignore[no-any-return]

    def _expression(self, text: object, at: str) -> Expression | None:
        if not isinstance(text, str):
            self._fault(at, "an expression is a text")
            return None
        try:
            return Expression.compile(text)
        except ExpressionInvalid as error:
            self.in_expressions = True
            self._fault(at, error.detail)
            return None

    def _text(self, text: object, at: str) -> str:
        if not isinstance(text, str) or len(text) > MAX_TEXT_CHARACTERS:
            self._fault(at, f"it must be a text of at most {MAX_TEXT_CHARACTERS} characters")
            return ""
        return text

    def _require(self, table: Mapping[str, Any], _direction: Direction, at: str) -> Step | None:
        message = self._text(table.get("message", ""), f"{at}/message")
        condition = self._expression(table["require"], f"{at}/require")
        return None if condition is None else Require(condition, message)

    def _drop(self, table: Mapping[str, Any], _direction: Direction, at: str) -> Step | None:
        condition = self._expression(table["drop"], f"{at}/drop")
        return None if condition is None else Drop(condition)

    def _set(self, table: Mapping[str, Any], direction: Direction, at: str) -> Step | None:
        told = table["set"]
        at += "/set"
        if not isinstance(told, dict) or not told:
            self._fault(at, "it must be an object with value, key, headers or topic_partition")
            return None
        made: dict[str, Any] = {}
        for name, each in told.items():
            below = at + pointers.written([name])
            if name == "headers":
                made[name] = self._headers(each, below)
            elif name not in ("value", "key", "topic_partition"):
                self._fault(below, "there is no such member; there are value, key, headers and topic_partition")
            elif each is not None:
                made[name] = self._expression(each, below)
                if name == "topic_partition" and direction == "out":
                    self._fault(below, "a record's partition can be set on its way in only")
        return None if self.faults else Set(**made)

    def _headers(self, told: object, at: str) -> dict[str, Expression | None]:
        if not isinstance(told, dict) or len(told) > MAX_HEADERS:
            self._fault(at, f"it must be an object with at most {MAX_HEADERS} headers")
            return {}
        for name in told:
            self._text(name, at + pointers.written([name[:MAX_TEXT_CHARACTERS]]))
        return {
            name: None if each is None else self._expression(each, at + pointers.written([name]))
            for name, each in told.items()
        }

    def _mask(self, table: Mapping[str, Any], _direction: Direction, at: str) -> Step | None:
        with_ = self._text(table.get("with", "****"), f"{at}/with")
        listed = table["mask"]
        at += "/mask"
        if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_POINTERS:
            self._fault(at, f"it must be a list of 1 to {MAX_POINTERS} JSON pointers")
            return None
        for number, each in enumerate(listed):
            try:
                pointers.parse(self._text(each, f"{at}/{number}"))
            except ValueError as error:
                self._fault(f"{at}/{number}", str(error))
        return None if self.faults else Mask(tuple(listed), with_)

    def _schema(self, table: Mapping[str, Any], _direction: Direction, at: str) -> Step | None:
        try:
            return SchemaStep(Schema.compile(table["schema"]))
        except BadRequest as error:
            self._fault(f"{at}/schema", error.detail)
            return None

    def _plugin(self, table: Mapping[str, Any], direction: Direction, at: str) -> Step | None:
        name, options = table["plugin"], table.get("options", {})
        if not isinstance(name, str) or name not in self._plugins:
            known = ", ".join(sorted(self._plugins)) or "none is installed"
            self._fault(f"{at}/plugin", f"there is no such plugin ({known})")
            return None
        if not isinstance(options, dict):
            self._fault(f"{at}/options", "it must be an object")
            return None
        try:
            return PluginStep(name, options, self._plugins[name](options), direction == "in")
        except KatewayError as error:
            self._fault(f"{at}/options", error.detail)
            return None
