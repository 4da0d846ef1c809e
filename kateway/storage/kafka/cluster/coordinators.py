"""Which broker coordinates a group, asked once, forgotten when it turns out wrong; and how one is joined there."""

from __future__ import annotations

import random

from kateway.bounded_cache import BoundedCache
from kateway.errors import Unavailable
from kateway.storage.kafka.cluster.client import Client, Pool
from kateway.storage.kafka.cluster.connection import RequestFailed
from kateway.storage.kafka.protocol.errors import error_for
from kateway.storage.kafka.protocol.group_requests import JOIN_GROUP, JOIN_GROUP_VERSION, NAMING_JOIN_GROUP_VERSION
from kateway.storage.kafka.protocol.metadata import API_VERSIONS, API_VERSIONS_VERSION, decode_api_versions
from kateway.storage.kafka.protocol.primitives import MalformedResponse
from kateway.storage.kafka.protocol.requests import (
    FIND_COORDINATOR,
    FIND_COORDINATOR_VERSION,
    decode_find_coordinator,
    encode_find_coordinator,
)

NOT_HERE = frozenset({14, 15, 16})
"""Loading, none just now, another broker: ask again."""

MAX_KNOWN_GROUPS = 10000
ASK_TIMEOUT_SECONDS = 3.0


class Coordinators:
    """The coordinators of groups, as last heard."""

    def __init__(self, client: Client, pool: Pool) -> None:
        self._client = client
        self._pool = pool
        self._known: BoundedCache[str, int] = BoundedCache(MAX_KNOWN_GROUPS)
        self._join_versions: dict[int, int] = {}

    async def find(self, group: str) -> int:
        """The node that coordinates ``group``; ``Unavailable`` where no broker knows it just now."""
        known = self._known.get(group)
        return known if known is not None else await self.ask(group)

    async def ask(self, group: str) -> int:
        """The same, asked anew."""
        nodes = list(self._client.view.brokers)
        random.shuffle(nodes)
        nodes.sort(key=lambda node: node != self._client.source)  # first the one that proved to be alive last
        failure = "no broker is known"
        for node in nodes:
            try:
                body = await self._pool.request(
                    node,
                    FIND_COORDINATOR,
                    FIND_COORDINATOR_VERSION,
                    encode_find_coordinator(group),
                    timeout_seconds=ASK_TIMEOUT_SECONDS,
                )
                error, coordinator = decode_find_coordinator(body)
            except (RequestFailed, MalformedResponse) as failed:
                failure = str(failed)
                continue
            if error in NOT_HERE:
                failure = f"error {error}"
                continue
            if error:
                raise error_for(error, f"asking for the coordinator of group {group}")
            if coordinator not in self._client.view.brokers:
                await self._client.refresh()
            return self._known.keep(group, coordinator)
        raise Unavailable(f"the coordinator of group {group} is not known just now: {failure}")

    async def join_version(self, node: int) -> int:
        """The JoinGroup that a broker is to be spoken to in; asked once. ``RequestFailed``, ``MalformedResponse``."""
        version = self._join_versions.get(node)
        if version is None:
            body = await self._pool.request(
                node, API_VERSIONS, API_VERSIONS_VERSION, b"", timeout_seconds=ASK_TIMEOUT_SECONDS
            )
            _lowest, highest = decode_api_versions(body).get(JOIN_GROUP, (0, 0))
            version = NAMING_JOIN_GROUP_VERSION if highest >= NAMING_JOIN_GROUP_VERSION else JOIN_GROUP_VERSION
            self._join_versions[node] = version
        return version

    def forget(self, group: str) -> None:
        """Forgets the coordinator, and the version that it joins by: a broker may come back as another version."""
        node = self._known.pop(group, None)
        if node is not None:
            self._join_versions.pop(node, None)
