"""Twisted endpoint strings: their kinds, their members, and the faults that keep a listener from starting."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from twisted.internet.endpoints import _parse as split_endpoint  # the one parser of endpoint strings there is

from kateway.errors import ConfigError

KINDS = ("tcp", "ssl", "unix", "tcp6", "systemd")
WILDCARDS = frozenset({"", "0.0.0.0", "::"})
_POSITIONAL: Mapping[str, tuple[str, ...]] = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "ssl": ("port", "interface"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "systemd": ("domain", "index", "name"),
}


class Listening(NamedTuple):
    """What an endpoint string says."""

    kind: str
    options: Mapping[str, str]

    @property
    def port(self) -> int:
        """0 where it has none, or where the system chooses one."""
        return int(self.options.get("port", "0"))

    @property
    def interface(self) -> str:
        """As it is written; empty for all of them."""
        return self.options.get("interface", "")

    @property
    def is_loopback(self) -> bool:
        """Whether it cannot be reached from another machine."""
        if self.kind == "unix":
            return True
        address = address_of(self.interface)
        return self.interface == "localhost" if address is None else address.is_loopback


def parse_endpoint(endpoint: str) -> Listening:
    """``ConfigError`` for a text that is no endpoint, with a suggestion where one is possible."""
    kind, _, rest = endpoint.partition(":")
    if kind not in KINDS or not rest:
        raise ConfigError(
            [f"{endpoint!r} is no endpoint; one begins with {', '.join(KINDS)} and a colon{_meant(endpoint)}"]
        )
    positional, named = split_endpoint(endpoint)
    options = dict(zip(_POSITIONAL[kind], positional[1:], strict=False)) | named
    port = options.get("port", "" if kind in {"tcp", "tcp6", "ssl"} else "0")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigError([f"{shown(endpoint)}: port must be a number from 0 to 65535"])
    return Listening(kind, options)


def is_loopback(endpoint: str) -> bool:
    """Whether an endpoint cannot be reached from another machine."""
    return parse_endpoint(endpoint).is_loopback


def unusable(endpoint: str) -> str | None:
    """Returns the reason why this machine cannot listen there, a port in use excepted; leaves nothing open."""
    listening = parse_endpoint(endpoint)
    if listening.kind == "unix":
        folder = Path(listening.options.get("address", "")).absolute().parent
        return None if os.access(folder, os.W_OK | os.X_OK) else f"no socket can be made in {folder}"
    if listening.kind == "systemd" or not listening.interface:
        return None
    try:
        found = socket.getaddrinfo(listening.interface, 0, type=socket.SOCK_STREAM)
        family, kind, protocol, _name, address = found[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.bind(address)
    except OSError as error:
        return f"{listening.interface} is no address of this machine ({error.strerror})"
    return None


def overlaps(endpoints: Iterable[str]) -> list[str]:
    """Names the faults of endpoints that would take each other's port."""
    taken: list[Listening] = []
    problems: list[str] = []
    for endpoint in endpoints:
        listening = parse_endpoint(endpoint)
        if listening.port and any(_overlap(listening, other) for other in taken):
            problems.append(f"{shown(endpoint)}: port {listening.port} is there twice")
        elif listening.kind == "unix" and any(
            other.kind == "unix" and other.options.get("address") == listening.options.get("address") for other in taken
        ):
            problems.append(f"{shown(endpoint)}: this socket is there twice")
        taken.append(listening)
    return problems


def shown(endpoint: str) -> str:
    """An endpoint string without the paths of its keys."""
    return ":".join(part for part in endpoint.split(":") if not part.startswith(("privateKey=", "certKey=")))


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IP address; ``None`` for a name."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _overlap(one: Listening, other: Listening) -> bool:
    if one.port != other.port:
        return False
    interfaces = {one.interface, other.interface}
    return len(interfaces) == 1 or not interfaces.isdisjoint(WILDCARDS)


def _meant(endpoint: str) -> str:
    """Suggests the endpoint string for a host and a port."""
    host, _, port = endpoint.rpartition(":")
    if not port.isdigit() or ":" in host:
        return ""
    return f", such as tcp:{port}" + (f":interface={host}" if host else "")
