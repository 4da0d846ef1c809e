"""Pages of other origins: refused, unless they are listed."""

from __future__ import annotations

import pytest

from kateway.errors import Denied
from kateway.web.cors import check_origin, preflight
from kateway.web.exchange import Header, Request

LISTED = ("https://app.example",)


class Asked:
    """As much of an exchange as a look at the origin takes."""

    def __init__(self, *headers: Header, secure: bool = False) -> None:
        self.extra_headers: tuple[Header, ...] = ((b"RateLimit", b"1"),)
        self.request = Request(
            b"GET", b"/", list(headers), b"", http_1_1=True, peer="::1", secure=secure, id="id", received=0.0
        )

    @property
    def extra(self) -> dict[bytes, bytes]:
        return dict(self.extra_headers)


def check(asked: Asked, origins: tuple[str, ...] = LISTED) -> Asked:
    check_origin(asked, origins)  # type: ignore[arg-type]
    return asked


def test_a_program_says_no_origin_and_passes() -> None:
    assert check(Asked((b"host", b"localhost:9090"))).extra == {b"RateLimit": b"1"}


def test_a_page_of_our_own_origin_passes() -> None:
    check(Asked((b"host", b"localhost:9090"), (b"origin", b"http://LOCALHOST:9090")))
    check(Asked((b"host", b"10.0.0.1:9090"), (b"origin", b"http://10.0.0.1:9090")))
    check(Asked((b"host", b"[::1]:9090"), (b"origin", b"http://[::1]:9090")))
    check(Asked((b"host", b"[::1]"), (b"origin", b"http://[::1]")))
    check(Asked((b"host", b"gw.example"), (b"origin", b"https://gw.example"), secure=True))


def test_a_name_that_dns_may_have_been_made_to_lead_to_us_is_not_our_own() -> None:
    with pytest.raises(Denied):
        check(Asked((b"host", b"evil.example:9090"), (b"origin", b"http://evil.example:9090")))


def test_a_listed_page_passes_and_may_read_our_headers() -> None:
    extra = check(Asked((b"host", b"gw.example"), (b"origin", b"https://app.example"))).extra
    assert extra[b"Access-Control-Allow-Origin"] == b"https://app.example"
    assert b"X-Offset" in extra[b"Access-Control-Expose-Headers"]
    assert (extra[b"Vary"], extra[b"RateLimit"]) == (b"Origin", b"1")


@pytest.mark.parametrize(
    "origin", [b"https://evil.example", b"null", b"http://app.example", b"https://gw.example", b"http://gw.example:81"]
)
def test_any_other_page_is_refused(origin: bytes) -> None:
    with pytest.raises(Denied):
        check(Asked((b"host", b"gw.example"), (b"origin", origin)))


def test_a_preflight_is_answered_with_what_may_be_done() -> None:
    asked = Asked(
        (b"origin", b"https://app.example"),
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", b"pubkey, secret"),
    )
    response = preflight(asked, "GET, POST")  # type: ignore[arg-type]
    assert response is not None
    assert response.status == 204
    headers = dict(response.headers)
    assert headers[b"Access-Control-Allow-Methods"] == b"GET, POST"
    assert headers[b"Access-Control-Allow-Headers"] == b"pubkey, secret"


def test_options_without_a_question_is_no_preflight() -> None:
    assert preflight(Asked((b"origin", b"https://app.example")), "GET") is None  # type: ignore[arg-type]
    assert preflight(Asked((b"access-control-request-method", b"GET")), "GET") is None  # type: ignore[arg-type]
