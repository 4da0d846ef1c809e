"""``twistd kateway``: the one place where the parts are joined, started, reloaded and stopped, in written-out order.

``assembly`` says how a part is made.
"""

from __future__ import annotations

import atexit
import gc
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Site

from kateway import __version__
from kateway.config.schema import Config
from kateway.core.access.control import AccessControl, OpenAccess, RegistryAccess
from kateway.core.access.failures import build_failures
from kateway.core.access.open_streams import OpenStreams
from kateway.core.access.policy import Access, build_access
from kateway.core.access.rate_limits import Quotas
from kateway.core.administration import Administration
from kateway.core.audit.events import build_audit
from kateway.core.breaker import LOOK_SECONDS, Breaker
from kateway.core.gateway import Gateway
from kateway.core.groups.memberships import Memberships
from kateway.daemon import logs
from kateway.daemon.assembly import (
    build_access_log,
    build_breakers,
    build_handoffs,
    build_idempotency,
    build_plane,
    build_registry,
    build_shares,
    build_store,
    data_directory,
    open_mode,
    sink_context,
    topic_creation,
)
from kateway.daemon.check import read_registry_file
from kateway.daemon.options import Options
from kateway.daemon.periodic import RegularWork
from kateway.daemon.reload import Reloads, cannot_change
from kateway.errors import ConfigError, KatewayError, Problems
from kateway.model import Health
from kateway.registry.interface import GatewayEntry, Snapshot
from kateway.web.admin.access import Guard, read_token
from kateway.web.admin.api import AdminEdge
from kateway.web.http1.factory import HttpFactory
from kateway.web.messages.admission import Admission
from kateway.web.messages.fair_turns import FairTurns
from kateway.web.messages.publish import PublishEdge
from kateway.web.messages.subscribe import SubscribeEdge
from kateway.web.messages.topics import TopicEdge
from kateway.web.messages.websocket_publish import SocketPublishEdge
from kateway.web.site.tree import admin_tree, in_plane, public_tree
from kateway.web.tcp.listener import bound_address, listen
from kateway.web.tcp.tls import Certificate

__all__ = ["GatewayService", "Options", "makeService"]

PRESENCE_SECONDS = 5.0
"""How often this gateway's load is written to the list of gateways."""
TOPICS_SECONDS = 0.5
"""How often is looked for registered topics that the stores lack, where something has changed."""

_log = Logger()


def makeService(options: Options) -> GatewayService:
    """What twistd calls."""
    from twisted.internet import reactor

    try:
        return GatewayService(options.settings, reactor, options.read)
    except ConfigError as error:
        for problem in error.problems:
            print(f"kateway: {problem}", file=sys.stderr)
        raise SystemExit(1) from error


class GatewayService(Service):
    """The running gateway. ``reread`` gives the configuration as it is now in its file; ``ConfigError``."""

    name = "kateway"

    def __init__(self, settings: Config, reactor: Any, reread: Callable[[], Config] | None = None) -> None:
        self.settings = settings
        self.ports: list[IListeningPort] = []
        self.started: Deferred[None] | None = None
        self._reactor = reactor
        self._reread = reread or (lambda: self.settings)
        self._draining = False
        self._began = time.time()
        self._name = f"gateway-{secrets.token_hex(6)}"
        self._certificates: list[Certificate] = []
        self._regular = RegularWork(reactor)
        self._reloads = Reloads(time.time)
        self._reloading = DeferredLock()

        data = data_directory(settings)
        self._access_log = build_access_log(settings.log, reactor)
        self.stores = {name: build_store(name, settings, reactor) for name in settings.storage}
        self.registry = build_registry(settings.registry, reactor, data)
        self.groups = Memberships(self.stores.__getitem__, reactor, settings.delivery)
        self._failures = build_failures(settings.auth, reactor.seconds)
        self._admin_failures = build_failures(settings.auth, reactor.seconds)
        self._quotas = Quotas(seconds=reactor.seconds, max_tracked=settings.quotas.max_tracked)
        self._audit = build_audit(sink_context(settings, reactor, data, self.stores), time.time)
        self.control: AccessControl = (
            OpenAccess(self.stores)
            if open_mode(settings)
            else RegistryAccess(self._access(settings), self.stores, self._snapshot, reactor.seconds)
        )
        self.open_streams = OpenStreams(self.control, reactor, time.time)
        self._front = Admission(self.control, self.open_streams, self._audit, reactor.seconds)
        self._front.quota_headers = settings.quotas.headers

        self._breakers = build_breakers(settings, reactor.seconds, self._breaker_changed)
        idempotency = build_idempotency(settings, reactor)
        self._handoffs = build_handoffs(settings, reactor, data, self.stores, self._breakers)
        gateway = Gateway(
            topic_creation(settings),
            self._breakers,
            idempotency,
            self.groups,
            reactor,
            self._handoffs,
            build_shares(settings),
        )
        self._subscriptions = SubscribeEdge(
            gateway, self._front, reactor, settings.http.max_body_bytes, settings.http.heartbeat_seconds
        )
        self._pub_sockets = SocketPublishEdge(gateway, self._front, reactor, settings.http.max_body_bytes)
        self._publishes = PublishEdge(gateway, self._front, settings.http.max_body_bytes)
        self._topics = TopicEdge(gateway, self._front)
        plane = build_plane(
            gateway,
            self._front,
            self._publishes,
            self._topics,
            self._subscriptions,
            self._pub_sockets,
            self._cors_origins,
        )
        self._administration = Administration(
            self.registry,
            self.stores,
            self._audit,
            time.time,
            just_used=self._just_used,
            own=[name for name, cluster in settings.storage.items() if cluster.driver == "embedded"],
            breakers=self._breakers,
            handoffs=self._handoffs,
        )
        self._admin_edge = AdminEdge(self, self._administration, self._guard(settings))
        self.public_tree = public_tree(reactor, plane.handle, self.health, lambda: self._draining, self._cors_origins)
        self.admin_tree = admin_tree(reactor, self._admin_edge, self.health, lambda: self._draining)
        self._turns = FairTurns(reactor, plane.handle, self._publishes.patience, settings.http.max_queue_seconds)
        self._public = self._factory(
            self.public_tree, lambda request: self._turns.handle if in_plane(request.target) else None
        )
        self._admin = self._factory(self.admin_tree, lambda _request: None)

    def _cors_origins(self) -> tuple[str, ...]:
        return self.settings.http.cors_origins

    def _snapshot(self) -> Snapshot:
        return self.registry.snapshot

    def _access(self, settings: Config) -> Access:
        return build_access(settings, self._quotas, self._failures, snapshot=self._snapshot, now=time.time)

    def _guard(self, settings: Config) -> Guard:
        endpoints = self.settings.http.admin
        token = read_token(settings.admin.token_file, endpoints)
        return Guard(token, endpoints=endpoints, hosts=settings.admin.hosts, failures=self._admin_failures)

    def _factory(self, tree: Resource, router: Any) -> HttpFactory:
        return HttpFactory(router, Site(tree), self.settings.http, self._reactor, access=self._access_log)

    # --- state ---------------------------------------------------------------------------------

    def health(self) -> Mapping[str, Health]:
        """Of each part in use, by its name in the configuration. A registry that is away leaves its last snapshot in
        force, so it degrades the gateway and does not make it unready (``web/site/health.py``).
        """
        parts = {f"storage.{name}": self._breakers.health(name, store.health()) for name, store in self.stores.items()}
        if not open_mode(self.settings):
            parts["registry"] = self.registry.health()
        return parts

    def status(self) -> Mapping[str, Any]:
        """What ``GET /admin/v1/status`` answers."""
        return {
            "version": __version__,
            "uptime_seconds": round(time.time() - self._began, 1),
            "configuration": self._reloads.status(),
            "stores": {
                name: {
                    "driver": self.settings.storage[name].driver,
                    **_health(self._breakers.health(name, store.health())),
                    "breaker": self._breakers[name].state,
                    **({"handoff": self._handoffs[name].status()} if name in self._handoffs else {}),
                }
                for name, store in self.stores.items()
            },
            "registry": {"driver": self.settings.registry.driver, **_health(self.registry.health())},
            **self._load(),
            "requests_waiting": self._turns.waiting,
            "requests_refused": self._turns.refused,
            "audit_events_dropped": self._audit.dropped,
        }

    def _load(self) -> dict[str, int]:
        return {
            "readers": self.groups.readers,
            "groups": self.groups.groups,
            "connections": self._public.connections,
            "bytes_in_flight": self._public.bytes_in_flight,
        }

    # --- starting --------------------------------------------------------------------------------------------

    def setServiceParent(self, parent: Any) -> None:
        if self.settings.log.format == "json":
            # the application carries the observer that twistd will log through
            parent.setComponent(ILogObserver, logs.json_observer())
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        logs.forward_stdlib()
        self.started = Deferred.fromCoroutine(self._start())
        self.started.addErrback(self._failed_to_start)

    async def _start(self) -> None:
        for handoff in self._handoffs.values():
            await handoff.start()
        for store in self.stores.values():
            await store.start()
        await self.registry.start()
        await self._administration.make_topics()
        self.registry.watch(lambda _snapshot: self.open_streams.recheck())
        for endpoints, factory in (
            (self.settings.http.public, self._public),
            (self.settings.http.admin, self._admin),
        ):
            for endpoint in endpoints:
                self.ports.append(await listen(self._reactor, endpoint, factory, self._certificates.append))
        self._regular.every(PRESENCE_SECONDS, self._tell_registry)
        self._regular.every(TOPICS_SECONDS, self._administration.make_topics)
        self._regular.every(LOOK_SECONDS, self._look_at_breakers)
        for handoff in self._handoffs.values():
            self._regular.every(LOOK_SECONDS, handoff.look)
        if isinstance(self.control, RegistryAccess):
            self._regular.every(self.settings.auth.note_used_interval_seconds, self._note_used)
        self._listen_for_hangup()
        # the objects loaded now stay: the collector need not look through it again and again, nor after few objects
        gc.collect()
        gc.freeze()
        gc.set_threshold(20000, 10, 50)
        logs.announce(self.settings)

    async def _tell_registry(self) -> None:
        await self.registry.register_gateway(
            GatewayEntry(
                name=self._name,
                public=tuple(bound_address(port) for port in self.ports[: len(self.settings.http.public)]),
                admin=tuple(bound_address(port) for port in self.ports[len(self.settings.http.public) :]),
                version=__version__,
                started=round(self._began * 1000),
                load=self._load(),
            )
        )

    async def _look_at_breakers(self) -> None:
        self._breakers.look(self.stores)

    def _breaker_changed(self, cluster: str, breaker: Breaker, by_hand: bool) -> None:
        if breaker.state == "open":
            # their callers need not wait for their deadlines
            self.stores[cluster].fail_unsent()
        if not by_hand:
            # a change by hand has an event of its own, with its actor
            self._audit.record("gateway", f"breaker.{breaker.state}", cluster, "ok", change=True)

    def _just_used(self) -> Mapping[str, int]:
        control = self.control
        return control.access.authentication.just_used() if isinstance(control, RegistryAccess) else {}

    async def _note_used(self) -> None:
        if isinstance(self.control, RegistryAccess):
            used = self.control.access.authentication.take_used()
            if used:
                try:
                    await self.registry.note_used(used)
                except BaseException:
                    self.control.access.authentication.put_back(used)
                    raise

    def _failed_to_start(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if isinstance(failure.value, KatewayError):
            _log.critical("kateway cannot start: {reason}", reason=failure.value)
        else:
            _log.failure("kateway cannot start", failure)
        # twistd has no exit status of its own; atexit runs after it has tidied up (its pid file)
        atexit.register(_exit_with_failure)
        self._reactor.callWhenRunning(self._reactor.stop)

    # --- reloading -------------------------------------------------------------------------------------------

    def _listen_for_hangup(self) -> None:
        def hangup(*_args: object) -> None:
            self._reactor.callFromThread(self._reload_and_log)

        try:
            signal.signal(signal.SIGHUP, hangup)
        except ValueError:
            _log.debug("not the main thread: SIGHUP stays as it is")

    def _reload_and_log(self) -> None:
        reloading = Deferred.fromCoroutine(self.reload())
        reloading.addErrback(_is_logged)

    async def reload(self) -> None:
        """Re-reads configuration, certificates and registry, all or nothing. ``ConfigError`` names every problem;
        ``RegistryUnavailable`` where the registry's server is away. No connection is dropped. One after the other:
        the configuration read last is in force in the end.
        """
        await self._reloading.run(lambda: Deferred.fromCoroutine(self._reload()))

    async def _reload(self) -> None:
        try:
            problems = Problems()
            settings = problems.take(self._reread) or self.settings
            problems.found += cannot_change(self.settings, settings)
            access = problems.take(self._access, settings) if isinstance(self.control, RegistryAccess) else None
            guard = problems.take(self._guard, settings)
            contexts = [problems.take(certificate.candidate) for certificate in self._certificates]
            if problems.found:
                await self._read_registry_file(problems)
            problems.refuse()
            await self.registry.reload()
        except Exception as error:
            self._reloads.failed(error)
            _log.warn("nothing was reloaded: {why}", why=error)
            raise
        # from here on nothing can fail
        self.settings = settings
        self._public.configure(settings.http)
        self._admin.configure(settings.http)
        self._turns.max_wait_seconds = settings.http.max_queue_seconds
        self._publishes.max_body_bytes = settings.http.max_body_bytes
        self._subscriptions.max_message_bytes = settings.http.max_body_bytes
        self._subscriptions.heartbeat_seconds = settings.http.heartbeat_seconds
        self._pub_sockets.max_message_bytes = settings.http.max_body_bytes
        self.groups.config = settings.delivery
        self._front.quota_headers = settings.quotas.headers
        self._audit.configure(settings.audit)
        if guard is not None:
            self._admin_edge.guard = guard
        for certificate, context in zip(self._certificates, contexts, strict=True):
            if context is not None:
                certificate.take(context)
        if access is not None and isinstance(self.control, RegistryAccess):
            access.authentication.put_back(self.control.access.authentication.take_used())
            self.control.access = access
        self.open_streams.recheck()
        if self._access_log is not None:
            self._access_log.reopen_quietly()
        self._reloads.succeeded()
        _log.info("configuration and registry were reloaded: generation {number}", number=self._reloads.generation)
        try:
            await self._administration.make_topics()
        except Exception:
            # the reload holds; the regular work tries again within seconds
            _log.failure("registered topics could not be made after the reload")

    async def _read_registry_file(self, problems: Problems) -> None:
        """Adds the registry file's faults to others that were found; its entries must not come into force."""
        try:
            await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), read_registry_file, self.settings)
        except ConfigError as error:
            problems.found += error.problems

    # --- stopping --------------------------------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        """Drains: no new connections, long polls end with their records so far, publishes finish, confirmed and
        acknowledged records are committed, groups are left. Takes at most ``drain_seconds``.
        """
        if self.started is not None:
            self.started.cancel()
        self._draining = True
        self._regular.stop()
        config = self.settings.http
        deadline = self._reactor.seconds() + config.drain_seconds
        if config.drain_delay_seconds and self.ports:
            await deferLater(self._reactor, config.drain_delay_seconds)
        for port in self.ports:
            await _quietly("closing a listener", port.stopListening())
        for each in (self._public, self._admin, self._topics, self._subscriptions, self._pub_sockets):
            each.drain()
        await self._emptied(deadline)
        self._public.cut_all()
        self._admin.cut_all()
        await _quietly("leaving the groups", Deferred.fromCoroutine(self.groups.stop(self._left(deadline))))
        for name, store in self.stores.items():
            await _quietly(f"stopping the store {name}", Deferred.fromCoroutine(store.stop(self._left(deadline))))
        for name, handoff in self._handoffs.items():
            await _quietly(f"stopping the handoff of {name}", Deferred.fromCoroutine(handoff.stop()))
        await _quietly("stopping the audit", Deferred.fromCoroutine(self._audit.stop()))
        await _quietly("stopping the registry", Deferred.fromCoroutine(self.registry.stop()))
        if self._access_log is not None:
            self._access_log.stop()
        _log.info("kateway has stopped")

    def _left(self, deadline: float) -> float:
        seconds: float = self._reactor.seconds()
        return max(deadline - seconds, 1.0)

    async def _emptied(self, deadline: float) -> None:
        """Waits until every connection has had its answer and is gone, or the drain time is over."""
        for factory in (self._public, self._admin):
            try:
                await factory.empty().addTimeout(max(deadline - self._reactor.seconds(), 0), self._reactor)
            except TookTooLong:
                _log.warn("{count} connections were cut: the drain time is over", count=factory.connections)


def _health(health: Health) -> dict[str, Any]:
    return {"healthy": health.healthy, "reason": health.reason, **health.details}


async def _quietly(doing: str, stopping: Any) -> None:
    """Awaits a step of stopping; its failure is logged and does not keep the next step from being taken."""
    try:
        await stopping
    except CancelledError:
        raise
    except Exception:
        _log.failure("{doing} failed", doing=doing)


def _is_logged(failure: Failure) -> None:
    """A failed reload has said so in the log; an exception that was not foreseen is there with its traceback."""
    if not failure.check(KatewayError):
        _log.failure("a reload broke", failure)


def _exit_with_failure() -> None:
    sys.stdout.flush()
    os._exit(1)
