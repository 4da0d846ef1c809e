"""Every way out filled up: the client's window, our buffers and the store's prefetch; then the client reads all."""

from __future__ import annotations

import base64
import http.client
import os
import select
import socket
import ssl
import sys
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import cramjam
import orjson
import pytest
import pytest_twisted
from servers.certificate import self_signed, tls_endpoint
from twisted.internet.threads import deferToThread
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request, TextMessage
from wsproto.extensions import PerMessageDeflate

sys.path.append(str(Path(__file__).parents[1] / "edge"))

from gateways import LOOPBACK, RunningGateway, config

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL .* objects:DeprecationWarning")

RECORDS = 48
VALUES = [base64.b64encode(bytes([number]) + os.urandom(75_000)) for number in range(RECORDS)]
"""About five megabytes that hardly compress: more than the kernel keeps for a connection."""
REST_SECONDS = 0.3
TOPIC = "/v1/topics/full"

FORMS = {
    "raw": "text/plain",
    "ndjson": "application/x-ndjson",
    "json": "application/json",
    "sse": "text/event-stream",
    "frames": "application/vnd.kateway.frames",
}
READS = {
    "auto": f"{TOPIC}/auto?limit={RECORDS}&max_bytes=100000000",
    "explicit": f"{TOPIC}/explicit?ack=explicit&limit={RECORDS}&max_bytes=100000000",
    "without-group": f"{TOPIC}?partition=0&offset=0&limit={RECORDS}&max_bytes=100000000",
}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest_twisted.async_yield_fixture
async def gateway(tmp_path: Path, certificate: Path) -> AsyncIterator[RunningGateway]:
    """A gateway with a plain and a TLS listener, whose topic ``full`` has the values."""
    settings = config(tmp_path / "data", max_unsent_bytes=16384, max_body_bytes=1 << 24)
    settings = attrs.evolve(
        settings,
        http=attrs.evolve(settings.http, public=(LOOPBACK, tls_endpoint(certificate))),
        delivery=attrs.evolve(settings.delivery, settle_seconds=0.1, max_unacknowledged_bytes=1 << 28),
    )
    running = RunningGateway(settings, "hot")
    await running.start()
    batch = {"Content-Type": "application/x-ndjson"}
    written = await running.request("POST", f"{TOPIC}?partition=0&batch=1", b"\n".join(VALUES), headers=batch)
    assert written.status == 201
    yield running
    await running.stop()


def connect(gateway: RunningGateway, tls: bool) -> socket.socket:
    """A client with the smallest window that the kernel gives."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
    client.settimeout(30)
    client.connect(("127.0.0.1", gateway.service.ports[1 if tls else 0].getHost().port))
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        client = context.wrap_socket(client)
    return client


def decoded(body: bytes, encoding: str | None) -> bytes:
    if encoding == "gzip":
        return zlib.decompress(body, 31)
    return bytes(cramjam.zstd.decompress(body)) if encoding == "zstd" else body


def values(form: str, body: bytes) -> list[bytes]:
    match form:
        case "raw":
            return body.removesuffix(b"\n").split(b"\n")
        case "ndjson":
            return [orjson.loads(line)["value"].encode() for line in body.splitlines() if line]
        case "json":
            return [record["value"].encode() for record in orjson.loads(body)]
        case "sse":
            lines = [line for line in body.splitlines() if line.startswith(b"data:")]
            return [orjson.loads(line[5:])["value"].encode() for line in lines]
    found = []
    while body:
        assert body[20:24] == b"\xff\xff\xff\xff"
        size = int.from_bytes(body[24:28], "big")
        found.append(body[28 : 28 + size])
        headers = int.from_bytes(body[28 + size : 32 + size], "big")
        assert headers in (0, 1)
        body = body[32 + size :]
        for _ in range(2 * headers):
            body = body[4 + int.from_bytes(body[:4], "big") :]
    return found


def numbers(found: list[bytes]) -> list[int]:
    """Which values arrived: shorter than themselves in a failure."""
    return [VALUES.index(value) if value in VALUES else -1 for value in found]


def read_all(client: socket.socket, target: str, headers: dict[str, str]) -> tuple[str | None, bytes]:
    """Asks, rests until everything is full, and reads all."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    client.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
    time.sleep(REST_SECONDS)
    response = http.client.HTTPResponse(client)
    response.begin()
    assert response.status == 200
    body = response.read()
    client.close()
    return response.getheader("Content-Encoding"), body


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize(
    ("form", "encoding"),
    [
        ("raw", None),
        ("raw", "gzip"),
        ("ndjson", None),
        ("ndjson", "zstd"),
        ("json", None),
        ("json", "gzip"),
        ("sse", None),
        ("sse", "gzip"),
        ("frames", None),
    ],
)
@here
async def test_response_whose_client_rests_until_all_is_full_arrives_whole_and_in_order(
    gateway: RunningGateway, form: str, encoding: str | None, read: str, tls: bool
) -> None:
    headers = {"Accept": FORMS[form]}
    if encoding is not None:
        headers["Accept-Encoding"] = encoding
    target = READS[read].replace(f"/{read}?", f"/{read}-{form}-{encoding}-{tls}?")
    client = await deferToThread(connect, gateway, tls)
    found, body = await deferToThread(read_all, client, target, headers)
    assert found == encoding
    assert numbers(values(form, decoded(body, encoding))) == list(range(RECORDS))


class SocketClient:
    """A WebSocket's client that blocks."""

    def __init__(self, client: socket.socket, target: str, deflate: bool, subprotocol: str | None) -> None:
        self.client = client
        self.connection = WSConnection(ConnectionType.CLIENT)
        self.deflated = False
        client.sendall(
            self.connection.send(
                Request(
                    host="a",
                    target=target,
                    subprotocols=[subprotocol] if subprotocol else [],
                    extensions=[PerMessageDeflate()] if deflate else [],
                )
            )
        )

        self.closed = False
        self._parts: list[Any] = []

    def arrived(self) -> Iterator[Any]:
        """The messages that have arrived whole."""
        for event in self.connection.events():
            match event:
                case AcceptConnection(extensions=extensions):
                    self.deflated = bool(extensions)
                case Ping():
                    self.client.sendall(self.connection.send(event.response()))
                case CloseConnection():
                    self.client.sendall(self.connection.send(event.response()))
                    self.closed = True
                case TextMessage() | BytesMessage():
                    self._parts.append(event.data)
                    if event.message_finished:
                        parts, self._parts = self._parts, []
                        yield type(parts[0])().join(parts)

    def messages(self) -> Iterator[Any]:
        """Every message until the end."""
        while not self.closed:
            self.connection.receive_data(self.client.recv(65536))
            yield from self.arrived()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("read", ["auto", "explicit"])
@pytest.mark.parametrize("kind", ["text", "deflated", "frames"])
@here
async def test_websocket_whose_client_rests_until_all_is_full_gets_every_record_in_order(
    gateway: RunningGateway, kind: str, read: str, tls: bool
) -> None:
    target = f"{TOPIC}/ws-{kind}-{read}-{tls}?ack={read}&limit={RECORDS}"

    def talk() -> list[bytes]:
        client = connect(gateway, tls)
        talking = SocketClient(client, target, kind == "deflated", "kateway.frames" if kind == "frames" else None)
        time.sleep(REST_SECONDS)
        found = []
        for message in talking.messages():
            found.append(values("frames", message)[0] if isinstance(message, bytes) else value_of(message))
        assert talking.deflated == (kind == "deflated")
        client.close()
        return found

    assert numbers(await deferToThread(talk)) == list(range(RECORDS))


def value_of(message: str) -> bytes:
    value: str = orjson.loads(message)["value"]
    return value.encode()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("deflate", [False, True], ids=["plain", "deflated"])
@here
async def test_websocket_that_publishes_without_reading_answers_until_all_is_full_is_answered_for_each_message(
    gateway: RunningGateway, deflate: bool, tls: bool
) -> None:
    count = 12_000
    assert (await gateway.request("POST", "/v1/topics/filled?partition=0", b"x")).status == 201

    def talk() -> list[int]:
        client = connect(gateway, tls)
        talking = SocketClient(client, "/v1/topics/filled?ack=1&partition=0", deflate, None)
        talking.connection.receive_data(client.recv(4096))
        client.settimeout(0)
        outgoing = b"".join(talking.connection.send(BytesMessage(os.urandom(1000))) for _ in range(count))
        sent = 0
        offsets: list[int] = []
        rested = 0.0
        full_at = count
        deadline = time.monotonic() + 60
        while len(offsets) < count:
            assert time.monotonic() < deadline, f"{len(offsets)} of {count} answers came"
            readable, writable, _ = select.select(
                [client] if rested else [], [client] if sent < len(outgoing) else [], [], 0.3
            )
            try:
                if writable:
                    sent += client.send(outgoing[sent : sent + 65536])
                elif not rested:
                    # nothing moves any more: everything is full
                    rested, full_at = time.monotonic(), sent
                    time.sleep(REST_SECONDS)
                if readable:
                    talking.connection.receive_data(client.recv(65536))
                    offsets += [orjson.loads(text)["offset"] for text in talking.arrived()]
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
        client.close()
        assert full_at < len(outgoing), "nothing was ever full"
        return offsets

    assert await deferToThread(talk) == list(range(1, count + 1))
