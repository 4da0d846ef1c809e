"""Leads a member from the partitions that it holds to those that the coordinator assigned to it (KIP-848). Pure.

A partition that is not assigned any more is held until it was given up: each heartbeat says what is held, and the
coordinator assigns a partition to another member only when its last holder says that it has it no more. One that is
assigned is taken at once, except where a partition of the same number is still held under the id of the topic that was
there before.
"""

from __future__ import annotations

from collections.abc import Iterable

from kateway.storage.kafka.protocol.consumer_group_requests import Place


class Reconciliation:
    """What is held, what is assigned, and what is being given up."""

    def __init__(self) -> None:
        self.held: frozenset[Place] = frozenset()
        self.assigned: frozenset[Place] = frozenset()
        self.going: frozenset[Place] = frozenset()
        """Held still, until ``gave_up``; whatever is assigned meanwhile."""

    def go_on(self, places: Iterable[Place]) -> None:
        """Goes on as a member in another process did, which held these and was to hold no others."""
        self.held = self.assigned = frozenset(places)

    def say(self) -> frozenset[Place]:
        """What a heartbeat says. What is assigned and not held at that time is the coordinator's to assign elsewhere:
        it is not taken before the answer brings it again, and the answer may be lost.
        """
        self.assigned &= self.held
        return self.held

    def begin_to_give_up(self) -> frozenset[Place]:
        """What is to be given up and is not yet being so."""
        going = self.held - self.assigned - self.going
        self.going |= going
        return going

    def gave_up(self, places: frozenset[Place]) -> None:
        """These are held no more."""
        self.held -= places
        self.going -= places

    def take(self) -> frozenset[Place]:
        """Takes what is assigned and free to be taken."""
        numbers = {partition for _, partition in self.held}
        taken = frozenset(place for place in self.assigned - self.held if place[1] not in numbers)
        self.held |= taken
        return taken

    def lose(self) -> None:
        """Nothing is held any more."""
        self.held = self.assigned = self.going = frozenset()
