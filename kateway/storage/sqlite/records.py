"""Packs records as they lie in the log: one after another, each a head of four lengths and then its bytes.

``timestamp i64, key length i32, value length i32, headers length i32`` (big-endian; a length of -1 is null), then
key, value and headers. Headers are ``name length u32, value length i32, name, value`` each. Offsets are not written:
records lie without gaps from the first of their row on.
"""

from __future__ import annotations

from struct import Struct

from kateway.model import NO_HEADERS, Headers, Record

_HEAD = Struct(">qiii")
_HEADER = Struct(">Ii")
HEAD_BYTES = _HEAD.size


def encode(timestamp: int, key: bytes | None, value: bytes | None, headers: Headers) -> bytes:
    """One record as the log holds it."""
    tail = _encode_headers(headers) if headers else b""
    if value is None:
        value, value_length = b"", -1
    else:
        value_length = len(value)
    if key is None:
        return _HEAD.pack(timestamp, -1, value_length, len(tail)) + value + tail
    return _HEAD.pack(timestamp, len(key), value_length, len(tail)) + key + value + tail


def _encode_headers(headers: Headers) -> bytes:
    parts = []
    for name, value in headers:
        encoded = name.encode()
        parts.append(_HEADER.pack(len(encoded), -1 if value is None else len(value)))
        parts.append(encoded)
        parts.append(value or b"")
    return b"".join(parts)


def _decode_headers(data: bytes) -> Headers:
    headers: list[tuple[str, bytes | None]] = []
    at = 0
    while at < len(data):
        name_length, value_length = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        name = data[at : at + name_length].decode()
        at += name_length
        if value_length < 0:
            headers.append((name, None))
        else:
            headers.append((name, data[at : at + value_length]))
            at += value_length
    return tuple(headers)


class Slice:
    """Encoded records that lie one behind the other, decoded as they are asked for."""

    __slots__ = ("_at", "_data", "end", "offset")

    def __init__(self, data: bytes, offset: int, end: int) -> None:
        self._data = data
        self._at = 0
        self.offset = offset
        """Of the next record to be taken."""
        self.end = end
        """Behind the last."""

    @property
    def left(self) -> int:
        """Bytes not decoded yet."""
        return len(self._data) - self._at

    def skip_to(self, offset: int) -> None:
        """Moves on to the record of that offset, or to the end."""
        while self.offset < offset and self._at < len(self._data):
            _, key, value, headers = _HEAD.unpack_from(self._data, self._at)
            self._at += HEAD_BYTES + max(key, 0) + max(value, 0) + headers
            self.offset += 1

    def take(self, into: list[Record], max_records: int, max_bytes: int) -> int:
        """Appends records: at least one if there is one and ``into`` is empty, else while both bounds allow; answers
        the bytes of their keys and values. The loop that every record read passes: plain and flat for speed.
        """
        data, at, offset, used = self._data, self._at, self.offset, 0
        end = len(data)
        unpack, new, append = _HEAD.unpack_from, tuple.__new__, into.append
        limit = max_records - len(into)
        first = offset
        while at < end and offset - first < limit:
            timestamp, key_length, value_length, headers_length = unpack(data, at)
            start = at + HEAD_BYTES
            middle = start + key_length if key_length > 0 else start
            stop = middle + value_length if value_length > 0 else middle
            used += stop - start
            if used > max_bytes and into:
                used -= stop - start
                break
            at = stop + headers_length
            append(
                new(
                    Record,
                    (
                        offset,
                        timestamp,
                        data[start:middle] if key_length >= 0 else None,
                        data[middle:stop] if value_length >= 0 else None,
                        _decode_headers(data[stop:at]) if headers_length else NO_HEADERS,
                    ),
                )
            )
            offset += 1
        self._at, self.offset = at, offset
        return used

    def first_at(self, timestamp: int) -> int | None:
        """The offset of the first record at or after ``timestamp``."""
        at, offset = self._at, self.offset
        while at < len(self._data):
            when, key, value, headers = _HEAD.unpack_from(self._data, at)
            if when >= timestamp:
                return offset
            at += HEAD_BYTES + max(key, 0) + max(value, 0) + headers
            offset += 1
        return None
