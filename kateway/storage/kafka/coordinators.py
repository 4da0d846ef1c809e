"""Which broker coordinates a group: asked once, forgotten when it turns out wrong."""

from __future__ import annotations

import random

from kateway.errors import Unavailable
from kateway.storage.kafka.client import Client, Pool
from kateway.storage.kafka.connection import RequestFailed
from kateway.storage.kafka.errors import error_for
from kateway.storage.kafka.primitives import MalformedResponse
from kateway.storage.kafka.wire import (
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
        self._known: dict[str, int] = {}

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
            if len(self._known) >= MAX_KNOWN_GROUPS:
                self._known.clear()
            self._known[group] = coordinator
            return coordinator
        raise Unavailable(f"the coordinator of group {group} is not known just now: {failure}")

    def forget(self, group: str) -> None:
        """To be asked anew next time."""
        self._known.pop(group, None)
