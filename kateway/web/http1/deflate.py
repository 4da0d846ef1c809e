"""Compresses WebSocket messages: permessage-deflate (RFC 7692), with small windows and bounded inflation."""

from __future__ import annotations

import zlib

from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

WINDOW_BITS = 12
"""4 KiB of history each way where the client agrees: zlib keeps some 30 KiB for a connection then, instead of 300."""
WORTH_IT_BYTES = 256
"""A smaller message is sent as it is."""
_MEMORY_LEVEL = 5
_NAME = "permessage-deflate"
# RFC 7692 7.2.1: a flush ends so, and that is not sent
_TAIL = b"\x00\x00\xff\xff"


class Deflate(PerMessageDeflate):
    """One connection's. A message that inflates to more than ``max_message_bytes`` ends the connection with 1009."""

    def __init__(self, max_message_bytes: int) -> None:
        super().__init__(server_max_window_bits=WINDOW_BITS)
        self._enabled = True
        self._max_message_bytes = max_message_bytes
        self._inflated = 0
        self._deflate: zlib._Compress | None = None

    def compress(self, payload: bytes) -> bytes:
        """Returns a text message's payload as it goes on the wire, behind a frame header with RSV1."""
        if self._deflate is None:
            self._deflate = zlib.compressobj(1, zlib.DEFLATED, -self.server_max_window_bits, _MEMORY_LEVEL)
        data = self._deflate.compress(payload) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        if self.server_no_context_takeover:
            self._deflate = None
        return data[:-4]

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        if opcode.iscontrol() and not rsv.rsv1:
            # it may come between a message's frames, or before one: whether that is compressed is not its business
            self._inbound_is_compressible = False
            return RsvBits(True, False, False)
        return super().frame_inbound_header(proto, opcode, rsv, payload_length)

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        if not self._inbound_compressed or not self._inbound_is_compressible:
            return data
        return self._inflate(data)

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        if not fin or not self._inbound_is_compressible:
            return None
        compressed, self._inbound_compressed = self._inbound_compressed, None
        if not compressed:
            return None
        rest = self._inflate(_TAIL)
        self._inflated = 0
        if self.client_no_context_takeover:
            self._decompressor = None
        return rest

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        assert self._decompressor is not None
        room = self._max_message_bytes - self._inflated + 1
        try:
            inflated = self._decompressor.decompress(bytes(data), room)
        except zlib.error:
            return CloseReason.INVALID_FRAME_PAYLOAD_DATA
        self._inflated += len(inflated)
        if self._inflated > self._max_message_bytes or self._decompressor.unconsumed_tail:
            return CloseReason.MESSAGE_TOO_BIG
        return inflated


def negotiate(offered: bytes | None, max_message_bytes: int) -> tuple[Deflate, bytes] | None:
    """Accepts the first sound offer of ``Sec-WebSocket-Extensions``: the extension, and the header that says so."""
    for offer in (offered or b"").decode("latin-1").split(","):
        name, *parameters = (part.strip().lower() for part in offer.split(";"))
        if name == _NAME:
            deflate = Deflate(max_message_bytes)
            answer = _agree(deflate, parameters)
            if answer is not None:
                return deflate, answer
    return None


def _agree(deflate: Deflate, parameters: list[str]) -> bytes | None:
    """RFC 7692 7.1: sets the agreed parameters, and returns the answer; ``None`` where the offer is not sound."""
    answer = [_NAME, f"server_max_window_bits={WINDOW_BITS}"]
    seen: set[str] = set()
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        bits = int(value.strip('"')) if value.strip('"').isdecimal() else None
        if name in seen or (value and (bits is None or not 8 <= bits <= 15)):
            return None
        seen.add(name)
        match name:
            case "server_no_context_takeover" if not value:
                deflate.server_no_context_takeover = True
                answer.append(name)
            case "client_no_context_takeover" if not value:
                deflate.client_no_context_takeover = True
                answer.append(name)
            case "server_max_window_bits" if bits is not None and bits >= 9:
                deflate.server_max_window_bits = min(bits, WINDOW_BITS)
                answer[1] = f"{name}={deflate.server_max_window_bits}"
            case "client_max_window_bits":
                # a window of 8 is inflated with one of 9: zlib has no smaller
                deflate.client_max_window_bits = max(min(bits or 15, WINDOW_BITS), 9)
                answer.append(f"{name}={deflate.client_max_window_bits}")
            case _:
                return None
    return "; ".join(answer).encode()
