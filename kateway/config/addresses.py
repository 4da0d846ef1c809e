"""``HOST:PORT`` as people write it: brokers, ZooKeeper servers."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit


class Address(NamedTuple):
    """Where something listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_address(text: str, default_port: int | None = None) -> Address:
    """``host:port``, ``[v6]:port``; without a port only where there is a default. ``ValueError`` for anything else."""
    host, colon, port = text.rpartition(":")
    bare = not colon or text.endswith("]") or _is_v6(text)
    if bare and default_port is not None:
        host, port = text, str(default_port)
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    sound = _is_v6(name) if bracketed or ":" in name else bool(name) and name.isprintable() and " " not in name
    # without brackets the last part of a v6 address may as well be a port
    ambiguous = ":" in host and not bracketed and not bare
    if not sound or ambiguous or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is not HOST:PORT")
    return Address(name, int(port))


def _is_v6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def url_fault(url: str) -> str:
    """Says what is wrong with the URL of a server that we send to; empty where nothing is."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and url.isascii()
    except ValueError:
        sound = False
    if not sound or not url.isprintable() or " " in url:
        return f"{url!r} is not http://HOST:PORT or https://HOST:PORT"
    if "@" in parts.netloc:
        return "user and password have options of their own"
    return "it has a query or a fragment" if parts.query or parts.fragment else ""
