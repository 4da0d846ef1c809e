"""Formats the admin API's answers as text for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def show(found: Any, *, as_json: bool) -> str:
    """A list as a table, an object as lines of name and value with its lists of objects as tables behind them,
    a text as it is, nothing as ``done``.
    """
    if as_json:
        return json.dumps(found, indent=2, ensure_ascii=False)
    if found is None:
        return "done"
    if isinstance(found, str):
        return found.rstrip("\n")
    if isinstance(found, Mapping) and isinstance(found.get("items"), list):
        return table(found["items"])
    tables = {name: value for name, value in found.items() if _is_rows(value)}
    lines = _lines({name: value for name, value in found.items() if name not in tables})
    return "\n\n".join(["\n".join(lines)] * bool(lines) + [f"{name}:\n{table(rows)}" for name, rows in tables.items()])


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats rows under their members' names; columns without any value are left out."""
    if not rows:
        return "none"
    names = [name for name in {name: None for row in rows for name in row} if any(_cell(row.get(name)) for row in rows)]
    cells = [
        [name.upper().replace("_", " ") for name in names],
        *([_cell(row.get(name)) for name in names] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case Mapping():
            shown = ((name, _cell(inner)) for name, inner in value.items())
            return " ".join(f"{name}={text}" for name, text in shown if text)
        case list():
            return ",".join(map(_cell, value))
        case _:
            return printable(str(value))


def printable(text: str) -> str:
    """Leaves no control character: one in a description must not drive the reader's terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _lines(found: Any, indent: str = "") -> list[str]:
    lines: list[str] = []
    for name, value in found.items():
        if isinstance(value, Mapping) and any(isinstance(inner, (Mapping, list)) for inner in value.values()):
            lines.append(f"{indent}{name}:")
            lines += _lines(value, indent + "  ")
        else:
            lines.append(f"{indent}{name}: {'none' if value is None or value in ({}, []) else _cell(value)}".rstrip())
    return lines
