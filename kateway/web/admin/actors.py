"""Names the callers of the admin listener: by their token's name or their application, and by their role."""

from __future__ import annotations

import hashlib
from typing import Final, Literal, NamedTuple

Role = Literal["admin", "operator", "viewer", "tenant", ""]
ADMIN_NAME: Final = "admin"
"""Names the token of ``[admin] token_file``, and every caller where no token is needed."""


class Actor(NamedTuple):
    """A caller that was recognised."""

    name: str
    """For the audit: the token's name, ``portal:APP`` of a tenant."""
    role: Role
    """Empty: not signed in."""
    application: str = ""
    """A tenant's; empty: all are seen."""
    proof: bytes = b""
    """The digest of the token that let it in, a tenant's is its link maker's; empty where none is needed."""
    session: bytes = b""
    """The digest that its session is kept under; empty: it has none."""

    def sees(self, application: str) -> bool:
        """Whether what belongs to an application may be in a response."""
        return not self.application or application == self.application


OPEN: Final = Actor(ADMIN_NAME, "admin")
NOBODY: Final = Actor("", "")


def tenant(application: str, proof: bytes) -> Actor:
    """Makes the caller that a portal link lets in."""
    return Actor(f"portal:{application}", "tenant", application, proof)


def digest(secret: bytes) -> bytes:
    """Digests a token, a link or half a session, of which no more is kept."""
    return hashlib.sha256(secret).digest()
