"""Frames: records as length-prefixed binary, for programs that want bytes and no parsing.

Big-endian: ``partition i32, offset i64, timestamp i64, key bytes, value bytes, header count i32, (name bytes, value
bytes)*``, where *bytes* is an ``i32`` length (−1: null) and so many bytes. A frame of partition −1 is a heartbeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from kateway.errors import MalformedBatch
from kateway.model import Headers, Message, Record
from kateway.web.formats.limits import MAX_BATCH_RECORDS, too_many_records

MEDIA_TYPE = b"application/vnd.kateway.frames"
_HEAD = Struct(">iqq")
_INT = Struct(">i")
_NULL = _INT.pack(-1)
_NONE = _INT.pack(0)
_MAX_HEADERS = 1000


def _bytes(raw: bytes | None) -> bytes:
    return _NULL if raw is None else _INT.pack(len(raw)) + raw


def frame(partition: int, record: Record) -> bytes:
    """One record."""
    offset, timestamp, key, value, headers = record
    tail = _NONE
    if headers:
        tail = _INT.pack(len(headers)) + b"".join(_bytes(name.encode("utf-8")) + _bytes(text) for name, text in headers)
    return _HEAD.pack(partition, offset, timestamp) + _bytes(key) + _bytes(value) + tail


class FramesForm:
    """One frame a record, a batch in one chunk."""

    content_type = MEDIA_TYPE
    one_chunk = True
    heartbeat: bytes | None = frame(-1, Record(-1, -1, None, None))
    opening = b""
    closing = b""

    def encode(
        self,
        partition: int,
        records: Sequence[Record],
        attempts: Sequence[int] | None,
        leases: Sequence[str] | None,
    ) -> list[bytes]:
        return [frame(partition, record) for record in records]


def parse(body: bytes, key: bytes | None, partition: int | None, headers: Headers) -> list[Message]:
    """A batch of frames. Partition −1 means choose (or the request's), the offset is ignored, timestamp −1 is now."""
    messages: list[Message] = []
    reader = _Reader(body)
    while reader.at < len(body):
        reader.frame = len(messages)
        if reader.frame >= MAX_BATCH_RECORDS:
            raise too_many_records()
        own_partition, _offset, timestamp = reader.head()
        own_key, value = reader.bytes(), reader.bytes()
        count = reader.number()
        if not 0 <= count <= _MAX_HEADERS:
            raise reader.malformed(f"has {count} headers; 0 to {_MAX_HEADERS} are allowed")
        own_headers = tuple((reader.text(), reader.bytes()) for _ in range(count))
        if own_partition < -1 or timestamp < -1:
            raise reader.malformed("has a negative partition or timestamp other than -1")
        messages.append(
            Message(
                value,
                key if own_key is None else own_key,
                headers + own_headers,
                partition if own_partition == -1 else own_partition,
                None if timestamp == -1 else timestamp,
            )
        )
    if not messages:
        raise MalformedBatch("the batch is empty")
    return messages


class _Reader:
    """A place in a body of frames; every step is checked against its end."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0
        self.frame = 0

    def malformed(self, what: str) -> MalformedBatch:
        return MalformedBatch(f"frame {self.frame} {what}")

    def _advance(self, size: int) -> int:
        start = self.at
        if size > len(self.body) - start:
            raise self.malformed("is cut short")
        self.at = start + size
        return start

    def head(self) -> tuple[int, int, int]:
        return _HEAD.unpack_from(self.body, self._advance(_HEAD.size))

    def number(self) -> int:
        found: int = _INT.unpack_from(self.body, self._advance(4))[0]
        return found

    def bytes(self) -> bytes | None:
        size = self.number()
        if size == -1:
            return None
        if size < 0:
            raise self.malformed("has a negative length")
        start = self._advance(size)
        return self.body[start : start + size]

    def text(self) -> str:
        raw = self.bytes()
        try:
            return (raw or b"").decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.malformed("has a header name that is not UTF-8") from error
