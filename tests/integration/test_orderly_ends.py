"""A WebSocket's closing handshake, plain and over TLS, by clients that have read everything or left some to their
kernel.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from history.websocket import CLOSE, HEADERS, SocketIncoming, frame
from history.wire import Client
from servers.certificate import self_signed, tls_endpoint
from twisted.internet.threads import deferToThread

sys.path.append(str(Path(__file__).parents[1] / "edge"))

from gateways import LOOPBACK, RunningGateway, config, eventually

from kateway.config.schema import DeliveryConfig

# Twisted hands pyOpenSSL its own kinds of certificates and keys, which it says it will not take for ever
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL .* objects:DeprecationWarning")
TOPIC = "/v1/topics/t"
RECORDS = 100


@pytest_twisted.async_yield_fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """A gateway with a second listener, for TLS, and a topic with records that do not go into one record of TLS's."""
    self_signed(tmp_path)
    settings = config(tmp_path / "data")
    settings = attrs.evolve(
        settings,
        http=attrs.evolve(settings.http, public=(LOOPBACK, tls_endpoint(tmp_path))),
        delivery=DeliveryConfig(settle_seconds=30.0, linger_seconds=0.2),
    )
    running = RunningGateway(settings, "hot")
    await running.start()
    lines = b"".join(b"w/%d/%s\n" % (number, b"x" * 300) for number in range(RECORDS))
    headers = {"Content-Type": "application/x-ndjson"}
    await running.request("POST", f"{TOPIC}?partition=0&batch=1", lines, headers=headers)
    yield running
    await running.stop()


def read_and_close(
    gateway: RunningGateway, records: int, hold_seconds: float, secure: bool, limit: int = RECORDS + 1
) -> int:
    """Reads so many records, byte by byte, says goodbye, is held up, and closes; one that has read all of them reads to
    the end before. Answers how many it has read.
    """
    client = Client(gateway.service.ports[int(secure)].getHost().port, 10, secure=secure)
    client.send("GET", f"{TOPIC}/g?limit={limit}", **HEADERS)
    incoming = SocketIncoming()
    count = 0
    while count < records:
        count += len(incoming.feed(client.take(1) or b""))
        if incoming.answers:
            client.put(bytes(incoming.answers))
            incoming.answers.clear()
    client.put(frame(CLOSE, (1000).to_bytes(2, "big")))
    client.say_goodbye()
    time.sleep(hold_seconds)
    while count == RECORDS and client.socket.recv(65536):
        pass
    client.close()
    return count


async def left(gateway: RunningGateway) -> int | None:
    """Where the next reader begins; ``None``: nothing is left."""
    await eventually(lambda: gateway.service.parts.groups.groups == 0, 20)
    answer = await gateway.request("GET", f"{TOPIC}/g?timeout=0")
    return int(answer.header("x-offset")) if answer.status == 200 else None


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("hold_seconds", [0, 0.01, 0.3])
@pytest_twisted.ensureDeferred
async def test_client_that_sends_a_close_frame_and_closes_with_something_unread_has_not_read_it(
    gateway: RunningGateway, hold_seconds: float, secure: bool
) -> None:
    count = await deferToThread(read_and_close, gateway, 5, hold_seconds, secure)
    assert count < RECORDS
    assert await left(gateway) in range(count + 1)


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("hold_seconds", [0, 0.01, 0.3])
@pytest_twisted.ensureDeferred
async def test_close_frames_that_cross_with_records_unread_settle_nothing_unread(
    gateway: RunningGateway, hold_seconds: float, secure: bool
) -> None:
    count = await deferToThread(read_and_close, gateway, 5, hold_seconds, secure, RECORDS)
    assert count < RECORDS
    assert await left(gateway) in range(count + 1)


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("hold_seconds", [0, 0.01, 0.3])
@pytest_twisted.ensureDeferred
async def test_client_that_sends_a_close_frame_after_it_read_everything_has_had_it(
    gateway: RunningGateway, hold_seconds: float, secure: bool
) -> None:
    assert await deferToThread(read_and_close, gateway, RECORDS, hold_seconds, secure) == RECORDS
    assert await left(gateway) is None
