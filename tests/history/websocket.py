"""The client's side of a WebSocket (RFC 6455) in few lines, for programs that stop at any byte."""

from __future__ import annotations

import base64
import json
import os

from history.record import Place, ident
from history.wire import Incoming, Read

HEADERS = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": base64.b64encode(bytes(16)).decode(),
}
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class SocketIncoming(Incoming):
    """Records from a socket's messages; ``complete`` when the gateway has said goodbye."""

    def __init__(self) -> None:
        super().__init__("websocket")
        self.answers = bytearray()
        """Pongs to be sent, and the answer to a goodbye."""

    def _take(self) -> None:
        if self.status != 101:
            super()._take()
            return
        self.body += self._raw
        self._raw.clear()

    def _records(self) -> list[Read]:
        found: list[Read] = []
        while self.status == 101 and (taken := _frame(self.body)) is not None:
            size, kind, payload = taken
            del self.body[:size]
            if kind == TEXT and "value" in (record := json.loads(payload)):
                found.append(Read(ident(record["value"].encode()), Place(record["partition"], record["offset"])))
            elif kind == PING:
                self.answers += frame(PONG, payload)
            elif kind == CLOSE:
                self.complete = True
                self.answers += frame(CLOSE, payload[:2])
        return found


def frame(kind: int, payload: bytes) -> bytes:
    """One short frame of a client's: masked."""
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes([0x80 | kind, 0x80 | len(payload)]) + mask + masked


def _frame(body: bytearray) -> tuple[int, int, bytes] | None:
    """The first frame's size, kind and payload; ``None`` when it is not whole. A server's frames are not masked."""
    if len(body) < 2:
        return None
    length, at = body[1], 2
    if length > 125:
        at = 4 if length == 126 else 10
        if len(body) < at:
            return None
        length = int.from_bytes(body[2:at], "big")
    if len(body) < at + length:
        return None
    return at + length, body[0] & 15, bytes(body[at : at + length])
