"""Decodes message sets of magic 0 and 1, as brokers before 0.11 wrote them and topics made then may still hold.

An entry is offset i64, size i32, CRC-32 u32, magic i8, attributes i8, (magic 1: timestamp i64,) key and value, each
an i32 length (−1: null) and so many bytes. A compressed entry's value is a message set itself; its offset is the
last one inside. Inside it magic 0 has absolute offsets, magic 1 relative ones.
"""

from __future__ import annotations

import zlib
from struct import Struct, error

from kateway.errors import CorruptRecords
from kateway.model import Record
from kateway.storage.kafka.protocol.compression import decompress

LEAST_BYTES = 14
"""CRC, magic, attributes and two null lengths: an entry's size is never less."""

_ENTRY = Struct(">qiIbb")
_TIMESTAMP = Struct(">q")
_SIZE = Struct(">i")
_CODEC_MASK = 0x07
_LOG_APPEND_TIME = 0x08


def decode(data: bytes, from_offset: int, max_bytes: int) -> list[Record]:
    """Decodes one entry: the record it is, or those inside it. The timestamps of magic 0 are −1."""
    try:
        return [record for record in _entry(data, max_bytes) if record.offset >= from_offset]
    except (error, IndexError) as broken:
        raise CorruptRecords("a message set is broken inside") from broken


def _entry(data: bytes, max_bytes: int) -> list[Record]:
    offset, magic, attributes, timestamp, key, value = _fields(data, 0, len(data))
    codec = attributes & _CODEC_MASK
    if not codec:
        return [Record(offset, timestamp, key, value)]
    if value is None:
        raise CorruptRecords("a compressed message set is null")
    inner = _entries(decompress(codec, value, legacy=magic == 0, max_bytes=max_bytes))
    if magic == 0 or not inner:
        return inner
    base = offset - inner[-1].offset
    appended = timestamp if attributes & _LOG_APPEND_TIME else None
    return [
        Record(base + record.offset, record.timestamp if appended is None else appended, record.key, record.value)
        for record in inner
    ]


def _entries(plain: bytes) -> list[Record]:
    found: list[Record] = []
    position = 0
    while position < len(plain):
        (size,) = _SIZE.unpack_from(plain, position + 8)
        end = position + 12 + size
        if size < LEAST_BYTES or end > len(plain):
            raise IndexError
        offset, _, attributes, timestamp, key, value = _fields(plain, position, end)
        if attributes & _CODEC_MASK:
            raise CorruptRecords("a compressed message set holds a compressed one")
        found.append(Record(offset, timestamp, key, value))
        position = end
    return found


def _fields(data: bytes, start: int, end: int) -> tuple[int, int, int, int, bytes | None, bytes | None]:
    offset, _, crc, magic, attributes = _ENTRY.unpack_from(data, start)
    if zlib.crc32(data[start + 16 : end]) != crc:
        raise CorruptRecords(f"the message at offset {offset} fails its CRC-32")
    position = start + _ENTRY.size
    timestamp = -1
    if magic == 1:
        (timestamp,) = _TIMESTAMP.unpack_from(data, position)
        position += 8
    elif magic != 0:
        raise CorruptRecords(f"a message set of magic {magic} has a field that it cannot have")
    key, position = _bytes_at(data, position, end)
    value, position = _bytes_at(data, position, end)
    if position != end:
        raise IndexError
    return offset, magic, attributes, timestamp, key, value


def _bytes_at(data: bytes, position: int, end: int) -> tuple[bytes | None, int]:
    (size,) = _SIZE.unpack_from(data, position)
    position += 4
    if size == -1:
        return None, position
    if size < 0 or position + size > end:
        raise IndexError
    return data[position : position + size], position + size
