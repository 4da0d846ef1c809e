"""Encodes messages as Kafka's record batches, and decodes batches as records. No I/O, no state but bounded caches.

A *batch v2* (magic 2) is a header of 61 bytes and its records; CRC-32C covers everything behind the CRC itself. A
record is a length and fields in zigzag varints. A fetch answers batch after batch, the last one possibly cut
off, the first possibly beginning before the offset asked for. Message sets of magic 0 and 1 (before 0.11) may lie
in old topics: ``messagesets`` reads those.

``batches`` looks at headers only, so that fetched bytes can be kept as they came and ``decode`` is paid when a
batch is taken. Anything broken is ``CorruptRecords``.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

import google_crc32c

from kateway.bounded_cache import BoundedCache
from kateway.errors import CorruptRecords
from kateway.model import NO_HEADERS, Headers, Message, Record
from kateway.storage.kafka.protocol import message_sets as messagesets
from kateway.storage.kafka.protocol.compression import CODECS, MAX_DECOMPRESSED_BYTES, NONE, compress, decompress

# base offset, length behind this field, leader epoch, magic, CRC | attributes, last offset delta, base timestamp,
# greatest timestamp, producer id, producer epoch, base sequence, record count
_HEADER = Struct(">qiibIhiqqqhii")
_BEFORE_CRC = Struct(">qiibI")
_BEHIND_CRC = Struct(">hiqqqhii")
HEADER_BYTES = _HEADER.size
_CRC_FROM = _BEFORE_CRC.size
_PREFIX_BYTES = 12
"""Base offset and length: enough to know where a batch ends."""

_CODEC_MASK = 0x07
_LOG_APPEND_TIME = 0x08
_TRANSACTIONAL = 0x10
_CONTROL = 0x20
_ABORT_MARKER = b"\0\0\0\0"
"""Version 0, type 0: the key of a control record that aborts a transaction."""

_CACHED_SECTIONS = 1024
_CACHED_SECTION_BYTES = 512

_crc32c = google_crc32c.value
_new_record = tuple.__new__


class RecordBatch(NamedTuple):
    """A batch that was looked at and not decoded."""

    base_offset: int
    """The offset that the batch begins at; of a compressed message set, which does not say, its last one."""
    last_offset: int
    """``last_offset + 1`` is where reading goes on, even of an empty batch."""
    record_count: int
    """Records inside as the header says; of a compressed message set, which does not say, 1."""
    data: bytes
    """The batch, header and all."""
    hidden: bool
    """A control batch, or records of an aborted transaction: invisible, the position passes over them."""
    magic: int


# --- encoding --------------------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    """Zigzag varint of any 64-bit value."""
    rest = ((value << 1) ^ (value >> 63)) & 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


_TABLE_SIZE = 8192
_TABLE = [_varint(value) for value in range(_TABLE_SIZE)]
_encoded_headers: BoundedCache[Headers, bytes] = BoundedCache(_CACHED_SECTIONS)


def _encode_headers(headers: Headers) -> bytes:
    known = _encoded_headers.get(headers)
    if known is not None:
        return known
    parts = [_varint(len(headers))]
    for name, value in headers:
        raw = name.encode()
        parts += (_varint(len(raw)), raw)
        if value is None:
            parts.append(b"\x01")
        else:
            parts += (_varint(len(value)), value)
    section = b"".join(parts)
    if len(section) <= _CACHED_SECTION_BYTES:
        _encoded_headers.keep(headers, section)
    return section


def encode_batch(
    messages: Sequence[Message],
    *,
    now_ms: int,
    compression: str = "none",
    producer_id: int = -1,
    epoch: int = -1,
    sequence: int = -1,
    base_offset: int = 0,
) -> bytes:
    """Encodes at least one message as one batch. ``now_ms`` is the timestamp of messages that have none.

    Where compression would make the batch larger it is left out: a batch says for itself how it is compressed.
    """
    table = _TABLE
    first = messages[0].timestamp
    base = most = now_ms if first is None else first
    parts: list[bytes] = []
    append = parts.append
    offset_delta = 0
    for body, key, headers, _, timestamp in messages:
        at = now_ms if timestamp is None else timestamp
        if at == base:
            head = b"\0\0"
        else:
            head = b"\0" + _varint(at - base)
            most = max(most, at)
        head += table[offset_delta] if offset_delta < _TABLE_SIZE else _varint(offset_delta)
        if key is None:
            head += b"\x01"
        else:
            size = len(key)
            head += (table[size] if size < _TABLE_SIZE else _varint(size)) + key
        if body is None:
            head += b"\x01"
            value = b""
        else:
            value = body
            size = len(value)
            head += table[size] if size < _TABLE_SIZE else _varint(size)
        tail = _encode_headers(headers) if headers else b"\0"
        size = len(head) + len(value) + len(tail)
        append(table[size] if size < _TABLE_SIZE else _varint(size))
        append(head)
        append(value)
        append(tail)
        offset_delta += 1
    attributes = NONE
    if compression != "none":
        plain = b"".join(parts)
        packed = compress(CODECS[compression], plain)
        if len(packed) < len(plain):
            attributes = CODECS[compression]
            parts = [packed]
    fields = _BEHIND_CRC.pack(attributes, offset_delta - 1, base, most, producer_id, epoch, sequence, offset_delta)
    covered = fields + b"".join(parts)
    return _BEFORE_CRC.pack(base_offset, len(covered) + 9, -1, 2, _crc32c(covered)) + covered


def encoded_size(message: Message) -> int:
    """About how many bytes a message takes in a batch: never less, at most 24 more, before compression."""
    value, key, headers, _, _ = message
    size = 24 + (len(value) if value is not None else 0) + (len(key) if key is not None else 0)
    return size + len(_encode_headers(headers)) if headers else size


# --- decoding --------------------------------------------------------------------------------------------------


def batches(blob: bytes, aborted: Sequence[tuple[int, int]] = ()) -> list[RecordBatch]:
    """Splits the bytes of a fetch into batches; one that is cut off at the end is left out.

    ``aborted``: (producer id, first offset) of the aborted transactions that the fetch answer named
    (``isolation=read_committed``); their records are marked hidden.
    """
    found: list[RecordBatch] = []
    coming = sorted(aborted, key=lambda entry: entry[1], reverse=True)
    under_way: set[int] = set()
    position, end = 0, len(blob)
    while end - position > _PREFIX_BYTES + 4:
        magic = blob[position + 16]
        length = int.from_bytes(blob[position + 8 : position + _PREFIX_BYTES], "big", signed=True)
        stop = position + _PREFIX_BYTES + length
        if magic > 2 or length < (HEADER_BYTES - _PREFIX_BYTES if magic == 2 else messagesets.LEAST_BYTES):
            raise CorruptRecords(f"a batch of magic {magic} cannot have {length} bytes")
        if stop > end:
            break
        data = blob[position:stop]
        position = stop
        if magic < 2:
            offset = int.from_bytes(data[:8], "big", signed=True)
            found.append(RecordBatch(offset, offset, 1, data, False, magic))
            continue
        base, _, _, _, _, attributes, delta, _, _, producer_id, _, _, count = _HEADER.unpack_from(data)
        if delta < 0 or count < 0 or base < 0:
            raise CorruptRecords("a batch's header has a negative offset or count")
        last = base + delta
        hidden = False
        if attributes & _TRANSACTIONAL:
            while coming and coming[-1][1] <= last:
                under_way.add(coming.pop()[0])
            hidden = producer_id in under_way
        if attributes & _CONTROL:
            hidden = True
            if _is_abort(data):
                under_way.discard(producer_id)
        found.append(RecordBatch(base, last, count, data, hidden, magic))
    return found


def _is_abort(data: bytes) -> bool:
    """Whether a control batch (one record, not compressed) aborts: its key is version i16, type i16."""
    # length, attributes, timestamp delta and offset delta come before the key; length and delta may be two bytes
    position = HEADER_BYTES
    try:
        _, position = _varint_at(data, position)
        _, position = _varint_at(data, position + 1)
        _, position = _varint_at(data, position)
        size, position = _varint_at(data, position)
    except IndexError as error:
        raise CorruptRecords("a control batch is cut off") from error
    return size >= 4 and data[position : position + 4] == _ABORT_MARKER


def decode(batch: RecordBatch, from_offset: int = 0, *, max_bytes: int = MAX_DECOMPRESSED_BYTES) -> list[Record]:
    """Decodes a batch's records from ``from_offset`` on; none of a hidden one. Checks the CRC.

    ``max_bytes`` bounds the decompressed size of a batch.
    """
    return BatchReader(batch, from_offset, max_bytes=max_bytes).take(1 << 31)


class BatchReader:
    """Decodes a batch some records at a time: a thousand in one go hold the loop for a millisecond. Checks the CRC, and
    decompresses, when it is made.
    """

    def __init__(self, batch: RecordBatch, from_offset: int = 0, *, max_bytes: int = MAX_DECOMPRESSED_BYTES) -> None:
        self._base_offset = batch.base_offset
        self._from_offset = from_offset
        self._base_timestamp = 0
        self._append_time: int | None = None
        self._data = b""
        self._position = 0
        self._ready: list[Record] = []
        """A message set's records: those are few, and decoded at once."""
        self.left = 0
        """Records not decoded yet."""
        data = batch.data
        if batch.magic < 2:
            self._ready = messagesets.decode(data, from_offset, max_bytes)
            self.left = len(self._ready)
            return
        crc = int.from_bytes(data[17:21], "big")
        if _crc32c(data[_CRC_FROM:]) != crc:
            raise CorruptRecords(f"the batch at offset {batch.base_offset} fails its CRC-32C")
        if batch.hidden:
            return
        _, _, _, _, _, attributes, _, base_timestamp, most, _, _, _, count = _HEADER.unpack_from(data)
        position = HEADER_BYTES
        if attributes & _CODEC_MASK:
            data = decompress(attributes & _CODEC_MASK, data[HEADER_BYTES:], max_bytes=max_bytes)
            position = 0
        if count > (len(data) - position) // 7:  # the shortest record has seven bytes
            raise CorruptRecords(f"the batch at offset {batch.base_offset} cannot hold {count} records")
        self._data, self._position, self.left = data, position, count
        self._base_timestamp = base_timestamp
        if attributes & _LOG_APPEND_TIME:
            self._append_time = most
        if not count and position != len(data):
            raise CorruptRecords(f"the batch at offset {batch.base_offset} is broken inside")

    def take(self, count: int) -> list[Record]:
        """The next ``count`` records, fewer where there are no more, or where some lie before the offset asked for."""
        if self._ready:
            found, self._ready = self._ready, []
            self.left = 0
            return found
        count = min(count, self.left)
        if not count:
            return []
        try:
            found, position = _decode_records(
                self._data, self._position, count, self._base_offset, self._base_timestamp
            )
            if count == self.left and position != len(self._data):
                raise IndexError
        except (IndexError, UnicodeDecodeError) as error:
            raise CorruptRecords(f"the batch at offset {self._base_offset} is broken inside") from error
        self._position = position
        self.left -= count
        append_time = self._append_time
        if append_time is not None:
            found = [record._replace(timestamp=append_time) for record in found]
        if self._from_offset > self._base_offset:
            return [record for record in found if record.offset >= self._from_offset]
        return found


_decoded_headers: BoundedCache[bytes, Headers] = BoundedCache(_CACHED_SECTIONS)


def _decode_records(  # noqa: PLR0915  # calls inside would cost more than the work
    data: bytes, position: int, count: int, base_offset: int, base_timestamp: int
) -> tuple[list[Record], int]:
    """The hot loop: so many records, and the position behind them. Two bytes of a varint are read in place;
    ``IndexError`` means that the data ends too early.
    """
    found: list[Record] = []
    append = found.append
    headers_of = _decoded_headers.get
    new, kind, none = _new_record, Record, NO_HEADERS
    for _ in range(count):
        if (size := data[position]) < 0x80:
            position += 2
        elif (second := data[position + 1]) < 0x80:
            size = size & 0x7F | second << 7
            position += 3
        else:
            size, position = _raw_varint_at(data, position)
            position += 1
        end = position + (size >> 1) - 1  # the attributes byte, of which none are defined, is passed already
        if number := data[position]:
            if number < 0x80:
                position += 1
            else:
                number, position = _raw_varint_at(data, position)
            timestamp = base_timestamp + (number >> 1 ^ -(number & 1))
        else:
            position += 1
            timestamp = base_timestamp
        if (number := data[position]) < 0x80:
            position += 1
        elif (second := data[position + 1]) < 0x80:
            number = number & 0x7F | second << 7
            position += 2
        else:
            number, position = _raw_varint_at(data, position)
        if (size := data[position]) == 1:
            position += 1
            key = None
        else:
            if size < 0x80:
                start = position + 1
            else:
                size, start = _raw_varint_at(data, position)
            position = start + (size >> 1)
            key = data[start:position]
            if size & 1:
                raise IndexError
        if (size := data[position]) == 1:
            position += 1
            value = None
        else:
            if size < 0x80:
                start = position + 1
            elif (second := data[position + 1]) < 0x80:
                size = size & 0x7F | second << 7
                start = position + 2
            else:
                size, start = _raw_varint_at(data, position)
            position = start + (size >> 1)
            value = data[start:position]
            if size & 1:
                raise IndexError
        if position + 1 == end and not data[position]:
            append(new(kind, (base_offset + (number >> 1), timestamp, key, value, none)))
        else:
            if end < position:
                raise IndexError
            section = data[position:end]
            headers = headers_of(section)
            if headers is None:
                headers = _decode_headers(section)
            append(new(kind, (base_offset + (number >> 1), timestamp, key, value, headers)))
        position = end
    return found, position


def _decode_headers(section: bytes) -> Headers:
    """Parses a record's header section and remembers it: the headers of neighbours are mostly the same."""
    count, position = _varint_at(section, 0)
    if count < 0 or count > len(section):
        raise IndexError
    pairs: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        size, position = _varint_at(section, position)
        if size < 0 or position + size > len(section):
            raise IndexError
        name = section[position : position + size].decode()
        position += size
        size, position = _varint_at(section, position)
        if size == -1:
            pairs.append((name, None))
            continue
        if size < 0 or position + size > len(section):
            raise IndexError
        pairs.append((name, section[position : position + size]))
        position += size
    if position != len(section):
        raise IndexError
    headers = tuple(pairs)
    if len(section) <= _CACHED_SECTION_BYTES:
        _decoded_headers.keep(section, headers)
    return headers


def _raw_varint_at(data: bytes, position: int) -> tuple[int, int]:
    """An unsigned varint of at most ten bytes and the position behind it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError


def _varint_at(data: bytes, position: int) -> tuple[int, int]:
    """A zigzag varint and the position behind it."""
    value, position = _raw_varint_at(data, position)
    return value >> 1 ^ -(value & 1), position
