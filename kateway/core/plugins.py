"""Finds entry points, shipped ones and those of other packages, by name; imports one only when it is configured."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from kateway.errors import ConfigError

SHIPPED: Mapping[str, Mapping[str, str]] = {
    "kateway.authenticators": {
        "key-secret": "kateway.core.access.key_secret:key_secret_authenticator",
        "jwt": "kateway.core.access.bearer_token:jwt_authenticator",
        "client-certificate": "kateway.core.access.client_certificate:client_certificate_authenticator",
    },
    "kateway.authorizers": {"bindings": "kateway.core.access.authorization:binding_authorizer"},
    "kateway.audit_sinks": {
        "file": "kateway.core.audit.sinks:file_sink",
        "topic": "kateway.core.audit.sinks:topic_sink",
    },
}
"""The entry points of setup.py, so that a checkout which is not installed has them too."""


def load(group: str, name: str, path: str) -> Any:
    """The object that an entry point names. ``ConfigError`` names ``path``, the option that asked for it."""
    shipped = SHIPPED.get(group, {})
    if name in shipped:
        return EntryPoint(name, shipped[name], group).load()
    found = sorted(entry_points(group=group, name=name), key=lambda point: point.value)
    if not found:
        known = sorted({*shipped, *(point.name for point in entry_points(group=group))})
        raise ConfigError([f"{path}: there is no {name!r} among the entry points {group} ({', '.join(known)})"])
    try:
        return found[0].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError([f"{path}: {name!r} cannot be loaded from {found[0].value}: {error}"]) from error
