"""``twistd kateway``: its options, and the one place where the parts are put together, started and stopped.

The order of starting and stopping is written out here, in ``GatewayService``, and nowhere else.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Site

from kateway import __version__, logs
from kateway.config import Config, EmbeddedStorageConfig, KafkaStorageConfig, StorageConfig, load
from kateway.core.gateway import Gateway, TopicCreation
from kateway.core.groups import Groups
from kateway.core.names import OpenNames
from kateway.errors import ConfigError, KatewayError
from kateway.model import Health
from kateway.storage.interface import Store
from kateway.web.accesslog import AccessLog
from kateway.web.factory import HttpFactory
from kateway.web.groups import GroupEdge
from kateway.web.plane import MessagePlane
from kateway.web.pub import PublishEdge
from kateway.web.site import admin_tree, in_plane, public_tree
from kateway.web.socketpub import SocketPublishEdge
from kateway.web.sub import SubscribeEdge
from kateway.web.topics import TopicEdge
from kateway.web.transport import listen

_log = Logger()


class Options(usage.Options):
    """The command line; each option overrides the configuration file."""

    synopsis = "[options]"
    longdesc = (
        "An HTTP gateway to Kafka. With no options: the embedded store in ./kateway-data, open access, the public "
        "listener on 127.0.0.1:9090, the admin listener on 127.0.0.1:9093."
    )
    optParameters = [  # noqa: RUF012  # usage.Options reads it from the class
        ["config", None, None, "The configuration file (TOML)."],
        ["data", None, None, "The embedded store's data directory."],
        ["kafka", None, None, "Kafka brokers, HOST:PORT[,HOST:PORT...]: the default cluster is that Kafka."],
    ]
    optFlags = [["check", None, "Validate the configuration, name every problem, and exit 0 or 1."]]  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["public"] = []
        self["admin"] = []
        self.settings = Config()

    def opt_public(self, endpoint: str) -> None:
        """A Twisted endpoint string for the public listener (may be repeated)."""
        self["public"].append(endpoint)

    def opt_admin(self, endpoint: str) -> None:
        """A Twisted endpoint string for the admin listener (may be repeated)."""
        self["admin"].append(endpoint)

    def opt_version(self) -> None:
        """Print kateway's version and exit."""
        print(f"kateway {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        try:
            self.settings = self.read()
        except ConfigError as error:
            for problem in error.problems:
                print(f"kateway: {problem}", file=sys.stderr)
            raise SystemExit(1) from error
        if self["check"]:
            print("kateway: the configuration is fine")
            raise SystemExit(0)

    def read(self) -> Config:
        """The configuration file with the command line over it. ``ConfigError`` names every problem."""
        settings = load(Path(self["config"])) if self["config"] else Config()
        http = settings.http
        if self["public"]:
            http = attrs.evolve(http, public=tuple(self["public"]))
        if self["admin"]:
            http = attrs.evolve(http, admin=tuple(self["admin"]))
        storage = dict(settings.storage)
        if self["kafka"]:
            brokers = tuple(broker.strip() for broker in self["kafka"].split(",") if broker.strip())
            default = storage.get("default")
            storage["default"] = (
                attrs.evolve(default, brokers=brokers)
                if isinstance(default, KafkaStorageConfig)
                else KafkaStorageConfig(driver="kafka", brokers=brokers)
            )
        if self["data"]:
            default = storage.get("default")
            if not isinstance(default, EmbeddedStorageConfig):
                raise ConfigError(["--data is the embedded store's directory, but the default cluster is Kafka"])
            storage["default"] = attrs.evolve(default, path=self["data"])
        settings = attrs.evolve(settings, http=http, storage=storage)
        problems = [
            *(problem for name, cluster in storage.items() for problem in _broker_problems(name, cluster)),
        ]
        if problems:
            raise ConfigError(problems)
        return settings


def _broker_problems(name: str, cluster: StorageConfig) -> list[str]:
    if not isinstance(cluster, KafkaStorageConfig):
        return []
    return [
        f"storage.{name}.brokers: {broker!r} is not HOST:PORT"
        for broker in cluster.brokers
        if not broker.rpartition(":")[0] or not broker.rpartition(":")[2].isdigit()
    ]


def makeService(options: Options) -> GatewayService:
    """What twistd calls."""
    from twisted.internet import reactor

    return GatewayService(options.settings, reactor)


class GatewayService(Service):
    """The running gateway. Everything is made in ``_build`` and started and stopped in the order written here."""

    name = "kateway"

    def __init__(self, config: Config, reactor: Any) -> None:
        self.settings = config
        self._reactor = reactor
        self._draining = False
        self.ports: list[IListeningPort] = []
        self.started: Deferred[None] | None = None
        self._access = AccessLog(config.log, reactor, write=self._access_writer()) if config.log.access else None
        self.stores = {name: self._store(name, cluster) for name, cluster in config.storage.items()}
        self.groups = Groups(self.stores.__getitem__, reactor, config.delivery)
        names = OpenNames(self.stores)
        gateway = Gateway(
            names,
            self.stores,
            {name: _creation(cluster) for name, cluster in config.storage.items()},
            self.groups,
            reactor,
        )
        self._subscriptions = SubscribeEdge(gateway, reactor, config.http.max_body_bytes)
        self._publish_sockets = SocketPublishEdge(gateway, reactor, config.http.max_body_bytes)
        plane = self._plane(gateway)
        self.public_tree = public_tree(reactor, plane.handle, self.health, self._is_draining)
        admin = admin_tree(reactor, self.health, self._is_draining)
        self._public = self._factory(
            self.public_tree, lambda request: plane.handle if in_plane(request.target) else None
        )
        self._admin = self._factory(admin, lambda _request: None)

    def _is_draining(self) -> bool:
        return self._draining

    def _access_writer(self) -> Any:
        """JSON log lines go where the JSON log goes, not inside another event."""
        if self.settings.log.format == "json" and not self.settings.log.access_file:
            return logs.write_to_stdout
        return None

    def _store(self, name: str, cluster: StorageConfig) -> Store:
        # drivers are imported where they are needed: one that is not used would cost megabytes for nothing
        if isinstance(cluster, EmbeddedStorageConfig):
            from kateway.storage.embedded import EmbeddedStore

            return EmbeddedStore(cluster, self._reactor, name)
        from kateway.storage.kafka.driver import KafkaStore

        return KafkaStore(
            cluster, self._reactor, name=name, session_timeout_seconds=self.settings.delivery.session_timeout_seconds
        )

    def _plane(self, gateway: Gateway) -> MessagePlane:
        topic = TopicEdge(gateway).handle
        group = GroupEdge(gateway)
        return MessagePlane(
            gateway.names.grammar,
            topic={b"POST": PublishEdge(gateway).handle, b"GET": topic, b"HEAD": topic},
            group={b"GET": self._subscriptions.handle},
            actions={
                "lag": {b"GET": group.lag, b"HEAD": group.lag},
                "offsets": {b"GET": group.offsets, b"HEAD": group.offsets, b"PUT": group.reset},
                "acks": {b"POST": group.acknowledge},
            },
            publish_socket=self._publish_sockets.handle,
        )

    def _factory(self, tree: Resource, router: Any) -> HttpFactory:
        return HttpFactory(router, Site(tree), self.settings.http, self._reactor, access=self._access)

    def health(self) -> Mapping[str, Health]:
        """Of each part in use, by its name in the configuration."""
        return {f"storage.{name}": store.health() for name, store in self.stores.items()}

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
        for store in self.stores.values():
            await store.start()
        for endpoint in self.settings.http.public:
            self.ports.append(await listen(self._reactor, endpoint, self._public))
        for endpoint in self.settings.http.admin:
            self.ports.append(await listen(self._reactor, endpoint, self._admin))
        _log.info(
            "kateway {version} is up: public {public}, admin {admin}, stores {stores}",
            version=__version__,
            public=", ".join(self.settings.http.public),
            admin=", ".join(self.settings.http.admin),
            stores=", ".join(f"{name} ({cluster.driver})" for name, cluster in self.settings.storage.items()),
        )
        _log.info("open access: no registry is configured, so every caller is the application 'default'")

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

    # --- stopping --------------------------------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        """Drains: no new connections, long polls end with what they have, publishes finish, what was confirmed and
        acknowledged is committed, groups are left. Takes at most ``drain_seconds``.
        """
        if self.started is not None:
            self.started.cancel()
        self._draining = True
        config = self.settings.http
        deadline = self._reactor.seconds() + config.drain_seconds + config.drain_delay_seconds
        if config.drain_delay_seconds and self.ports:
            await deferLater(self._reactor, config.drain_delay_seconds)
        for port in self.ports:
            await _quietly("closing a listener", port.stopListening())
        self._public.drain()
        self._admin.drain()
        self._subscriptions.drain()
        self._publish_sockets.drain()
        await self._emptied(deadline)
        self._public.cut_all()
        self._admin.cut_all()
        await _quietly("leaving the groups", Deferred.fromCoroutine(self.groups.stop(self._left(deadline))))
        for name, store in self.stores.items():
            await _quietly(f"stopping the store {name}", Deferred.fromCoroutine(store.stop(self._left(deadline))))
        if self._access is not None:
            self._access.stop()
        _log.info("kateway has stopped")

    def _left(self, deadline: float) -> float:
        seconds: float = self._reactor.seconds()
        return max(deadline - seconds, 1.0)

    async def _emptied(self, deadline: float) -> None:
        """Waits until every connection has had its answer and is gone, or the drain time is over."""
        for factory in (self._public, self._admin):
            empty = factory.empty()
            timeout = self._reactor.callLater(max(deadline - self._reactor.seconds(), 0), empty.cancel)
            try:
                await empty
            except CancelledError:
                _log.warn("{count} connections were cut: the drain time is over", count=factory.connections)
            finally:
                if timeout.active():
                    timeout.cancel()


def _creation(cluster: StorageConfig) -> TopicCreation:
    replicas = cluster.replicas if isinstance(cluster, KafkaStorageConfig) else 1
    return TopicCreation(cluster.create_topics, cluster.partitions, replicas)


async def _quietly(doing: str, stopping: Any) -> None:
    """Awaits a step of stopping; its failure is logged and does not keep the next step from being taken."""
    try:
        await stopping
    except CancelledError:
        raise
    except Exception:
        _log.failure("{doing} failed", doing=doing)


def _exit_with_failure() -> None:
    sys.stdout.flush()
    os._exit(1)
