"""Reads and writes what passes between two gateways: calls, and the messages of a reader's stream. Pure.

On a reader's stream the gateway of its client sends ``TAKE`` (one more batch is wanted: at most so many records, about
so many bytes), ``SETTLE``, ``FINISH`` (no more is taken), ``PAUSE`` (the client has no room) and ``READ`` (what the
client says it has read). Each says how many batches were written to the client so far, and how many records it read.

The home sends ``BATCH``, ``STATE`` (of its membership), ``FAIL`` (the reader cannot go on). It sends a batch only for
a ``TAKE``, one each: a slow client costs it nothing. A batch counts as sent when a message of the other end says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple

import orjson

from kateway.cluster.errors import error_object, error_of
from kateway.core.delivery.batch import Ack, Batch
from kateway.errors import KatewayError, NotHere
from kateway.model import Record

TAKE, SETTLE, FINISH, PAUSE, READ = b"T", b"S", b"F", b"P", b"R"
BATCH, STATE, FAIL = b"B", b"M", b"E"

_COUNTS = Struct(">QQ")
_ROOM = Struct(">IQ")
_BATCH = Struct(">iqII")
_RECORD = Struct(">qqiii")
_LENGTH = Struct(">i")


class Malformed(Exception):
    """What the other gateway sent cannot be read."""


class Counts(NamedTuple):
    """How far a stream's client side is, counted from the stream's beginning."""

    sent: int
    """Batches that were written to the client."""
    settled: int
    """Records that the client has read."""


def take(counts: Counts, max_records: int, max_bytes: int) -> bytes:
    return TAKE + _COUNTS.pack(*counts) + _ROOM.pack(max_records, max_bytes)


def settle(counts: Counts) -> bytes:
    return SETTLE + _COUNTS.pack(*counts)


def finish(counts: Counts) -> bytes:
    return FINISH + _COUNTS.pack(*counts)


def pause(counts: Counts) -> bytes:
    return PAUSE + _COUNTS.pack(*counts)


def read_up_to(counts: Counts, read: Mapping[int, int]) -> bytes:
    return READ + _COUNTS.pack(*counts) + orjson.dumps(sorted(read.items()))


def counts_of(message: bytes) -> Counts:
    """``Malformed``."""
    try:
        return Counts(*_COUNTS.unpack_from(message, 1))
    except StructError as error:
        raise Malformed("a message is too short") from error


def room_of(message: bytes) -> tuple[int, int]:
    """How many records and bytes a ``TAKE`` asks for. ``Malformed``."""
    try:
        records, size = _ROOM.unpack_from(message, 1 + _COUNTS.size)
        return records, size
    except StructError as error:
        raise Malformed("a message is too short") from error


def read_of(message: bytes) -> dict[int, int]:
    """``Malformed``."""
    try:
        return {int(partition): int(offset) for partition, offset in orjson.loads(message[1 + _COUNTS.size :])}
    except (ValueError, TypeError) as error:
        raise Malformed("a message cannot be read") from error


def state(*, expects: bool, available: bool, last_error: KatewayError | None) -> bytes:
    told = None if last_error is None else error_object(last_error)
    return STATE + orjson.dumps({"expects": expects, "available": available, "error": told})


def fail(error: KatewayError) -> bytes:
    return FAIL + orjson.dumps(error_object(error))


def failure_of(message: bytes) -> KatewayError:
    """``Malformed``."""
    try:
        return error_of(orjson.loads(message[1:]))
    except ValueError as error:
        raise Malformed("a message cannot be read") from error


class HomeState(NamedTuple):
    """What a reader wants to know of the membership that it reads."""

    expects: bool
    available: bool
    last_error: KatewayError | None


def state_of(message: bytes) -> HomeState:
    """``Malformed``."""
    try:
        said = orjson.loads(message[1:])
        error = said["error"]
        return HomeState(bool(said["expects"]), bool(said["available"]), None if error is None else error_of(error))
    except (ValueError, TypeError, KeyError) as error:
        raise Malformed("a message cannot be read") from error


def batch(taken: Batch) -> bytes:
    """Encodes a batch that was not sent yet."""
    said = orjson.dumps({"attempts": taken.attempts, "leases": taken.leases})
    parts = [BATCH, _BATCH.pack(taken.partition, taken.start, len(said), taken.count), said]
    for offset, timestamp, key, value, headers in taken.records:
        parts.append(
            _RECORD.pack(
                offset, timestamp, -1 if key is None else len(key), -1 if value is None else len(value), len(headers)
            )
        )
        parts += [key or b"", value or b""]
        for name, content in headers:
            parts += [_bytes(name.encode()), _bytes(content)]
    return b"".join(parts)


def batch_of(message: bytes, now: float) -> Batch:
    """Makes a batch of what came, for a reader of this gateway. ``Malformed``."""
    try:
        partition, start, length, count = _BATCH.unpack_from(message, 1)
        place = 1 + _BATCH.size + length
        said = orjson.loads(message[1 + _BATCH.size : place])
        records = []
        for _ in range(count):
            offset, timestamp, key_length, value_length, headers_count = _RECORD.unpack_from(message, place)
            key, place = _piece(message, place + _RECORD.size, key_length)
            value, place = _piece(message, place, value_length)
            headers = []
            for _ in range(headers_count):
                name, place = _read_bytes(message, place)
                content, place = _read_bytes(message, place)
                headers.append(((name or b"").decode(), content))
            records.append(Record(offset, timestamp, key, value, tuple(headers)))
        if not records or place != len(message):
            raise Malformed("a batch of records is cut off")
        found = Batch(partition, start, records, said["attempts"], now)
        found.leases = said["leases"]
    except (StructError, ValueError, TypeError, KeyError) as error:
        raise Malformed("a batch of records cannot be read") from error
    if found.leases is not None:
        found.items = []
    return found


def _bytes(content: bytes | None) -> bytes:
    return _LENGTH.pack(-1) if content is None else _LENGTH.pack(len(content)) + content


def _read_bytes(message: bytes, place: int) -> tuple[bytes | None, int]:
    (length,) = _LENGTH.unpack_from(message, place)
    return _piece(message, place + _LENGTH.size, length)


def _piece(message: bytes, place: int, length: int) -> tuple[bytes | None, int]:
    if length < 0:
        return None, place
    if place + length > len(message):
        raise Malformed("a batch of records is cut off")
    return message[place : place + length], place + length


# --- calls ---------------------------------------------------------------------------------------------------------


def request(what: str, cluster: str, group: str, topic: str, **more: Any) -> bytes:
    """Encodes a call, or the opening of a stream."""
    return orjson.dumps({"what": what, "cluster": cluster, "group": group, "topic": topic, **more})


def request_of(message: bytes) -> dict[str, Any]:
    """``Malformed``."""
    try:
        found = orjson.loads(message)
        if not all(isinstance(found[name], str) for name in ("what", "cluster", "group", "topic")):
            raise Malformed("a request cannot be read")
    except (ValueError, TypeError, KeyError) as error:
        raise Malformed("a request cannot be read") from error
    return dict(found)


def ack_list(acks: Sequence[Ack]) -> list[list[Any]]:
    return [list(ack) for ack in acks]


def acks_of(given: Any) -> list[Ack]:
    """``Malformed``."""
    try:
        return [Ack(*each) for each in given]
    except TypeError as error:
        raise Malformed("acknowledgements cannot be read") from error


def outcomes(found: Sequence[KatewayError | None]) -> bytes:
    return orjson.dumps([None if each is None else error_object(each) for each in found])


def outcomes_of(message: bytes) -> list[KatewayError | None]:
    """Outcomes of acknowledgements; ``NotHere`` for each that the other gateway does not hold the partition of."""
    try:
        return [None if each is None else error_of(each) for each in orjson.loads(message)]
    except (ValueError, TypeError) as error:
        raise Malformed("an answer cannot be read") from error


NOT_HERE = NotHere("another gateway holds the partition by now; try again")
