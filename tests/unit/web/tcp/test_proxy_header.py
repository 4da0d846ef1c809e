"""The PROXY header's parser: every byte of a header may come late, and no other bytes are taken for one."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.web.tcp.proxy_header import UNIX, V1_MAX_BYTES, V2_START, Header, Malformed, read_header

MOST = 32768
ports = st.integers(0, 65535)


def version_1(source: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> bytes:
    return f"PROXY TCP{source.version} {source} {source} {port} 80\r\n".encode()


def version_2(address: bytes, family: int, tlvs: bytes = b"", command: int = 0x21) -> bytes:
    return V2_START + struct.pack("!BBH", command, family, len(address) + len(tlvs)) + address + tlvs


def inet(source: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, tlvs: bytes = b"") -> bytes:
    address = source.packed * 2 + struct.pack("!HH", port, 80)
    return version_2(address, 0x11 if source.version == 4 else 0x21, tlvs)


def plain(source: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return str(getattr(source, "ipv4_mapped", None) or source)


@given(st.ip_addresses(), ports, st.binary(max_size=300), st.binary(max_size=40))
def test_header_of_either_version_is_found_once_it_is_whole(
    source: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, tlvs: bytes, behind: bytes
) -> None:
    for header in (version_1(source, port), inet(source, port, tlvs)):
        for size in range(len(header)):
            assert read_header(header[:size], MOST) is None
        assert read_header(header + behind, MOST) == Header(plain(source), len(header))


@given(st.binary(max_size=600))
def test_any_bytes_are_a_header_no_header_or_malformed(data: bytes) -> None:
    for start in (b"", b"PROXY ", b"PROXY TCP4 ", V2_START, V2_START + b"\x21\x11\0\x0c"):
        try:
            header = read_header(start + data, MOST)
        except Malformed:
            continue
        assert header is None or 0 <= header.length <= len(start + data)


@pytest.mark.parametrize(
    "data", [b"G", b"POST / HTTP/1.1\r\n", b"PROPFIND /", b"\r\n\r\nGET", b"\x16\x03\x01", b"PROXY\r"]
)
def test_bytes_of_a_request_or_a_handshake_are_no_header(data: bytes) -> None:
    assert read_header(data, MOST) == Header("", 0)


@pytest.mark.parametrize(
    ("header", "address"),
    [
        (b"PROXY UNKNOWN\r\n", ""),
        (b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n", ""),
        (version_2(b"", 0, command=0x20), ""),
        (version_2(b"x" * 12, 0x11, b"\x04\0\x01x", command=0x20), ""),
        (version_2(b"", 0), ""),
        (version_2(b"/run/x".ljust(216, b"\0"), 0x31), UNIX),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", "192.0.2.1"),
    ],
)
def test_header_without_an_address_of_the_internet_is_taken(header: bytes, address: str) -> None:
    assert read_header(header + b"GET", MOST) == Header(address, len(header))


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
        b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 \xff 5.6.7.8 1 2\r\n",
        b"PROXY " + b"x" * V1_MAX_BYTES,
        V2_START + b"\x11\x11\0\x0c" + b"x" * 12,
        V2_START + b"\x22\x11\0\x0c" + b"x" * 12,
        V2_START + b"\x21\x11\0\x0b" + b"x" * 11,
        V2_START + b"\x21\x12\0\x0c" + b"x" * 12,
        V2_START + b"\x21\x41\0\x0c" + b"x" * 12,
        V2_START + b"\x21\x11\xff\xff",
    ],
)
def test_malformed_header_is_refused_as_soon_as_it_shows(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_header(data, MOST)
