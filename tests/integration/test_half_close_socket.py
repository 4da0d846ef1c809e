"""What a client's end means, over real sockets: closed or half-closed, read or unread, alive, reset or killed."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from servers.certificate import tls_endpoint
from socket_gateway import (
    MEGABYTE,
    Ending,
    Gateway,
    acknowledged,
    asked,
    everything,
    listening,
    passes,
    reset,
    streamed,
    sweep,
    tls_client,
    turn,
    verdict,
)
from twisted.internet.threads import deferToThread

from kateway.web.exchange import Exchange

# Twisted hands pyOpenSSL its own kinds of certificates and keys, which it says it will not take for ever
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL .* objects:DeprecationWarning")


class Talk:
    """A response under way of which a first record was sent, and its client."""

    def __init__(self, gateway: Gateway, client: Any, exchange: Exchange, ending: Ending, end: int) -> None:
        self.gateway, self.client, self.exchange, self.ending, self.end = gateway, client, exchange, ending, end

    async def read(self) -> None:
        received = b""
        while b"record\r\n" not in received:
            received += await deferToThread(self.client.recv, 4096)
        await acknowledged(self.exchange, self.end)

    def half_close(self) -> None:
        socket.socket.shutdown(self.client, socket.SHUT_WR)

    async def had_all(self) -> bool:
        """Whether the client is held to have read what was sent before it ended."""
        counts = self.exchange.connection.confirmed() is not None
        confirmed, orderly = await verdict(self.gateway, self.ending)
        # without a count, everything that was sent
        assert not orderly or (confirmed == self.end if counts else confirmed >= self.end)
        return orderly

    def now(self) -> float:
        return self.gateway.clock.seconds()

    async def finish(self) -> None:
        """The response ends, and its client has that."""
        self.exchange.finish()
        self.end = self.exchange.connection.sent  # type: ignore[attr-defined]
        await acknowledged(self.exchange, self.end)


Talking = Callable[[], AbstractAsyncContextManager[Talk]]


@pytest.fixture(params=["tcp", "tls", "unix"])
def talking(request: pytest.FixtureRequest, certificate: Path) -> Talking:
    """A response under way over each kind of socket."""

    @asynccontextmanager
    async def begin() -> AsyncIterator[Talk]:
        endpoints = {
            "tcp": "tcp:0:interface=127.0.0.1",
            "tls": tls_endpoint(certificate),
            "unix": f"unix:{certificate}/http.sock",
        }
        async with listening(endpoint=endpoints[request.param]) as gateway:
            client = await tls_client(gateway, certificate) if request.param == "tls" else gateway.connect()
            exchange, ending, end = await streamed(gateway, client, b"record")
            await acknowledged(exchange, end)
            yield Talk(gateway, client, exchange, ending, end)
            client.close()

    return begin


# --- closed -----------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_client_that_closes_after_it_read_everything_has_had_it(talking: Talking) -> None:
    async with talking() as talk:
        await talk.read()
        talk.client.close()
        assert await talk.had_all()


@pytest_twisted.ensureDeferred
async def test_client_that_closes_after_it_read_the_response_has_had_it(talking: Talking) -> None:
    async with talking() as talk:
        await talk.finish()
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += await deferToThread(talk.client.recv, 4096)
        talk.client.close()
        assert await talk.had_all()


@pytest_twisted.ensureDeferred
async def test_a_close_is_known_for_one_at_once(talking: Talking) -> None:
    async with talking() as talk:
        await talk.read()
        before = talk.now()
        talk.client.close()
        await talk.had_all()
        assert talk.now() - before < 0.5


@pytest_twisted.ensureDeferred
async def test_client_that_closes_with_something_unread_has_not_had_it(talking: Talking) -> None:
    async with talking() as talk:
        talk.client.close()
        assert not await talk.had_all()


@pytest_twisted.ensureDeferred
async def test_client_that_closes_with_much_unread_shows_how_much_arrived() -> None:
    async with listening() as gateway:
        client = gateway.connect(receive_bytes=8192)
        _, ending, end = await streamed(gateway, client, MEGABYTE * 8)
        assert await deferToThread(client.recv, 100)
        client.close()
        confirmed, orderly = await verdict(gateway, ending)
        assert 0 < confirmed < end
        assert not orderly


@pytest_twisted.ensureDeferred
async def test_client_that_ends_in_the_middle_of_a_response_has_left_and_its_handler_is_told_once() -> None:
    async with listening() as gateway:
        client = gateway.connect()
        exchange, ending, end = await streamed(gateway, client, b"record")
        heard: list[str] = []

        def gone() -> None:
            heard.append("gone")
            exchange.finish()

        exchange.on_gone(gone)
        assert await deferToThread(client.recv, 4096)
        await acknowledged(exchange, end)
        client.close()
        assert await verdict(gateway, ending) == (end, True)
        await turn(lambda: gateway.factory.connections == 0)
        assert heard == ["gone"]


# --- reset ------------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_reset_is_not_orderly_though_everything_was_acknowledged() -> None:
    async with listening() as gateway:
        client = gateway.connect()
        exchange, ending, end = await streamed(gateway, client, b"record")
        await acknowledged(exchange, end)
        reset(client)
        assert await verdict(gateway, ending) == (end, False)


@pytest_twisted.ensureDeferred
async def test_a_reset_met_by_a_write_is_not_taken_for_an_end() -> None:
    async with listening() as gateway:
        client = gateway.connect()
        exchange, ending, _ = await streamed(gateway, client, b"record")
        reset(client)
        exchange.write([b"takes the error away"])
        assert not (await verdict(gateway, ending))[1]


# --- half-closed ------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_client_that_half_closes_and_dies_at_once_with_something_unread_has_not_had_it(talking: Talking) -> None:
    async with talking() as talk:
        talk.half_close()
        talk.client.close()
        assert not await talk.had_all()


@pytest_twisted.ensureDeferred
async def test_client_that_half_closes_and_dies_later_with_something_unread_has_not_had_it(talking: Talking) -> None:
    async with talking() as talk:
        talk.half_close()
        await passes(talk.gateway, 1.5)
        assert not talk.ending.over.called
        talk.client.close()
        assert not await talk.had_all()


@pytest_twisted.ensureDeferred
async def test_client_that_half_closes_after_the_response_and_dies_with_it_unread_has_not_had_it(
    talking: Talking,
) -> None:
    async with talking() as talk:
        await talk.finish()
        talk.half_close()
        await passes(talk.gateway, 1.5)
        assert not talk.ending.over.called
        talk.client.close()
        assert not await talk.had_all()


@pytest_twisted.ensureDeferred
async def test_client_that_half_closes_and_reads_on_gets_a_whole_response_and_lives_until_it_has_settled() -> None:
    async with listening() as gateway:
        client = gateway.connect()
        exchange, ending, end = await streamed(gateway, client, b"record")
        await acknowledged(exchange, end)
        client.shutdown(socket.SHUT_WR)
        await passes(gateway, 10)
        assert not exchange.writable()
        assert not ending.over.called
        ending.waits = False
        await verdict(gateway, ending)
        assert (await deferToThread(everything, client)).endswith(b"record\r\n0\r\n\r\n")
        client.close()


@pytest_twisted.ensureDeferred
async def test_client_that_is_cut_while_half_closed_has_not_had_the_unsettled_records() -> None:
    async with listening() as gateway:
        client = gateway.connect()
        exchange, ending, end = await streamed(gateway, client, b"record")
        await acknowledged(exchange, end)
        client.shutdown(socket.SHUT_WR)
        await passes(gateway, 1)
        gateway.factory.cut_all()
        assert await verdict(gateway, ending) == (end + 5, False)
        client.close()


@pytest_twisted.ensureDeferred
async def test_client_that_half_closes_with_its_request_gets_the_response_and_lives_until_it_has_settled() -> None:
    async with listening() as gateway:
        client = gateway.connect()
        exchange, ending = await asked(gateway, client)
        client.shutdown(socket.SHUT_WR)
        await turn(lambda: exchange.connection.fin)  # type: ignore[attr-defined]
        exchange.begin(200, [])
        end = exchange.write([b"record"]).end
        exchange.finish()
        await passes(gateway, 10)
        assert not ending.over.called
        assert exchange.connection.confirmed() == end + 5
        ending.waits = False
        received = deferToThread(everything, client)
        await verdict(gateway, ending)
        await sweep(gateway)
        assert (await received).endswith(b"record\r\n0\r\n\r\n")
        assert b"Connection: close\r\n" in await received
        client.close()


@pytest_twisted.ensureDeferred
async def test_client_that_half_closes_with_its_request_and_dies_with_the_response_unread_has_not_had_it() -> None:
    async with listening() as gateway:
        client = gateway.connect()
        exchange, ending = await asked(gateway, client)
        client.shutdown(socket.SHUT_WR)
        await turn(lambda: exchange.connection.fin)  # type: ignore[attr-defined]
        exchange.begin(200, [])
        end = exchange.write([b"record"]).end
        exchange.finish()
        await acknowledged(exchange, end + 5)
        client.close()
        assert await verdict(gateway, ending) == (end + 5, False)


@pytest_twisted.ensureDeferred
async def test_client_that_half_closes_with_much_unread_has_had_none_of_it_when_it_dies() -> None:
    async with listening() as gateway:
        client = gateway.connect(receive_bytes=8192)
        exchange, ending, end = await streamed(gateway, client, MEGABYTE * 8)
        exchange.connection.stalled()
        await turn(exchange.connection.stalled)
        client.shutdown(socket.SHUT_WR)
        await passes(gateway, 0.5)
        client.close()
        confirmed, orderly = await verdict(gateway, ending)
        assert 0 < confirmed < end
        assert not orderly


@pytest_twisted.ensureDeferred
async def test_client_with_nothing_unsettled_has_left_with_its_fin(talking: Talking) -> None:
    async with talking() as talk:
        talk.ending.waits = False
        talk.half_close()
        assert await talk.ending.over == (talk.end, True)


# --- TLS's own goodbye ------------------------------------------------------------------------------------------------


def say_goodbye(client: ssl.SSLSocket) -> None:
    """TLS's close alert, whose answer is not waited for."""
    client.setblocking(False)
    with pytest.raises(ssl.SSLError):
        client.unwrap()
    client.setblocking(True)


@asynccontextmanager
async def secure_talk(certificate: Path) -> AsyncIterator[Talk]:
    async with listening(endpoint=tls_endpoint(certificate)) as gateway:
        client = await tls_client(gateway, certificate)
        exchange, ending, end = await streamed(gateway, client, b"record")
        await acknowledged(exchange, end)
        yield Talk(gateway, client, exchange, ending, end)
        client.close()


@pytest_twisted.ensureDeferred
async def test_client_that_sends_a_close_frame_and_closes_after_it_read_everything_has_had_it(
    certificate: Path,
) -> None:
    async with secure_talk(certificate) as talk:
        await talk.read()
        say_goodbye(talk.client)
        talk.client.close()
        assert await talk.had_all()


@pytest_twisted.ensureDeferred
async def test_close_frame_is_answered_with_nothing_in_between(certificate: Path) -> None:
    async with secure_talk(certificate) as talk:
        await talk.read()
        unwrapped = deferToThread(talk.client.unwrap)
        await passes(talk.gateway, 5, lambda: bool(unwrapped.called))
        plain = await unwrapped
        plain.close()
        assert await talk.had_all()


@pytest_twisted.ensureDeferred
async def test_client_that_sends_a_close_frame_and_dies_with_something_unread_has_not_had_it(certificate: Path) -> None:
    async with secure_talk(certificate) as talk:
        talk.exchange.write([b"another"])  # Python's own TLS takes one record to look for an answer
        say_goodbye(talk.client)
        await passes(talk.gateway, 1)
        assert not talk.ending.over.called
        talk.client.close()
        assert not await talk.had_all()


@pytest_twisted.ensureDeferred
async def test_client_that_closes_behind_the_close_frame_has_had_everything(certificate: Path) -> None:
    async with secure_talk(certificate) as talk:
        talk.exchange.keep_alive = False  # type: ignore[attr-defined]
        talk.exchange.finish()
        assert (await deferToThread(everything, talk.client)).endswith(b"0\r\n\r\n")
        talk.end = talk.exchange.connection.sent  # type: ignore[attr-defined]
        talk.client.close()
        assert await talk.had_all()
