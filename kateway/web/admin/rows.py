"""Filters, sorts and pages lists: of a registry's entries, and of rows of figures that change all the time."""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from kateway.errors import InvalidParameter
from kateway.web.admin.requests import flag_of, page_limit

LIST_QUERY = frozenset({"after", "limit", "sort", "desc", "contains"})
ROWS_QUERY = LIST_QUERY | {"state"}

Row = Mapping[str, Any]
"""Has a ``name`` of its own, mostly a ``state``, and members to sort by: numbers or texts, ``None`` where unknown."""


class Pages:
    """Pages of a snapshot's mapping in the order of its entries' names, sorted once for each mapping, or by a member of
    theirs that is ``sortable``.
    """

    def __init__(self, show: Callable[[Any], dict[str, Any]], sortable: Sequence[str] = ()) -> None:
        self._show = show
        self._sortable = sortable
        self._of: Mapping[Any, Any] | None = None
        self._names: list[str] = []
        self._entries: list[Any] = []

    def page(self, entries: Mapping[Any, Any], query: Mapping[str, str]) -> dict[str, Any]:
        """One page, as ``page_of`` says."""
        if entries is not self._of:
            named = sorted((name if isinstance(name, str) else "/".join(name), name) for name in entries)
            self._names = [text for text, _name in named]
            self._entries = [entries[name] for _text, name in named]
            self._of = entries
        if not query.keys() <= {"after", "limit"}:
            return self._chosen(query)
        limit = page_limit(query)
        start = bisect_right(self._names, query["after"]) if "after" in query else 0
        names = self._names[start : start + limit]
        shown = self._entries[start : start + limit]
        items = [{"name": name, **self._show(entry)} for name, entry in zip(names, shown, strict=True)]
        return {"items": items, "next": names[-1] if start + limit < len(self._names) else None}

    def _chosen(self, query: Mapping[str, str]) -> dict[str, Any]:
        # of entries that are not on the page only the members that are asked for are looked at
        members = [name for name in self._sortable if name == query.get("sort") or (name == "state" and name in query)]
        rows = [
            {"name": name, "entry": entry, **{member: getattr(entry, member) for member in members}}
            for name, entry in zip(self._names, self._entries, strict=True)
        ]
        page = page_of(rows, query, self._sortable)
        page["items"] = [{"name": row["name"], **self._show(row["entry"])} for row in page["items"]]
        return page


def check_choice(query: Mapping[str, str], name: str, choices: Iterable[str]) -> None:
    """``InvalidParameter`` for a parameter whose value is none of those that there are; it may be left out."""
    given, known = query.get(name), list(choices)
    if given is not None and given not in known:
        raise InvalidParameter(f"{name} must be one of {', '.join(known)}; is {given[:64]!r}")


def page_of(rows: Iterable[Row], query: Mapping[str, str], sortable: Iterable[str]) -> dict[str, Any]:
    """One page: of rows whose name contains ``contains``, of this ``state``, sorted by name or by ``sort``. Rows whose
    figure is unknown come last, either way.
    """
    sort, desc = query.get("sort", "name"), flag_of(query, "desc")
    columns = ["name", *sortable]
    if sort not in columns:
        raise InvalidParameter(f"sort must be one of {', '.join(columns)}")
    contains, state = query.get("contains", "").lower(), query.get("state")
    found = [row for row in rows if contains in row["name"].lower() and (state is None or row.get("state") == state)]
    found.sort(key=lambda row: str(row["name"]), reverse=desc and sort == "name")
    if sort != "name":
        known = [row for row in found if row[sort] is not None]
        known.sort(key=lambda row: row[sort], reverse=desc)
        found = known + [row for row in found if row[sort] is None]
    if "after" in query:
        last = _last(query["after"], sort)
        found = [row for row in found if _behind(row, sort, desc, *last)]
    limit = page_limit(query)
    items = found[:limit]
    return {"items": items, "next": _cursor(items[-1], sort) if len(found) > limit else None}


def _cursor(row: Row, sort: str) -> str:
    if sort == "name":
        return str(row["name"])
    return base64.urlsafe_b64encode(orjson.dumps([row[sort], row["name"]])).decode()


def _last(after: str, sort: str) -> tuple[Any, str]:
    """The figure and the name of the last row of the page before."""
    if sort == "name":
        return after, after
    try:
        value, name = orjson.loads(base64.urlsafe_b64decode(after))
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidParameter("after must be the next of a page that was sorted in the same way") from error
    if not isinstance(name, str):
        raise InvalidParameter("after must be the next of a page that was sorted in the same way")
    return value, name


def _behind(row: Row, sort: str, desc: bool, value: Any, name: str) -> bool:
    own = row[sort]
    if own == value:
        return bool(row["name"] > name)
    if own is None or value is None:
        return own is None
    try:
        return bool(own < value if desc else own > value)
    except TypeError as error:
        raise InvalidParameter("after must be the next of a page that was sorted in the same way") from error
