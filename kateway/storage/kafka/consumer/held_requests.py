"""Sends requests that a group's coordinator may hold back for minutes: a join until all members have joined, a sync
until the leader has assigned. One is given up when another broker has taken the coordinator's place.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from kateway.errors import KatewayError
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.cluster.coordinators import Coordinators
from kateway.storage.kafka.cluster.pool import Pool

CHECK_SECONDS = 3.0
AT_MOST_SECONDS = 330.0
"""A join is held back until all members have joined: for Java members up to their max.poll.interval, 5 minutes."""


class HeldRequests:
    """One member's, one at a time."""

    def __init__(self, client: Client, coordinators: Coordinators, group: str) -> None:
        self._client = client
        self._coordinators = coordinators
        self._group = group
        self.node: int | None = None
        """The broker that holds one back just now."""
        self.unlearned: Deferred[None] | None = None
        """Fires when the answer has come that there is something to be learnt from."""

    async def ask(
        self,
        pool: Pool,
        node: int,
        api_key: int,
        api_version: int,
        body: bytes,
        learn: Callable[[bytes], bytes] | None = None,
    ) -> bytes:
        """The answer; ``learn`` hears it also where nothing waits for it any more."""
        answer = pool.request(node, api_key, api_version, body, timeout_seconds=AT_MOST_SECONDS)
        unlearned: Deferred[None] | None = None
        if learn is not None:
            self.unlearned = unlearned = Deferred()
            answer.addCallback(learn)
        self.node = node
        watching = Deferred.fromCoroutine(self._watch(pool, node))
        watching.addErrback(lambda _over: None)
        try:
            return await answer
        finally:
            self.node = None
            watching.cancel()
            if unlearned is not None:
                self.unlearned = None
                unlearned.callback(None)

    async def _watch(self, pool: Pool, node: int) -> None:
        while True:
            await deferLater(self._client.reactor, CHECK_SECONDS)
            try:
                moved = await self._coordinators.ask(self._group) != node
            except KatewayError:
                moved = not self._client.health().healthy
            if moved:
                pool.abort(node)
                return
