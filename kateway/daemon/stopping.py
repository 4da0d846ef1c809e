"""Stops the parts in order: clients first, then groups and links, what is counted, stores, plugins, the registry."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from kateway.daemon.going_on import taker
from kateway.daemon.http_parts import HttpParts
from kateway.daemon.parts import Parts
from kateway.daemon.processes.handing_over import Successor
from kateway.daemon.processes.in_place import InPlace
from kateway.daemon.processes.notify import STOPPING, notify
from kateway.daemon.quietly import quietly

EMPTIED_SECONDS = 0.5
"""How long memberships wait for connections to be handed over, most of which takes milliseconds."""
CONFIRMED_SECONDS = 0.5
"""And then for clients to confirm what they were sent; a second more where records are in flight (``revocation``)."""

_log = Logger()
_goes_on = _log.failureHandler("a step of the stop failed; the next ones are taken")


async def stop(parts: Parts, http: HttpParts, successor: Successor | InPlace | None) -> None:
    """Drains: no new connections, long polls end with their records so far, publishes finish, confirmed and
    acknowledged records are committed, groups are left. Takes at most ``drain_seconds``. Connections and memberships
    are given to the ``successor`` where there is one.
    """
    listening, reactor = http.listening, parts.reactor
    listening.draining = successor is None
    if parts.worker is None:
        notify(STOPPING)
    parts.counting.changes.note("drain", "gateway", "ok")
    parts.regular.stop()
    parts.counting.stop()
    config = parts.settings.http
    deadline = reactor.seconds() + config.drain_seconds

    def left() -> float:
        seconds: float = deadline - reactor.seconds()
        return max(seconds, 1.0)

    if config.drain_delay_seconds and listening.ports and successor is None:
        listening.public.lead_away()
        await deferLater(reactor, config.drain_delay_seconds)
    await listening.close()
    drains = [http.operating.drain, lambda: listening.drain(successor), parts.edges.drain]
    if parts.clustering is not None:
        drains.append(parts.clustering.drain)
    for drain in drains:
        with _goes_on:
            drain()
    if isinstance(successor, Successor):
        # its clients are at the successor by now, which waits
        await quietly("passing the groups on", Deferred.fromCoroutine(_pass_on(parts, http, successor)))
    await listening.emptied(deadline)
    with _goes_on:
        parts.growing.stop()
    if parts.leaving is not None:
        with _goes_on:
            parts.leaving.stop()
    if successor is not None:
        successor.close()
    listening.cut()
    await quietly("ending what operators began", Deferred.fromCoroutine(http.operating.stop()))
    if http.observing is not None:
        await quietly("keeping the history", Deferred.fromCoroutine(http.observing.stop()))
    # what a successor beside it was not given is left: a name's place that is kept would keep its partitions from it
    beside = isinstance(successor, Successor)
    leaving = parts.groups.stop(
        left(), returning=not beside, taker=taker(successor) if isinstance(successor, InPlace) else None
    )
    await quietly("leaving the groups", Deferred.fromCoroutine(leaving))
    if parts.clustering is not None:
        # behind the groups: what other gateways' clients have read is settled over them
        await quietly("ending the links", Deferred.fromCoroutine(parts.clustering.stop()))
    await _end_the_rest(parts, http, left)
    _log.info("kateway has stopped")


async def _end_the_rest(parts: Parts, http: HttpParts, left: Callable[[], float]) -> None:
    """Ends what has no clients: what is counted, stores, plugins, the registry."""
    last_figures = http.exposing.send_last(min(left(), parts.settings.metrics.influx.timeout_seconds))
    await quietly("sending the last figures", Deferred.fromCoroutine(last_figures))
    last_spans = parts.spans.stop(min(left(), parts.settings.tracing.timeout_seconds))
    await quietly("sending the last spans", Deferred.fromCoroutine(last_spans))
    await parts.storing.stop(left)
    for doing, sinks in (
        ("closing the sinks of metrics", http.exposing.sinks),
        ("stopping the audit", parts.audit),
    ):
        # a plugin's write may never end
        patience = max(left(), parts.settings.plugins.plugin_max_write_seconds)
        await quietly(doing, Deferred.fromCoroutine(sinks.stop()).addTimeout(patience, parts.reactor))
    await quietly("stopping the registry", Deferred.fromCoroutine(parts.registry.stop()))
    http.listening.close_log()
    if parts.worker is not None:
        await quietly("ending what the supervisor is told", Deferred.fromCoroutine(parts.worker.stop()))


async def _pass_on(parts: Parts, http: HttpParts, successor: Successor) -> None:
    """Passes the memberships on while connections that have not had their answers go on, within seconds."""
    await successor.listens()
    if not successor.clusters:
        return  # of an older version, or without a cluster that has members
    await successor.announce(parts.groups.live)
    await http.listening.emptied(parts.reactor.seconds() + EMPTIED_SECONDS, cut=False)
    if parts.leaving is not None:
        # the note of the members is the successor's from now on
        parts.leaving.stop()
    await quietly("ending what operators began", Deferred.fromCoroutine(http.operating.stop()))
    await parts.groups.stop(CONFIRMED_SECONDS, returning=False, taker=taker(successor))
    if parts.clustering is not None and parts.worker is not None:
        parts.clustering.gives_way_to(parts.worker.successor_name)
        await parts.clustering.give_way()
