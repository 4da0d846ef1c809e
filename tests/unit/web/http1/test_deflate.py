"""permessage-deflate: offers that are accepted, messages both ways, and bombs that are not inflated."""

from __future__ import annotations

import zlib

import pytest
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
