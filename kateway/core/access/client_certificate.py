"""Client certificates: the subject of one that TLS has verified to an application.

A subject is compared as RFC 4514 writes it (``CN=shop,O=Example``). Whether the certificate is genuine and in date is
for the listener's TLS to say; without ``verify`` and a CA there, no subject ever arrives here.
"""

from __future__ import annotations

from collections.abc import Mapping

from kateway.core.access.authentication import AuthenticatorContext, Credentials, Purpose, SnapshotNow
from kateway.errors import ConfigError, Unauthorized
from kateway.model import Principal


class ClientCertificate:
    """Authenticates by the certificate's subject."""

    challenge = ""

    def __init__(self, subjects: Mapping[str, str], *, common_name: bool, snapshot: SnapshotNow) -> None:
        self._subjects = subjects
        self._common_name = common_name
        self._snapshot = snapshot

    def authenticate(self, credentials: Credentials, purpose: Purpose) -> Principal | None:
        """Returns the subject's application; ``None`` without a certificate, or with one of no application."""
        subject = credentials.subject
        if not subject:
            return None
        application = self._subjects.get(subject)
        if application is None and self._common_name:
            application = common_name(subject)
        if application is None:
            return None
        if application not in self._snapshot().applications:
            raise Unauthorized("the client certificate's application is not registered")
        return Principal(application, f"certificate:{subject}")


def common_name(subject: str) -> str | None:
    """The one common name of a subject; ``None`` where it has none, several, or one with anything escaped in it."""
    if "\\" in subject:
        # an escaped comma could smuggle a second CN= into another attribute's value
        return None
    names = [
        value
        for part in subject.split(",")
        for kind, _, value in (piece.partition("=") for piece in part.split("+"))
        if kind.upper() == "CN"
    ]
    return names[0] if len(names) == 1 else None


def client_certificate_authenticator(context: AuthenticatorContext) -> ClientCertificate:
    """The entry point ``client-certificate``."""
    config = context.config.client_certificate
    if not config.subjects and not config.common_name_is_application:
        raise ConfigError(
            ["auth.client_certificate: name subjects, or set common_name_is_application: else it admits no client"]
        )
    return ClientCertificate(config.subjects, common_name=config.common_name_is_application, snapshot=context.snapshot)
