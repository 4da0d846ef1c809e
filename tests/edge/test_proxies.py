"""A client's address behind proxies: PROXY headers and ``X-Forwarded-For``, believed of trusted ones only."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from gateways import RunningGateway, config
from test_tls_listener import issue, save
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Site

from kateway.config.schema import HttpConfig, LogConfig
from kateway.observe import families
from kateway.observe.http import HttpCells
from kateway.observe.series import Series
from kateway.web.exchange import Exchange, Response
from kateway.web.http1.factory import HttpFactory
from kateway.web.tcp.listener import listen, stop_listening
from kateway.web.tcp.proxied import ProxiedFactory

PROXY = "10.0.0.7"
FROM_PROXY = IPv4Address("TCP", PROXY, 5)
CONFIG = HttpConfig(proxies=("10.0.0.0/8",), max_connections_per_address=2)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
V1 = b"PROXY TCP4 192.0.2.1 10.0.0.7 4711 80\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([192, 0, 2, 1, 10, 0, 0, 7, 0x12, 0x67, 0, 80])
V2_TLV = V2.replace(b"\0\x0c", b"\0\x10", 1) + b"\x04\0\x01x"
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


def forwarded(addresses: str) -> bytes:
    return f"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {addresses}\r\n\r\n".encode()


class Server:
    """A factory whose every request is answered, and the addresses that they came from."""

    def __init__(self, config: HttpConfig = CONFIG) -> None:
        self.clock = Clock()
        self.series = Series(self.clock.seconds, max_series=1000)
        self.seen: list[str] = []
        self.factory = HttpFactory(
            lambda _request: self.answer, Site(Resource()), config, self.clock, cells=HttpCells(self.series)
        )
        self.listener = ProxiedFactory(self.factory, self.factory.state)

    def answer(self, exchange: Exchange) -> None:
        self.seen.append(exchange.request.peer)
        exchange.respond(Response(200, [], b""))

    def rejected(self, reason: str) -> float:
        return self.series.counter(families.HTTP_REJECTED, (reason,)).value


class Connection:
    """Accepted from an address; bytes go to whatever protocol has it at the time."""

    def __init__(self, server: Server, address: IAddress = FROM_PROXY) -> None:
        self.transport: Any = StringTransport()
        self.transport.protocol = server.listener.buildProtocol(address)
        self.transport.protocol.makeConnection(self.transport)

    def send(self, *parts: bytes) -> list[int]:
        for part in parts:
            self.transport.protocol.dataReceived(part)
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.transport.value())]

    def lost(self) -> None:
        self.transport.protocol.connectionLost(Failure(ConnectionDone()))

    @property
    def closed(self) -> bool:
        return bool(self.transport.disconnecting or self.transport.disconnected)


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        yield data[at : at + 1]


@pytest.mark.parametrize("header", [V1, V2, V2_TLV])
def test_proxy_header_from_a_trusted_proxy_names_the_client(header: bytes) -> None:
    server = Server()
    connection = Connection(server)
    assert connection.send(header + GET, GET, GET) == [200, 200, 200]
    assert server.seen == ["192.0.2.1"] * 3
    connection.lost()
    assert not server.clock.getDelayedCalls()


@pytest.mark.parametrize("header", [V1, V2, V2_TLV])
def test_proxy_header_that_arrives_one_byte_at_a_time_names_the_client(header: bytes) -> None:
    server = Server()
    connection = Connection(server)
    assert connection.send(*byte_by_byte(header + GET)) == [200]
    assert server.seen == ["192.0.2.1"]
    connection.lost()


@pytest.mark.parametrize("header", [b"", LOCAL, b"PROXY UNKNOWN\r\n"])
def test_proxy_that_names_no_client_speaks_for_itself(header: bytes) -> None:
    server = Server()
    connection = Connection(server)
    assert connection.send(*byte_by_byte(header + GET)) == [200]
    assert server.seen == [PROXY]
    connection.lost()


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("config", [CONFIG, HttpConfig()])
def test_proxy_header_from_an_address_that_is_not_trusted_is_refused(header: bytes, config: HttpConfig) -> None:
    server = Server(config)
    connection = Connection(server, IPv4Address("TCP", "192.0.2.66", 5))
    assert connection.send(header + GET) == [400]
    assert connection.closed
    assert server.seen == []
    assert server.rejected("parse") == 1
    connection.lost()


@pytest.mark.parametrize("header", [V1 + V1, V2 + V1])
def test_second_proxy_header_is_refused(header: bytes) -> None:
    server = Server()
    connection = Connection(server)
    assert connection.send(header + GET) == [400]
    assert connection.closed
    connection.lost()


@pytest.mark.parametrize(
    "header", [b"PROXY TCP4 1.2.3.4\r\n", b"PROXY " + b"x" * 200, V2[:12] + b"\x21\x11\xff\xff", V2[:12] + b"\x31"]
)
def test_malformed_proxy_header_closes_the_connection_and_is_counted(header: bytes) -> None:
    server = Server()
    connection = Connection(server)
    assert connection.send(header + b"\0" * 16 + GET) == []
    assert connection.closed
    assert server.rejected("proxy_header") == 1
    assert not server.clock.getDelayedCalls()
    assert connection.send(V1 + GET) == []


def test_proxy_header_that_does_not_come_to_its_end_in_time_closes_the_connection_and_is_counted() -> None:
    server = Server()
    slow, silent = Connection(server), Connection(server)
    slow.send(V1[:-1])
    server.clock.advance(CONFIG.header_timeout_seconds - 1)
    assert not slow.closed
    server.clock.advance(1)
    assert slow.closed
    assert silent.closed
    assert server.rejected("proxy_header") == 1


def test_client_that_leaves_before_its_header_leaves_nothing_behind() -> None:
    server = Server()
    connection = Connection(server)
    connection.send(V1[:9])
    connection.lost()
    assert not server.listener.waiting
    assert not server.clock.getDelayedCalls()


def test_port_that_closes_ends_connections_whose_header_is_awaited() -> None:
    server = Server()
    server.listener.doStart()
    connection = Connection(server)
    server.listener.doStop()
    assert connection.closed
    assert not server.clock.getDelayedCalls()


def test_connections_whose_header_is_awaited_are_bounded() -> None:
    server = Server(attrs.evolve(CONFIG, max_connections=2))
    kept = [Connection(server), Connection(server)]
    assert server.listener.buildProtocol(FROM_PROXY) is None
    assert server.rejected("connections") == 1
    for connection in kept:
        connection.lost()


def test_connections_for_each_address_are_counted_by_the_clients_address() -> None:
    server = Server()
    first, second, third, other = (Connection(server) for _ in range(4))
    assert first.send(V1 + GET) == second.send(V2 + GET) == [200]
    assert third.send(V1 + GET) == [429]
    assert other.send(V1.replace(b"192.0.2.1", b"192.0.2.2") + GET) == [200]
    direct = [Connection(server) for _ in range(3)]
    assert [one.send(GET) for one in direct] == [[200]] * 3
    for connection in (first, second, third, other, *direct):
        connection.lost()


def test_forwarded_for_of_a_trusted_proxy_names_the_client_of_each_request() -> None:
    server = Server()
    connection = Connection(server)
    connection.send(
        *(forwarded(address) for address in ("192.0.2.1", "192.0.2.1", "6.6.6.6, 192.0.2.2, 10.1.1.1")), GET
    )
    assert server.seen == ["192.0.2.1", "192.0.2.1", "192.0.2.2", PROXY]
    connection.lost()


def test_forwarded_for_of_others_is_not_believed() -> None:
    server = Server()
    behind, direct = Connection(server), Connection(server, IPv4Address("TCP", "192.0.2.66", 5))
    behind.send(V1 + forwarded("6.6.6.6"))
    direct.send(forwarded("6.6.6.6"))
    assert server.seen == ["192.0.2.1", "192.0.2.66"]
    behind.lost()
    direct.lost()


def test_client_that_a_proxy_had_by_a_unix_socket_is_no_proxy() -> None:
    server = Server(HttpConfig(proxies=("unix",)))
    named, own = (Connection(server, UNIXAddress(None)) for _ in range(2))
    named.send(V2[:13] + b"\x31\0\xd8" + b"/run/x".ljust(216, b"\0") + forwarded("6.6.6.6"))
    own.send(forwarded("192.0.2.1"))
    assert server.seen == ["unix", "192.0.2.1"]
    named.lost()
    own.lost()


def test_reload_takes_a_proxy_from_the_list_of_those_that_are_believed() -> None:
    server = Server()
    connection = Connection(server)
    connection.send(forwarded("192.0.2.1"))
    server.factory.configure(HttpConfig())
    connection.send(forwarded("192.0.2.1"))
    assert server.seen == ["192.0.2.1", PROXY]
    connection.lost()
    fresh = Connection(server)
    assert fresh.send(V1 + GET) == [400]
    fresh.lost()


# --- on real sockets, with a store behind -----------------------------------------------------------------------------


@pytest_twisted.async_yield_fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    settings = config(tmp_path / "data", proxies=("127.0.0.1",))
    access = tmp_path / "access.log"
    running = RunningGateway(attrs.evolve(settings, log=LogConfig(access_file=str(access), format="json")), "hot")
    await running.start()
    yield running
    await running.stop()


def callers(gateway: RunningGateway) -> list[str]:
    """The addresses in the access log."""
    log = gateway.service.settings.log.access_file
    assert gateway.service.http.listening.access_log is not None
    gateway.service.http.listening.access_log.flush()
    return [json.loads(line)["peer"] for line in Path(log).read_text().splitlines()]


def converse(port: int, parts: list[bytes], context: ssl.SSLContext | None = None) -> bytes:
    """Sends a header, in parts, before the handshake, then a request; what comes back."""
    client = socket.create_connection(("127.0.0.1", port), 10)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for part in parts:
        client.sendall(part)
    with client if context is None else context.wrap_socket(client) as speaking:
        speaking.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := speaking.recv(65536):
            answer += data
        return answer


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("header", [V1, V2])
async def test_client_behind_a_proxy_is_in_the_access_log_of_every_listener(
    gateway: RunningGateway, header: bytes
) -> None:
    ports = [port.getHost().port for port in gateway.service.ports]
    for port in ports:
        answer = await deferToThread(converse, port, list(byte_by_byte(header)))
        assert answer.startswith(b"HTTP/1.1 200 ")
    assert callers(gateway) == ["192.0.2.1"] * len(ports)


@pytest_twisted.ensureDeferred
@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL .* objects:DeprecationWarning")
async def test_proxy_header_comes_before_a_tls_handshake(gateway: RunningGateway, tmp_path: Path) -> None:
    save(tmp_path, "server", issue("CN=server"))
    endpoint = f"ssl:0:interface=127.0.0.1:privateKey={tmp_path}/server.key:certKey={tmp_path}/server.pem"
    public = gateway.service.http.listening.public
    port: Any = await listen(reactor, endpoint, public, None, public.state)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        for header in (V1, V2, b""):
            answer = await deferToThread(converse, port.getHost().port, list(byte_by_byte(header)), context)
            assert answer.startswith(b"HTTP/1.1 200 ")
    finally:
        await port.stopListening()
    assert callers(gateway) == ["192.0.2.1", "192.0.2.1", "127.0.0.1"]


@pytest_twisted.ensureDeferred
async def test_request_behind_a_header_that_had_come_when_the_port_is_closed_is_answered(
    gateway: RunningGateway,
) -> None:
    public = gateway.service.http.listening.public
    port: Any = await listen(reactor, "tcp:0:interface=127.0.0.1", public, None, public.state)
    # in the next turn of the reactor it accepts once more, and closes
    stopping = Deferred.fromCoroutine(stop_listening(port))
    with socket.create_connection(("127.0.0.1", port.getHost().port), 10) as client:
        client.sendall(
            V1 + GET.replace(b"GET / ", b"GET /live ").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        await stopping
        answer = await deferToThread(client.recv, 65536)
    assert answer.startswith(b"HTTP/1.1 200 ")
