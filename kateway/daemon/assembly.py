"""Makes the parts of a gateway from its configuration: which driver an option names, what each part is given.

Nothing is started here. Drivers are imported where one is chosen: one that is not used would cost megabytes in vain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.threads import deferToThreadPool

from kateway.config.schema import (
    Config,
    EmbeddedStorageConfig,
    KafkaStorageConfig,
    LogConfig,
    PluginsConfig,
    PluginStorageConfig,
    RegistryConfig,
)
from kateway.core import entry_points
from kateway.core.access.control import OPEN_PRINCIPAL
from kateway.core.audit.events import SinkContext
from kateway.core.breaker import BreakerConfig, BreakerGate, Breakers, Changed
from kateway.core.gateway import TopicCreation
from kateway.core.idempotency import Idempotency
from kateway.core.inflight_shares import InflightShares
from kateway.core.metrics_sinks import Exposition, MetricsSinkContext, MetricsSinks, build_metrics_sinks
from kateway.core.plugin_watch import Watches
from kateway.core.plugins import StoreContext
from kateway.core.transforms.in_force import faults
from kateway.core.transforms.plugged import TransformPlugins
from kateway.daemon import logs
from kateway.daemon.secret import secret
from kateway.errors import BadRequest, ConfigError, Problems
from kateway.observe.store import StoreCells
from kateway.registry import plans
from kateway.registry.documents import from_table
from kateway.registry.interface import Registry, Snapshot, Transforms
from kateway.registry.plans import Change
from kateway.registry.read_only import OpenRegistry
from kateway.storage.interface import Store
from kateway.web.access_log import AccessLog

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


def build_watches(settings: Config) -> Watches:
    """What counts the plugins' failures."""
    return Watches(settings.plugins, time.monotonic)


def build_store(
    name: str,
    settings: Config,
    reactor: Any,
    cells: StoreCells | None = None,
    member_label: Callable[[], str] | None = None,
    process: int | None = None,
    generation: int = 1,
) -> Store:
    """A cluster's store. ``member_label``: what its members in groups are known by; ``process``: the number of this
    one of several, and ``generation`` which of an upgrade it is. ``ConfigError`` names each fault by its path: a
    certificate or secret that cannot be read.
    """
    cluster = settings.storage[name]
    if isinstance(cluster, PluginStorageConfig):
        factory = entry_points.load(entry_points.STORES, cluster.driver, f"storage.{name}.driver")
        context = StoreContext(name=name, config=cluster, reactor=reactor, cells=cells)
        store: Store = entry_points.make(factory, context, cluster.options, f"storage.{name}.options")
        return store
    if isinstance(cluster, EmbeddedStorageConfig):
        from kateway.storage.embedded import EmbeddedStore

        return EmbeddedStore(cluster, reactor, name, cells=cells)
    from kateway.storage.kafka.driver import KafkaStore

    try:
        return KafkaStore(
            cluster,
            reactor,
            name=name,
            session_timeout_seconds=settings.delivery.session_timeout_seconds,
            instance_name=_instance_name(settings.delivery.instance_name, process, generation),
            discover=_discovery(cluster, reactor),
            cells=cells,
            member_label=member_label,
        )
    except ConfigError as error:
        raise ConfigError([f"storage.{name}.{problem}" for problem in error.problems]) from error


def _instance_name(name: str, process: int | None, generation: int) -> str:
    """Each of several processes is a member of its own: one name for all would have them throw each other out. So it
    would the generations of an upgrade, which are there at the same time: the later ones have none.
    """
    if generation > 1:
        return ""
    return f"{name}-{process}" if name and process is not None else name


def _discovery(cluster: KafkaStorageConfig, reactor: Any) -> Callable[[], Coroutine[Any, Any, Sequence[str]]] | None:
    """How a cluster's brokers are found where they are not configured."""
    hosts = cluster.brokers_from_zookeeper
    if not hosts:
        return None
    from kateway.registry.zookeeper.kafka_brokers import Protocol, kafka_brokers

    inside = "SSL" if cluster.tls.enabled else "PLAINTEXT"
    protocol = cast(Protocol, inside if cluster.sasl.mechanism == "none" else f"SASL_{inside}")
    return lambda: kafka_brokers(reactor, hosts, protocol=protocol)


def build_registry(
    config: RegistryConfig, reactor: Any, data: Path, faults: Callable[[Snapshot], Sequence[str]]
) -> Registry:
    """``data`` is where the embedded one keeps itself unless told otherwise. ``faults`` finds those of a file's entries
    beyond their form. ``ConfigError``: a secret is not there.
    """
    if config.driver == "embedded":
        from kateway.registry.sqlite import EmbeddedRegistry

        return EmbeddedRegistry(reactor, Path(config.path) if config.path else data)
    if config.driver == "file":
        from kateway.registry.file import FileRegistry
        from kateway.registry.kept_placements import FILE_NAME as PLACEMENTS

        return FileRegistry(reactor, Path(config.path), faults, data / PLACEMENTS)
    if config.driver == "zookeeper":
        from kateway.registry.zookeeper.registry import ZookeeperRegistry

        return ZookeeperRegistry(
            reactor,
            config.hosts,
            session_timeout_seconds=config.session_timeout_seconds,
            write_timeout_seconds=config.write_timeout_seconds,
            credentials=secret("registry.credentials", config.credentials_file, config.credentials_env),
            access=config.access,
        )
    return OpenRegistry()


def transform_faults(snapshot: Snapshot) -> list[str]:
    """Names the transforms and filters of a snapshot that do not compile."""
    # plugins are made to be tried only: nothing is passed through them that could be counted
    return faults(snapshot, TransformPlugins(Watches(PluginsConfig(), time.monotonic)))


def open_transforms(settings: Config) -> list[Transforms]:
    """The transforms of the configuration file, in open mode. ``ConfigError`` names each fault and its place."""
    if settings.transforms and not open_mode(settings):
        raise ConfigError(["transforms: there is a registry, and the transforms of its topics are there"])
    problems = Problems()
    entries = [
        problems.take(_open_transforms, name, table, below=f"transforms.{name}: ")
        for name, table in settings.transforms.items()
    ]
    problems.refuse()
    found = [entry for entry in entries if entry is not None]
    changes = [Change("transforms", "/".join(entry.name), entry) for entry in found]
    problems.found += transform_faults(plans.apply(Snapshot(open=True), changes, 1))
    problems.refuse()
    return found


def _open_transforms(name: str, table: Mapping[str, Any]) -> Transforms:
    try:
        entry = from_table("transforms", name, table)
    except BadRequest as error:
        raise ConfigError([error.detail]) from error
    assert isinstance(entry, Transforms)
    if entry.application != OPEN_PRINCIPAL.application:
        raise ConfigError([f"in open mode every topic is of {OPEN_PRINCIPAL.application}/TOPIC/VERSION"])
    return entry


def topic_creation(settings: Config) -> dict[str, TopicCreation]:
    """By the clusters' names. With a registry topics are made by administrators only."""
    return {
        name: TopicCreation(
            open_mode(settings) and cluster.create_topics,
            cluster.partitions,
            1 if isinstance(cluster, EmbeddedStorageConfig) else cluster.replicas,
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


def build_figures(settings: Config, reactor: Any, exposition: Exposition, watches: Watches) -> MetricsSinks:
    """The sinks of metrics."""
    pool = reactor.getThreadPool()
    context = MetricsSinkContext(clock=reactor, in_thread=lambda work: deferToThreadPool(reactor, pool, work))
    return build_metrics_sinks(settings.metrics, context, exposition, watches)


def build_access_log(
    config: LogConfig, reactor: Any, write: Callable[[bytes], None] = logs.write_to_stdout
) -> AccessLog | None:
    """``None`` where requests are not logged. ``write`` takes JSON lines."""
    if not config.access:
        return None
    # JSON lines go where the JSON log goes, not inside another event
    to_stdout = config.format == "json" and not config.access_file
    return AccessLog(config, reactor, write=write if to_stdout else None)
