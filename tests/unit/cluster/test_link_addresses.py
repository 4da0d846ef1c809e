"""The addresses of gateways: those that lead to none, those of IPv6, those of another process."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from kateway.cluster.directory import label, labelled
from kateway.cluster.handshake import Acceptor, Dialer, Elsewhere
from kateway.cluster.interface import Home
from kateway.cluster.link import Link
from kateway.cluster.links import Links
from kateway.config.addresses import parse_address
from kateway.config.schema import ClusterConfig
from kateway.errors import GatewayUnavailable
from kateway.web.tcp.listener import bound_address


@pytest.mark.parametrize("address", ["", "host", "host:0", "..:1", "[host]:1"])
async def test_gateway_whose_address_is_none_cannot_be_reached(address: str) -> None:
    answering: Any = None
    links = Links(Clock(), ClusterConfig(), b"a secret that all gateways know", "gateway-1", answering)
    for _ in range(2):
        failed: list[Any] = []
        Deferred.fromCoroutine(_link(links, Home("gateway-2", address))).addErrback(failed.append)
        assert failed[0].check(GatewayUnavailable)


async def _link(links: Links, home: Home) -> None:
    await links.link(home)


class Port:
    """Listens on an address of IPv6."""

    def getHost(self) -> IPv6Address:
        return IPv6Address("TCP", "2001:db8:1:2:3:4:5:6", 9094)


def test_address_of_a_listener_on_ipv6_leads_to_it() -> None:
    port: Any = Port()
    address = bound_address(port)
    assert parse_address(address) == ("2001:db8:1:2:3:4:5:6", 9094)
    assert labelled(label(Home("gateway-2", address))) == Home("gateway-2", address)


class Transport:
    """Notes that the connection was cut."""

    def __init__(self) -> None:
        self.cut = False

    def write(self, _data: bytes) -> None:
        pass

    def pauseProducing(self) -> None:
        pass

    def abortConnection(self) -> None:
        self.cut = True


def test_stranger_that_goes_on_before_the_process_it_looks_for_is_there_is_cut() -> None:
    clock = Clock()
    passed: list[Elsewhere] = []
    answering: Any = None
    secret = b"a secret that all gateways know"
    acceptor = Acceptor(secret, "gateway-1", frozenset(), sibling=lambda _address: 1)
    link = Link(
        clock,
        ClusterConfig(),
        acceptor,
        answering,
        lambda _link: None,
        pass_through=lambda _link, elsewhere: passed.append(elsewhere),
    )
    link.established.addErrback(lambda _: None)
    transport = link.transport = Transport()
    link.connectionMade()
    link.dataReceived(Dialer(secret, "gateway-2", "host:1/1").begin())
    # TLS gives record after record, though nothing more is to be read
    for _ in range(3):
        link.dataReceived(b"x")
    assert (len(passed), transport.cut) == (1, True)
    assert not clock.getDelayedCalls()
