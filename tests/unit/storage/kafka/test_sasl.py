"""SASL mechanisms, held to the examples of their RFCs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from kateway.config.schema import KafkaStorageConfig, SaslConfig, TlsConfig
from kateway.errors import ConfigError
from kateway.storage.kafka.cluster.sasl import Refusals, endpoint_factory, read_secret
from kateway.storage.kafka.protocol.sasl_mechanisms import AuthenticationFailed, oauthbearer, plain, scram

NONCE = "rOprNGfwEbeRWgbNEkqO"
CHALLENGE = f"r={NONCE}%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
PROOF = f"c=biws,r={NONCE}%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="


def test_plain_is_as_in_rfc_4616():
    assert next(plain("tim", "tanstaaftanstaaf")) == b"\0tim\0tanstaaftanstaaf"


def test_scram_is_as_in_rfc_7677():
    talk = scram("sha256", "user", "pencil", NONCE)
    assert next(talk) == f"n,,n=user,r={NONCE}".encode()
    assert talk.send(CHALLENGE.encode()).decode() == PROOF
    with pytest.raises(StopIteration):
        talk.send(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


def test_a_name_with_commas_and_equals_signs_is_quoted():
    assert next(scram("sha512", "a=b,c", "p", "N")) == b"n,,n=a=3Db=2Cc,r=N"


def test_oauthbearer_is_as_in_rfc_7628():
    talk = oauthbearer("vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==")
    assert next(talk) == b"n,,\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
    with pytest.raises(StopIteration):
        talk.send(b"")


def test_a_refused_token_is_answered_and_told_with_the_reason():
    talk = oauthbearer("token")
    next(talk)
    assert talk.send(b'{"status":"invalid_token"}') == b"\x01"
    with pytest.raises(AuthenticationFailed, match="invalid_token"):
        talk.send(b"")


def test_a_refused_secret_is_kept_back_longer_and_longer_and_another_is_not():
    clock = Clock()
    refusals = Refusals(clock)
    times = []
    for _ in range(60):
        with suppress(AuthenticationFailed):
            refusals.check("b:1", "wrong")
            times.append(clock.seconds())
            refusals.note("b:1", "wrong", "no")
            refusals.note("b:1", "wrong", "no")  # several are on their way at once
        refusals.check("b:1", "right")
        refusals.check("b:2", "wrong")
        clock.advance(1)
    assert times == [0, 1, 3, 7, 15, 25, 35, 45, 55]
    refusals.forget("b:1")
    refusals.check("b:1", "wrong")


def test_a_secret_is_what_its_file_says_now(tmp_path: Path):
    file = tmp_path / "secret"
    for sasl in (
        SaslConfig(mechanism="PLAIN", username="me", password_file=str(file)),
        SaslConfig(mechanism="OAUTHBEARER", token_file=str(file)),
    ):
        for text in ("first\n", "second"):
            file.write_text(text)
            assert read_secret(sasl) == text.strip()
        for content in (b"", b"\n", b"\xff"):
            file.write_bytes(content)
            with pytest.raises(ConfigError, match=str(file)):
                read_secret(sasl)


@pytest.mark.parametrize("final", [b"v=AAAA", b"e=invalid-proof", b"", b"v=\xc3\xa9"])
def test_a_server_that_does_not_know_the_password_is_not_believed(final):
    talk = scram("sha256", "user", "pencil", NONCE)
    next(talk)
    talk.send(CHALLENGE.encode())
    with pytest.raises(AuthenticationFailed):
        talk.send(final)


@pytest.mark.parametrize(
    "challenge",
    [
        b"",
        b"e=other-error",
        b"r=another,s=AAAA,i=4096",
        f"r={NONCE}x,i=1".encode(),
        f"r={NONCE}x,s=AA==,i=9999999".encode(),
    ],
)
def test_a_challenge_that_is_none_is_refused(challenge):
    talk = scram("sha256", "user", "pencil", NONCE)
    next(talk)
    with pytest.raises(AuthenticationFailed):
        talk.send(challenge)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sasl": SaslConfig(mechanism="PLAIN", username="u")}, "password_file"),
        ({"sasl": SaslConfig(mechanism="PLAIN", username="u", password_file="/nowhere")}, "/nowhere"),
        ({"sasl": SaslConfig(mechanism="OAUTHBEARER", password_file="/nowhere")}, "token_file"),
        ({"tls": TlsConfig(enabled=True, ca_file="/nowhere")}, "/nowhere"),
    ],
)
def test_a_missing_secret_or_file_is_a_configuration_error_that_names_it(options, named):
    with pytest.raises(ConfigError, match=named):
        endpoint_factory(KafkaStorageConfig(driver="kafka", **options))


def test_a_file_without_certificates_is_a_configuration_error(tmp_path: Path):
    empty = tmp_path / "ca.pem"
    empty.write_text("nothing")
    with pytest.raises(ConfigError, match="no certificate"):
        endpoint_factory(KafkaStorageConfig(driver="kafka", tls=TlsConfig(enabled=True, ca_file=str(empty))))
