"""Finds and replaces what JSON pointers name; ``*`` stands for any member of a list or map."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

Pointer = tuple[str, ...]
MAX_MEMBERS = 32
"""Of a pointer: so deep may it go."""
MAX_VISITS = 40_000
"""Members that one mask may look at, at 0.3 µs each."""
COPIES_A_VISIT = 16
"""Members of a list or map that are copied in the time of a visit."""


def parse(text: str) -> Pointer:
    """The members of a pointer. ``ValueError`` names the fault."""
    if not text.startswith("/"):
        raise ValueError(f"{text[:64]!r} is no JSON pointer below the document; begin with /")
    if re.search(r"~(?![01])", text):
        raise ValueError(f"{text[:64]!r}: write ~0 for ~ and ~1 for /")
    members = text[1:].split("/")
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"{text[:64]!r} has {len(members)} members; at most {MAX_MEMBERS} are allowed")
    # * alone is any member; a member that is called * cannot be named, which hides too much rather than too little
    return tuple(each.replace("~1", "/").replace("~0", "~") for each in members)


def written(members: Iterable[object]) -> str:
    """The pointer to a place; empty for the whole document."""
    return "".join("/" + str(each).replace("~", "~0").replace("/", "~1") for each in members)


def mask(document: Any, pointers: Sequence[Pointer], with_: str) -> Any:
    """The document with the named members replaced; the same object if there are none. Changes no list or map of it.

    ``ValueError`` if more than ``MAX_VISITS`` members have to be visited for it.
    """
    masking = _Masking(with_)
    for pointer in pointers:
        document = masking.of(document, pointer, 0)
    return document


class _Masking:
    def __init__(self, with_: str) -> None:
        self._with = with_
        self._left = MAX_VISITS

    def of(self, document: Any, pointer: Pointer, at: int) -> Any:
        if at == len(pointer):
            return document if type(document) is str and document == self._with else self._with
        member = pointer[at]
        members: Iterable[Any]
        if type(document) is dict:
            members = list(document) if member == "*" else [member] if member in document else ()
        elif type(document) is not list:
            return document
        elif member == "*":
            members = range(len(document))
        elif re.fullmatch(r"0|[1-9]\d{0,9}", member, re.ASCII) and int(member) < len(document):
            members = (int(member),)
        else:
            return document
        self._visit(len(document) if member == "*" else 1)
        changed = document
        for name in members:
            found = self.of(document[name], pointer, at + 1)
            if found is not document[name]:
                if changed is document:
                    self._visit(len(document) // COPIES_A_VISIT)
                    changed = document.copy()
                changed[name] = found
        return changed

    def _visit(self, members: int) -> None:
        self._left -= members
        if self._left < 0:
            raise ValueError(f"more than {MAX_VISITS} members have to be looked at")
