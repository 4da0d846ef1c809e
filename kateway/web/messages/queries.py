"""Reads the queries and headers of the message plane: those of a publish, of a subscription, of a read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from kateway.core.reads import Start
from kateway.errors import BadRequest, Contradiction, ExpressionInvalid, InvalidParameter
from kateway.model import Headers
from kateway.registry.validators import MAX_EXPRESSION_CHARACTERS
from kateway.storage.interface import Reset
from kateway.web.exchange import Header
from kateway.web.params import INT32_MAX, INT64_MAX, choice, flag, from_base64, query, seconds, shown, whole

T = TypeVar("T")

MAX_PUBLISH_SECONDS = 60.0
MAX_WAIT_SECONDS = 300.0


class PublishQuery(NamedTuple):
    """The query of a publish. ``acks`` and ``key`` are ``None`` where a header may still give them."""

    key: bytes | None
    partition: int | None
    acks: int | None
    timeout: float
    retries: int
    batch: bool
    timestamp: int | None = None
    tombstone: bool = False
    handoff: bool = True


class PublishHeaders(NamedTuple):
    """What a publish's headers add."""

    key: bytes | None
    acks: int | None
    headers: Headers
    timestamp: int | None = None
    idempotency: str | None = None


class SubscribeQuery(NamedTuple):
    """The query of a subscription; ``idle`` and ``max_bytes`` with their defaults worked out."""

    limit: int
    timeout: float
    idle: float
    follow: bool
    reset: Reset
    explicit: bool
    ack_timeout: float
    dead: bool
    max_bytes: int | None
    filter: str | None = None
    """Not compiled yet: that is for callers that are known."""


class ReadQuery(NamedTuple):
    """The query of a group-less read; ``start`` is ``None`` in a question about the topic itself, ``partition`` in a
    read of all partitions.
    """

    partition: int | None
    start: Start | None
    limit: int
    timeout: float
    max_bytes: int
    filter: str | None = None


# --- publish -----------------------------------------------------------------------------------------------------

PUBLISH = frozenset(
    {
        b"key",
        b"key_base64",
        b"partition",
        b"ack",
        b"timeout",
        b"retry",
        b"batch",
        b"timestamp",
        b"tombstone",
        b"handoff",
    }
)
DEFAULT_PUBLISH_SECONDS = 5.0
DEFAULT_RETRIES = 3
_RECORD_HEADER = b"kateway-header-"
_MEANT_FOR_US = frozenset({b"key", b"acks", b"content-type", b"kateway-timestamp", b"idempotency-key"})
_IDEMPOTENCY_KEY = re.compile(
    rb"""(?s)"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"|([!\x23-\x27*+\x2d-:=A-Z^_`a-z|~]{1,255})"""
)
"""A quoted string (RFC 9651 3.3.3) or a token, with ``/``, ``:`` and ``=`` besides."""


def publish_query(raw: bytes) -> PublishQuery:
    values = query(raw, PUBLISH)
    if b"key" in values and b"key_base64" in values:
        raise Contradiction("give key or key_base64, not both")
    key = values.get(b"key")
    encoded = values.get(b"key_base64")
    if encoded is not None:
        key = from_base64(encoded, "key_base64")
    return PublishQuery(
        key,
        whole(values, b"partition", None, 0, INT32_MAX),
        acks(values[b"ack"], "ack") if b"ack" in values else None,
        seconds(values, b"timeout", DEFAULT_PUBLISH_SECONDS, MAX_PUBLISH_SECONDS, zero=False),
        whole(values, b"retry", DEFAULT_RETRIES, 0, INT32_MAX),  # it is the deadline that ends them
        flag(values, b"batch"),
        whole(values, b"timestamp", None, 0, INT64_MAX),
        flag(values, b"tombstone"),
        b"handoff" not in values or flag(values, b"handoff"),
    )


def acks(raw: bytes, name: str) -> int:
    """0 none, 1 leader, anything more or ``all``: -1, all in-sync replicas (Kafka itself knows no 2)."""
    if raw in {b"all", b"-1"}:
        return -1
    if not raw.isdigit() or len(raw) > 19:
        raise InvalidParameter(f"{name} must be 0, 1, a number from 2 on, -1 or all")
    return min(int(raw), 2) if int(raw) < 2 else -1


def publish_headers(headers: Sequence[Header]) -> PublishHeaders:
    """``Key``, ``Acks``, ``Kateway-Timestamp``, ``Content-Type`` (kept with the record) and ``Kateway-Header-NAME``
    (the record's own).
    """
    key: bytes | None = None
    ack: int | None = None
    timestamp: int | None = None
    idempotency: str | None = None
    found: list[tuple[str, bytes | None]] = []
    for name, value in headers:
        if name in _MEANT_FOR_US:
            if name == b"content-type":
                found.append(("content-type", value))
            elif name == b"key":
                if key is not None and key != value:
                    raise Contradiction("the header Key is given twice")
                key = value
            elif name == b"acks":
                ack = _once("Acks", ack, acks(value, "Acks"))
            elif name == b"idempotency-key":
                idempotency = _once("Idempotency-Key", idempotency, _idempotency_key(value))
            else:
                given = whole({b"Kateway-Timestamp": value}, b"Kateway-Timestamp", 0, 0, INT64_MAX)
                timestamp = _once("Kateway-Timestamp", timestamp, given)
        elif name.startswith(_RECORD_HEADER):
            if len(name) == len(_RECORD_HEADER):
                raise InvalidParameter("a header Kateway-Header- needs a name behind it")
            found.append((name[len(_RECORD_HEADER) :].decode("ascii"), value))
    return PublishHeaders(key, ack, tuple(found), timestamp, idempotency)


def _idempotency_key(value: bytes) -> str:
    found = _IDEMPOTENCY_KEY.fullmatch(value)
    if found is None:
        raise InvalidParameter("Idempotency-Key must be a token or a quoted string of at most 255 characters")
    quoted, token = found.groups()
    raw: bytes = token if quoted is None else re.sub(rb"\\(.)", rb"\1", quoted)
    return raw.decode("ascii")


def _once(name: str, before: T | None, now: T) -> T:
    if before is not None and before != now:
        raise Contradiction(f"the header {name} is given twice")
    return now


def agreed(name: str, from_query: T | None, from_header: T | None) -> T | None:
    """A query parameter and its header may both be there if they say the same."""
    if from_query is None:
        return from_header
    if from_header is not None and from_header != from_query:
        raise Contradiction(f"the query parameter {name} and its header differ")
    return from_query


# --- subscribe ---------------------------------------------------------------------------------------------------

_SUBSCRIBE = frozenset(
    {b"limit", b"timeout", b"idle", b"follow", b"offset", b"ack", b"ack_timeout", b"queue", b"max_bytes", b"filter"}
)
_STARTS = frozenset({b"offset", b"timestamp", b"last"})
_READ = _STARTS | {b"partition", b"limit", b"timeout", b"max_bytes", b"filter"}
SMALL_LIMIT = 1000
DEFAULT_WAIT_SECONDS = 30.0
DEFAULT_MAX_BYTES = 1 << 20


def socket_query(raw: bytes) -> SubscribeQuery:
    """The query of a subscription over a WebSocket, which follows unless it is given a limit."""
    return subscribe_query(raw, as_socket=True)


def subscribe_query(raw: bytes, as_socket: bool = False) -> SubscribeQuery:
    values = query(raw, _SUBSCRIBE)
    asked_to_follow = flag(values, b"follow")
    follow = as_socket or asked_to_follow
    limit = whole(values, b"limit", 1, 1, INT64_MAX)
    timeout = seconds(values, b"timeout", DEFAULT_WAIT_SECONDS, MAX_WAIT_SECONDS, zero=True)
    small = limit <= SMALL_LIMIT
    idle = seconds(values, b"idle", 1.0 if small else timeout, MAX_WAIT_SECONDS, zero=True)
    max_bytes = whole(values, b"max_bytes", None, 1, INT64_MAX)
    if max_bytes is None and small and not follow:
        max_bytes = DEFAULT_MAX_BYTES
    return SubscribeQuery(
        limit=INT64_MAX if asked_to_follow or (as_socket and b"limit" not in values) else limit,
        timeout=timeout,
        idle=math.inf if follow else idle,
        follow=follow,
        reset="latest" if choice(values, b"offset", "earliest", ("earliest", "latest")) == "latest" else "earliest",
        explicit=choice(values, b"ack", "auto", ("auto", "explicit")) == "explicit",
        ack_timeout=_ack_timeout(values),
        dead=dead(values),
        max_bytes=max_bytes,
        filter=_filter(values),
    )


def dead(values: Mapping[bytes, bytes]) -> bool:
    """Whether the group's dead letters are meant: ``queue=dead``."""
    return b"queue" in values and choice(values, b"queue", "dead", ("dead",)) == "dead"


def _filter(values: Mapping[bytes, bytes]) -> str | None:
    raw = values.get(b"filter")
    if raw is None:
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidParameter("filter is not UTF-8") from error
    if len(text) > MAX_EXPRESSION_CHARACTERS:
        raise ExpressionInvalid(f"1:1 it has {len(text)} characters; at most {MAX_EXPRESSION_CHARACTERS} are allowed")
    return text


def _ack_timeout(values: Mapping[bytes, bytes]) -> float:
    given = seconds(values, b"ack_timeout", 60.0, 3600.0, zero=False)
    if given < 1:
        raise InvalidParameter("ack_timeout must be seconds, from 1 to 3600")
    return given


def start_of(values: Mapping[bytes, bytes]) -> Start | None:
    """Returns where a read without a group begins; ``None`` where it is not said. ``Contradiction``, ``BadRequest``."""
    begins = values.keys() & _STARTS
    if len(begins) > 1:
        raise Contradiction("give one of offset, timestamp and last")
    if b"offset" in values and b"partition" not in values:
        raise BadRequest("offset needs partition beside it; last and timestamp read all partitions without one")
    if b"timestamp" in values:
        return Start("timestamp", whole(values, b"timestamp", 0, 0, INT64_MAX))
    if b"last" in values:
        return Start("last", whole(values, b"last", 0, 1, INT64_MAX))
    raw = values.get(b"offset")
    if raw is None:
        return None
    if raw in {b"earliest", b"latest"}:
        return Start(raw.decode())
    if raw[:1] == b"-":
        return Start("last", whole({b"offset=-n": raw[1:]}, b"offset=-n", 0, 1, INT64_MAX))
    if not raw[:1].isdigit():
        raise InvalidParameter(f"offset must be a whole number, earliest, latest or -n (the last n), is {shown(raw)}")
    return Start("offset", whole(values, b"offset", 0, 0, INT64_MAX))


def read_query(raw: bytes) -> ReadQuery:
    values = query(raw, _READ)
    start = start_of(values)
    if values and start is None:
        raise BadRequest("give offset, timestamp or last to read; leave all out to ask about the topic")
    limit = whole(values, b"limit", start.at if start is not None and b"last" in values else 1, 1, INT64_MAX)
    return ReadQuery(
        whole(values, b"partition", None, 0, INT32_MAX),
        start,
        limit,
        seconds(values, b"timeout", DEFAULT_WAIT_SECONDS, MAX_WAIT_SECONDS, zero=True),
        whole(values, b"max_bytes", DEFAULT_MAX_BYTES if limit <= SMALL_LIMIT else INT64_MAX, 1, INT64_MAX),
        _filter(values),
    )
