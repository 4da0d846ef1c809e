"""Says how many processes a configuration asks for, and what keeps it from being shared among several."""

from __future__ import annotations

import os

from kateway.config.schema import Config, EmbeddedStorageConfig, KafkaStorageConfig


def process_count(settings: Config) -> int:
    """Returns how many processes there are to be."""
    count = settings.process.count
    if count == "auto":
        # the processors that this process may use, which a container's or a unit's limits make fewer
        return max(len(os.sched_getaffinity(0)), 1)
    return count


def sharing_faults(settings: Config) -> list[str]:
    """Names what several processes cannot share."""
    if process_count(settings) == 1:
        return []
    faults = []
    for name, cluster in settings.storage.items():
        if isinstance(cluster, EmbeddedStorageConfig):
            faults.append(
                f"process.count: the embedded store of storage.{name} is one process's; set count = 1, or use Kafka"
            )
        elif isinstance(cluster, KafkaStorageConfig) and cluster.handoff:
            faults.append(
                f"process.count: the handoff of storage.{name} is one process's; set count = 1, or handoff = false"
            )
    if settings.registry.driver == "embedded":
        faults.append("process.count: the embedded registry is one process's; set count = 1, or use zookeeper or file")
    for option, endpoints in (("http.public", settings.http.public), ("http.admin", settings.http.admin)):
        faults += [
            f"{option}: {endpoint}: sockets that systemd made serve one process; set process.count = 1, or use tcp:"
            for endpoint in endpoints
            if endpoint.startswith("systemd:")
        ]
    return faults
