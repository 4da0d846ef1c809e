"""Parses networks as people write them: an address, or an address and the length of its prefix."""

from __future__ import annotations

import ipaddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = "unix"
"""Stands for each client of a UNIX socket."""


def parse_network(text: str) -> Network | None:
    """``10.0.0.7``, ``10.0.0.0/8``, ``fd00::/8``; ``None`` for ``unix``. ``ValueError`` for anything else, and where
    bits of the address are outside the prefix.
    """
    if text == UNIX:
        return None
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no address and no network such as 10.0.0.0/8, and not 'unix'") from error
