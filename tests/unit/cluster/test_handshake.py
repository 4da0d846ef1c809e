"""Two ends prove to each other that they know the secret; nothing else gets a link."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.cluster.handshake import MAGIC, Acceptor, Dialer, Refused

SECRET = b"a secret that all know"
ADDRESS = "10.0.0.5:9094"


def ends(secret: bytes = SECRET, addresses: frozenset[str] = frozenset()) -> tuple[Dialer, Acceptor]:
    return Dialer(secret, "first", ADDRESS), Acceptor(SECRET, "second", addresses)


def talk(dialer: Dialer, acceptor: Acceptor, cuts: list[int] | None = None) -> None:
    """Passes bytes to and fro until neither says more; each message cut into pieces."""
    message, to_acceptor = dialer.begin(), True
    while message:
        end: Dialer | Acceptor = acceptor if to_acceptor else dialer
        answer = b""
        for start, stop in zip([0, *(cuts or [])], [*(cuts or []), len(message)], strict=True):
            piece = message[start:stop] if stop > start else b""
            answer += end.feed(piece) if piece else b""
        message, to_acceptor = answer, not to_acceptor


@given(cut=st.integers(0, 120))
def test_ends_with_one_secret_link_however_the_bytes_arrive(cut: int) -> None:
    dialer, acceptor = ends(addresses=frozenset({ADDRESS}))
    talk(dialer, acceptor, [cut])
    assert dialer.keys is not None
    assert acceptor.keys is not None
    assert (dialer.peer, acceptor.peer) == ("second", "first")
    assert (dialer.keys.sending, dialer.keys.receiving) == (acceptor.keys.receiving, acceptor.keys.sending)
    assert dialer.keys.sending != dialer.keys.receiving


def test_dialer_with_another_secret_is_refused_before_it_is_told_anything() -> None:
    dialer, acceptor = ends(b"another secret")
    nonce = acceptor.feed(dialer.begin())
    assert len(nonce) == 32
    with pytest.raises(Refused):
        acceptor.feed(dialer.feed(nonce))
    assert acceptor.keys is None


def test_acceptor_with_another_secret_is_refused() -> None:
    dialer, _ = ends()
    impostor = Acceptor(b"another secret", "second", frozenset())
    impostor._secret = b""
    proof = dialer.feed(impostor.feed(dialer.begin()))
    assert proof
    with pytest.raises(Refused):
        dialer.feed(b"\0" * 32 + b"\x06second")
    assert dialer.keys is None


def test_proof_that_is_sent_back_does_not_pass_for_the_others() -> None:
    """What the dialer says of itself is no proof of the acceptor."""
    dialer, _ = ends()
    proof = dialer.feed(b"n" * 32)
    with pytest.raises(Refused):
        dialer.feed(proof + b"\x05first")


def test_proof_of_an_earlier_link_does_not_open_another() -> None:
    dialer, acceptor = ends()
    hello = dialer.begin()
    proof = dialer.feed(acceptor.feed(hello))
    again = Acceptor(SECRET, "second", frozenset())
    again.feed(hello)
    with pytest.raises(Refused):
        again.feed(proof)


def test_proof_for_one_gateway_does_not_pass_at_another() -> None:
    dialer, acceptor = ends(addresses=frozenset({"10.0.0.6:9094"}))
    with pytest.raises(Refused):
        acceptor.feed(dialer.begin())


@given(st.binary(min_size=1, max_size=200))
def test_anything_else_gets_no_link(data: bytes) -> None:
    acceptor = Acceptor(SECRET, "second", frozenset())
    try:
        acceptor.feed(data)
        acceptor.feed(b"x" * 700)
    except Refused:
        pass
    assert acceptor.keys is None


def test_answer_of_a_web_server_is_a_refusal() -> None:
    dialer, _ = ends()
    with pytest.raises(Refused):
        dialer.feed(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    assert MAGIC in dialer.begin()
