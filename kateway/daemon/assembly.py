"""Makes the parts of a gateway from its configuration: which driver an option names, what each part is given.

Nothing is started here. Drivers are imported where one is chosen: one that is not used would cost megabytes in vain.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.threads import deferToThreadPool

from kateway.config.schema import Config, EmbeddedStorageConfig, KafkaStorageConfig, LogConfig, RegistryConfig
from kateway.core.audit.events import SinkContext
from kateway.core.breaker import BreakerConfig, BreakerGate, Breakers, Changed
from kateway.core.gateway import Gateway, TopicCreation
from kateway.core.idempotency import Idempotency
from kateway.core.inflight_shares import InflightShares
from kateway.daemon import logs
from kateway.errors import ConfigError
from kateway.registry.interface import Registry
from kateway.registry.read_only import OpenRegistry
from kateway.storage.interface import Store
from kateway.web.access_log import AccessLog
from kateway.web.messages.admission import Admission
from kateway.web.messages.groups import GroupEdge
from kateway.web.messages.publish import PublishEdge
from kateway.web.messages.router import MessagePlane
from kateway.web.messages.subscribe import SubscribeEdge
from kateway.web.messages.topic_list import TopicListEdge
from kateway.web.messages.topics import TopicEdge
from kateway.web.messages.websocket_publish import SocketPublishEdge

if TYPE_CHECKING:
    from kateway.storage.handoff import DiskHandoff


def open_mode(settings: Config) -> bool:
    """Whether there is no registry, so that every caller may do everything."""
    return settings.registry.driver == "open"


def data_directory(settings: Config) -> Path:
    """The directory of audit and registry: beside the default embedded store, else ``kateway-data``."""
    if settings.data_directory:
        return Path(settings.data_directory)
    default = settings.storage.get("default")
    return Path(default.path if isinstance(default, EmbeddedStorageConfig) else EmbeddedStorageConfig().path)


def build_store(name: str, settings: Config, reactor: Any) -> Store:
    """A cluster's store. ``ConfigError`` names each fault by its path: a certificate or secret that cannot be read."""
    cluster = settings.storage[name]
    if isinstance(cluster, EmbeddedStorageConfig):
        from kateway.storage.embedded import EmbeddedStore

        return EmbeddedStore(cluster, reactor, name)
    from kateway.storage.kafka.driver import KafkaStore

    session = settings.delivery.session_timeout_seconds
    try:
        return KafkaStore(
            cluster, reactor, name=name, session_timeout_seconds=session, discover=_discovery(cluster, reactor)
        )
    except ConfigError as error:
        raise ConfigError([f"storage.{name}.{problem}" for problem in error.problems]) from error


def _discovery(cluster: KafkaStorageConfig, reactor: Any) -> Callable[[], Coroutine[Any, Any, Sequence[str]]] | None:
    """How a cluster's brokers are found where they are not configured."""
    hosts = cluster.brokers_from_zookeeper
    if not hosts:
        return None
    from kateway.registry.zookeeper.kafka_brokers import Protocol, kafka_brokers

    inside = "SSL" if cluster.tls.enabled else "PLAINTEXT"
    protocol = cast(Protocol, inside if cluster.sasl.mechanism == "none" else f"SASL_{inside}")
    return lambda: kafka_brokers(reactor, hosts, protocol=protocol)


def build_registry(config: RegistryConfig, reactor: Any, data: Path) -> Registry:
    """``data`` is where the embedded one keeps itself unless told otherwise. ``ConfigError``: a secret is not there."""
    if config.driver == "embedded":
        from kateway.registry.sqlite import EmbeddedRegistry

        return EmbeddedRegistry(reactor, Path(config.path) if config.path else data)
    if config.driver == "file":
        from kateway.registry.file import FileRegistry

        return FileRegistry(reactor, Path(config.path))
    if config.driver == "zookeeper":
        from kateway.registry.zookeeper.registry import ZookeeperRegistry

        return ZookeeperRegistry(
            reactor,
            config.hosts,
            session_timeout_seconds=config.session_timeout_seconds,
            write_timeout_seconds=config.write_timeout_seconds,
            credentials=_secret("registry.credentials", config.credentials_file, config.credentials_env),
            access=config.access,
        )
    return OpenRegistry()


def _secret(option: str, file: str, env: str) -> str:
    """A secret from a file or the environment; empty where neither is named."""
    if file:
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError([f"{option}_file: {file}: {error.strerror or error}"]) from error
    if env:
        if env not in os.environ:
            raise ConfigError([f"{option}_env: there is no {env} in the environment"])
        return os.environ[env]
    return ""


def topic_creation(settings: Config) -> dict[str, TopicCreation]:
    """By the clusters' names. With a registry topics are made by administrators only."""
    return {
        name: TopicCreation(
            open_mode(settings) and cluster.create_topics,
            cluster.partitions,
            cluster.replicas if isinstance(cluster, KafkaStorageConfig) else 1,
        )
        for name, cluster in settings.storage.items()
    }


def build_breakers(settings: Config, seconds: Callable[[], float], changed: Changed) -> Breakers:
    """The clusters' circuit breakers; ``changed`` is called with each change."""
    return Breakers(
        {
            name: BreakerConfig(
                cluster.breaker_open_after_seconds, cluster.breaker_minimum_requests, cluster.breaker_probe_seconds
            )
            for name, cluster in settings.storage.items()
        },
        seconds,
        changed,
    )


def build_handoffs(
    settings: Config, reactor: Any, data: Path, stores: Mapping[str, Store], breakers: Breakers
) -> dict[str, DiskHandoff]:
    """The handoffs of those clusters that have one: configured, or left with records by an earlier configuration."""
    handoffs = {}
    for name, cluster in settings.storage.items():
        directory = data / "handoff" / name
        if not isinstance(cluster, KafkaStorageConfig) or not (cluster.handoff or directory.exists()):
            continue
        from kateway.storage.handoff import DiskHandoff, HandoffConfig
        from kateway.storage.kafka.driver import KafkaStore

        store = stores[name]
        assert isinstance(store, KafkaStore)
        handoffs[name] = DiskHandoff(
            HandoffConfig(
                enabled=cluster.handoff,
                max_bytes=cluster.handoff_max_bytes,
                max_age_seconds=cluster.handoff_max_age_seconds,
                drain_bytes_per_second=cluster.handoff_drain_bytes_per_second,
            ),
            reactor,
            directory,
            f"storage.{name}.handoff",
            store,
            store.prepared,
            BreakerGate(breakers, name),
            lambda: time.time_ns() // 1_000_000,
        )
    return handoffs


def build_shares(settings: Config) -> dict[str, InflightShares]:
    """What applications may have under way, by the clusters' names; none where all callers are one application."""
    if open_mode(settings):
        return {}
    return {name: InflightShares(cluster.max_inflight_bytes) for name, cluster in settings.storage.items()}


def build_idempotency(settings: Config, reactor: Any) -> Idempotency:
    """The idempotency keys in use."""
    config = settings.publish
    return Idempotency(
        reactor,
        lambda: time.time_ns() // 1_000_000,
        window_seconds=config.idempotency_window_seconds,
        max_entries=config.idempotency_max_entries,
        scan_max_bytes=config.idempotency_scan_max_bytes,
    )


def sink_context(settings: Config, reactor: Any, data: Path, stores: Mapping[str, Store]) -> SinkContext:
    """What the audit's sinks may need."""
    pool = reactor.getThreadPool()
    return SinkContext(
        config=settings.audit,
        data_directory=data,
        stores=stores,
        seconds=reactor.seconds,
        in_thread=lambda work: deferToThreadPool(reactor, pool, work),
    )


def build_access_log(config: LogConfig, reactor: Any) -> AccessLog | None:
    """``None`` where requests are not logged."""
    if not config.access:
        return None
    # JSON lines go where the JSON log goes, not inside another event
    to_stdout = config.format == "json" and not config.access_file
    return AccessLog(config, reactor, write=logs.write_to_stdout if to_stdout else None)


def build_plane(
    gateway: Gateway,
    admission: Admission,
    publishes: PublishEdge,
    topics: TopicEdge,
    subscriptions: SubscribeEdge,
    publish_sockets: SocketPublishEdge,
    cors_origins: Callable[[], Sequence[str]],
) -> MessagePlane:
    """Which edge serves which path and method; ``cors_origins`` gives those of now."""
    group = GroupEdge(gateway, admission)
    listed = TopicListEdge(admission.control).handle
    return MessagePlane(
        admission.control.topic_grammar,
        admission.control.group_grammar,
        topics={b"GET": listed, b"HEAD": listed},
        topic={b"POST": publishes.handle, b"GET": topics.handle, b"HEAD": topics.handle},
        group={b"GET": subscriptions.handle},
        actions={
            "lag": {b"GET": group.lag, b"HEAD": group.lag},
            "offsets": {b"GET": group.offsets, b"HEAD": group.offsets, b"PUT": group.reset},
            "acks": {b"POST": group.acknowledge},
        },
        publish_socket=publish_sockets.handle,
        cors_origins=cors_origins,
    )
