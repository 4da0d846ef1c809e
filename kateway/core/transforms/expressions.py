"""Compiles CEL expressions and runs them on records, never for longer than a bounded time.

An expression sees ``record`` (see ``record_view``) and ``now``, milliseconds since the epoch as an integer, like
``record.timestamp``: CEL does not add an integer to a fraction.

The library cannot be stopped once it runs, so nothing is begun that can last. What an expression can cost on a record
is reckoned from its text and the record's size (``cost``): one that exceeds ``BUDGET_NS`` on ``SMALL``, a record of 1
KiB, is refused when it is compiled; on a larger record it fails before it begins. The reckoning is twice to ten times
what is measured in CPU time, and the budget is half of the 50 ms that a record may take.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import Any

import attrs
import cel

from kateway.core.transforms import cost, record_view
from kateway.core.transforms.cost import Size
from kateway.core.transforms.paths import Wanted, wanted
from kateway.core.transforms.record_view import RecordView
from kateway.core.transforms.syntax import FIELDS, Node, parse, place
from kateway.errors import ExpressionInvalid, TransformFailed
from kateway.registry.validators import MAX_EXPRESSION_CHARACTERS

MAX_DEPTH = 32
"""Levels of brackets and operands of a chain; the library refuses 200, and takes 0.1 ms for 50."""
BUDGET_NS = 25_000_000
MAX_RESULT_BYTES = 16 * 1024 * 1024
MAX_VALUES = 25_000
"""Of what an expression reads: converting these takes the budget."""
SIZES = tuple(64 << power for power in range(20))
_LITERAL_PROBES = {
    "matches": (2, "''.matches({})", "it is no valid pattern"),
    "timestamp": (1, "timestamp({})", "it is no time as text, such as '2026-11-30T12:00:00Z'"),
    "duration": (1, "duration({})", "it is no duration as text, such as '1h30m'"),
}
"""By function: with so many parts (a method's receiver first), an expression that tries its last one alone."""
SMALL = Size(values=64, bytes=1024, members=64)
"""What every expression must manage: a record of 1 KiB with 64 values."""


@attrs.frozen
class Expression:
    """A compiled expression. It holds no state: one may be run on any number of records."""

    text: str
    _program: Any = attrs.field(repr=False, eq=False)
    _tree: Node = attrs.field(repr=False, eq=False)
    _fields: Wanted = attrs.field(repr=False, eq=False)
    _free_bytes: int = attrs.field(repr=False, eq=False)
    """A record of so many bytes is within the budget whatever is in it."""

    @classmethod
    def compile(cls, text: str, *, max_length: int = MAX_EXPRESSION_CHARACTERS) -> Expression:
        """Compiles an expression. ``ExpressionInvalid`` names line, column and fault."""
        if len(text) > max_length:
            raise ExpressionInvalid(f"1:1 it has {len(text)} characters; at most {max_length} are allowed")
        tree = parse(text, MAX_DEPTH)
        if _over(tree, SMALL):
            at = place(text, _dearest(tree))
            raise ExpressionInvalid(f"{at} it can take longer than allowed on a record of 1 KiB; make it simpler")
        try:
            program = cel.compile(text)
        except Exception as error:
            raise ExpressionInvalid(_fault(str(error))) from error
        except BaseException as error:
            _reraise_unless_panic(error)
            raise ExpressionInvalid("1:1 the expression cannot be compiled") from error
        _check_names(text, tree, program)
        _check_literals(text, tree)
        fields = _fields(tree)
        return cls(text, program, tree, fields, _free_bytes(tree, fields))

    def evaluate(self, view: RecordView, now: float) -> object:
        """What the expression gives on a record. ``TransformFailed`` says why there is nothing."""
        size = len(view.value or b"") + len(view.key or b"")
        if view.headers:
            size += view.header_bytes()
        if size > self._free_bytes:
            self._check_size(view, size)
        try:
            return self._program.execute({"record": view.fields(self._fields), "now": int(now * 1000)})
        except TransformFailed:
            raise
        except KeyError as error:
            raise TransformFailed(f"{self.text}: there is no {error.args[0]!r}") from error
        except Exception as error:
            raise TransformFailed(f"{self.text}: {_first_sentence(error)}") from error
        except BaseException as error:
            _reraise_unless_panic(error)
            raise TransformFailed(f"{self.text}: it cannot be evaluated on this record") from error

    def is_true(self, view: RecordView, now: float) -> bool:
        """Whether the expression is true of a record. ``TransformFailed`` if it gives neither true nor false."""
        found = self.evaluate(view, now)
        if found is True or found is False:
            return found
        raise TransformFailed(f"{self.text}: it gives {_kind(found)}, neither true nor false")

    def _check_size(self, view: RecordView, size: int) -> None:
        values = 0
        if "json" in self._fields and view.value:
            # parsed first: that refuses what takes too long to count, too
            values += 0 if view.json is None else record_view.separators(view.value)
        if "headers" in self._fields:
            values += 2 * len(view.headers)
        if _over(self._tree, _size(self._fields, size, values)):
            # only what it reads is converted, and that may be little
            exact = cost.measured(view.fields(self._fields), MAX_VALUES)
            if exact is None or _over(self._tree, exact):
                raise self._too_large(size)

    def _too_large(self, size: int) -> TransformFailed:
        return TransformFailed(f"{self.text}: the record is too large for it ({size} bytes)")


def _fields(tree: Node) -> Wanted:
    """What an expression reads of a record; all, where it reads the record as a whole."""
    found = wanted(tree)
    return dict.fromkeys(FIELDS) if found is None else {name: found[name] for name in found if name in FIELDS}


def _size(fields: Wanted, size: int, values: int) -> Size:
    # the value may be seen twice, as text and parsed
    return Size(len(FIELDS) + 2 + values, 2 * size if {"json", "value"} <= fields.keys() else size, values + 1)


def _over(tree: Node, size: Size) -> bool:
    bound = cost.estimate(tree, size)
    return bound.ns > BUDGET_NS or bound.bytes + 8 * bound.values > MAX_RESULT_BYTES


def _free_bytes(tree: Node, fields: Wanted) -> int:
    """The largest of ``SIZES`` that is within the budget however many values are in so many bytes."""

    def over(size: int) -> bool:
        # the densest JSON has a value in two bytes: [1,1]
        return _over(tree, _size(fields, size, size // 2 if fields.keys() & {"json", "headers"} else 0))

    first_over = bisect_left(SIZES, True, key=over)
    return SIZES[first_over - 1] if first_over else 0


def _check_names(text: str, tree: Node, program: Any) -> None:
    """Refuses what the library reads otherwise than ``syntax`` does, as its cost is not known."""
    known: set[str] = set()
    left = [tree]
    while left:
        node = left.pop()
        left += node.parts
        if node.kind in ("call", "name"):
            known.add(node.text)
        elif node.kind == "macro":
            known.add(node.variable)
    names = program.references()
    # operators and what macros are made of have signs in their names
    read = {*names["variables"], *(name for name in names["functions"] if name.isidentifier() and name[0] != "_")}
    if read - known:
        raise ExpressionInvalid(f"1:1 {text[:64]!r} cannot be read without doubt; write it in a simpler way")


def _check_literals(text: str, tree: Node) -> None:
    """Refuses calls that would fail on every record: patterns, times and durations that are written out, time zones."""
    left = [tree]
    while left:
        node = left.pop()
        left += node.parts
        if node.kind != "call" or not node.parts:
            continue
        last = node.parts[-1]
        if node.text.startswith("get") and len(node.parts) > 1:
            # the library knows no such function, and says so at the first record only
            raise ExpressionInvalid(f"{place(text, last.at)} {node.text}() takes no time zone; times are in UTC")
        many, probe, fault = _LITERAL_PROBES.get(node.text, (0, "", ""))
        if len(node.parts) == many and last.kind == "literal":
            try:
                cel.compile(probe.format(last.text)).execute({})
            except Exception as error:
                raise ExpressionInvalid(f"{place(text, last.at)} {fault}") from error
            except BaseException as error:
                _reraise_unless_panic(error)
                raise ExpressionInvalid(f"{place(text, last.at)} {fault}") from error


def _dearest(tree: Node) -> int:
    """The place of the smallest part that exceeds the budget by itself."""
    for each in tree.parts:
        if tree.kind != "macro" and _over(each, SMALL):
            return _dearest(each)
    return tree.at


PLACE = re.compile(r"<input>:(\d+:\d+): (?:Syntax error: )?([^\n]*)")


def _fault(message: str) -> str:
    found = PLACE.search(message)
    return f"{found[1]} {found[2][:200]}" if found else f"1:1 {message[:200]}"


def _first_sentence(error: Exception) -> str:
    return str(error).split(". ")[0].split("\n")[0][:200]


def _kind(found: object) -> str:
    names = {str: "text", int: "a number", float: "a number", list: "a list", dict: "a map", type(None): "null"}
    return names.get(type(found), type(found).__name__)


def _reraise_unless_panic(error: BaseException) -> None:
    # a fault inside the library arrives as pyo3's PanicException, which is no Exception
    if type(error).__name__ != "PanicException":
        raise error
