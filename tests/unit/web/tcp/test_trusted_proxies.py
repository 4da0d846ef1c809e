"""Trusted proxies: what is in the list, and whose the last address of ``X-Forwarded-For`` is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.web.tcp.proxies import MOST_HOPS, TrustedProxies

PROXIES = TrustedProxies(("127.0.0.1", "10.0.0.0/8", "fd00::/8"))


@pytest.mark.parametrize("address", ["127.0.0.1", "10.200.3.4", "fd00::7", "::ffff:10.0.0.1"])
def test_address_in_the_list_is_trusted(address: str) -> None:
    assert PROXIES.trusts(address)


@pytest.mark.parametrize("address", ["127.0.0.2", "11.0.0.1", "fe80::1", "unix", "", "10.0.0.1.example"])
def test_address_not_in_the_list_is_not_trusted(address: str) -> None:
    assert not PROXIES.trusts(address)


def test_unix_sockets_are_trusted_where_they_are_named() -> None:
    assert TrustedProxies(("unix",)).trusts("unix")
    assert not TrustedProxies(("unix",)).trusts("127.0.0.1")
    assert not TrustedProxies()


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"6.6.6.6, 192.0.2.1", "192.0.2.1"),
        (b"6.6.6.6, 192.0.2.1, 10.0.0.3", "192.0.2.1"),
        (b"192.0.2.1:4711", "192.0.2.1"),
        (b"[2001:db8::1]:4711", "2001:db8::1"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"::ffff:192.0.2.1", "192.0.2.1"),
        (b"10.0.0.1, 10.0.0.2", "10.0.0.1"),
        (b"", "127.0.0.1"),
        (b"unknown", "127.0.0.1"),
        (b"192.0.2.1, unknown", "127.0.0.1"),
        (b"192.0.2.1, unknown, 10.0.0.3", "10.0.0.3"),
        (b"192.0.2.1, \xff", "127.0.0.1"),
    ],
)
def test_client_is_the_last_address_that_is_no_proxy(forwarded: bytes, client: str) -> None:
    assert PROXIES.client("127.0.0.1", forwarded) == client


@given(st.binary(max_size=200))
def test_what_stands_before_the_client_changes_nothing(before: bytes) -> None:
    assert PROXIES.client("127.0.0.1", before + b", 192.0.2.1, 10.0.0.3") == "192.0.2.1"


def test_long_chain_of_proxies_is_followed_so_far() -> None:
    assert PROXIES.client("127.0.0.1", b"192.0.2.1, " + b", ".join([b"10.0.0.3"] * MOST_HOPS)) == "10.0.0.3"
