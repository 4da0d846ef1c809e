"""SASL mechanisms, held to the examples of their RFCs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kateway.config import KafkaStorageConfig, SaslConfig, TlsConfig
from kateway.errors import ConfigError
from kateway.storage.kafka.sasl import AuthenticationFailed, endpoint_factory, plain, scram

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
