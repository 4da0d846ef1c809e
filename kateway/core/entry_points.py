"""Finds entry points, shipped ones and those of other packages, by name; imports one only when it is configured.

What an entry point names is a factory. One with an attribute ``Options``, an attrs class, is given an instance of it,
made of the options of the file or the request as the gateway's own are: strictly, and with every fault named.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import attrs

from kateway import __version__
from kateway.config import file
from kateway.errors import ConfigError, KatewayError

AUTHENTICATORS = "kateway.authenticators"
AUTHORIZERS = "kateway.authorizers"
AUDIT_SINKS = "kateway.audit_sinks"
TRANSFORMS = "kateway.transforms"
STORES = "kateway.stores"
METRICS_SINKS = "kateway.metrics_sinks"
GROUPS = (AUTHENTICATORS, AUTHORIZERS, AUDIT_SINKS, TRANSFORMS, STORES, METRICS_SINKS)
"""The six seams."""

SHIPPED: Mapping[str, Mapping[str, str]] = {
    AUTHENTICATORS: {
        "key-secret": "kateway.core.access.key_secret:key_secret_authenticator",
        "jwt": "kateway.core.access.bearer_token:jwt_authenticator",
        "client-certificate": "kateway.core.access.client_certificate:client_certificate_authenticator",
    },
    AUTHORIZERS: {"bindings": "kateway.core.access.authorization:binding_authorizer"},
    AUDIT_SINKS: {
        "file": "kateway.core.audit.sinks:file_sink",
        "topic": "kateway.core.audit.sinks:topic_sink",
    },
}
"""The entry points of setup.py, so that a checkout which is not installed has them too."""

BUILT_IN: Mapping[str, tuple[str, ...]] = {STORES: ("embedded", "kafka")}
"""Names that are taken without an entry point: their options are tables of the configuration's own."""


@attrs.frozen
class Installed:
    """An entry point that is there, with the distribution that brings it."""

    group: str
    name: str
    distribution: str
    version: str


def installed(group: str) -> list[Installed]:
    """Lists a seam's entry points by name; of two with one name that which ``load`` takes. Looks at the disk."""
    found = {name: Installed(group, name, "kateway", __version__) for name in [*own(group), *BUILT_IN.get(group, ())]}
    for point in sorted(entry_points(group=group), key=lambda each: each.value):
        dist = point.dist
        if point.name not in found:
            found[point.name] = Installed(
                group, point.name, "" if dist is None else dist.name, "" if dist is None else dist.version
            )
    return [found[name] for name in sorted(found)]


def own(group: str) -> Mapping[str, str]:
    """The gateway's own entry points of a seam, by name."""
    return SHIPPED.get(group, {})


def load(group: str, name: str, path: str) -> Any:
    """The object that an entry point names. ``ConfigError`` names ``path``, the option that asked for it."""
    shipped = own(group)
    if name in shipped:
        return EntryPoint(name, shipped[name], group).load()
    found = sorted(entry_points(group=group, name=name), key=lambda point: point.value)
    if not found:
        known = ", ".join(each.name for each in installed(group)) or "none is installed"
        raise ConfigError([f"{path}: there is no {name!r} among the entry points {group} ({known})"])
    try:
        return found[0].load()
    # a module of others runs when it is imported, and may raise anything
    except Exception as error:
        raise ConfigError([f"{path}: {name!r} cannot be loaded from {found[0].value}: {error}"]) from error


def make(factory: Any, context: Any, table: Mapping[str, Any], path: str, *, reads_table: bool = False) -> Any:
    """What a factory makes, of a context and, where it has ``Options``, of those. ``ConfigError`` names each fault
    below ``path``. ``reads_table``: one without may find its table in the context.
    """
    if not (reads_table and not hasattr(factory, "Options")):
        no_options(factory, table, path)
    arguments = options_of(factory, table, path)
    try:
        return factory(context, *arguments)
    except KatewayError:
        raise
    # a factory of others may raise anything
    except Exception as error:
        raise ConfigError([f"{path}: it cannot be made: {type(error).__name__}: {error}"]) from error


def options_of(factory: Any, table: Mapping[str, Any], path: str) -> tuple[Any, ...]:
    """The further arguments of a factory: its ``Options`` made of a table, or none. ``ConfigError`` names each fault
    below ``path``.
    """
    kind = getattr(factory, "Options", None)
    if kind is None:
        return ()
    try:
        return (file.structure(table, kind),)
    except ConfigError as error:
        raise ConfigError([f"{path}.{problem}" if path else problem for problem in error.problems]) from error


def no_options(factory: Any, table: Mapping[str, Any], path: str) -> None:
    """``ConfigError`` names options that were given to a factory which has none."""
    if table and not hasattr(factory, "Options"):
        above = f"{path}." if path else ""
        raise ConfigError([f"{above}{name}: there is no such option" for name in table])
