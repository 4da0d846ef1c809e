"""Reads and writes Kafka's wire types and the request header: bytes in, values out.

Source: https://kafka.apache.org/protocol (types; request header v1, response header v0). Most requests are spoken in
versions from before the *flexible* encoding, in which lengths are fixed-size integers. A flexible one (KIP-482) has
variable-size lengths and ends each structure, and each header, with tagged fields; none that are spoken need any, so a
header's are an empty section before the body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct, error
from typing import TypeVar

T = TypeVar("T")

_I8 = Struct(">b")
_I16 = Struct(">h")
_I32 = Struct(">i")
_I64 = Struct(">q")
_HEADER = Struct(">hhi")
_SIZE_AND_CORRELATION = Struct(">ii")

i8 = _I8.pack
i16 = _I16.pack
i32 = _I32.pack
i64 = _I64.pack


class MalformedResponse(Exception):
    """A broker's answer ends before it should, or contradicts itself."""


def string(value: str | None) -> bytes:
    """STRING or NULLABLE_STRING."""
    if value is None:
        return b"\xff\xff"
    data = value.encode()
    return i16(len(data)) + data


def data(value: bytes | None) -> bytes:
    """BYTES or NULLABLE_BYTES."""
    if value is None:
        return b"\xff\xff\xff\xff"
    return i32(len(value)) + value


def array(items: Iterable[bytes]) -> bytes:
    """ARRAY of things that are encoded already."""
    parts = list(items)
    return i32(len(parts)) + b"".join(parts)


NO_TAGS = b"\x00"
"""An empty section of tagged fields; a flexible request begins with the one that belongs to its header."""


def uvarint(value: int) -> bytes:
    """UNSIGNED_VARINT."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def compact_string(value: str | None) -> bytes:
    """COMPACT_STRING or COMPACT_NULLABLE_STRING."""
    if value is None:
        return b"\x00"
    data = value.encode()
    return uvarint(len(data) + 1) + data


def compact_array(items: Iterable[bytes]) -> bytes:
    """COMPACT_ARRAY of things that are encoded already."""
    parts = list(items)
    return uvarint(len(parts) + 1) + b"".join(parts)


def request_header(api_key: int, api_version: int, correlation_id: int, client_id: bytes) -> bytes:
    """Request header v1; ``client_id`` is a STRING, encoded already."""
    return _HEADER.pack(api_key, api_version, correlation_id) + client_id


def size_and_correlation(buffer: bytes | bytearray, at: int) -> tuple[int, int]:
    """Reads the first eight bytes of a response: the size of the bytes after the first four, and the correlation id."""
    size, correlation_id = _SIZE_AND_CORRELATION.unpack_from(buffer, at)
    return size, correlation_id


class ByteReader:
    """Reads wire types one after another; every method moves on. ``MalformedResponse`` where there is too little."""

    __slots__ = ("_data", "at")

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self.at = at

    def _fixed(self, struct: Struct) -> int:
        try:
            value: int = struct.unpack_from(self._data, self.at)[0]
        except error as short:
            raise MalformedResponse(f"the answer ends at {len(self._data)}, more was due at {self.at}") from short
        self.at += struct.size
        return value

    def i8(self) -> int:
        return self._fixed(_I8)

    def i16(self) -> int:
        return self._fixed(_I16)

    def i32(self) -> int:
        return self._fixed(_I32)

    def i64(self) -> int:
        return self._fixed(_I64)

    def boolean(self) -> bool:
        return self._fixed(_I8) != 0

    def _take(self, length: int) -> bytes:
        end = self.at + length
        if length < 0 or end > len(self._data):
            raise MalformedResponse(f"{length} bytes at {self.at} are beyond the answer's end at {len(self._data)}")
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def nullable_string(self) -> str | None:
        length = self.i16()
        return None if length == -1 else self._take(length).decode("utf-8", "replace")

    def string(self) -> str:
        return self.nullable_string() or ""

    def nullable_data(self) -> bytes | None:
        length = self.i32()
        return None if length == -1 else self._take(length)

    def data(self) -> bytes:
        return self.nullable_data() or b""

    def array(self, item: Callable[[], T]) -> list[T]:
        """An ARRAY (a null one is empty), each item read by ``item``."""
        count = self.i32()
        if count > len(self._data) - self.at:  # every item takes a byte at least: don't believe a broken count
            raise MalformedResponse(f"an array of {count} items at {self.at} cannot fit")
        return [item() for _ in range(count)]

    # --- flexible versions

    def uvarint(self) -> int:
        value = shift = 0
        while True:
            byte = self._fixed(_I8)
            value |= (byte & 0x7F) << shift
            if byte >= 0:
                return value
            shift += 7
            if shift > 28:
                raise MalformedResponse(f"a length at {self.at} has no end")

    def compact_nullable_string(self) -> str | None:
        length = self.uvarint()
        return None if length == 0 else self._take(length - 1).decode("utf-8", "replace")

    def compact_string(self) -> str:
        return self.compact_nullable_string() or ""

    def compact_array(self, item: Callable[[], T]) -> list[T]:
        """A COMPACT_ARRAY (a null one is empty), each item read by ``item``."""
        count = self.uvarint() - 1
        if count > len(self._data) - self.at:
            raise MalformedResponse(f"an array of {count} items at {self.at} cannot fit")
        return [item() for _ in range(count)]

    def uuid(self) -> bytes:
        return self._take(16)

    def skip_tags(self) -> None:
        """Passes over a section of tagged fields."""
        for _ in range(self.uvarint()):
            self.uvarint()  # tag
            self._take(self.uvarint())
