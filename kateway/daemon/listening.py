"""Listens publicly and for administrators, and ends what came in over the listeners in good order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Site

from kateway.config.schema import Config, HttpConfig
from kateway.daemon import logs
from kateway.daemon.assembly import build_access_log
from kateway.daemon.counting import Counting
from kateway.daemon.processes.handing_over import Successor
from kateway.daemon.processes.in_place import InPlace, Kept
from kateway.daemon.processes.receiving import adopt
from kateway.daemon.processes.worker import Worker
from kateway.daemon.quietly import quietly
from kateway.errors import Problems
from kateway.web.http1.channel import Router
from kateway.web.http1.factory import HttpFactory
from kateway.web.tcp.listener import bound_address, listen, stop_listening
from kateway.web.tcp.shared_sockets import listen_on
from kateway.web.tcp.tls import Certificate

_log = Logger()


class Listening:
    """One process's. ``kept`` are sockets that the former code of this process has made, ``worker`` has those of a
    supervisor.
    """

    def __init__(
        self,
        settings: Config,
        reactor: Any,
        counting: Counting,
        router: Router,
        public: Resource,
        admin: Resource,
        worker: Worker | None,
        kept: Kept,
    ) -> None:
        self.ports: list[IListeningPort] = []
        self.draining = False
        """Whether the gateway stops, and says so where it is asked for its health."""
        self._addresses: tuple[str, ...] = ()
        """Of the ports, also when they are closed."""
        self._reactor = reactor
        self._http = settings.http
        self._counting = counting
        self._worker = worker
        self._kept = kept
        self._certificates: list[Certificate] = []
        write = logs.write_to_stdout if worker is None else logs.naming(f"process {worker.index}")
        self.access_log = build_access_log(settings.log, reactor, write)
        self.public = self._factory(public, router)
        self.admin = self._factory(admin, lambda _request: None)
        self.factories = {"public": self.public, "admin": self.admin}

    def _factory(self, tree: Resource, router: Router) -> HttpFactory:
        return HttpFactory(
            router,
            Site(tree),
            self._http,
            self._reactor,
            access=self.access_log,
            cells=self._counting.http,
            troubles=self._counting.troubles,
        )

    async def listen(self) -> None:
        """Listens, on sockets that a supervisor or the former code of this process has made where there are some."""
        kinds = ("public", self._http.public, self.public), ("admin", self._http.admin, self.admin)
        kept = {(kind, each): self._kept.take(kind, each) for kind, endpoints, _factory in kinds for each in endpoints}
        # before others are listened on: an endpoint may have been of the other kind
        self._kept.close_rest()
        for kind, endpoints, factory in kinds:
            if self._worker is not None:
                self.ports += self._worker.listen(kind, factory, self._certificates, factory.state)
                continue
            for endpoint in endpoints:
                told = endpoint, factory, self._certificates.append, factory.state
                descriptor = kept[kind, endpoint]
                if descriptor is None:
                    self.ports.append(await listen(self._reactor, *told))
                else:
                    self.ports.append(listen_on(self._reactor, descriptor, *told))
                    os.close(descriptor)
        self._addresses = tuple(bound_address(port) for port in self.ports)
        self._adopt_kept()

    def _adopt_kept(self) -> None:
        for listener, descriptor in self._kept.connections:
            try:
                adopt(self._reactor, descriptor, self.factories[listener])
            except OSError as error:
                _log.debug("a connection that was kept is gone: {error}", error=error)

    @property
    def public_addresses(self) -> Sequence[str]:
        """Where clients reach this gateway."""
        return self._addresses[: len(self._http.public)]

    @property
    def admin_addresses(self) -> Sequence[str]:
        """Where administrators reach this gateway."""
        return self._addresses[len(self._http.public) :]

    # --- reloading -------------------------------------------------------------------------------------------

    def candidates(self, problems: Problems) -> list[tuple[Certificate, Any]]:
        """Reads the certificates anew; notes what is wrong with them."""
        return [(certificate, problems.take(certificate.candidate)) for certificate in self._certificates]

    def configure(self, http: HttpConfig) -> None:
        """Takes other limits into force."""
        self.public.configure(http)
        self.admin.configure(http)

    def take(self, candidates: Sequence[tuple[Certificate, Any]]) -> None:
        """Shows the certificates that were read anew. Of listeners in other processes' places there may be others by
        now: their files have just been read.
        """
        for certificate, context in candidates:
            if context is not None:
                certificate.take(context)

    def reopen_log(self) -> None:
        """Writes the access log to a file that was put in its place."""
        if self.access_log is not None:
            self.access_log.reopen_quietly()

    # --- stopping --------------------------------------------------------------------------------------------

    def keep(self, upgrade: InPlace) -> None:
        """Keeps the listeners' sockets for the code to come."""
        public = len(self._http.public)
        upgrade.keep_listeners("public", self._http.public, self.ports[:public])
        upgrade.keep_listeners("admin", self._http.admin, self.ports[public:])

    async def close(self) -> None:
        """Takes no more connections."""
        if self._worker is not None:
            await self._worker.stop_listening()
        for port in self.ports:
            await quietly("closing a listener", stop_listening(port))

    def drain(self, successor: Successor | InPlace | None) -> None:
        """Ends each connection behind its answer, or gives it to the successor then."""
        for kind, factory in self.factories.items():
            factory.drain(None if successor is None else successor.takes(kind))

    async def emptied(self, deadline: float, *, cut: bool = True) -> None:
        """Waits until every connection has had its answer and is gone, or the time is over; those that are left are to
        be ``cut`` then.
        """
        for factory in self.factories.values():
            try:
                await factory.empty().addTimeout(max(deadline - self._reactor.seconds(), 0), self._reactor)
            except TookTooLong:
                if cut:
                    _log.warn("{count} connections were cut: the drain time is over", count=factory.connections)

    def cut(self) -> None:
        """Cuts what is still open."""
        for factory in self.factories.values():
            factory.cut_all()

    def close_log(self) -> None:
        """Writes no more to the access log."""
        if self.access_log is not None:
            self.access_log.stop()
