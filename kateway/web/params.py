"""From path, query and headers to typed values, or 400: past this module every value is valid.

A request target is split while it is still bytes, then each part is percent-decoded once, so that an encoded slash
never makes a segment. What repeats from request to request (paths, queries without a key) is parsed once and kept in
bounded tables: the hot path looks it up.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import unquote_to_bytes

from kateway.bounded_cache import BoundedCache
from kateway.core.reads import Start
from kateway.errors import BadRequest, Contradiction, InvalidName, InvalidParameter, UnknownParameter
from kateway.model import Headers
from kateway.storage.interface import Reset
from kateway.web.exchange import Header

T = TypeVar("T")

CACHED_TARGETS = 4096
MAX_CACHED_TARGET_BYTES = 512
MAX_PUBLISH_SECONDS = 60.0
MAX_WAIT_SECONDS = 300.0
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
_VERSION = re.compile(r"v[0-9]{1,9}")
_WHOLE = re.compile(rb"-?[0-9]{1,19}")
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,20})?|\.[0-9]{1,20}")


class TopicPath(NamedTuple):
    """``/{version}/topics/{topic}[/{group}[/{action}]]``, decoded and within its grammar."""

    version: str
    topic: str
    group: str | None
    action: str | None


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


class ReadQuery(NamedTuple):
    """The query of a group-less read; ``start`` is ``None`` in a question about the topic itself, ``partition`` in a
    read of all partitions.
    """

    partition: int | None
    start: Start | None
    limit: int
    timeout: float
    max_bytes: int


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


def topic_path(path: bytes, topic_name: re.Pattern[str], group_name: re.Pattern[str]) -> TopicPath | None:
    """Takes a path apart; ``None`` where it is not one of a topic's. ``InvalidName`` names the part that is wrong."""
    parts = path.split(b"/")
    if not 4 <= len(parts) <= 6 or parts[0] or parts[2] != b"topics":
        return None
    version, topic, *rest = (_decoded(part) for part in (parts[1], *parts[3:]))
    if not _VERSION.fullmatch(version):
        raise InvalidName(f"the version {version[:64]!r} is not v and a number, such as v1")
    for kind, grammar, text in (("topic", topic_name, topic), *(("group", group_name, group) for group in rest[:1])):
        if not grammar.fullmatch(text) or text in {".", ".."}:
            raise InvalidName(f"the {kind} {text[:64]!r} does not match {grammar.pattern}")
    return TopicPath(version, topic, rest[0] if rest else None, rest[1] if len(rest) > 1 else None)


def topics_path(path: bytes) -> TopicPath | None:
    """``/{version}/topics``, as a path whose topic is empty; ``None`` where it is something else."""
    parts = path.split(b"/")
    if len(parts) != 3 or parts[0] or parts[2] != b"topics":
        return None
    version = _decoded(parts[1])
    if not _VERSION.fullmatch(version):
        raise InvalidName(f"the version {version[:64]!r} is not v and a number, such as v1")
    return TopicPath(version, "", None, None)


def _decoded(part: bytes) -> str:
    try:
        return unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidName("the path is not UTF-8") from error


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
            raise UnknownParameter(f"unknown query parameter {_shown(name)}; known are {_listed(known)}")
        if name in values:
            raise InvalidParameter(f"{_shown(name)} is given twice")
        values[name] = unquote_to_bytes(value)
    return values


def _shown(raw: bytes) -> str:
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


# --- publish -----------------------------------------------------------------------------------------------------

_PUBLISH = frozenset(
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
    values = query(raw, _PUBLISH)
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


def from_base64(raw: bytes | str, name: str) -> bytes:
    """Standard base64 with its padding."""
    try:
        return base64.b64decode(raw, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidParameter(f"{name} is not base64") from error


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
    {b"limit", b"timeout", b"idle", b"follow", b"offset", b"ack", b"ack_timeout", b"queue", b"max_bytes"}
)
_STARTS = frozenset({b"offset", b"timestamp", b"last"})
_READ = _STARTS | {b"partition", b"limit", b"timeout", b"max_bytes"}
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
    )


def dead(values: Mapping[bytes, bytes]) -> bool:
    """Whether the group's dead letters are meant: ``queue=dead``."""
    return b"queue" in values and choice(values, b"queue", "dead", ("dead",)) == "dead"


def _ack_timeout(values: Mapping[bytes, bytes]) -> float:
    given = seconds(values, b"ack_timeout", 60.0, 3600.0, zero=False)
    if given < 1:
        raise InvalidParameter("ack_timeout must be seconds, from 1 to 3600")
    return given


def _start(values: Mapping[bytes, bytes]) -> Start | None:
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
        raise InvalidParameter(f"offset must be a whole number, earliest, latest or -n (the last n), is {_shown(raw)}")
    return Start("offset", whole(values, b"offset", 0, 0, INT64_MAX))


def read_query(raw: bytes) -> ReadQuery:
    values = query(raw, _READ)
    begins = values.keys() & _STARTS
    if len(begins) > 1:
        raise Contradiction("give one of offset, timestamp and last")
    if b"offset" in values and b"partition" not in values:
        raise BadRequest("offset needs partition beside it; last and timestamp read all partitions without one")
    if values and not begins:
        raise BadRequest("give offset, timestamp or last to read; leave all out to ask about the topic")
    start = _start(values)
    limit = whole(values, b"limit", start.at if start is not None and b"last" in values else 1, 1, INT64_MAX)
    return ReadQuery(
        whole(values, b"partition", None, 0, INT32_MAX),
        start,
        limit,
        seconds(values, b"timeout", DEFAULT_WAIT_SECONDS, MAX_WAIT_SECONDS, zero=True),
        whole(values, b"max_bytes", DEFAULT_MAX_BYTES if limit <= SMALL_LIMIT else INT64_MAX, 1, INT64_MAX),
    )
