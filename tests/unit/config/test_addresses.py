"""``HOST:PORT`` as people write it."""

from __future__ import annotations

import pytest

from kateway.config.addresses import parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("host:19092", ("host", 19092)),
        ("host", ("host", 9092)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[::1]:9093", ("::1", 9093)),
        ("[::1]", ("::1", 9092)),
        ("::1", ("::1", 9092)),
    ],
)
def test_an_address_may_leave_out_the_port_where_there_is_a_default(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, 9092) == address


@pytest.mark.parametrize("text", ["host", "::1", "[::1]", "2001:db8::1"])
def test_without_a_default_the_port_is_needed(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":9092",
        "host:",
        "host:port",
        "host:0",
        "host:65536",
        "host:-1",
        "host:9092:1",
        "two hosts:1",
        "[host]:1",
        "[]:1",
    ],
)
def test_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        parse_address(text)
