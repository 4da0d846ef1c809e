"""Says what keeps a configuration's gateways from agreeing on the partitions in force of elastic topics."""

from __future__ import annotations

from collections.abc import Callable

from kateway.config.schema import Config
from kateway.daemon.assembly import transform_faults
from kateway.daemon.processes.plan import process_count
from kateway.registry.interface import Snapshot


def unshared(settings: Config) -> str:
    """Returns why topics cannot be elastic here; empty where they can."""
    if settings.registry.driver == "zookeeper":
        return ""
    if settings.cluster.endpoint:
        several = "with [cluster] endpoint there are several gateways"
    elif process_count(settings) > 1:
        several = "with [process] count there are several processes"
    else:
        return ""
    return (
        f"{several}, and each would place the keys of elastic topics by itself: "
        'set [registry] driver = "zookeeper", or take elastic away from the topics'
    )


def registry_faults(settings: Config) -> Callable[[Snapshot], list[str]]:
    """Returns what finds the faults of a registry's file with a configuration, beyond the entries' form."""
    why, most = unshared(settings), settings.elastic.max_topics

    def faults(snapshot: Snapshot) -> list[str]:
        elastic = ["/".join(topic.name) for topic in snapshot.topics.values() if topic.elastic is not None]
        found = [f"topics.{name}.elastic: {why}" for name in elastic if why]
        if len(elastic) > most:
            found.append(
                f"topics: {len(elastic)} are elastic, and elastic.max_topics are {most}: take it away from some"
            )
        return [*transform_faults(snapshot), *found]

    return faults
