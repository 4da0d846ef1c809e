"""Bearer tokens from the configuration, each with the application that it stands for."""

import hmac

import attrs

from kateway.core.access.authentication import AuthenticatorContext, Credentials, Purpose
from kateway.errors import Unauthorized
from kateway.model import Principal


class Tokens:
    """Names the caller by a token."""

    @attrs.frozen
    class Options:
        applications: dict[str, str]
        """By the token, the application's name."""

    challenge = "Bearer"

    def __init__(self, context: AuthenticatorContext, options: Options) -> None:
        self._snapshot = context.snapshot
        self._applications = {token.encode(): name for token, name in options.applications.items()}

    def authenticate(self, credentials: Credentials, purpose: Purpose) -> Principal | None:
        if not credentials.token:
            return None
        for token, application in self._applications.items():
            if hmac.compare_digest(token, credentials.token) and application in self._snapshot().applications:
                return Principal(application, f"tokens:{application}")
        raise Unauthorized("the token is not known")
