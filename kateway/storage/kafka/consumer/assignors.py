"""Assigns partitions by the ``range`` and ``roundrobin`` strategies, as the Java client and librdkafka have them.

The member that the broker makes the leader assigns for all, by the strategy that all members offer. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle

Assignment = dict[str, dict[str, list[int]]]
"""Member → topic → partitions; every member is in it, with an empty mapping where there is nothing for it."""


def assign_range(subscriptions: Mapping[str, Sequence[str]], partitions: Mapping[str, int]) -> Assignment:
    """Cuts each topic's partitions into runs, one for each of its subscribers in the order of their ids; the first
    ones get one more where it does not come out even.
    """
    assignment: Assignment = {member: {} for member in subscriptions}
    for topic in _topics(subscriptions):
        members = sorted(member for member, topics in subscriptions.items() if topic in topics)
        each, more = divmod(partitions.get(topic, 0), len(members))
        start = 0
        for place, member in enumerate(members):
            end = start + each + (place < more)
            if end > start:
                assignment[member][topic] = list(range(start, end))
            start = end
    return assignment


def assign_roundrobin(subscriptions: Mapping[str, Sequence[str]], partitions: Mapping[str, int]) -> Assignment:
    """Deals all partitions of all topics, in order, to the members in the order of their ids, passing over those
    that do not subscribe to the topic.
    """
    assignment: Assignment = {member: {} for member in subscriptions}
    turns = cycle(sorted(subscriptions))
    for topic in _topics(subscriptions):
        for partition in range(partitions.get(topic, 0)):
            member = next(turns)
            while topic not in subscriptions[member]:
                member = next(turns)
            assignment[member].setdefault(topic, []).append(partition)
    return assignment


def _topics(subscriptions: Mapping[str, Sequence[str]]) -> list[str]:
    return sorted({topic for topics in subscriptions.values() for topic in topics})


STRATEGIES: Mapping[str, Callable[[Mapping[str, Sequence[str]], Mapping[str, int]], Assignment]] = {
    "range": assign_range,
    "roundrobin": assign_roundrobin,
}
"""The eager ones by their names in the group protocol, in our order of preference."""
