"""Reads and answers the admin handlers' requests: JSON in and out, etags and their conditions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from kateway.core.audited_changes import By
from kateway.errors import BadRequest, InvalidParameter, PreconditionFailed, TooLarge
from kateway.registry.documents import to_table
from kateway.registry.interface import ABSENT, ANY, Entry
from kateway.web import params
from kateway.web.admin.actors import OPEN, Actor
from kateway.web.exchange import JSON, NO_STORE, Exchange, Header, Request, Response

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_BODY_BYTES = 262_144

_ETAGS = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')


class AdminCall(NamedTuple):
    """A request that found its handler: the names in its path, its query, its caller."""

    request: Request
    names: Mapping[str, str]
    query: Mapping[str, str]
    exchange: Exchange
    """For a handler that streams its answer."""
    actor: Actor = OPEN

    def table(self) -> dict[str, Any]:
        """The body, a JSON object; none is an empty one."""
        body = self.request.body
        if not body.strip():
            return {}
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
        try:
            table = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"the body is not JSON: {error}") from error
        if not isinstance(table, dict):
            raise BadRequest("the body must be a JSON object")
        return table

    def expected(self, etag: str | None) -> str | None:
        """What ``If-Match`` and ``If-None-Match`` expect of an entry that has ``etag`` now (``None``: there is none),
        as the registry takes it. ``PreconditionFailed`` where it is plain already that it is not so.
        """
        match = self.request.header(b"if-match")
        if match is not None:
            if match.strip() == b"*":
                return ANY
            named = _ETAGS.findall(match.decode("latin-1"))
            if etag is not None and f'"{etag}"' in named:
                return etag
            raise PreconditionFailed("the entry is not (or no longer) the one that If-Match names: read it again")
        none_match = self.request.header(b"if-none-match")
        if none_match is not None and none_match.strip() == b"*":
            if etag is not None:
                raise PreconditionFailed("there is such an entry already")
            return ABSENT
        return None

    def flag(self, name: str) -> bool:
        return flag_of(self.query, name)


def merged(old: Entry | None, call: AdminCall) -> dict[str, Any]:
    """The members of an entry that a PUT leaves as it is, with those that it gives."""
    return {**({} if old is None else to_table(old)), **call.table()}


def by(call: AdminCall) -> By:
    """The caller, for the audit: its token's name, and its address."""
    return By(call.actor.name, call.request.id, call.request.peer)


def flag_of(query: Mapping[str, str], name: str) -> bool:
    """A parameter that is true or false. ``InvalidParameter``."""
    value = query.get(name, "false")
    if value not in {"true", "false", "1", "0"}:
        raise InvalidParameter(f"{name} must be true or false")
    return value in {"true", "1"}


def query_of(raw: bytes, allowed: frozenset[str]) -> dict[str, str]:
    """A query's parameters. ``UnknownParameter``, ``InvalidParameter``."""
    values = params.query(raw, frozenset(name.encode() for name in allowed))
    return {name.decode(): value.decode("utf-8", "replace") for name, value in values.items()}


def only(table: Mapping[str, Any], *members: str) -> None:
    """``InvalidParameter`` for a member that there is not."""
    for member in table:
        if member not in members:
            raise InvalidParameter(f"{member[:64]}: there is no such member, only {', '.join(members)}")


def answer(status: int, body: Any, *, etag: str | None = None, headers: Sequence[Header] = ()) -> Response:
    """A JSON response. With no ``etag`` of an entry's own it has that of its bytes."""
    content = orjson.dumps(body)
    if etag is None:
        etag = hashlib.blake2b(content, digest_size=12).hexdigest()
    return Response(status, (JSON, NO_STORE, (b"ETag", f'"{etag}"'.encode("latin-1")), *headers), content)


def unless_known(request: Request, response: Response) -> Response:
    """304 in the place of what the client says it has."""
    known = request.header(b"if-none-match")
    if known is None or response.status != 200 or request.method not in {b"GET", b"HEAD"}:
        return response
    etag = dict(response.headers)[b"ETag"].decode("latin-1")
    named = {text.removeprefix("W/") for text in _ETAGS.findall(known.decode("latin-1"))}
    if known.strip() != b"*" and etag not in named:
        return response
    return Response(304, tuple(header for header in response.headers if header[0] != b"Content-Type"), b"")


def page_limit(query: Mapping[str, str]) -> int:
    """How many entries a page has at most. ``InvalidParameter``."""
    given = query.get("limit", str(DEFAULT_LIMIT))
    if not given.isascii() or not given.isdigit() or len(given) > 9 or not 1 <= int(given) <= MAX_LIMIT:
        raise InvalidParameter(f"limit must be from 1 to {MAX_LIMIT}")
    return int(given)
