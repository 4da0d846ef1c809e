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
from kateway.storage.passed_member import PassedMember


class FittingMembership:
    """One member of one group: by the consumer protocol until it turns out that it cannot be."""

    _log = Logger()

    def __init__(self, joining: Joining) -> None:
        self._joining = joining
        self._chosen: GroupMembership
        if joining.passed is None or joining.passed.by_consumer_protocol:
            self._chosen = ConsumerMembership(joining, self._fall_back)
        else:
            self._chosen = Membership(joining)

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

    async def pass_on(self) -> PassedMember | None:
        """Stops without leaving the group."""
        return await self._chosen.pass_on()

    def refused(self, errors: set[int], generation: Generation) -> None:
        """The coordinator has refused a commit."""
        self._chosen.refused(errors, generation)

    def _fall_back(self, reason: str) -> None:
        self._log.debug("group {group} is joined by the classic protocol: {why}", group=self._joining.group, why=reason)
        self._chosen = Membership(self._joining._replace(passed=None))
        self._chosen.start()


def fits(protocol: GroupProtocol, passed: PassedMember, session_timeout_seconds: float) -> bool:
    """Whether a member that is configured so can go on as one that was passed on. In the classic protocol the
    coordinator keeps to the session that the member joined with.
    """
    if passed.by_consumer_protocol:
        return protocol != "classic" and passed.session_seconds <= session_timeout_seconds
    return protocol != "consumer" and passed.session_seconds == session_timeout_seconds


def make_membership(protocol: GroupProtocol, joining: Joining) -> GroupMembership:
    """Makes a member, not started."""
    if protocol == "classic":
        return Membership(joining)
    if protocol == "consumer":
        return ConsumerMembership(joining)
    return FittingMembership(joining)
