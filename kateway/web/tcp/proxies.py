"""Knows the proxies whose word on a client's address is believed (``[http] proxies``)."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from kateway.bounded_cache import BoundedCache
from kateway.config.networks import UNIX, parse_network

_MOST_ADDRESSES = 4096
MOST_HOPS = 16
"""Proxies behind each other whose ``X-Forwarded-For`` is followed."""


class TrustedProxies:
    """Addresses and networks; empty, and false, by default."""

    __slots__ = ("_known", "_networks", "_unix")

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._unix = UNIX in texts
        self._networks = [network for network in map(parse_network, texts) if network is not None]
        self._known: BoundedCache[str, bool] = BoundedCache(_MOST_ADDRESSES)

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def trusts(self, address: str) -> bool:
        """Whether a connection from there may say whose it is."""
        known = self._known.get(address)
        return self._known.keep(address, self._found(address)) if known is None else known

    def _found(self, address: str) -> bool:
        if address == UNIX:
            return self._unix
        found = _address(address)
        return found is not None and any(found in network for network in self._networks)

    def client(self, proxy: str, forwarded: bytes) -> str:
        """The client that a trusted proxy's ``X-Forwarded-For`` names: each proxy adds the address before it at the
        end, so the last that is no proxy of ours. What stands before that came from the client, and is not believed.
        """
        address, rest = proxy, forwarded
        for _ in range(MOST_HOPS):
            rest, _, last = rest.rpartition(b",")
            found = _forwarded(last.decode("latin-1").strip())
            if found is None:
                break
            address = found
            if not rest or not self.trusts(address):
                break
        return address


def _forwarded(text: str) -> str | None:
    """An address of the header; some proxies add a port."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    found = _address(text)
    return None if found is None else str(found)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
