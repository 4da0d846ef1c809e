"""Reads and writes the frames of a link: a header, a payload, and a code that proves its sender and its place.

Every frame is numbered on each side without the number being sent, and its code covers the number: a frame that is
changed, left out, repeated or put in by a third party ends the link. Pure.
"""

from __future__ import annotations

from enum import IntEnum
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct
from typing import NamedTuple

_HEADER = Struct(">IBI")
_NUMBER = Struct(">Q")
CODE_BYTES = 16
OVERHEAD_BYTES = _HEADER.size + CODE_BYTES


class Kind(IntEnum):
    """What a frame is for."""

    HEARTBEAT = 0
    CALL = 1
    ANSWER = 2
    OPEN = 3
    MESSAGE = 4
    CLOSE = 5


class Frame(NamedTuple):
    """One frame. ``stream`` names the call or the stream that it belongs to; 0 for a heartbeat."""

    kind: Kind
    stream: int
    payload: bytes


class BadFrame(Exception):
    """What came is no frame of this link; the link cannot go on."""


class FrameWriter:
    """Writes frames, each with its code."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._number = 0

    def write(self, kind: Kind, stream: int, payload: bytes) -> bytes:
        header = _HEADER.pack(len(payload), kind, stream)
        code = _code(self._key, self._number, header, payload)
        self._number += 1
        return b"".join((header, payload, code))


class FrameReader:
    """Reads frames from bytes as they come; a payload has at most ``max_payload_bytes``."""

    def __init__(self, key: bytes, max_payload_bytes: int) -> None:
        self._key = key
        self._max_payload_bytes = max_payload_bytes
        self._number = 0
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Returns the frames that are whole now. ``BadFrame``."""
        rest = self._rest
        rest += data
        found = []
        place = 0
        while len(rest) - place >= _HEADER.size:
            length, kind, stream = _HEADER.unpack_from(rest, place)
            if length > self._max_payload_bytes:
                raise BadFrame(f"a frame of {length} bytes is longer than {self._max_payload_bytes}")
            end = place + OVERHEAD_BYTES + length
            if len(rest) < end:
                break
            header = bytes(rest[place : place + _HEADER.size])
            payload = bytes(rest[place + _HEADER.size : end - CODE_BYTES])
            if not compare_digest(_code(self._key, self._number, header, payload), bytes(rest[end - CODE_BYTES : end])):
                raise BadFrame("a frame's code is wrong")
            if kind not in _KINDS:
                raise BadFrame(f"there is no frame of kind {kind}")
            self._number += 1
            found.append(Frame(Kind(kind), stream, payload))
            place = end
        del rest[:place]
        return found


_KINDS = frozenset(int(kind) for kind in Kind)


def _code(key: bytes, number: int, header: bytes, payload: bytes) -> bytes:
    code = blake2b(_NUMBER.pack(number), key=key, digest_size=CODE_BYTES)
    code.update(header)
    code.update(payload)
    return code.digest()
