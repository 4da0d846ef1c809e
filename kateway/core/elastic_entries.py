"""Checks and completes the registry's entries of elastic topics: how many there may be, with how many partitions."""

from __future__ import annotations

import attrs

from kateway.errors import Conflict
from kateway.registry.interface import Placement, Snapshot, Topic


@attrs.frozen
class ElasticEntries:
    """What a configuration allows. ``refusal``: why no topic can be elastic here; empty where they can."""

    max_topics: int = 2000
    refusal: str = ""

    def check(self, topic: Topic, snapshot: Snapshot) -> None:
        """Raises ``Conflict`` where a topic cannot become elastic."""
        old = snapshot.topics.get(topic.name)
        if topic.elastic is None or (old is not None and old.elastic is not None):
            return
        if self.refusal:
            raise Conflict(self.refusal)
        # those that are on their way back are told of, too
        told = {*snapshot.placements, *(name for name, each in snapshot.topics.items() if each.elastic is not None)}
        there = len(told - {topic.name})
        if there >= self.max_topics:
            raise Conflict(
                f"{there} topics are elastic already (elastic.max_topics): take it away from one of them first"
            )


def wanted_partitions(topic: Topic, old: Topic | None, placement: Placement | None) -> int | None:
    """Returns as many partitions as a topic's entry shall have that is to be put. The store may have more than are in
    force, for a growth that is under way or was given up: an entry may be put again as it was read, and one that leaves
    the number out makes nothing grow. ``Conflict`` for fewer than are in force.
    """
    if placement is None:
        return topic.partitions
    in_force = placement.next_partitions if placement.state == "reading" else placement.partitions
    if topic.partitions is None:
        return max(in_force, (old is not None and old.partitions) or 0)
    if topic.partitions < in_force:
        raise Conflict(f"{topic.stored_as} has {in_force} partitions in force: they can become more, never fewer")
    return topic.partitions
