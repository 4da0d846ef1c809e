"""Goes on with the memberships of the process before this one, and passes this one's on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from kateway.cluster.directory import labelled
from kateway.core.groups.memberships import Key, Memberships
from kateway.core.groups.passed_membership import PassedMembership, Taker, membership_from_table
from kateway.daemon.clustering import Clustering
from kateway.daemon.leaving import LeavingForDead
from kateway.daemon.processes.handing_over import Successor
from kateway.daemon.processes.in_place import InPlace

_log = Logger()


class GoingOn:
    """One process's (``processes.receiving.GoesOn``)."""

    def __init__(
        self,
        clusters: Iterable[str],
        groups: Memberships,
        clustering: Clustering | None,
        leaving: LeavingForDead | None,
    ) -> None:
        self.clusters = tuple(clusters)
        self._groups = groups
        self._clustering = clustering
        self._leaving = leaving
        self.taken = 0
        """How many memberships this process has gone on with."""

    def begin(self) -> None:
        if self._clustering is not None:
            self._clustering.passing.succession.begin()

    def will_come(self, keys: Sequence[Sequence[str]], *, all_told: bool) -> None:
        if self._clustering is not None:
            self._clustering.passing.succession.will_come(map(_key, keys), all_told=all_told)

    def take(self, membership: Mapping[str, Any]) -> None:
        """Goes on with a membership, or leaves the group on behalf of the process before."""
        try:
            passed = membership_from_table(membership)
        except (KeyError, TypeError) as error:
            # of another version: its session ends
            _log.warn("a membership that was passed on cannot be read: {error!r}", error=error)
            return
        if passed.cluster not in self.clusters:
            return  # its session ends: there is no store to leave it by
        if self._is_led_here(passed.member.client_id) and self._groups.go_on(passed):
            self.taken += 1
            if self._leaving is not None:
                # this process may die at once
                self._leaving.note_now()
        else:
            Deferred.fromCoroutine(self._groups.leave_for(passed.cluster, passed.member))
        self._came(passed.key)

    def does_not_come(self, key: Sequence[str]) -> None:
        self._came(_key(key))

    def end(self) -> None:
        if self._clustering is not None:
            self._clustering.passing.succession.end()
        _log.info("{count} memberships were taken over", count=self.taken)

    def _came(self, key: Key) -> None:
        if self._clustering is not None:
            self._clustering.passing.succession.came(key)

    def _is_led_here(self, client_id: str) -> bool:
        """Whether other gateways that look for the member by what it is called find this process."""
        if self._clustering is None:
            return labelled(client_id) is None
        return self._clustering.goes_on_as(client_id)


def _key(key: Sequence[str]) -> Key:
    cluster, group, topic = key
    return cluster, group, topic


def taker(successor: Successor | InPlace) -> Taker:
    """The process that takes this one's memberships over, as the groups see it."""

    async def give(passed: PassedMembership) -> bool:
        return await successor.give(passed.table())

    return Taker(successor.clusters.__contains__, give, successor.keep_from)
