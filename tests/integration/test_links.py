"""Links between gateways on real sockets: who gets one, and how one ends."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from servers.certificate import self_signed, tls_endpoint
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater

sys.path.append(str(Path(__file__).parents[1] / "edge"))

from gateways import Client, eventually

from kateway.cluster.interface import Home, Stream
from kateway.cluster.links import MISLED_SECONDS, Links
from kateway.config.schema import ClusterConfig
from kateway.daemon.clustering import client_tls
from kateway.errors import GatewayGone, GatewayUnavailable, KatewayError
from kateway.web.tcp.listener import bound_address, listen

here = pytest_twisted.ensureDeferred
LOOPBACK = "tcp:0:interface=127.0.0.1"
CONFIG = ClusterConfig(heartbeat_seconds=0.1, silence_seconds=0.6, request_timeout_seconds=1.0, max_handshakes=3)
SECRET = b"a secret that all gateways know"


class Echo:
    """Answers with what it was asked, or not at all."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.received = 0
        self.closings: list[KatewayError | None] = []

    def call(self, request: bytes) -> Deferred[bytes]:
        return Deferred() if request == b"never" else succeed(request)

    def opened(self, stream: Stream, request: bytes) -> Echo:
        self.streams.append(stream)
        return self

    def message(self, message: bytes) -> None:
        self.received += len(message)

    def closed(self, error: KatewayError | None) -> None:
        self.closings.append(error)


class End:
    """A gateway's links, and the address that others find it at."""

    def __init__(self, name: str, secret: bytes = SECRET, **options: Any) -> None:
        self.name = name
        self.echo = Echo()
        self.links = Links(reactor, CONFIG, secret, name, self.echo, **options)
        self.home = Home(name, "")
        self.port: Any = None
        self.inner: Any = None

    async def listen(self, endpoint: str = LOOPBACK) -> Home:
        self.port = await listen(reactor, endpoint, self.links.factory)
        self.home = Home(self.name, endpoint if endpoint.startswith("unix:") else bound_address(self.port))
        self.links.addresses = frozenset({self.home.address})
        return self.home

    async def stop(self) -> None:
        self.links.stop()
        ports, self.port, self.inner = (self.port, self.inner), None, None
        for port in ports:
            if port is not None:
                await maybeDeferred(port.stopListening)
        await deferLater(reactor, 0.02)


Make = Callable[..., End]


@pytest_twisted.async_yield_fixture
async def ends() -> AsyncIterator[Make]:
    made: list[End] = []

    def make(*args: Any, **options: Any) -> End:
        made.append(End(*args, **options))
        return made[-1]

    yield make
    for each in made:
        await each.stop()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@here
async def test_one_link_serves_all_that_is_asked_at_once(ends: Make, tmp_path: Path, kind: str) -> None:
    first, second = ends("first"), ends("second")
    home = await second.listen(LOOPBACK if kind == "tcp" else f"unix:{tmp_path}/link")
    asked = [first.links.link(home) for _ in range(10)]
    links = [await each for each in asked]
    assert len({id(link) for link in links}) == 1
    assert await links[0].call(b"x", 1.0) == b"x"
    assert [link.peer for link in second.links.live()] == ["first"]
    # heartbeats keep it, though nothing is said
    await deferLater(reactor, 1.0)
    assert await links[0].call(b"y" * 100_000, 1.0) == b"y" * 100_000


@here
async def test_call_without_answer_ends_in_time(ends: Make) -> None:
    first, second = ends("first"), ends("second")
    link = await first.links.link(await second.listen())
    with pytest.raises(GatewayUnavailable, match="did not answer within"):
        await link.call(b"never", 0.2)


@here
async def test_gateway_with_another_secret_gets_no_link(ends: Make) -> None:
    first, second = ends("first", b"another secret"), ends("second")
    home = await second.listen()
    with pytest.raises(GatewayUnavailable, match="secret_file"):
        await first.links.link(home)
    assert second.links.refused == 1
    assert not second.links.live()


@pytest.mark.parametrize("request_", ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "kateway-link 1\n" + "x" * 800])
@here
async def test_stranger_gets_403_and_nothing_else(ends: Make, request_: str) -> None:
    second = ends("second")
    await second.listen()
    client = await Client.connect(second.port.getHost().port)
    client.send(request_)
    await eventually(lambda: client.lost)
    assert client.received.endswith(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    assert b"second" not in client.received


@here
async def test_silent_strangers_are_cut_and_keep_no_gateway_out(ends: Make) -> None:
    first, second = ends("first"), ends("second")
    home = await second.listen()
    strangers = [await Client.connect(second.port.getHost().port) for _ in range(4)]
    # the fourth is beyond max_handshakes: the first gives way
    await eventually(lambda: strangers[0].lost)
    assert await (await first.links.link(home)).call(b"x", 1.0) == b"x"
    await eventually(lambda: all(each.lost for each in strangers))
    assert second.links.refused == 4
    assert len(second.links.live()) == 1


@here
async def test_gateway_at_whose_address_another_answers_is_named_when_its_session_must_be_over(ends: Make) -> None:
    first, second = ends("first"), ends("second")
    home = await second.listen()
    wrong = Home("third", home.address)
    with pytest.raises(GatewayGone):
        await first.links.link(wrong)
    first.links._misled[wrong] -= MISLED_SECONDS
    with pytest.raises(GatewayUnavailable, match=r"the gateway third says that it is at .*, where second is") as caught:
        await first.links.link(wrong)
    assert not isinstance(caught.value, GatewayGone)


@pytest.mark.parametrize("dialer_has_tls", [True, False])
@here
async def test_gateways_of_which_one_speaks_tls_are_told_so(ends: Make, tmp_path: Path, dialer_has_tls: bool) -> None:
    made = self_signed(tmp_path)
    tls = client_tls(ClusterConfig(endpoint=tls_endpoint(made), ca_file=f"{made}/cert.pem"))
    first = ends("first", tls=tls) if dialer_has_tls else ends("first")
    home = await ends("second").listen(LOOPBACK if dialer_has_tls else tls_endpoint(made))
    with pytest.raises(GatewayUnavailable, match=r"cannot be linked to: .*; does it run, and do both .* speak TLS"):
        await first.links.link(home)


@here
async def test_gateway_that_has_ended_is_told_from_one_that_hangs(ends: Make) -> None:
    first, second = ends("first"), ends("second")
    home = await second.listen()
    with pytest.raises(GatewayGone):
        await first.links.link(Home("earlier", home.address))
    await second.stop()
    with pytest.raises(GatewayGone):
        await first.links.link(home)
    hanging = reactor.listenTCP(0, Silent(), interface="127.0.0.1")
    began = reactor.seconds()
    with pytest.raises(GatewayUnavailable) as caught:
        await first.links.link(Home("hangs", bound_address(hanging)))
    assert not isinstance(caught.value, GatewayGone)
    assert reactor.seconds() - began < 3
    await hanging.stopListening()


@here
async def test_link_to_a_gateway_that_falls_silent_is_cut_with_what_is_under_way(ends: Make) -> None:
    first, second = ends("first"), ends("second")
    link: Any = await first.links.link(await second.listen())
    mine = Echo()
    link.open(b"x", mine)
    call = link.call(b"never", 10.0)
    await eventually(lambda: bool(second.echo.streams))
    for other in second.links.live():
        # as a process that was stopped: it reads nothing and says nothing
        other.transport.pauseProducing()
        other._beat.cancel()
    with pytest.raises(GatewayUnavailable, match="silent"):
        await call
    await eventually(lambda: bool(mine.closings))
    assert isinstance(mine.closings[0], GatewayUnavailable)
    await eventually(lambda: not first.links.live())


@here
async def test_stream_to_a_gateway_that_does_not_read_waits_for_room(ends: Make) -> None:
    first, second = ends("first"), ends("second")
    link: Any = await first.links.link(await second.listen())
    stream = link.open(b"x", Echo())
    await eventually(lambda: bool(second.echo.streams))
    (other,) = second.links.live()
    other.transport.pauseProducing()
    sent = 0
    while stream.writable:
        stream.send(b"x" * 65536)
        sent += 65536
        await deferLater(reactor, 0)
        assert sent < 1 << 26
    room: Deferred[None] = Deferred()
    stream.on_writable(lambda: room.callback(None))
    other.transport.resumeProducing()
    await room
    await eventually(lambda: second.echo.received == sent)


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@here
async def test_link_over_tls_needs_a_certificate_of_the_authority_where_there_is_no_secret(
    ends: Make, tmp_path: Path
) -> None:
    made = self_signed(tmp_path)
    endpoint = f"{tls_endpoint(made)}:clientCa={made}/cert.pem"
    config = attrs.evolve(CONFIG, endpoint=endpoint, ca_file=f"{made}/cert.pem")
    certified = attrs.evolve(config, certificate_file=f"{made}/cert.pem", key_file=f"{made}/key.pem")
    second = ends("second", b"", certified=True)
    home = await second.listen(endpoint)
    with pytest.raises(GatewayUnavailable):
        await ends("first", b"", tls=client_tls(config)).links.link(home)
    link = await ends("third", b"", tls=client_tls(certified)).links.link(home)
    assert await link.call(b"x", 1.0) == b"x"


class Silent:
    """Accepts connections and says nothing."""

    noisy = False

    def doStart(self) -> None: ...
    def doStop(self) -> None: ...

    def buildProtocol(self, _address: Any) -> Any:
        return Protocol()


class Siblings:
    """The processes of one host."""

    def __init__(self, folder: Path, index: int) -> None:
        self._folder = folder
        self.index = index

    def socket_path(self, index: int) -> Path:
        return self._folder / f"process-{index}.sock"

    def path_of(self, index: int, _pid: int) -> Path:
        return self.socket_path(index)


async def processes(ends: Make, folder: Path) -> tuple[list[End], list[Home]]:
    """Two processes behind one address; the first one takes the connections."""
    made = [ends(f"process-{index}", siblings=Siblings(folder, index)) for index in range(2)]
    outer = await made[0].listen()
    homes = []
    for index, end in enumerate(made):
        inner = await listen(reactor, f"unix:{folder}/process-{index}.sock:mode=600", end.links.factory)
        end.inner = inner
        end.links.address = outer.address
        homes.append(Home(end.name, f"{outer.address}/{index}"))
        end.links.addresses = frozenset({homes[-1].address})
    return made, homes


@here
async def test_link_from_another_host_reaches_the_process_that_it_is_meant_for(ends: Make, tmp_path: Path) -> None:
    made, homes = await processes(ends, tmp_path)
    first = ends("first")
    for home in homes:
        link = await first.links.link(home)
        assert link.peer == home.gateway
        assert await link.call(b"x" * 1_000_000, 2.0) == b"x" * 1_000_000
    assert [[link.peer for link in end.links.live()] for end in made] == [["first"], ["first"]]
    # and ends with the process
    call = link.call(b"never", 10.0)
    made[1].links.stop()
    with pytest.raises(GatewayUnavailable):
        await call
    await eventually(lambda: not made[0].links._relayed)


@here
async def test_processes_of_a_host_link_without_the_network(ends: Make, tmp_path: Path) -> None:
    made, homes = await processes(ends, tmp_path)
    await made[0].port.stopListening()
    made[0].port = None
    link = await made[0].links.link(homes[1])
    assert await link.call(b"x", 1.0) == b"x"
    with pytest.raises(GatewayGone):
        await made[0].links.link(Home("process-7", homes[1].address.replace("/1", "/7")))


@here
async def test_link_meant_for_a_process_that_is_not_there_ends(ends: Make, tmp_path: Path) -> None:
    made, homes = await processes(ends, tmp_path)
    with pytest.raises(GatewayUnavailable):
        await ends("first").links.link(Home("process-7", homes[1].address.replace("/1", "/7")))
    assert not made[0].links._relayed


@here
async def test_link_for_a_process_that_was_replaced_goes_to_its_successor(ends: Make, tmp_path: Path) -> None:
    successor = ends("gateway-0-18", siblings=Siblings(tmp_path, 0))
    outer = await successor.listen()
    address = f"{outer.address}/0"
    successor.links.address = outer.address
    path = f"unix:{tmp_path}/process-0.sock"
    successor.inner = await listen(reactor, f"{path}:mode=600", successor.links.inner_factory)
    sibling, other = ends("gateway-1-19", siblings=Siblings(tmp_path, 1)), ends("other")
    sibling.links.address = outer.address
    for dialer, said, known in ((sibling, address, address), (other, address, address), (sibling, "unix:old", path)):
        successor.links.addresses = frozenset({known})
        link = await dialer.links.link(Home("gateway-0-17", said))
        assert link.peer == "gateway-0-18"
        assert await link.call(b"x", 1.0) == b"x"
    with pytest.raises(GatewayGone):
        successor.links.link(Home("gateway-0-17", address))
    successor.links.addresses = frozenset({address})
    with pytest.raises(GatewayGone):
        await other.links.link(Home("gateway-2-17", address))


@here
async def test_process_that_gives_way_ends_links_that_came_in_and_keeps_its_own(ends: Make) -> None:
    first, second = ends("first"), ends("second")
    there, back = await first.links.link(await second.listen()), await second.links.link(await first.listen())
    second.links.give_way()
    with pytest.raises(GatewayUnavailable):
        await there.call(b"x", 1.0)
    assert await back.call(b"x", 1.0) == b"x"
    with pytest.raises(GatewayUnavailable):
        await first.links.link(second.home)
