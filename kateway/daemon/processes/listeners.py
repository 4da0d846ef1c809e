"""Listens on sockets of the supervisor: the process's own, and for a while those of processes that have ended."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger

from kateway.cluster.rare_log import RareLog
from kateway.daemon.quietly import quietly
from kateway.errors import KatewayError
from kateway.web.tcp.listener import stop_listening
from kateway.web.tcp.proxied import ProxyRules
from kateway.web.tcp.shared_sockets import listen_on
from kateway.web.tcp.tls import Certificate

_log = Logger()


class _Kind(NamedTuple):
    """What ``public`` or ``admin`` listeners have in common."""

    factory: IProtocolFactory
    certificates: list[Certificate]
    rules: ProxyRules | None


class _Port(NamedTuple):
    """A listener in the place of another process."""

    port: IListeningPort
    certificates: Sequence[Certificate]


class Listeners:
    """One process's."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._rarely = RareLog(reactor.seconds)
        self._kinds: dict[str, _Kind] = {}
        self._standing: dict[int, dict[tuple[str, str], _Port]] = {}
        """By the index of the process in whose place connections are accepted, and by kind and endpoint."""

    def listen(
        self,
        kind: str,
        places: Mapping[str, int],
        factory: IProtocolFactory,
        certificates: list[Certificate],
        rules: ProxyRules | None,
    ) -> list[IListeningPort]:
        """Listens on this process's own sockets of a kind, given by their endpoints. ``certificates`` has those that
        are in use, also of other processes' listeners.
        """
        self._kinds[kind] = _Kind(factory, certificates, rules)
        return [self._listen_on(kind, endpoint, descriptor).port for endpoint, descriptor in places.items()]

    def stand_in(self, index: int, places: Sequence[tuple[str, str]], descriptors: list[int]) -> bool:
        """Accepts in the place of another process, where it does not yet; ``descriptors`` are those of ``places`` (kind
        and endpoint), and are taken out of the list. ``False``: at one of them it cannot.
        """
        ports = self._standing.setdefault(index, {})
        before = len(ports)
        whole = True
        for kind, endpoint in places:
            if not descriptors:
                # the kernel leaves out those that a process has no room for
                self._rarely.warn(f"there is no room for the sockets of process {index}: see the limit of open files")
                whole = False
                break
            descriptor = descriptors.pop(0)
            if kind not in self._kinds or (kind, endpoint) in ports:
                os.close(descriptor)
                continue
            try:
                ports[kind, endpoint] = self._listen_on(kind, endpoint, descriptor)
            except (OSError, KatewayError) as error:
                whole = False
                self._rarely.warn(f"{endpoint} cannot be listened on in the place of process {index}: {error}")
        if len(ports) > before:
            _log.info("accepts connections in the place of process {index}, which does not serve", index=index)
        return whole

    async def stand_down(self, index: int) -> None:
        """Leaves the place to its own process."""
        for (kind, _endpoint), standing in self._standing.pop(index, {}).items():
            self._forget(kind, standing.certificates)
            await quietly("closing a listener of another process", stop_listening(standing.port))

    async def stop(self) -> None:
        """Leaves all places of other processes."""
        for index in list(self._standing):
            await self.stand_down(index)

    def _listen_on(self, kind: str, endpoint: str, descriptor: int) -> _Port:
        factory, certificates, rules = self._kinds[kind]
        read: list[Certificate] = []
        try:
            port = listen_on(self._reactor, descriptor, endpoint, factory, read.append, rules)
        finally:
            os.close(descriptor)
        certificates += read
        return _Port(port, read)

    def _forget(self, kind: str, certificates: Sequence[Certificate]) -> None:
        in_use = self._kinds[kind].certificates
        for certificate in certificates:
            in_use.remove(certificate)
