"""Checks the whole configuration before anything is started: faults that would keep the gateway from starting, and
options that contradict each other.

``--check`` ends after it, every start begins with it. Files are read (certificates, secrets, a registry's file) and the
parts are made as the start makes them, but nothing is written, no server is asked and no port stays taken.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kateway.config.addresses import parse_address
from kateway.config.networks import parse_network
from kateway.config.schema import (
    Config,
    EmbeddedStorageConfig,
    KafkaStorageConfig,
    PluginStorageConfig,
    RegistryConfig,
    StorageConfig,
)
from kateway.core.access.failures import build_failures
from kateway.core.access.policy import build_access
from kateway.core.access.rate_limits import Quotas
from kateway.core.audit.events import build_audit
from kateway.daemon.assembly import (
    build_figures,
    build_registry,
    build_store,
    build_watches,
    data_directory,
    open_mode,
    open_transforms,
    sink_context,
)
from kateway.daemon.clustering import client_tls, cluster_secret
from kateway.daemon.clustering import faults as clustering_faults
from kateway.daemon.elastic_sharing import registry_faults
from kateway.daemon.processes.plan import sharing_faults
from kateway.daemon.pushing import build_push
from kateway.daemon.spans import build_spans
from kateway.errors import Problems
from kateway.registry.interface import Snapshot
from kateway.web.admin.tokens import read_tokens
from kateway.web.tcp.endpoints import overlaps, parse_endpoint, unusable
from kateway.web.tcp.listener import build_endpoint

CLUSTER_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[^A-Z/?#@:\s\[\]]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?|null")
"""As browsers send it (Fetch standard, 3.1): no path, not even a slash."""


def check(config: Config, reactor: Any) -> None:
    """``ConfigError`` names every problem by its path; ``reactor`` is only given to the parts."""
    problems = Problems()
    problems.found += across(config)
    _endpoints(problems, config, reactor)
    _parts(problems, config, reactor)
    if config.log.access_file:
        problems.found += _no_file("log.access_file", Path(config.log.access_file))
    problems.refuse()


def read_registry_file(config: Config) -> None:
    """``ConfigError`` names every fault of a file registry's file; nothing for the other drivers. May take a second."""
    if config.registry.driver == "file" and config.registry.path:
        from kateway.registry.file import read

        read(Path(config.registry.path), faults=registry_faults(config))


def _endpoints(problems: Problems, config: Config, reactor: Any) -> None:
    sound: list[str] = []
    for option, endpoints in (("http.public", config.http.public), ("http.admin", config.http.admin)):
        for endpoint in endpoints:
            if problems.take(parse_endpoint, endpoint, below=f"{option}: ") is None:
                continue
            sound.append(endpoint)
            # systemd hands its sockets to the process that it starts, which need not be this one
            if not endpoint.startswith("systemd:"):
                problems.take(build_endpoint, reactor, endpoint, below=f"{option}: ")
            fault = unusable(endpoint)
            if fault is not None:
                problems.found.append(f"{option}: {fault}")
    if config.cluster.endpoint and not clustering_faults(config.cluster):
        sound.append(config.cluster.endpoint)
        problems.take(build_endpoint, reactor, config.cluster.endpoint, below="cluster.endpoint: ")
        problems.take(cluster_secret, config.cluster)
        if config.cluster.endpoint.startswith("ssl:"):
            problems.take(client_tls, config.cluster)
    problems.found += [f"http: {problem}" for problem in overlaps(sound)]
    problems.take(read_tokens, config.admin, [one for one in config.http.admin if one in sound])


def _parts(problems: Problems, config: Config, reactor: Any) -> None:
    data = data_directory(config)
    stores = {}
    for name, cluster in config.storage.items():
        if isinstance(cluster, EmbeddedStorageConfig):
            problems.found += _no_directory(f"storage.{name}.path", Path(cluster.path))
        elif isinstance(cluster, KafkaStorageConfig) and cluster.handoff:
            problems.found += _no_directory(f"storage.{name}.handoff", data / "handoff" / name)
        store = problems.take(build_store, name, config, reactor)
        if store is not None:
            stores[name] = store
    if config.registry.driver == "embedded":
        problems.found += _no_directory("registry.path", Path(config.registry.path or data))
    if not _across_registry(config.registry):
        problems.take(build_registry, config.registry, reactor, data, registry_faults(config))
    problems.take(read_registry_file, config)
    problems.take(open_transforms, config)
    watches = build_watches(config)
    problems.take(build_figures, config, reactor, no_figures, watches)
    problems.take(build_push, config, reactor)
    problems.take(build_spans, config)
    if not open_mode(config):
        failures = build_failures(config.auth, time.monotonic)
        quotas = Quotas(seconds=time.monotonic, max_tracked=config.quotas.max_tracked)
        problems.take(lambda: build_access(config, quotas, failures, snapshot=Snapshot, now=time.time, watches=watches))
    audit = Problems()
    audit.take(lambda: build_audit(sink_context(config, reactor, data, stores), time.time, watches))
    # a cluster that has its own problem above is there all the same
    there = config.audit.cluster in config.storage
    problems.found += [one for one in audit.found if not (there and one.startswith("audit.cluster:"))]


async def no_figures() -> bytes:
    """What there is to be told of a gateway that does not run."""
    return b""


def _no_directory(path: str, folder: Path) -> list[str]:
    """Names the faults of a directory that is to be used, and made where it is missing."""
    folder = folder.absolute()
    nearest = next(one for one in (folder, *folder.parents) if one.exists())
    if not nearest.is_dir():
        return [f"{path}: {nearest} is no directory"]
    try:
        # rights alone say yes to root where the file system says no, as on ``/proc``
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        return [f"{path}: {nearest} cannot be written to ({error.strerror or error})"]
    return []


def _no_file(path: str, file: Path) -> list[str]:
    """Names the faults of a file that is to be appended to, and made where it is missing; its folder has to exist."""
    if file.is_dir():
        return [f"{path}: {file} is a directory"]
    if not file.absolute().parent.exists():
        return [f"{path}: {file.absolute().parent} is not there"]
    if file.exists():
        return [] if os.access(file, os.W_OK) else [f"{path}: {file} cannot be written to"]
    return _no_directory(path, file.parent)


# --- what the options say, without a look at anything else ---------------------------------------------------------


def _networks(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        try:
            parse_network(text)
        except ValueError as error:
            yield f"http.proxies: {error}"


def across(config: Config) -> list[str]:
    """Faults in what the options say, beyond their types: their form, and what several together mean."""
    problems: list[str] = []
    if "default" not in config.storage and len(config.storage) != 1:
        problems.append("storage.default: of several clusters one must have that name")
    for name in config.storage:
        if not CLUSTER_NAME.fullmatch(name):
            problems.append(f"storage.{name}: a cluster's name is 1 to 64 of A-Z a-z 0-9 _ -")
    if not config.http.public:
        problems.append("http.public: at least one endpoint is needed")
    if config.http.drain_delay_seconds > config.http.drain_seconds:
        problems.append("http.drain_delay_seconds: is part of drain_seconds, so it cannot be longer")
    problems += [
        f"http.cors_origins: {origin!r} is no origin, such as https://pages.example:8443"
        for origin in config.http.cors_origins
        if not ORIGIN.fullmatch(origin)
    ]
    problems += _networks(config.http.proxies)
    problems += [problem for name, cluster in config.storage.items() for problem in _cluster(name, cluster)]
    paths = [
        os.path.realpath(cluster.path)
        for cluster in config.storage.values()
        if isinstance(cluster, EmbeddedStorageConfig)
    ]
    if len(set(paths)) < len(paths):
        problems.append("storage: two embedded clusters have the same path")
    return [
        *problems,
        *clustering_faults(config.cluster),
        *sharing_faults(config),
        *_across_registry(config.registry),
    ]


def _cluster(name: str, cluster: StorageConfig) -> list[str]:
    if isinstance(cluster, EmbeddedStorageConfig):
        return [] if cluster.path else [f"storage.{name}.path: a directory is needed"]
    if isinstance(cluster, PluginStorageConfig):
        return []
    if cluster.brokers_from_zookeeper:
        return _no_servers(f"storage.{name}.brokers_from_zookeeper", cluster.brokers_from_zookeeper)
    if not cluster.brokers:
        return [f"storage.{name}.brokers: at least one HOST:PORT is needed"]
    return _no_addresses(f"storage.{name}.brokers", cluster.brokers)


def _no_servers(path: str, hosts: str) -> list[str]:
    """Names the faults of ZooKeeper's servers, ``HOST[:PORT][,HOST[:PORT]…][/ROOT]``."""
    return _no_addresses(path, hosts.partition("/")[0].split(","), 2181)


def _no_addresses(path: str, addresses: Iterable[str], default_port: int | None = None) -> list[str]:
    problems: list[str] = []
    for address in addresses:
        try:
            parse_address(address.strip(), default_port)
        except ValueError as error:
            problems.append(f"{path}: {error}")
    return problems


def _across_registry(registry: RegistryConfig) -> list[str]:
    problems: list[str] = []
    if registry.driver == "file" and not registry.path:
        problems.append("registry.path: the file driver needs to know which file")
    if registry.driver == "zookeeper" and not registry.hosts:
        problems.append("registry.hosts: the zookeeper driver needs to know where, such as 127.0.0.1:2181/kateway")
    elif registry.driver == "zookeeper":
        problems += _no_servers("registry.hosts", registry.hosts)
    if registry.credentials_file and registry.credentials_env:
        problems.append("registry.credentials_env: there is a credentials_file already")
    if registry.access != "open" and not (registry.credentials_file or registry.credentials_env):
        problems.append(f"registry.access: {registry.access} needs credentials_file or credentials_env")
    return problems
