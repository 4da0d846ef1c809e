"""permessage-deflate: offers that are accepted, messages both ways, and bombs that are not inflated."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason

from kateway.web.http1.deflate import negotiate
from kateway.web.http1.websocket import frame


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        (b"permessage-deflate", b"permessage-deflate; server_max_window_bits=12"),
        (
            b"permessage-deflate; client_max_window_bits",
            b"permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
        ),
        (
            b"x-other, permessage-deflate; client_max_window_bits=10; server_max_window_bits=9",
            b"permessage-deflate; server_max_window_bits=9; client_max_window_bits=10",
        ),
        (
            b"permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            b"permessage-deflate; server_max_window_bits=12; server_no_context_takeover; client_no_context_takeover",
        ),
        (b"permessage-deflate; unknown, permessage-deflate", b"permessage-deflate; server_max_window_bits=12"),
        (b"permessage-deflate; server_max_window_bits=8", None),
        (b"permessage-deflate; server_max_window_bits=16", None),
        (b"permessage-deflate; client_max_window_bits=x", None),
        (b"permessage-deflate; client_max_window_bits; client_max_window_bits", None),
        (b"x-webkit-deflate-frame", None),
        (None, None),
    ],
)
def test_offer_is_answered_as_rfc_7692_says(offer: bytes | None, answer: bytes | None) -> None:
    agreed = negotiate(offer, 1000)
    assert (None if agreed is None else agreed[1]) == answer


def text_of(connection: Connection) -> str:
    return "".join(event.data for event in connection.events() if isinstance(event, TextMessage))


@pytest.mark.parametrize("takeover", [True, False], ids=["with-context", "without"])
def test_messages_survive_both_ways(takeover: bool) -> None:
    client = PerMessageDeflate(
        client_no_context_takeover=not takeover, server_no_context_takeover=not takeover, client_max_window_bits=15
    )
    agreed = negotiate(f"permessage-deflate; {client.offer()}".encode(), 1 << 20)
    assert agreed is not None
    deflate, answer = agreed
    client.finalize(answer.decode())
    theirs = Connection(ConnectionType.CLIENT, [client])
    ours = Connection(ConnectionType.SERVER, [deflate])
    for number in range(5):
        text = f"{number} " * 500
        ours.receive_data(theirs.send(TextMessage(text)))
        assert text_of(ours) == text
        theirs.receive_data(frame(0xC1, deflate.compress(text.encode())))
        assert text_of(theirs) == text


def test_message_that_inflates_beyond_the_limit_is_refused_before_it_is_in_memory() -> None:
    agreed = negotiate(b"permessage-deflate", 10_000)
    assert agreed is not None
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = compressor.compress(bytes(50_000_000)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    payload = bytes(byte ^ 1 for byte in bomb[:-4])
    ours = Connection(ConnectionType.SERVER, [agreed[0]])
    ours.receive_data(bytes([0xC2, 0xFE]) + len(payload).to_bytes(2, "big") + b"\x01\x01\x01\x01" + payload)
    *texts, end = ours.events()
    assert isinstance(end, CloseConnection)
    assert end.code == CloseReason.MESSAGE_TOO_BIG
    assert sum(len(event.data) for event in texts if isinstance(event, BytesMessage)) <= 10_001


def client_frame(kind: int, payload: bytes) -> bytes:
    """A masked frame of fewer than 64 KiB, its FIN, RSV1 and opcode in ``kind``."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes([kind]) + size + b"\x01\x01\x01\x01" + bytes(byte ^ 1 for byte in payload)


@given(
    st.lists(st.tuples(st.text(max_size=300), st.booleans(), st.integers(1, 4), st.booleans()), max_size=8),
    st.booleans(),
)
def test_messages_are_whole_with_pings_and_pongs_before_and_within_them(
    messages: list[tuple[str, bool, int, bool]], takeover: bool
) -> None:
    offer = b"permessage-deflate" if takeover else b"permessage-deflate; client_no_context_takeover"
    agreed = negotiate(offer, 1 << 20)
    assert agreed is not None
    ours = Connection(ConnectionType.SERVER, [agreed[0]])
    compressor = zlib.compressobj(6, zlib.DEFLATED, -12)
    got = []
    for text, compressed, parts, pinged in messages:
        payload = text.encode()
        if compressed:
            if not takeover:
                compressor = zlib.compressobj(6, zlib.DEFLATED, -12)
            payload = (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        step = max(-(-len(payload) // parts), 1)
        pieces = [payload[at : at + step] for at in range(0, len(payload), step)] or [b""]
        for number, piece in enumerate(pieces):
            first, last = number == 0, number == len(pieces) - 1
            if pinged:
                ours.receive_data(client_frame(0x89 if number % 2 else 0x8A, b"ping"))
            ours.receive_data(
                client_frame(
                    (0x80 if last else 0) | (0x40 if first and compressed else 0) | (0x01 if first else 0), piece
                )
            )
        events = [event for event in ours.events() if isinstance(event, TextMessage | CloseConnection)]
        assert not any(isinstance(event, CloseConnection) for event in events)
        got.append("".join(event.data for event in events if isinstance(event, TextMessage)))
    assert got == [text for text, _, _, _ in messages]
