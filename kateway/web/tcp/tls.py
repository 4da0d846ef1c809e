"""TLS listeners: ``ssl:`` endpoint strings with two additions, client certificates and re-reading.

``ssl:9443:privateKey=key.pem:certKey=cert.pem:clientCa=ca.pem`` asks clients for a certificate, which must then be
signed by one of the authorities in ``ca.pem``; a client that has none is still let in, with no subject. ``reread``
takes the files' new content into force for connections to come; those that are open go on with what they have.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.endpoints import SSL4ServerEndpoint
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from zope.interface import implementer

from kateway.errors import ConfigError
from kateway.web.tcp.endpoints import parse_endpoint

_KNOWN = frozenset({"port", "interface", "backlog", "privateKey", "certKey", "extraCertChain", "clientCa"})
DEFAULT_BACKLOG = 1024
MAX_VERIFY_DEPTH = 9


@implementer(IOpenSSLServerConnectionCreator)
class Certificate:
    """A listener's certificate: the present one answers each new connection."""

    def __init__(self, path: str, *, private_key: Path, certificate: Path, chain: Path | None, client_ca: Path | None):
        """``path`` names the endpoint in messages. Reads the files; ``ConfigError`` names the one that is at fault."""
        self._path = path
        self._private_key = private_key
        self._certificate = certificate
        self._chain = chain
        self._client_ca = client_ca
        self._context = self._read()

    def reread(self) -> None:
        """Takes the files' content into force; on a ``ConfigError`` the old stays."""
        self.take(self.candidate())

    def candidate(self) -> SSL.Context:
        """What the files hold now, not in force yet: for a reload that is all or nothing."""
        return self._read()

    def take(self, context: SSL.Context) -> None:
        self._context = context

    def serverConnectionForTLS(self, _protocol: Any) -> SSL.Connection:
        """Called by Twisted for each connection."""
        return SSL.Connection(self._context, None)

    def _read(self) -> SSL.Context:
        try:
            key = load_pem_private_key(self._bytes(self._private_key), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise self._fault(self._private_key, "holds no private key without a passphrase") from error
        own = self._certificates(self._certificate)
        chain = own[1:] + (self._certificates(self._chain) if self._chain is not None else [])
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_RENEGOTIATION)
        # idle connections, of which there are many, give their buffers back
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        try:
            context.use_certificate(own[0])
            context.use_privatekey(key)  # type: ignore[arg-type]
            context.check_privatekey()
        except (SSL.Error, TypeError) as error:
            raise self._fault(self._private_key, f"is not the key of {self._certificate}") from error
        for certificate in chain:
            context.add_extra_chain_cert(certificate)
        if self._client_ca is not None:
            self._certificates(self._client_ca)
            context.load_verify_locations(str(self._client_ca))
            context.load_client_ca(bytes(self._client_ca))
            context.set_verify(SSL.VERIFY_PEER)
            context.set_verify_depth(MAX_VERIFY_DEPTH)
            # OpenSSL resumes no session of a server that verifies its clients without one
            context.set_session_id(hashlib.sha256(self._path.encode()).digest())
        return context

    def _certificates(self, file: Path) -> list[x509.Certificate]:
        try:
            return x509.load_pem_x509_certificates(self._bytes(file))
        except ValueError as error:
            raise self._fault(file, "holds no certificate that can be read") from error

    def _bytes(self, file: Path) -> bytes:
        try:
            return file.read_bytes()
        except OSError as error:
            raise self._fault(file, error.strerror or str(error)) from error

    def _fault(self, file: Path, what: str) -> ConfigError:
        return ConfigError([f"{self._path}: {file}: {what}"])


def tls_endpoint(reactor: Any, endpoint_string: str) -> tuple[SSL4ServerEndpoint, Certificate]:
    """An ``ssl:`` endpoint string as an endpoint and the certificate behind it. ``ConfigError``."""
    options = parse_endpoint(endpoint_string).options
    path = f"ssl:{options.get('port', '')}"
    if unknown := sorted(options.keys() - _KNOWN):
        raise ConfigError([f"{path}: there is no {unknown[0]}, only {', '.join(sorted(_KNOWN))}"])
    backlog = options.get("backlog", str(DEFAULT_BACKLOG))
    if not backlog.isdigit():
        raise ConfigError([f"{path}: backlog must be a number"])
    key = options.get("privateKey", "server.pem")
    certificate = Certificate(
        path,
        private_key=Path(key),
        certificate=Path(options.get("certKey", key)),
        chain=Path(options["extraCertChain"]) if "extraCertChain" in options else None,
        client_ca=Path(options["clientCa"]) if "clientCa" in options else None,
    )
    endpoint = SSL4ServerEndpoint(
        reactor, int(options["port"]), certificate, int(backlog), options.get("interface", "")
    )
    return endpoint, certificate


def subject_of(transport: Any) -> str:
    """The subject of the certificate that the client has shown and TLS has verified, as RFC 4514 writes it; empty
    without one. To be asked once a connection, after its first bytes have arrived (the handshake is done then).
    """
    ask = getattr(transport, "getPeerCertificate", None)
    certificate = ask() if ask is not None else None
    if certificate is None:
        return ""
    # the names that RFC 4514 section 3 gives, for the kinds that people really use
    return str(certificate.to_cryptography().subject.rfc4514_string(_NAMES))


_NAMES = {NameOID.EMAIL_ADDRESS: "emailAddress", NameOID.SERIAL_NUMBER: "serialNumber"}
