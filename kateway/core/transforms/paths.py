"""Finds which parts of a record an expression reads, so that only these are converted for it.

A conversion costs 1 µs a value, most of a filter's time: ``record.json.amount > 0`` on 100 bytes of JSON with nine
values takes 21 µs with all of them and 8 µs with the one.
"""

from __future__ import annotations

import re
from typing import Any, Optional

from kateway.core.transforms.syntax import Node

Wanted = dict[str, Optional["Wanted"]]
"""The members that are read, and of each what is read of it; ``None``: all."""

PLAIN_TEXT = re.compile(r"""(['"])([^'"\\\n]*)\1""")


def wanted(tree: Node) -> Wanted | None:
    """What an expression reads of the record."""
    found: Wanted = {}
    collected: Wanted = {"record": found}
    _collect(tree, collected)
    return collected["record"]


def pruned(document: Any, parts: Wanted | None) -> Any:
    """The document with the wanted members alone. What is no map where one is expected stays wrong in the same way."""
    if parts is None:
        return document
    if type(document) is dict:
        return {name: pruned(document[name], below) for name, below in parts.items() if name in document}
    return [] if type(document) is list else document


def _collect(node: Node, found: dict[str, Any]) -> None:
    path = _path(node)
    if path is None:
        for each in node.parts:
            _collect(each, found)
        return
    at = found
    for name in path[:-1]:
        if at.setdefault(name, {}) is None:
            return
        at = at[name]
    at[path[-1]] = None


def _path(node: Node) -> list[str] | None:
    """The members from the record to what a part reads, where these are written out."""
    if node.kind == "name" and node.text == "record":
        return ["record"]
    if node.kind == "select":
        above = _path(node.parts[0])
        return None if above is None else [*above, node.text]
    if node.kind == "index" and node.parts[1].kind == "literal":
        above, text = _path(node.parts[0]), PLAIN_TEXT.fullmatch(node.parts[1].text)
        return None if above is None or text is None else [*above, text[2]]
    return None
