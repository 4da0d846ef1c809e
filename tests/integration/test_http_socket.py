"""The wire over real sockets on loopback: what the kernel says of a client's end, TLS, UNIX sockets, taken ports."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import Site

from kateway.config import HttpConfig
from kateway.errors import ConfigError
from kateway.web.exchange import Exchange, Response
from kateway.web.factory import HttpFactory
from kateway.web.transport import CountingTls, listen

# Twisted hands pyOpenSSL its own kinds of certificates and keys, which it says it will not take for ever
tls_test = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL .* objects:DeprecationWarning")

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
MEGABYTE = b"x" * 1048576


@attrs.define(slots=False)
class Ending:
    """A watcher whose ``over`` fires with what ``closed`` heard."""

    over: Deferred[tuple[int, bool]] = attrs.field(factory=Deferred)
    asks: int = 0

    def asked(self) -> None:
        self.asks += 1

    def closed(self, confirmed: int, orderly: bool) -> None:
        self.over.callback((confirmed, orderly))


class Gateway:
    """A factory listening on an endpoint, whose handler is the test's. The sweep's clock stands still till advanced."""

    def __init__(self, handler: Callable[[Exchange], None] | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.exchange: Deferred[Exchange] = Deferred()
        self.handler = handler or self.caught
        self.factory = HttpFactory(lambda _: self.handler, Site(Resource()), HttpConfig(**options), self.clock)
        self.port: Any = None

    def caught(self, exchange: Exchange) -> None:
        caught, self.exchange = self.exchange, Deferred()
        caught.callback(exchange)

    def connect(self, receive_bytes: int = 0) -> socket.socket:
        if self.port.getHost().__class__.__name__ == "UNIXAddress":
            client = socket.socket(socket.AF_UNIX)
            client.connect(self.port.getHost().name)
        else:
            client = socket.socket()
            if receive_bytes:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            client.connect(("127.0.0.1", self.port.getHost().port))
        client.settimeout(20)
        return client


@asynccontextmanager
async def listening(
    handler: Callable[[Exchange], None] | None = None, endpoint: str = "tcp:0:interface=127.0.0.1", **options: Any
) -> AsyncIterator[Gateway]:
    gateway = Gateway(handler, **options)
    gateway.port = await listen(reactor, endpoint, gateway.factory)
    try:
        yield gateway
    finally:
        await maybeDeferred(gateway.port.stopListening)
        gateway.factory.cut_all()
        await gateway.factory.empty()


def answer(exchange: Exchange) -> None:
    exchange.respond(Response(200, [], b"hello"))


def everything(client: Any) -> bytes:
    data = b""
    while piece := client.recv(65536):
        data += piece
    return data


async def turn(condition: Callable[[], bool]) -> None:
    """Lets the reactor run until something that only it can bring about has come about."""
    while not condition():
        await deferLater(reactor, 0.001)


async def sweep(gateway: Gateway) -> None:
    """Lets the gateway's time pass until its last connection has ended."""
    while gateway.factory.connections:
        gateway.clock.advance(0.5)
        await deferLater(reactor, 0.001)


async def streamed(gateway: Gateway, client: socket.socket, piece: bytes) -> tuple[Exchange, Ending, int]:
    """A response begun, and the stream position of its end so far."""
    caught = gateway.exchange
    client.sendall(GET)
    exchange = await caught
    ending = Ending()
    exchange.connection.watch(ending)
    exchange.begin(200, [])
    return exchange, ending, exchange.write([piece]).end


@pytest_twisted.ensureDeferred
async def test_a_client_that_read_everything_and_closed_is_confirmed_and_orderly() -> None:
    async with listening() as gateway:
        client = gateway.connect()
        exchange, ending, end = await streamed(gateway, client, b"record")
        received = b""
        while b"record\r\n" not in received:
            received += await deferToThread(client.recv, 4096)
        await turn(lambda: exchange.connection.confirmed() == end)
        client.close()
        assert await ending.over == (end, True)


@pytest_twisted.ensureDeferred
async def test_a_client_that_closes_with_data_unread_is_not_orderly() -> None:
    async with listening() as gateway:
        client = gateway.connect(receive_bytes=8192)
        _, ending, end = await streamed(gateway, client, MEGABYTE * 8)
        assert await deferToThread(client.recv, 100)
        client.close()
        confirmed, orderly = await ending.over
        assert 0 < confirmed < end
        assert not orderly


@pytest_twisted.ensureDeferred
async def test_a_reset_is_not_orderly_though_everything_was_acknowledged() -> None:
    async with listening() as gateway:
        client = gateway.connect()
        exchange, ending, end = await streamed(gateway, client, b"record")
        await turn(lambda: exchange.connection.confirmed() == end)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert await ending.over == (end, False)


@pytest_twisted.ensureDeferred
async def test_a_reset_met_by_a_write_is_not_taken_for_an_end() -> None:
    async with listening() as gateway:
        client = gateway.connect()
        exchange, ending, _ = await streamed(gateway, client, b"record")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        exchange.write([b"takes the error away"])
        assert (await ending.over)[1] is False


@pytest_twisted.ensureDeferred
async def test_a_reset_after_a_half_close_is_not_orderly() -> None:
    async with listening() as gateway:
        client = gateway.connect()
        caught = gateway.exchange
        client.sendall(GET)
        client.shutdown(socket.SHUT_WR)
        exchange = await caught
        ending = Ending()
        exchange.connection.watch(ending)
        await turn(lambda: exchange.connection._fin)  # type: ignore[attr-defined]
        exchange.begin(200, [])
        exchange.write([b"record"])
        client.close()
        while not ending.over.called:
            exchange.write([b"more"])
            await deferLater(reactor, 0.001)
        assert (await ending.over)[1] is False


@pytest_twisted.ensureDeferred
async def test_a_client_that_half_closes_with_its_request_gets_the_response_and_ends_orderly() -> None:
    async with listening() as gateway:
        client = gateway.connect()
        caught = gateway.exchange
        client.sendall(GET)
        client.shutdown(socket.SHUT_WR)
        exchange = await caught
        ending = Ending()
        exchange.connection.watch(ending)
        await turn(lambda: exchange.connection._fin)  # type: ignore[attr-defined]
        exchange.begin(200, [])
        end = exchange.write([b"record"]).end
        exchange.finish()
        received = await deferToThread(everything, client)
        assert received.endswith(b"record\r\n0\r\n\r\n")
        assert b"Connection: close\r\n" in received
        await sweep(gateway)
        assert await ending.over == (end + 5, True)
        client.close()


@pytest_twisted.ensureDeferred
async def test_a_client_that_ends_later_has_left() -> None:
    async with listening() as gateway:
        client = gateway.connect()
        caught = gateway.exchange
        client.sendall(GET)
        exchange = await caught
        gone: Deferred[None] = Deferred()
        exchange.on_gone(lambda: gone.callback(None))
        gateway.clock.advance(2)
        client.close()
        await gone
        exchange.respond(Response(200, [], b"too late"))


@pytest_twisted.ensureDeferred
async def test_a_client_that_ends_in_the_middle_of_a_response_has_left() -> None:
    async with listening() as gateway:
        client = gateway.connect()
        exchange, ending, end = await streamed(gateway, client, b"record")
        order: list[str] = []
        exchange.on_gone(lambda: order.append("gone"))
        ending.over.addCallback(lambda result: order.append("closed") or result)
        assert await deferToThread(client.recv, 4096)
        await turn(lambda: exchange.connection.confirmed() == end)
        client.close()
        assert await ending.over == (end, True)
        await turn(lambda: gateway.factory.connections == 0)
        assert order == ["closed", "gone"]


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read_stalls_and_is_told_when_it_goes_on() -> None:
    async with listening() as gateway:
        client = gateway.connect(receive_bytes=8192)
        exchange, _, _ = await streamed(gateway, client, MEGABYTE * 8)
        assert not exchange.writable()
        writable: Deferred[None] = Deferred()
        exchange.on_writable(lambda: writable.called or writable.callback(None))
        exchange.connection.stalled()
        await turn(exchange.connection.stalled)
        assert not writable.called
        client.settimeout(0.2)
        await deferToThread(drain_until_quiet, client)
        await writable
        assert exchange.writable()
        client.close()


def drain_until_quiet(client: socket.socket) -> None:
    try:
        while client.recv(1048576):
            pass
    except TimeoutError:
        pass


@pytest_twisted.ensureDeferred
async def test_a_client_that_takes_nothing_for_too_long_is_cut() -> None:
    async with listening(write_stall_timeout_seconds=10) as gateway:
        client = gateway.connect(receive_bytes=8192)
        exchange, ending, _ = await streamed(gateway, client, MEGABYTE * 8)
        exchange.connection.stalled()
        await turn(exchange.connection.stalled)
        gateway.clock.pump([0.5] * 16)
        assert not ending.over.called
        gateway.clock.pump([0.5] * 10)
        assert (await ending.over)[1] is False
        client.close()


@pytest_twisted.ensureDeferred
async def test_a_refusal_reaches_a_client_that_is_still_sending() -> None:
    async with listening(answer, max_body_bytes=1000) as gateway:
        client = gateway.connect()
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (len(MEGABYTE) * 4)

        def talk() -> bytes:
            client.sendall(head + MEGABYTE * 4)
            client.shutdown(socket.SHUT_WR)
            return everything(client)

        assert (await deferToThread(talk)).startswith(b"HTTP/1.1 413 ")
        client.close()


@pytest_twisted.ensureDeferred
async def test_a_lingering_close_ends_by_itself() -> None:
    async with listening(answer) as gateway:
        client = gateway.connect()
        client.sendall(b"nonsense\r\n\r\n")
        assert (await deferToThread(everything, client)).startswith(b"HTTP/1.1 400 ")
        assert gateway.factory.connections == 1
        await sweep(gateway)
        client.close()


@pytest_twisted.ensureDeferred
async def test_the_last_response_arrives_whole_however_slowly_it_is_read() -> None:
    def big(exchange: Exchange) -> None:
        exchange.respond(Response(200, [], MEGABYTE * 8))

    async with listening(big) as gateway:
        client = gateway.connect(receive_bytes=8192)
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        size = 0
        while piece := await deferToThread(client.recv, 1 << 20):
            size += len(piece)
            gateway.clock.advance(0.5)
        assert size > len(MEGABYTE) * 8
        client.close()


@pytest_twisted.ensureDeferred
async def test_draining_closes_idle_connections() -> None:
    async with listening(answer) as gateway:
        client = gateway.connect()
        client.sendall(GET)
        assert (await deferToThread(client.recv, 4096)).endswith(b"hello")
        empty = gateway.factory.empty()
        gateway.factory.drain()
        assert await deferToThread(client.recv, 4096) == b""
        await empty
        client.close()


@pytest_twisted.ensureDeferred
async def test_connections_of_one_address_are_limited() -> None:
    async with listening(answer, max_connections_per_address=1) as gateway:
        first = gateway.connect()
        await turn(lambda: gateway.factory.connections == 1)
        second = gateway.connect()
        assert (await deferToThread(everything, second)).startswith(b"HTTP/1.1 429 ")
        first.close()
        second.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate and its key, ``cert.pem`` and ``key.pem`` in a folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return tmp_path


def tls_endpoint(certificate: Path) -> str:
    return f"ssl:0:interface=127.0.0.1:privateKey={certificate}/key.pem:certKey={certificate}/cert.pem"


async def tls_client(gateway: Gateway, certificate: Path) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    plain = gateway.connect()
    return await deferToThread(lambda: context.wrap_socket(plain, server_hostname="localhost"))


@tls_test
@pytest_twisted.ensureDeferred
async def test_tls_answers_and_says_so(certificate: Path) -> None:
    async with listening(answer, tls_endpoint(certificate)) as gateway:
        client = await tls_client(gateway, certificate)
        seen: list[bool] = []

        def look(exchange: Exchange) -> None:
            seen.append(exchange.request.secure)
            answer(exchange)

        gateway.handler = look
        for _ in range(3):
            await deferToThread(client.sendall, GET)
            assert (await deferToThread(client.recv, 4096)).endswith(b"hello")
        assert seen == [True] * 3
        client.close()


@tls_test
@pytest_twisted.ensureDeferred
async def test_tls_confirms_plaintext(certificate: Path) -> None:
    async with listening(endpoint=tls_endpoint(certificate)) as gateway:
        client = await tls_client(gateway, certificate)
        caught = gateway.exchange
        await deferToThread(client.sendall, GET)
        exchange = await caught
        assert isinstance(exchange.connection.transport, CountingTls)  # type: ignore[attr-defined]
        ending = Ending()
        exchange.connection.watch(ending)
        exchange.begin(200, [])
        end = exchange.write([MEGABYTE * 3, b"last"]).end
        confirmed = exchange.connection.confirmed()
        assert confirmed is not None
        assert confirmed < end

        def read() -> bytes:
            received = b""
            while not received.endswith(b"last\r\n"):
                received += client.recv(1 << 20)
            return received

        assert len(await deferToThread(read)) == end
        await turn(lambda: exchange.connection.confirmed() == end)
        client.close()
        assert await ending.over == (end, True)


@tls_test
@pytest_twisted.ensureDeferred
async def test_tls_clients_that_go_with_data_unread_are_not_orderly(certificate: Path) -> None:
    async with listening(endpoint=tls_endpoint(certificate)) as gateway:
        client = await tls_client(gateway, certificate)
        caught = gateway.exchange
        await deferToThread(client.sendall, GET)
        exchange = await caught
        ending = Ending()
        exchange.connection.watch(ending)
        exchange.begin(200, [])
        end = exchange.write([MEGABYTE * 16]).end
        await deferToThread(client.recv, 1000)
        client.close()
        confirmed, orderly = await ending.over
        assert 0 < confirmed < end
        assert not orderly


@tls_test
@pytest_twisted.ensureDeferred
async def test_tls_ends_after_a_refusal(certificate: Path) -> None:
    async with listening(answer, tls_endpoint(certificate)) as gateway:
        client = await tls_client(gateway, certificate)
        await deferToThread(client.sendall, b"nonsense\r\n\r\n")
        assert (await deferToThread(everything, client)).startswith(b"HTTP/1.1 400 ")
        client.close()
        await gateway.factory.empty()


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_answers_and_confirms_nothing(tmp_path: Path) -> None:
    async with listening(endpoint=f"unix:{tmp_path}/http.sock") as gateway:
        client = gateway.connect()
        caught = gateway.exchange
        client.sendall(GET)
        exchange = await caught
        assert exchange.connection.confirmed() is None
        ending = Ending()
        exchange.connection.watch(ending)
        exchange.respond(Response(200, [], b"hello"))
        received = await deferToThread(client.recv, 4096)
        assert received.endswith(b"hello")
        client.close()
        assert await ending.over == (len(received), True)


@pytest_twisted.ensureDeferred
async def test_a_taken_port_is_one_clear_line() -> None:
    async with listening(answer) as gateway:
        endpoint = f"tcp:{gateway.port.getHost().port}:interface=127.0.0.1"
        with pytest.raises(ConfigError, match=f"cannot listen on {endpoint}: .*in use"):
            await listen(reactor, endpoint, gateway.factory)


@pytest.mark.parametrize(
    ("endpoint", "complaint"),
    [
        ("nonsense", "nonsense is not an endpoint"),
        ("tcp:x", "tcp:x is not an endpoint"),
        ("nonsense:1", "nonsense:1 is not an endpoint"),
        ("ssl:0:privateKey=/nowhere.pem", "ssl:0: /nowhere.pem: No such file"),
    ],
)
def test_what_is_no_endpoint_is_one_clear_line(endpoint: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        listen(reactor, endpoint, HttpFactory(lambda _: None, Site(Resource()), HttpConfig(), Clock()))


@pytest_twisted.ensureDeferred
async def test_many_small_connections_leave_nothing_behind() -> None:
    async with listening(answer) as gateway:
        before = len(os.listdir("/proc/self/fd"))

        def talk() -> None:
            for _ in range(50):
                with gateway.connect() as client:
                    client.sendall(GET)
                    assert client.recv(4096).endswith(b"hello")

        await deferToThread(talk)
        await turn(lambda: gateway.factory.connections == 0)
        assert len(os.listdir("/proc/self/fd")) <= before + 1
        assert gateway.factory._by_address == {}
