"""Assigns partitions sticky and in steps (KIP-429), as the Java client and librdkafka name it ``cooperative-sticky``.

Each member says what it holds and goes on reading it. A partition that is to move goes to no member in the first step;
its holder sees that it is not assigned to it any more, gives it up and joins again, and the second step assigns it.
Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from kateway.storage.kafka.consumer.assignors import Assignment

Place = tuple[str, int]
"""Topic and partition."""


class Claim(NamedTuple):
    """What a member subscribes to, and what it holds since which generation (-1: it does not say)."""

    topics: Sequence[str]
    owned: Collection[Place] = ()
    generation: int = -1


def held(claims: Mapping[str, Claim], partitions: Mapping[str, int]) -> dict[Place, set[str]]:
    """Which members hold each partition, as far as they are believed: where they contradict each other, the latest
    generation is right. Several are left where they say it of the same generation.
    """
    generations: dict[Place, int] = {}
    holders: dict[Place, set[str]] = {}
    for member, claim in claims.items():
        for topic, partition in claim.owned:
            if not 0 <= partition < partitions.get(topic, 0):
                continue
            place = topic, partition
            latest = generations.get(place)
            if latest is None or claim.generation > latest:
                generations[place] = claim.generation
                holders[place] = {member}
            elif claim.generation == latest:
                holders[place].add(member)
    return holders


def balance(claims: Mapping[str, Claim], partitions: Mapping[str, int]) -> dict[Place, str]:
    """Assigns every partition of the subscribed topics to a member that subscribes to its topic. Members keep what
    they hold, but no partition stays where another one of its subscribers has two or more fewer.
    """
    subscribers = {
        topic: sorted(member for member, claim in claims.items() if topic in claim.topics)
        for topic in sorted({topic for claim in claims.values() for topic in claim.topics})
    }
    holders = held(claims, partitions)
    of_member: dict[str, dict[str, list[int]]] = {member: {} for member in claims}
    loads = dict.fromkeys(claims, 0)
    free: list[Place] = []
    for topic, members in subscribers.items():
        for partition in range(partitions.get(topic, 0)):
            keepers = holders.get((topic, partition), set()).intersection(members)
            if keepers:
                member = min(keepers)
                of_member[member].setdefault(topic, []).append(partition)
                loads[member] += 1
            else:
                free.append((topic, partition))
    # topics with the fewest subscribers first: there is least choice
    for topic, partition in sorted(free, key=lambda place: (len(subscribers[place[0]]), place)):
        member = min(subscribers[topic], key=lambda member: (loads[member], member))
        of_member[member].setdefault(topic, []).append(partition)
        loads[member] += 1
    while any(_even_out(topic, members, of_member, loads) for topic, members in subscribers.items()):
        pass  # a move in one topic may make room for one in another
    return {
        (topic, partition): member
        for member, topics in of_member.items()
        for topic, mine in topics.items()
        for partition in mine
    }


def _even_out(
    topic: str, members: Sequence[str], of_member: Mapping[str, dict[str, list[int]]], loads: dict[str, int]
) -> bool:
    """Moves a topic's partitions from the members with most to those with least; whether any was moved."""
    moved = False
    while True:
        giving = [member for member in members if of_member[member].get(topic)]
        if not giving:
            return moved
        most = max(giving, key=lambda member: loads[member])
        least = min(members, key=lambda member: loads[member])
        if loads[most] - loads[least] < 2:
            return moved
        # the last one in the list: what is new to the member stands behind what it held
        of_member[least].setdefault(topic, []).append(of_member[most][topic].pop())
        loads[most] -= 1
        loads[least] += 1
        moved = True


def assign_cooperatively(claims: Mapping[str, Claim], partitions: Mapping[str, int]) -> Assignment:
    """One step: as ``balance``, without the partitions that another member has to give up first."""
    holders = held(claims, partitions)
    return _collect(
        claims,
        (
            (place, member)
            for place, member in balance(claims, partitions).items()
            if member in holders.get(place, (member,))
        ),
    )


def keep(claims: Mapping[str, Claim], partitions: Mapping[str, int]) -> Assignment:
    """Each member keeps what it holds, and nothing else is assigned: before an eager protocol can begin, in which
    partitions go to their next owners at once, all have to be given up.
    """
    return _collect(claims, ((place, min(members)) for place, members in held(claims, partitions).items()))


def _collect(claims: Mapping[str, Claim], placed: Iterable[tuple[Place, str]]) -> Assignment:
    assignment: Assignment = {member: {} for member in claims}
    for (topic, partition), member in sorted(placed):
        assignment[member].setdefault(topic, []).append(partition)
    return assignment
