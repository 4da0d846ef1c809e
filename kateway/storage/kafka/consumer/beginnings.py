"""Finds where a group reads a partition from: where it has come to, else where the reset rule says."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kateway.model import Committed
from kateway.storage.interface import Reset
from kateway.storage.kafka.cluster.offsets import Offsets
from kateway.storage.kafka.consumer.commit_queue import CommitQueue
from kateway.storage.kafka.consumer.membership import GroupMembership


class Beginnings:
    """One membership's, for its topic."""

    def __init__(
        self, membership: GroupMembership, offsets: Offsets, commits: CommitQueue, group: str, topic: str, reset: Reset
    ) -> None:
        self._membership = membership
        self._offsets = offsets
        self._commits = commits
        self._group = group
        self._topic = topic
        self._reset: Reset = reset
        self._first_ends: dict[int, int] = {}
        """Where 'latest' was when a partition was first ours: later records are not skipped after a rebalance."""

    async def find(self, partitions: frozenset[int], everywhere: frozenset[int]) -> dict[int, Committed | None] | None:
        """Where the group is, after its beginning was committed where there was no commit; ``None``: ask again."""
        found = await self._offsets.committed(self._group, self._topic, everywhere)
        if any(found[partition] is None for partition in partitions):
            starts = await self._commit_starts(found)
            if starts is None:
                return None
            found.update(starts)
        return found

    async def _commit_starts(self, found: Mapping[int, Committed | None]) -> dict[int, Committed] | None:
        """Commits where a group begins, so that it goes on from there even if nothing comes: at ``latest``, in a topic
        without records, and in partitions that were added to a topic that the group reads already, which it reads from
        their beginning.

        A new group's first member does so for all partitions: a partition without a commit was added later then.
        ``None`` where the commit was refused for the sake of a rebalance.
        """
        new = [partition for partition, place in found.items() if place is None]
        if len(new) < len(found):
            starts = await self._offsets.at(self._topic, "earliest", new)
        else:
            starts = await self._offsets.at(self._topic, "latest", new)
            if self._reset == "earliest" and await self._offsets.at(self._topic, "earliest", new) != starts:
                return {}  # its records come from the beginning in any case
        # another member may have begun, and committed what it has read since, while the brokers were asked
        meanwhile = await self._offsets.committed(self._group, self._topic, starts)
        there = {partition: place for partition, place in meanwhile.items() if place is not None}
        places = {partition: Committed(offset) for partition, offset in starts.items() if partition not in there}
        generation = self._membership.generation
        if generation is None or (places and await self._commits.send(places, generation)):
            return None
        return {**places, **there}

    async def by_rule(self, partitions: Collection[int]) -> dict[int, int]:
        """Where the reset rule says to begin."""
        known = {partition: self._first_ends[partition] for partition in partitions if partition in self._first_ends}
        unknown = [partition for partition in partitions if partition not in known]
        if not unknown:
            return known
        found = await self._offsets.at(self._topic, self._reset, unknown)
        if self._reset == "latest":
            self._first_ends.update(found)
        return {**known, **found}

    def forget(self, partition: int) -> None:
        """Its records are others by now: the rule is asked anew."""
        self._first_ends.pop(partition, None)
