"""Reads parameters from their bytes: typed values, or 400. Past this module every value is valid.

What repeats from request to request (paths, queries without a key) is parsed once and kept in bounded tables: the hot
path looks it up.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

from kateway.bounded_cache import BoundedCache
from kateway.errors import (
    InvalidParameter,
    UnknownParameter,
)

T = TypeVar("T")

CACHED_TARGETS = 4096
MAX_CACHED_TARGET_BYTES = 512
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
_WHOLE = re.compile(rb"-?[0-9]{1,19}")
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,20})?|\.[0-9]{1,20}")


class Cache(Generic[T]):
    """A bounded table of parsed byte strings."""

    __slots__ = ("_parse", "_table")

    def __init__(self, parse: Callable[[bytes], T]) -> None:
        self._parse = parse
        self._table: BoundedCache[bytes, T] = BoundedCache(CACHED_TARGETS)

    def __call__(self, raw: bytes) -> T:
        found = self._table.get(raw)
        if found is None:
            found = self._parse(raw)
            if len(raw) <= MAX_CACHED_TARGET_BYTES:
                self._table.keep(raw, found)
        return found


def query(raw: bytes, known: frozenset[bytes]) -> dict[bytes, bytes]:
    """Splits a query into decoded values; an unknown or repeated parameter is refused by name.

    Percent-decoded only: a plus stays a plus, as it may be part of a key.
    """
    values: dict[bytes, bytes] = {}
    if not raw:
        return values
    for part in raw.split(b"&"):
        if not part:
            continue
        name, _, value = part.partition(b"=")
        name = unquote_to_bytes(name)
        if name not in known:
            there = f"known are {_listed(known)}" if known else "there are none here"
            raise UnknownParameter(f"unknown query parameter {shown(name)}; {there}")
        if name in values:
            raise InvalidParameter(f"{shown(name)} is given twice")
        values[name] = unquote_to_bytes(value)
    return values


def shown(raw: bytes) -> str:
    """A name or value in an error's text."""
    return repr(raw[:64].decode("utf-8", "backslashreplace"))


def _listed(names: frozenset[bytes]) -> str:
    return ", ".join(sorted(name.decode() for name in names))


def whole(values: Mapping[bytes, bytes], name: bytes, default: T, low: int, high: int) -> int | T:
    """A whole number from ``low`` to ``high``, else ``default`` where the parameter is absent."""
    raw = values.get(name)
    if raw is None:
        return default
    if not _WHOLE.fullmatch(raw) or not low <= int(raw) <= high:
        raise InvalidParameter(f"{name.decode()} must be a whole number from {low} to {high}")
    return int(raw)


def seconds(values: Mapping[bytes, bytes], name: bytes, default: float, high: float, *, zero: bool) -> float:
    """Seconds, perhaps fractional, up to ``high``; ``zero`` says whether 0 is allowed."""
    raw = values.get(name)
    if raw is None:
        return default
    if not _SECONDS.fullmatch(raw) or float(raw) > high or (not zero and float(raw) == 0):
        low = "from 0" if zero else "more than 0, up"
        raise InvalidParameter(f"{name.decode()} must be seconds, {low} to {high:g}")
    return float(raw)


def choice(values: Mapping[bytes, bytes], name: bytes, default: str, choices: Sequence[str]) -> str:
    """One of a few words."""
    raw = values.get(name)
    if raw is None:
        return default
    text = raw.decode("utf-8", "replace")
    if text not in choices:
        raise InvalidParameter(f"{name.decode()} must be one of {', '.join(choices)}")
    return text


def flag(values: Mapping[bytes, bytes], name: bytes) -> bool:
    """``1`` or ``0``."""
    return choice(values, name, "0", ("0", "1")) == "1"


def from_base64(raw: bytes | str, name: str) -> bytes:
    """Standard base64 with its padding."""
    try:
        return base64.b64decode(raw, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter(f"{name} is not base64") from error
