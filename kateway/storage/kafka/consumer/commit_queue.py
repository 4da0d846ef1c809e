"""Commits a group's offsets, one request after the other: what waits meanwhile goes with the next.

A commit belongs to the tenures of its partitions. One that meets a rebalance is made again in the generation behind it;
one whose partition has gone since it was asked for is never made.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from kateway.errors import Conflict, KatewayError, Unavailable
from kateway.model import Committed
from kateway.storage.interface import MetadataRefused
from kateway.storage.kafka.cluster.offsets import Offsets
from kateway.storage.kafka.cluster.pool import Pool
from kateway.storage.kafka.cluster.waiting import answer_all
from kateway.storage.kafka.consumer.membership import Generation, GroupMembership

BETWEEN_GENERATIONS_SECONDS = 0.05
"""Until a commit that was refused for the sake of a rebalance is made again. Between two generations there are two
answers of the coordinator, milliseconds.
"""


class _Commit(NamedTuple):
    """A commit that waits to be sent, and in which tenure of each partition it was asked for."""

    offsets: Mapping[int, Committed]
    tenures: Mapping[int, int]
    waiter: Deferred[None]


class CommitQueue:
    """One membership's. ``owned`` are its partitions just now, each with the number of its tenure; ``own`` runs a
    coroutine until the end, ``over`` says whether that has come.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        membership: GroupMembership,
        offsets: Offsets,
        pool: Pool,
        group: str,
        topic: str,
        owned: Mapping[int, int],
        own: Callable[[Coroutine[Any, Any, None]], Deferred[None]],
        over: Callable[[], bool],
    ) -> None:
        self._reactor = reactor
        self._membership = membership
        self._offsets = offsets
        self._pool = pool
        self._group = group
        self._topic = topic
        self._owned = owned
        self._own = own
        self._over = over
        self._queued: list[_Commit] = []
        self.running: Deferred[None] | None = None
        """Fires when all that was asked for is committed, or refused."""

    def add(self, offsets: Mapping[int, Committed]) -> Deferred[None]:
        """Commits, together with what else waits to be committed."""
        waiter: Deferred[None] = Deferred()
        if self._membership.generation is None or any(partition not in self._owned for partition in offsets):
            waiter.errback(self._not_ours())
        elif not offsets:
            waiter.callback(None)
        else:
            tenures = {partition: self._owned[partition] for partition in offsets}
            self._queued.append(_Commit(dict(offsets), tenures, waiter))
            if self.running is None:
                running = self._own(self._run())
                self.running = None if running.called else running
        return waiter

    async def send(self, offsets: Mapping[int, Committed], generation: Generation) -> set[int]:
        """Commits at once, under a generation. Returns the errors that mean a rebalance, or the end."""
        return await self._offsets.commit(
            self._pool,
            self._group,
            self._topic,
            offsets,
            generation=generation.number,
            member=generation.member,
            by_consumer_protocol=generation.by_consumer_protocol,
        )

    def close(self) -> None:
        """Refuses what waits."""
        answer_all([each.waiter for each in self._queued], self._not_ours())
        self._queued = []

    def _not_ours(self) -> Conflict:
        return Conflict(f"group {self._group}: the partition is not ours any more")

    async def _run(self) -> None:
        try:
            while self._queued:
                commits, self._queued = self._still_ours(self._queued), []
                generation = self._membership.generation
                offsets: dict[int, Committed] = {}
                for each in commits:
                    offsets.update(each.offsets)
                waiters = [each.waiter for each in commits]
                if generation is None:
                    answer_all(waiters, self._not_ours())
                    continue
                if not commits:
                    continue
                try:
                    errors = await self.send(offsets, generation)
                except CancelledError:
                    answer_all(waiters, Unavailable("the commit was given up"))
                    if self._over():
                        raise
                    continue  # from within: those that wait behind it are not answered otherwise
                except MetadataRefused as error:
                    for each in commits:
                        refused = error.partitions & each.offsets.keys()
                        answer_all([each.waiter], MetadataRefused(error.detail, refused) if refused else None)
                    continue
                except KatewayError as error:
                    answer_all(waiters, error)
                    continue
                except Exception:
                    self._log.failure("group {group}: a commit broke, it is made again", group=self._group)
                    answer_all(waiters, Unavailable("a commit broke; the gateway's log says why"))
                    continue
                if not errors:
                    answer_all(waiters, None)
                    continue
                self._membership.refused(errors, generation)
                # what is ours no more is refused in the next round
                self._queued = commits + self._queued
                await deferLater(self._reactor, BETWEEN_GENERATIONS_SECONDS)
        finally:
            self.running = None

    def _still_ours(self, commits: Iterable[_Commit]) -> list[_Commit]:
        """Those whose partitions have been ours since they were asked for; the others are answered."""
        ours: list[_Commit] = []
        for each in commits:
            if all(self._owned.get(partition) == tenure for partition, tenure in each.tenures.items()):
                ours.append(each)
            else:
                answer_all([each.waiter], self._not_ours())
        return ours
