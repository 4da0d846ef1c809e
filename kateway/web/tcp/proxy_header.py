"""Parses the header of the PROXY protocol, versions 1 and 2: whose connection a proxy passes on.

Pure: bytes in, a value out. No HTTP request and no TLS handshake can begin like such a header, so the first bytes tell
whether one comes (https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt).
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

V1_START = b"PROXY "
V2_START = b"\r\n\r\n\0\r\nQUIT\n"
V1_MAX_BYTES = 107
"""With its CRLF, as the protocol says."""
_V2_FIXED_BYTES = 16
_LOCAL, _PROXY = 0, 1
_UNSPECIFIED, _STREAM = 0, 1
_INET, _INET6, _UNIX = 1, 2, 3
_ADDRESS_BYTES = {_INET: 12, _INET6: 36, _UNIX: 216}
UNIX = "unix"
"""The address of a client that came by a UNIX socket."""


class Header(NamedTuple):
    """A whole header: the client's address, empty where it names none, and the bytes it takes."""

    address: str
    length: int


class Malformed(ValueError):
    """Is raised for bytes that begin like a header and are none."""


def read_header(data: bytes, max_bytes: int) -> Header | None:
    """The header at the beginning of ``data``, of length 0 where something else is there; ``None`` while it may still
    become one. ``max_bytes`` bounds version 2, whose own bound is 65,551. ``Malformed``.
    """
    if data.startswith(V1_START):
        return _version_1(data)
    if data.startswith(V2_START):
        return _version_2(data, max_bytes)
    if V1_START.startswith(data) or V2_START.startswith(data):
        return None
    return Header("", 0)


def _version_1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, V1_MAX_BYTES)
    if end < 0:
        if len(data) >= V1_MAX_BYTES:
            raise Malformed("a line of version 1 is too long")
        return None
    family, *rest = data[len(V1_START) : end].split(b" ")
    if family == b"UNKNOWN":
        return Header("", end + 2)  # what follows is to be ignored
    if family not in (b"TCP4", b"TCP6") or len(rest) != 4:
        raise Malformed("a line of version 1 has no family, two addresses and two ports")
    try:
        source, destination, *ports = [part.decode("ascii") for part in rest]
        kind = ipaddress.IPv4Address if family == b"TCP4" else ipaddress.IPv6Address
        client = kind(source)
        kind(destination)
    except ValueError as error:
        raise Malformed("a line of version 1 has an address that is none") from error
    if not all(port.isdigit() and len(port) <= 5 and int(port) < 65536 for port in ports):
        raise Malformed("a line of version 1 has a port that is none")
    return Header(_plain(client), end + 2)


def _version_2(data: bytes, max_bytes: int) -> Header | None:
    if len(data) < _V2_FIXED_BYTES:
        return None
    version, command = divmod(data[12], 16)
    family, transport = divmod(data[13], 16)
    size = int.from_bytes(data[14:16], "big")
    length = _V2_FIXED_BYTES + size
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise Malformed("neither LOCAL nor PROXY of version 2")
    if length > max_bytes:
        raise Malformed("a header of version 2 is too long")
    if command == _PROXY and (family > _UNIX or transport > _STREAM or size < _ADDRESS_BYTES.get(family, 0)):
        raise Malformed("a header of version 2 has no address of a stream")
    if len(data) < length:
        return None
    # behind the addresses are TLVs, which nothing here needs
    if command == _LOCAL or _UNSPECIFIED in (transport, family):
        return Header("", length)
    if family == _UNIX:
        return Header(UNIX, length)
    size = 4 if family == _INET else 16
    return Header(_plain(ipaddress.ip_address(data[16 : 16 + size])), length)


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """One text for one client: a v4 address that came over a v6 socket is a v4 address."""
    mapped = getattr(address, "ipv4_mapped", None)
    return str(address if mapped is None else mapped)
