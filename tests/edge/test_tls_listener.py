"""TLS listeners on a loopback port: certificates of clients, and the effect of a re-read."""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from kateway.errors import ConfigError
from kateway.web.tcp.tls import subject_of, tls_endpoint

Signer = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def issue(subject: str, issuer: Signer | None = None, *, authority: bool = False) -> Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name.from_rfc4514_string(subject)
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(key if issuer is None else issuer[1], hashes.SHA256())
    )
    return built, key


def save(folder: Path, name: str, signer: Signer) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(signer[0].public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        signer[1].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, key


class TellSubject(Protocol):
    def dataReceived(self, _data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(subject_of(self.transport).encode() or b"-")
        self.transport.loseConnection()


def ask(port: int, client: tuple[Path, Path] | None) -> tuple[str, str]:
    """The subject that the server saw, and the subject that the client saw."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if client is not None:
        context.load_cert_chain(*client)
    with socket.create_connection(("127.0.0.1", port), 10) as raw, context.wrap_socket(raw) as wrapped:
        shown = x509.load_der_x509_certificate(wrapped.getpeercert(True) or b"").subject.rfc4514_string()
        wrapped.sendall(b"x")
        return wrapped.recv(1000).decode(), shown


class Listener:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = issue("CN=authority", authority=True)
        save(folder, "ca", self.authority)
        save(folder, "server", issue("CN=server"))
        endpoint, self.certificate = tls_endpoint(
            reactor,
            f"ssl:0:interface=127.0.0.1:privateKey={folder}/server.key:certKey={folder}/server.pem"
            f":clientCa={folder}/ca.pem",
        )
        self.endpoint = endpoint

    def client(self, subject: str, signer: Signer | None = None) -> tuple[Path, Path]:
        return save(self.folder, "client", issue(subject, signer or self.authority))


async def listening(listener: Listener, doing: Callable[[int], Any]) -> Any:
    port = await listener.endpoint.listen(Factory.forProtocol(TellSubject))
    try:
        return await deferToThread(doing, port.getHost().port)
    finally:
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_the_subject_of_a_verified_certificate_is_told_and_none_is_needed(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    mine = listener.client("CN=shop,O=Example")
    assert await listening(listener, lambda port: ask(port, mine)) == ("CN=shop,O=Example", "CN=server")
    assert await listening(listener, lambda port: ask(port, None)) == ("-", "CN=server")


@pytest_twisted.ensureDeferred
async def test_a_certificate_of_another_authority_is_turned_away(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    for signer in (issue("CN=authority", authority=True), issue("CN=shop")):
        forged = listener.client("CN=shop", signer)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await listening(listener, lambda port, forged=forged: ask(port, forged))


@pytest_twisted.ensureDeferred
async def test_client_is_not_asked_for_a_certificate_without_a_client_ca(tmp_path: Path) -> None:
    listener = Listener(tmp_path)
    string = f"ssl:0:interface=127.0.0.1:privateKey={tmp_path}/server.key:certKey={tmp_path}/server.pem"
    listener.endpoint, _certificate = tls_endpoint(reactor, string)
    mine = listener.client("CN=shop")
    assert await listening(listener, lambda port: ask(port, mine)) == ("-", "CN=server")


@pytest_twisted.ensureDeferred
async def test_a_reread_certificate_is_in_force_for_the_next_connection(tmp_path: Path) -> None:
    listener = Listener(tmp_path)

    def look(port: int) -> list[str]:
        seen = [ask(port, None)[1]]
        save(tmp_path, "server", issue("CN=renewed"))
        seen.append(ask(port, None)[1])
        listener.certificate.reread()
        seen.append(ask(port, None)[1])
        (tmp_path / "server.pem").write_text("broken")
        with pytest.raises(ConfigError, match="holds no certificate"):
            listener.certificate.reread()
        seen.append(ask(port, None)[1])
        return seen

    assert await listening(listener, look) == ["CN=server", "CN=server", "CN=renewed", "CN=renewed"]


@pytest.mark.parametrize(
    ("string", "fault"),
    [
        ("ssl:0:privateKey=server.key:certKey=missing.pem", "missing.pem: No such file"),
        ("ssl:0:privateKey=missing.key:certKey=server.pem", "missing.key: No such file"),
        ("ssl:0:privateKey=server.pem:certKey=server.pem", "no private key"),
        ("ssl:0:privateKey=server.key:certKey=server.key", "no certificate"),
        ("ssl:0:privateKey=ca.key:certKey=server.pem", "is not the key of"),
        ("ssl:0:privateKey=server.key:certKey=server.pem:clientCA=ca.pem", "there is no clientCA"),
        ("ssl:x:privateKey=server.key:certKey=server.pem", "port must be a number"),
        ("ssl:privateKey=server.key:certKey=server.pem", "port must be a number"),
    ],
)
def test_fault_of_an_endpoint_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, string: str, fault: str
) -> None:
    Listener(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=fault):
        tls_endpoint(reactor, string)


def test_a_connection_without_tls_has_no_subject() -> None:
    assert subject_of(object()) == ""


def test_a_candidate_is_not_in_force_until_it_is_taken(tmp_path: Path) -> None:
    certificate = Listener(tmp_path).certificate

    def in_force() -> SSL.Context:
        return certificate.serverConnectionForTLS(None).get_context()

    before, candidate = in_force(), certificate.candidate()
    assert in_force() is before
    certificate.take(candidate)
    assert in_force() is candidate
