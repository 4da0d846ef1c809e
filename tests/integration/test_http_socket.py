"""The wire over real sockets on loopback: what the kernel says of a client's end, TLS, UNIX sockets, taken ports."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import pytest_twisted
from servers.certificate import tls_endpoint
from socket_gateway import (
    GET,
    MEGABYTE,
    answer,
    asked,
    drain_until_quiet,
    everything,
    listening,
    streamed,
    sweep,
    tls_client,
    turn,
    verdict,
)
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import Site

from kateway.config.schema import HttpConfig
from kateway.errors import ConfigError
from kateway.web.exchange import Exchange, Response
from kateway.web.http1.factory import HttpFactory
from kateway.web.tcp.listener import listen, stop_listening
from kateway.web.tcp.tls_transport import CountingTls

# Twisted hands pyOpenSSL its own kinds of certificates and keys, which it says it will not take for ever
tls_test = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL .* objects:DeprecationWarning")


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
async def test_connection_that_the_kernel_made_before_the_listener_closed_is_served() -> None:
    async with listening(lambda exchange: exchange.respond(Response(200, [], b""))) as gateway:
        client = gateway.connect()  # the reactor has not seen it yet
        stopped = Deferred.fromCoroutine(stop_listening(gateway.port))
        gateway.factory.drain()
        client.sendall(GET)
        await stopped
        assert (await deferToThread(client.recv, 65536)).startswith(b"HTTP/1.1 200 ")
        client.close()


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
        exchange, ending = await asked(gateway, client)
        assert isinstance(exchange.connection.transport, CountingTls)  # type: ignore[attr-defined]
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
        assert await verdict(gateway, ending) == (end, True)


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
        exchange, ending = await asked(gateway, client)
        assert exchange.connection.confirmed() is None
        exchange.respond(Response(200, [], b"hello"))
        received = await deferToThread(client.recv, 4096)
        assert received.endswith(b"hello")
        client.close()
        confirmed, orderly = await verdict(gateway, ending)
        assert orderly
        assert confirmed >= len(received)  # everything that was sent


@pytest_twisted.ensureDeferred
async def test_a_taken_port_is_one_clear_line() -> None:
    async with listening(answer) as gateway:
        endpoint = f"tcp:{gateway.port.getHost().port}:interface=127.0.0.1"
        with pytest.raises(ConfigError, match=f"cannot listen on {endpoint}: .*in use"):
            await listen(reactor, endpoint, gateway.factory)


@pytest.mark.parametrize(
    ("endpoint", "complaint"),
    [
        ("nonsense", "'nonsense' is no endpoint"),
        ("tcp:x", "tcp:x: port must be a number"),
        ("nonsense:1", "'nonsense:1' is no endpoint"),
        ("ssl:0:privateKey=/nowhere.pem", "ssl:0: /nowhere.pem: No such file"),
    ],
)
def test_text_that_is_no_endpoint_is_one_clear_line(endpoint: str, complaint: str) -> None:
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
