"""Samples the gauges of ``/metrics`` from the gateway's live parts, when they are asked for; asks no store."""

from __future__ import annotations

import platform
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version

from kateway import __version__
from kateway.core.access.rate_limits import Quotas
from kateway.core.audit.events import Audit
from kateway.core.breaker import Breakers
from kateway.core.groups.memberships import Memberships
from kateway.daemon.reload import Reloads
from kateway.model import Health
from kateway.observe import families
from kateway.observe.bundles import OTHER, Labels
from kateway.observe.exposition import Sampled
from kateway.observe.families import OPERATIONS
from kateway.observe.group_watch import GroupWatch
from kateway.observe.series import MOST_OBJECTS
from kateway.observe.tracing import Tracing
from kateway.registry.interface import DEAD_SUFFIX, Snapshot
from kateway.storage.interface import Handoff, Store
from kateway.web.http1.factory import HttpFactory
from kateway.web.messages.subscribe import SubscribeEdge

_TWISTED = version("twisted")
"""Asked for once: it reads and parses a package's description, 1 ms."""
BREAKER_STATES = ("closed", "half_open", "open")


def build() -> Iterator[Sampled]:
    """The versions that run."""
    yield families.BUILD_INFO, (__version__, platform.python_version(), _TWISTED), 1.0


def http(listeners: Mapping[str, HttpFactory]) -> Iterator[Sampled]:
    """Open connections, by listener, and requests that are being answered, by operation."""
    answering: Tally[str] = Tally()
    for listener, factory in listeners.items():
        yield families.HTTP_CONNECTIONS, (listener,), float(factory.connections)
        answering.update(factory.requests_in_flight())
    for operation in OPERATIONS:
        yield families.HTTP_IN_FLIGHT, (operation,), float(answering[operation])


def configuration(reloads: Reloads, draining: Callable[[], bool], sessions: int) -> Iterator[Sampled]:
    """The configuration's generation, the outcome of the last reload, and the manager's sessions."""
    yield families.GENERATION, (), float(reloads.generation)
    yield families.RELOAD_SUCCESS, (), float(reloads.last_good)
    yield families.RELOAD_TIME, (), reloads.last_at
    yield families.DRAINING, (), float(draining())
    yield families.UI_SESSIONS, (), float(sessions)


def stores(
    found: Mapping[str, Store], handoffs: Mapping[str, Handoff], breakers: Breakers, health: Callable[[str], Health]
) -> Iterator[Sampled]:
    """What the drivers and breakers know of their clusters by themselves."""
    for name, store in found.items():
        yield families.STORE_UP, (name,), float(health(name).healthy)
        yield families.STORE_BYTES, (name,), float(store.bytes_in_flight())
        for state in BREAKER_STATES:
            yield families.BREAKER_STATE, (name, state), float(breakers[name].state == state)
        handoff = handoffs.get(name)
        if handoff is not None:
            kept = handoff.status()
            yield families.STORE_HANDOFF, (name,), float(kept["records"])
            yield families.STORE_HANDOFF_OLDEST, (name,), float(kept["oldest_seconds"] or 0.0)


def registry(driver: str, health: Callable[[], Health]) -> Iterable[Sampled]:
    """Whether the registry is there."""
    yield families.REGISTRY_UP, (driver,), float(health().healthy)


def process_up(index: int) -> Iterable[Sampled]:
    """That this one of several processes has given its figures."""
    yield families.PROCESS_UP, (str(index),), 1.0


def audit(events: Audit) -> Iterator[Sampled]:
    """Events that sinks did not get."""
    for sink, dropped in events.dropped_by_sink():
        yield families.AUDIT_DROPPED, (sink,), float(dropped)


def tracing(found: Tracing) -> Iterator[Sampled]:
    """Spans that were lost, where there is tracing."""
    if found.tracer is not None or any(found.dropped.values()):
        for reason, dropped in found.dropped.items():
            yield families.TRACING_DROPPED, (reason,), float(dropped)


def groups(
    memberships: Memberships,
    subscriptions: SubscribeEdge,
    wall: Callable[[], float],
    left: Callable[[], Iterable[tuple[Labels, GroupWatch]]] = tuple,
) -> Iterator[Sampled]:
    """What is known here of the groups that are read here, and of those that were and are not any more (``left``): an
    alert for one that nobody reads needs its lag most. What is not known is left out.
    """
    subscriptions.count_blocked()
    now_ms = int(wall() * 1000)
    shown: set[Labels] = set()
    for member in memberships.members():
        if member.cells is None or not member.cells.group.live:
            continue  # nothing is counted, or its topic is unregistered
        labels = member.cells.group.labels
        shown.add(labels)
        yield families.SUBSCRIBE_READERS, labels, float(len(member.readers))
        held = member.unacknowledged().values()
        yield families.GROUP_UNACKNOWLEDGED, labels, float(sum(count for count, _ in held))
        yield families.GROUP_OLDEST_UNACKNOWLEDGED, labels, max((seconds for _, seconds in held), default=0.0)
        lag = member.lag(now_ms)
        if lag is not None:
            yield from _lag(labels, *lag)
    for labels, watch in left():
        if labels in shown or watch.lag is None:
            continue
        shown.add(labels)
        told = labels if len(shown) <= MOST_OBJECTS else (OTHER,) * len(labels)
        yield from _lag(told, watch.lag, watch.oldest_seconds)


def _lag(labels: Labels, records: int, oldest: float | None) -> Iterator[Sampled]:
    yield families.GROUP_LAG, labels, float(records)
    if oldest is not None:
        yield families.GROUP_OLDEST, labels, oldest
    source = labels[1].removesuffix(f".{labels[3]}{DEAD_SUFFIX}")
    if source != labels[1]:
        yield families.GROUP_DEAD, (labels[0], source, *labels[2:]), float(records)


def quotas(used: Quotas, snapshot: Snapshot) -> Iterator[Sampled]:
    """What applications have used of their quotas; those beyond the most objects together."""
    shown: set[str] = set()
    for application, quota, share in used.used(snapshot):
        if application not in shown and len(shown) < MOST_OBJECTS:
            shown.add(application)
        yield families.QUOTA_USED, (application if application in shown else OTHER, quota), share
