"""Follows a cluster: its leaders, its health, and pools of connections to its brokers.

A Kafka connection is strictly serial: one long poll or held join delays everything behind it. So every purpose
(produce, acks0, admin, each group's coordinator, each group's fetches) has a ``Pool`` of its own (``pool``), one
connection a broker in each. All pools share one view of the cluster, which one loop keeps fresh: a full listing every
``metadata_refresh_seconds`` and on request (together, and not more than a few a second), a probe each
second in between. No request ever names a topic that is not in the listing, and none may create one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, fail, gatherResults
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.config.addresses import Address
from kateway.config.schema import KafkaStorageConfig
from kateway.errors import KatewayError, Unavailable, Unsupported
from kateway.model import Health
from kateway.observe.store import StoreCells
from kateway.storage.kafka.cluster.bootstrap import Bootstrap, Discover
from kateway.storage.kafka.cluster.connection import (
    BrokerConnection,
    EndpointFactory,
    NoAnswer,
    RequestFailed,
)
from kateway.storage.kafka.cluster.new_topics import NewTopics
from kateway.storage.kafka.cluster.pool import Pool
from kateway.storage.kafka.cluster.waiting import answer_all
from kateway.storage.kafka.protocol.metadata import (
    ALL_TOPICS,
    API_VERSIONS,
    API_VERSIONS_VERSION,
    METADATA,
    METADATA_VERSION,
    NO_TOPICS,
    ClusterView,
    TopicView,
    decode_api_versions,
    decode_metadata,
    too_old,
)
from kateway.storage.kafka.protocol.primitives import MalformedResponse

PROBE_INTERVAL_SECONDS = 1.0
PROBE_TIMEOUT_SECONDS = 2.0
LISTING_INTERVAL_SECONDS = 0.2
"""At most five full listings a second, however many ask."""

LOOK_AGAIN_SECONDS = 0.25
"""How long after a listing without a topic the next one tells that there is none."""

COMPLAINT_INTERVAL_SECONDS = 60.0
"""The loss of the cluster is logged at once, further errors at most once in so long."""


class Client:
    """The cluster's view, its health, and the pools."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        config: KafkaStorageConfig,
        *,
        client_id: str = "kateway",
        endpoint_factory: EndpointFactory | None = None,
        discover: Discover | None = None,
        cells: StoreCells | None = None,
    ) -> None:
        self._cells = cells
        self.reactor = reactor
        self.config = config
        self.client_id = client_id
        self.view = ClusterView()
        self.listed = False
        """Whether a full listing has ever been had: before, nothing can be said of any topic."""
        self._new = NewTopics()
        self.pools: set[Pool] = set()
        self._endpoint_factory = endpoint_factory or self._plain
        self._bootstrap = Bootstrap(reactor, config.brokers, discover)
        self._sources: dict[Address, BrokerConnection] = {}
        self._source: Address | None = None
        self._checked: set[Address] = set()
        self._health = Health(False, "no broker has answered yet")
        self._complaint = ""
        self._complained_at = -1e9
        self._waiters: list[Deferred[None]] = []
        self._watchers: dict[object, Callable[[], None]] = {}
        self._running: Deferred[None] | None = None
        self._stopped = False
        self._resuming: IDelayedCall | None = None
        self._listed_at = -1e9
        self._listing_started_at = -1e9
        self._going: set[Deferred[None]] = set()

    def start(self) -> None:
        """Begins to look after the cluster. Brokers that cannot be reached are not an error: ``health`` says so."""
        self._running = Deferred.fromCoroutine(self._look_after())
        self._running.addErrback(_was_cancelled)

    async def stop(self) -> None:
        """Stops looking and closes all connections. Bounded by their ``CLOSE_GRACE_SECONDS``."""
        self._stopped = True
        if self._running is not None:
            self._running.cancel()
        self._health = Health(False, "stopped")
        self._answer_waiters(self._waiters, Unavailable("the store is being closed"))
        for connection in self._sources.values():
            self.let_go(connection)
        self._sources.clear()
        await gatherResults([*(pool.close() for pool in list(self.pools)), *self._going])

    def pool(self, purpose: str, client_id: str = "") -> Pool:
        """Connections of their own for one purpose."""
        pool = Pool(self, purpose, client_id)
        self.pools.add(pool)
        return pool

    # --- the view -----------------------------------------------------------------------------------------

    def leader(self, topic: str, partition: int) -> int | None:
        """The broker that leads a partition, ``None`` where that is not known. Hot."""
        known = self.view.topics.get(topic)
        return known.leaders[partition] if known is not None and 0 <= partition < len(known.leaders) else None

    def partition_count(self, topic: str) -> int | None:
        """How many partitions a topic has, ``None`` where nothing is known of it."""
        known = self.view.topics.get(topic)
        return len(known.leaders) or None if known is not None else None

    @property
    def source(self) -> int | None:
        """The broker that answered last, as far as it is known by its number."""
        return next((node for node, address in self.view.brokers.items() if address == self._source), None)

    def health(self) -> Health:
        """Whether a broker answered lately, else what ailed the last attempt."""
        return attrs.evolve(self._health, details=self._details())

    def refresh(self) -> Deferred[None]:
        """Answers when a full listing that begins from now on is there; ``Unavailable`` where no broker gives one."""
        waiter: Deferred[None] = Deferred(self._waiters_forget)
        if self._running is None or self._stopped:
            return fail(Unavailable("the store is closed"))
        self._waiters.append(waiter)
        self._hurry()
        return waiter

    async def look_for(self, topic: str) -> TopicView | None:
        """A topic that is not known, by fresh listings; ``None`` where two have none. One is not enough: the maker of a
        topic is answered some milliseconds before brokers tell of it.
        """
        await self.refresh()
        if topic not in self.view.topics:
            await deferLater(self.reactor, LOOK_AGAIN_SECONDS)
            await self.refresh()
        return self.view.topics.get(topic)

    def deleted(self, topic: str) -> None:
        """A listing that lacks a topic is right."""
        self._new.deleted(topic)

    def _waiters_forget(self, waiter: Deferred[None]) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Calls ``changed`` after each change of the view, until the returned function is called."""
        key = object()
        self._watchers[key] = changed

        def forget() -> None:
            self._watchers.pop(key, None)

        return forget

    # --- connections -------------------------------------------------------------------------------------------

    def connection(self, node_id: int, address: Address, client_id: str = "") -> BrokerConnection:
        """A new connection, made when something is sent."""
        return BrokerConnection(
            self.reactor, self._endpoint_factory, node_id, address, client_id or self.client_id, cells=self._cells
        )

    def let_go(self, closes: BrokerConnection | Pool) -> None:
        """Closes a connection in the background; only ``stop`` waits for its end."""
        closing = closes.close()
        self._going.add(closing)
        closing.addBoth(lambda _: self._going.discard(closing))

    def _plain(self, reactor: Any, host: str, port: int) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = HostnameEndpoint(
            reactor, host, port, timeout=self.config.connect_timeout_seconds
        )
        return endpoint

    # --- the loop ----------------------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        # an answered caller may stop us from there: cancelling does not reach a coroutine that is running
        while not self._stopped:
            listing = self._listing_is_due()
            waiters = self._waiters if listing else []
            if listing:
                self._waiters = []
                self._listing_started_at = self.reactor.seconds()
            try:
                view = await self._ask_anybody(ALL_TOPICS if listing else NO_TOPICS)
                self._health = Health(True)
                if listing:
                    self._take(view)
            except CancelledError:
                self._answer_waiters(waiters, Unavailable("the look at the cluster was given up"))
                if self._stopped:
                    raise
                # from within (a discovery that was cancelled): the loop goes on
                await self._pause(PROBE_INTERVAL_SECONDS / 2)
                continue
            except Exception as caught:
                error = self._as_known(caught)
                self._unhealthy(error)
                self._answer_waiters(waiters, error)
                if self._stopped:
                    return
                await self._pause(PROBE_INTERVAL_SECONDS / 2)
                continue
            self._answer_waiters(waiters, None)
            if self._stopped:
                return
            await self._pause(PROBE_INTERVAL_SECONDS)

    def _as_known(self, error: Exception) -> KatewayError:
        """Turns a failure into the waiters' answer; logs an unforeseen one. The loop goes on."""
        if isinstance(error, KatewayError):
            return error
        self._log.failure("looking after the cluster failed; it is tried again")
        return Unavailable("the cluster cannot be looked at; see the log")

    def _listing_is_due(self) -> bool:
        old: bool = self.reactor.seconds() - self._listed_at >= self.config.metadata_refresh_seconds
        return bool(self._waiters) or old or not self._health.healthy

    async def _pause(self, seconds: float) -> None:
        paused: Deferred[None] = Deferred()
        self._resuming = self.reactor.callLater(seconds, paused.callback, None)
        self._hurry()
        try:
            await paused
        finally:
            if self._resuming.active():
                self._resuming.cancel()

    def _hurry(self) -> None:
        """Ends the pause early for callers that wait for a listing, but not while no broker answers anyway."""
        if self._resuming is None or not self._resuming.active() or not self._waiters or not self._health.healthy:
            return
        now = self.reactor.seconds()
        due = max(now, self._listing_started_at + LISTING_INTERVAL_SECONDS)
        if due < self._resuming.getTime():
            self._resuming.reset(due - now)

    async def _ask_anybody(self, topics: bytes) -> ClusterView:
        """Metadata from the broker that answered last, else from any; ``Unavailable`` where none answers."""
        if not self._health.healthy:
            await self._bootstrap.find()
        known = list(self.view.brokers.values())
        random.shuffle(known)
        first = [self._source] if self._source is not None else []
        failures: list[str] = []
        kind: type[KatewayError] = Unavailable
        for address in dict.fromkeys((*first, *known, *self._bootstrap.addresses)):
            source = self._sources.get(address)
            if source is None:
                source = self._sources[address] = self.connection(-1, address)
            try:
                if address not in self._checked and await self._is_too_old(source):
                    kind = Unsupported
                    failures.append(f"{address} is older than Kafka 2.1")
                    continue
                body = await source.request(METADATA, METADATA_VERSION, topics, timeout_seconds=PROBE_TIMEOUT_SECONDS)
                view = decode_metadata(body)
            except (RequestFailed, MalformedResponse) as error:
                self._checked.discard(address)
                wants = " (does it want TLS or SASL?)" if isinstance(error, NoAnswer) and not self.listed else ""
                failures.append(f"{error}{wants}")
                continue
            self._source = address
            return view
        raise kind("no broker answers: " + "; ".join(failures))

    async def _is_too_old(self, source: BrokerConnection) -> bool:
        body = await source.request(API_VERSIONS, API_VERSIONS_VERSION, b"", timeout_seconds=PROBE_TIMEOUT_SECONDS)
        if too_old(decode_api_versions(body)):
            return True
        self._checked.add(source.address)
        return False

    def _take(self, view: ClusterView) -> None:
        self._listed_at = self.reactor.seconds()
        before = self.view
        self.view = self._new.added(view, before if self.listed else None, self._listed_at)
        self.listed = True
        if before == self.view:
            return
        for address in [address for address in self._sources if address not in self._known_addresses()]:
            self.let_go(self._sources.pop(address))
        for pool in self.pools:
            pool.forget_departed()
        for changed in list(self._watchers.values()):
            try:
                changed()
            except Exception:  # an observer must not end the loop
                self._log.failure("a change of the metadata was not taken in")

    def _known_addresses(self) -> set[Address]:
        return {*self.view.brokers.values(), *self._bootstrap.addresses}

    def _unhealthy(self, error: KatewayError) -> None:
        now = self.reactor.seconds()
        news = error.detail != self._complaint and now - self._complained_at >= COMPLAINT_INTERVAL_SECONDS
        if self._health.healthy or news:
            self._complaint, self._complained_at = error.detail, now
            self._log.warn("{client}: {why}", client=self.client_id, why=error.detail)
        self._health = Health(False, error.detail)

    def _details(self) -> dict[str, object]:
        return {"brokers": len(self.view.brokers), "topics": len(self.view.topics)}

    def _answer_waiters(self, waiters: list[Deferred[None]], error: KatewayError | None) -> None:
        waiting, waiters[:] = list(waiters), []
        answer_all(waiting, error)


def _was_cancelled(failure: Failure) -> None:
    if not isinstance(failure.value, CancelledError):
        failure.raiseException()
