"""Pools connections to a cluster's brokers: a pool for each purpose, because a Kafka connection is strictly serial."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred, fail, gatherResults

from kateway.config.addresses import Address
from kateway.storage.kafka.cluster.connection import BrokerConnection, NeverSent
from kateway.storage.kafka.protocol.metadata import ClusterView


class Cluster(Protocol):
    """The cluster's view, as a pool needs it (``client.Client``)."""

    view: ClusterView
    pools: set[Pool]

    def leader(self, topic: str, partition: int) -> int | None: ...
    def partition_count(self, topic: str) -> int | None: ...
    def refresh(self) -> Deferred[None]: ...
    def connection(self, node_id: int, address: Address, client_id: str = "") -> BrokerConnection: ...
    def let_go(self, closes: BrokerConnection | Pool) -> None: ...


class Pool:
    """Connections for one purpose, one to each broker that something is sent to."""

    def __init__(self, client: Cluster, purpose: str, client_id: str = "") -> None:
        """``client_id``: as brokers are told instead of the client's."""
        self._client = client
        self.client_id = client_id
        self._connections: dict[int, BrokerConnection] = {}
        self._closed = False
        self.purpose = purpose
        self.leader = client.leader
        self.partition_count = client.partition_count
        self.refresh = client.refresh

    def request(
        self,
        node_id: int,
        api_key: int,
        api_version: int,
        body: bytes,
        *,
        timeout_seconds: float,
        expect_response: bool = True,
    ) -> Deferred[bytes]:
        """Sends a request to one broker and answers the response without its header.

        Fails with ``NeverSent`` or ``NoAnswer`` (``kateway.storage.kafka.cluster.connection``). A plain Deferred: hot.
        """
        connection = self._connections.get(node_id)
        if connection is None or connection.address != self._client.view.brokers.get(node_id, connection.address):
            try:
                connection = self._open(node_id, connection)
            except NeverSent as error:
                return fail(error)
        return connection.request(
            api_key, api_version, body, timeout_seconds=timeout_seconds, expect_response=expect_response
        )

    def _open(self, node_id: int, moved: BrokerConnection | None) -> BrokerConnection:
        if self._closed:
            raise NeverSent(f"the connections for {self.purpose} are closed")
        address = self._client.view.brokers.get(node_id)
        if address is None:
            raise NeverSent(f"broker {node_id} is not in the cluster's metadata")
        if moved is not None:
            self._client.let_go(moved)
        connection = self._connections[node_id] = self._client.connection(node_id, address, self.client_id)
        return connection

    def connected(self, node_id: int) -> bool:
        """Whether a request to a broker would be handed to a connection at once. Hot."""
        connection = self._connections.get(node_id)
        if connection is None or connection.proto is None:
            return False
        return connection.address == self._client.view.brokers.get(node_id, connection.address)

    def abort(self, node_id: int) -> None:
        """Drops the connection to a broker: requests under way fail with ``NoAnswer``, the next one connects again."""
        connection = self._connections.get(node_id)
        if connection is not None:
            connection.abort()

    def forget_departed(self) -> None:
        """Closes idle connections to brokers that are not in the cluster any more."""
        for node_id in [node_id for node_id in self._connections if node_id not in self._client.view.brokers]:
            if not self._connections[node_id].requests:
                self._client.let_go(self._connections.pop(node_id))

    def close(self) -> Deferred[None]:
        """Closes every connection; unanswered requests fail."""
        self._closed = True
        self._client.pools.discard(self)
        connections, self._connections = self._connections, {}
        return gatherResults([connection.close() for connection in connections.values()]).addCallback(lambda _: None)
