"""Assigns producer ids to lanes: one shared by all, a fresh one for a lane that has used that up.

The first InitProducerId after a broker's start is answered with 14: asked again after 50 ms. A cluster that denies
ids (31) is published to without numbers.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.cluster.connection import RequestFailed
from kateway.storage.kafka.producer.broker_sender import PartitionLane
from kateway.storage.kafka.protocol.errors import CLUSTER_AUTHORIZATION_FAILED
from kateway.storage.kafka.protocol.primitives import MalformedResponse
from kateway.storage.kafka.protocol.produce_requests import (
    INIT_PRODUCER_ID,
    INIT_PRODUCER_ID_VERSION,
    Identity,
    decode_init_producer_id,
    encode_init_producer_id,
)

TIMEOUT_SECONDS = 2.0
RETRY_SECONDS = 0.05


class Identities:
    """Gives lanes their ids; ``identified(lane)`` is called when one has its own, or goes on without."""

    _log = Logger()

    def __init__(self, client: Client, identified: Callable[[PartitionLane], None]) -> None:
        self.allowed = True
        """Whether the cluster lets us have ids, as far as is known."""
        self._client = client
        self._pool = client.pool("producer ids")
        self._identified = identified
        self._shared: Identity | None = None
        self._wanting: dict[PartitionLane, None] = {}
        self._asking: Deferred[None] | None = None
        self._asked_at = 0.0
        self._turn = 0

    def fetch_early(self) -> None:
        """Has the first id at hand before the first publish."""
        if self._shared is None and self.allowed and self._client.view.brokers:
            self._ask()

    def forget(self) -> None:
        """Gives lanes made from now on another id: a broker may know the numbers of lanes that are gone, and would
        take the first batches of new ones for copies of theirs.
        """
        self._shared = None

    def give(self, lane: PartitionLane) -> None:
        """Gives an id to a lane that ``wants_identity``, now or when there is one."""
        if not self.allowed:
            lane.numbered = False
            self._identified(lane)
        elif self._shared is not None and lane.used != self._shared:
            lane.used = self._shared
            lane.adopt(self._shared)
            self._identified(lane)
        else:
            self._wanting[lane] = None
            self._ask()

    def retry(self, now: float) -> None:
        """Asks again where lanes wait; call it now and then."""
        if self._wanting and now - self._asked_at >= RETRY_SECONDS:
            self._ask()

    def stop(self) -> None:
        """Asks no more. The client closes the connections."""
        self._wanting.clear()
        self.allowed = False
        if self._asking is not None:
            self._asking.cancel()

    def _ask(self) -> None:
        nodes = sorted(self._client.view.brokers)
        if self._asking is not None or not nodes:
            return
        self._asked_at = self._client.reactor.seconds()
        self._turn += 1
        node_id = nodes[self._turn % len(nodes)]
        answer = self._pool.request(
            node_id,
            INIT_PRODUCER_ID,
            INIT_PRODUCER_ID_VERSION,
            encode_init_producer_id(),
            timeout_seconds=TIMEOUT_SECONDS,
        )
        self._asking = asking = answer.addCallback(self._answered)
        asking.addErrback(self._unanswered)
        if asking.called:
            self._asking = None

    def _answered(self, body: bytes) -> None:
        self._asking = None
        code, identity = decode_init_producer_id(body)
        if code == CLUSTER_AUTHORIZATION_FAILED:
            self._log.warn("the cluster denies producer ids: acks=all goes without de-duplication")
            self.allowed = False
        elif code != 0 or identity.producer_id < 0:
            return  # ``retry`` asks again
        else:
            self._shared = identity
        wanting, self._wanting = list(self._wanting), {}
        for lane in wanting:
            if lane.wants_identity:
                self.give(lane)

    def _unanswered(self, failure: Failure) -> None:
        self._asking = None
        failure.trap(RequestFailed, MalformedResponse, CancelledError)
