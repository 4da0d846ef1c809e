"""Makes a membership by the configured protocol, or by the one that fits (``auto``): the consumer protocol
where the group can be joined by it and its sessions are no longer than ours, else the classic one.

That is settled when the group is joined first, and again where the consumer protocol cannot be spoken any more.
"""

from __future__ import annotations

from twisted.logger import Logger

from kateway.config.schema import GroupProtocol
from kateway.storage.kafka.consumer.consumer_protocol import ConsumerMembership
from kateway.storage.kafka.consumer.group_protocol import Membership
from kateway.storage.kafka.consumer.membership import Generation, GroupMembership, Joining


class FittingMembership:
    """One member of one group: by the consumer protocol until it turns out that it cannot be."""

    _log = Logger()

    def __init__(self, joining: Joining) -> None:
        self._joining = joining
        self._chosen: GroupMembership = ConsumerMembership(joining, self._fall_back)

    @property
    def generation(self) -> Generation | None:
        """``None`` while there is none to commit under."""
        return self._chosen.generation

    @property
    def known_as(self) -> str:
        """Its id, where the coordinator may have the member."""
        return self._chosen.known_as

    @property
    def by_consumer_protocol(self) -> bool:
        """Whether the coordinator assigns."""
        return self._chosen.by_consumer_protocol

    def start(self) -> None:
        """Begins to join."""
        self._chosen.start()

    async def stop(self, *, returning: bool = False) -> None:
        """Leaves the group."""
        await self._chosen.stop(returning=returning)

    def refused(self, errors: set[int], generation: Generation) -> None:
        """The coordinator has refused a commit."""
        self._chosen.refused(errors, generation)

    def _fall_back(self, reason: str) -> None:
        self._log.debug("group {group} is joined by the classic protocol: {why}", group=self._joining.group, why=reason)
        self._chosen = Membership(self._joining)
        self._chosen.start()


def make_membership(protocol: GroupProtocol, joining: Joining) -> GroupMembership:
    """Makes a member, not started."""
    if protocol == "classic":
        return Membership(joining)
    if protocol == "consumer":
        return ConsumerMembership(joining)
    return FittingMembership(joining)
