"""Requests to InfluxDB, read by a small server: address, headers, body; and what is made of its answers."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from servers.certificate import self_signed, tls_endpoint
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from kateway.observe.influx_client import InfluxClient, by_password, by_token, certificates, v1_target, v2_target
from kateway.web.tcp.listener import listen

here = pytest_twisted.ensureDeferred
LINES = gzip.compress(b"kateway draining=0i 1732269600\n")


class Small(Resource):
    """Keeps what it was asked and answers with ``code``, ``text`` and ``headers``; with code 0 never."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[bytes, dict[bytes, bytes], bytes]] = []
        self.code, self.text = 204, b""
        self.headers: dict[bytes, bytes] = {}
        self.peers: list[int] = []
        self.lost: Deferred[Any] | None = None
        self.port: Any = None
        self.clients: list[InfluxClient] = []

    def render(self, request: Any) -> Any:
        self.peers.append(request.getClientAddress().port)
        self.asked.append(
            (
                request.uri,
                {k.lower(): v[0] for k, v in request.requestHeaders.getAllRawHeaders()},
                request.content.read(),
            )
        )
        if not self.code:
            self.lost = request.notifyFinish()
            return NOT_DONE_YET
        request.setResponseCode(self.code)
        for name, value in self.headers.items():
            request.setHeader(name, value)
        return self.text

    async def gone(self) -> None:
        """Waits until the client has ended the connection that it waits on."""
        assert self.lost is not None
        ended: list[Any] = []
        await self.lost.addBoth(ended.append)
        assert isinstance(ended[0], Failure)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port.getHost().port}"

    def client(
        self, target: str, credentials: Any = None, timeout_seconds: float = 20.0, trusted: Any = ()
    ) -> InfluxClient:
        self.clients.append(InfluxClient(reactor, target, credentials or {}, timeout_seconds, trusted))
        return self.clients[-1]


@pytest_twisted.async_yield_fixture
async def server() -> AsyncIterator[Small]:
    small = Small()
    small.port = reactor.listenTCP(0, Site(small, timeout=None), interface="127.0.0.1")
    yield small
    for each in small.clients:
        await each.close()
    await small.port.stopListening()


@here
async def test_version_1_is_asked_with_database_and_password(server: Small) -> None:
    client = server.client(v1_target(server.url, "a b"), by_password("ann", "s:1"))
    assert (await client.write(LINES)).kind == "written"
    ((uri, headers, body),) = server.asked
    assert uri == b"/write?db=a+b&precision=s"
    assert headers[b"authorization"] == b"Basic YW5uOnM6MQ=="
    assert headers[b"content-encoding"] == b"gzip"
    assert headers[b"content-type"] == b"text/plain; charset=utf-8"
    assert gzip.decompress(body) == b"kateway draining=0i 1732269600\n"


@here
async def test_version_2_is_asked_with_organisation_bucket_and_token(server: Small) -> None:
    client = server.client(v2_target(server.url + "/below", "our org", "b&c"), by_token("secret=="))
    assert (await client.write(LINES)).kind == "written"
    ((uri, headers, _body),) = server.asked
    assert uri == b"/below/api/v2/write?org=our+org&bucket=b%26c&precision=s"
    assert headers[b"authorization"] == b"Token secret=="


@here
async def test_several_bodies_go_by_one_connection(server: Small) -> None:
    client = server.client(v1_target(server.url, "d"))
    for _ in range(3):
        assert (await client.write(LINES)).kind == "written"
    assert len(server.asked) == 3
    assert len(set(server.peers)) == 1


@here
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (200, "written"),
        (204, "written"),
        (301, "failed"),
        (400, "refused"),
        (401, "failed"),
        (403, "failed"),
        (404, "failed"),
        (413, "refused"),
        (422, "refused"),
        (429, "failed"),
        (500, "failed"),
        (503, "failed"),
    ],
)
async def test_answer_says_whether_the_lines_are_sent_again(server: Small, code: int, kind: str) -> None:
    server.code, server.text = code, b'{"error":"partial write:\n field type conflict"}'
    outcome = await server.client(v1_target(server.url, "d")).write(LINES)
    assert outcome.kind == kind
    if kind != "written":
        assert outcome.why == f'{code} {{"error":"partial write: field type conflict"}}'


@here
@pytest.mark.parametrize(("given", "seconds"), [(b"7", 7.0), (b"soon", 0.0), (b"-1", 0.0)])
async def test_pause_that_is_asked_for_is_told(server: Small, given: bytes, seconds: float) -> None:
    server.code, server.headers = 503, {b"Retry-After": given}
    assert (await server.client(v1_target(server.url, "d")).write(LINES)).pause_seconds == seconds


@here
async def test_long_answer_is_cut(server: Small) -> None:
    server.code, server.text = 500, b"x" * 10_000_000
    outcome = await server.client(v1_target(server.url, "d")).write(LINES)
    assert outcome.kind == "failed"
    assert len(outcome.why) == 300


@here
async def test_server_that_does_not_answer_fails_in_time_and_loses_the_connection(server: Small) -> None:
    server.code = 0
    outcome = await server.client(v1_target(server.url, "d"), timeout_seconds=0.2).write(LINES)
    assert outcome.kind == "failed"
    assert outcome.why == "no answer within 0.2 s"
    await server.gone()


@here
async def test_cancel_ends_the_request_as_a_cancel(server: Small) -> None:
    server.code = 0
    writing = Deferred.fromCoroutine(server.client(v1_target(server.url, "d")).write(LINES))
    while not server.asked:
        await deferLater(reactor, 0.01)
    writing.cancel()
    with pytest.raises(CancelledError):
        await writing
    await server.gone()


@here
async def test_cancel_while_connecting_is_a_cancel(server: Small) -> None:
    writing = Deferred.fromCoroutine(server.client(v1_target(server.url, "d")).write(LINES))
    writing.cancel()
    with pytest.raises(CancelledError):
        await writing
    assert server.asked == []


@here
async def test_server_that_is_not_there_fails(server: Small) -> None:
    closed = reactor.listenTCP(0, Site(Resource()), interface="127.0.0.1")
    url = f"http://127.0.0.1:{closed.getHost().port}"
    await closed.stopListening()
    outcome = await server.client(v1_target(url, "d"), by_password("ann", "s3cret")).write(LINES)
    assert outcome.kind == "failed"
    assert "refused" in outcome.why
    assert "s3cret" not in outcome.why


@here
async def test_server_with_a_certificate_is_asked_where_that_is_trusted_alone(server: Small, tmp_path: Path) -> None:
    self_signed(tmp_path)
    secured = await listen(reactor, tls_endpoint(tmp_path), Site(server, timeout=None))
    target = v1_target(f"https://127.0.0.1:{secured.getHost().port}", "d")
    try:
        stranger = await server.client(target).write(LINES)
        assert stranger.kind == "failed"
        assert "certificate verify failed" in stranger.why
        assert server.asked == []
        known = server.client(target, trusted=certificates((tmp_path / "cert.pem").read_bytes()))
        assert (await known.write(LINES)).kind == "written"
        await known.close()
    finally:
        await secured.stopListening()


def test_certificates_are_read_one_by_one(tmp_path: Path) -> None:
    pem = (self_signed(tmp_path) / "cert.pem").read_bytes()
    assert len(certificates(pem + pem)) == 2
    for broken in (b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ValueError, match="certificate"):
            certificates(broken)
