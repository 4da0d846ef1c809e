"""Shows a subscription its membership in a group, by either protocol; and holds the parts that both protocols need: a
session's end, a rest that can be cut short, and a topic that is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater

from kateway.errors import KatewayError, TopicNotFound
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.cluster.coordinators import Coordinators
from kateway.storage.kafka.cluster.pool import Pool
from kateway.storage.passed_member import PassedMember

DELETED_CHECK_SECONDS = 1.0
LEAVE_SECONDS = 3.0
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)
NEWS_AFTER_FAILURES = 3

ILLEGAL_GENERATION, UNKNOWN_MEMBER, REBALANCE = 22, 25, 27
UNSUPPORTED_VERSION, GROUP_ID_NOT_FOUND, FENCED_INSTANCE_ID = 35, 69, 82
FENCED_MEMBER_EPOCH, UNRELEASED_INSTANCE_ID, STALE_MEMBER_EPOCH = 110, 111, 113


class Generation(NamedTuple):
    """A commit's credentials: generation, or member epoch, and member id."""

    number: int
    member: str
    by_consumer_protocol: bool = False


class Holder(Protocol):
    """The owner of the partitions that a membership brings."""

    def take_over(self, partitions: frozenset[int]) -> None:
        """These are ours, too, from now on. Said after each rebalance, also where there are none."""

    async def hand_over(self, partitions: frozenset[int]) -> None:
        """These are about to go: the last commits. Bounded by the holder."""

    def drop(self) -> None:
        """All are gone already."""

    def failed(self, error: KatewayError) -> None:
        """Joining does not succeed; ``retriable``: it is tried on."""


class Joining(NamedTuple):
    """A member that is to join: which group, for which topic, and by what."""

    client: Client
    pool: Pool
    """For all that is sent to the group's coordinator."""
    coordinators: Coordinators
    holder: Holder
    group: str
    topic: str
    session_timeout_seconds: float
    instance: str | None = None
    """The member's own name, where it has one."""
    passed: PassedMember | None = None
    """What it is already: the process before this one has passed it on."""


class GroupMembership(Protocol):
    """One member of one group, subscribed to one topic."""

    @property
    def generation(self) -> Generation | None:
        """``None`` while there is none to commit under."""

    @property
    def known_as(self) -> str:
        """Its id, where the coordinator may have the member; else empty."""

    @property
    def by_consumer_protocol(self) -> bool:
        """Whether the coordinator assigns the partitions."""

    def start(self) -> None:
        """Begins to join; the holder hears the rest."""

    async def stop(self, *, returning: bool = False) -> None:
        """Leaves the group, without a word to the holder. Takes at most twice ``LEAVE_SECONDS``. ``returning``: keeps
        its place where the member has a name to come back under.
        """

    async def pass_on(self) -> PassedMember | None:
        """Stops without leaving the group, for another process that goes on as this member; ``None``, and nothing has
        stopped, where a join or a rebalance is under way or the coordinator was not heard lately.
        """

    def refused(self, errors: set[int], generation: Generation) -> None:
        """The coordinator has refused a commit that was made under ``generation``: a rebalance, or the end."""


class Session:
    """The time for which a coordinator keeps a member that it does not hear of; ``over`` is called at its end."""

    def __init__(self, reactor: Any, over: Callable[[], None]) -> None:
        self._reactor = reactor
        self._over = over
        self._expiry: IDelayedCall | None = None
        self.heard_at = -math.inf
        """When the coordinator has heard us, at the earliest."""

    def heard(self, sent_at: float, seconds: float) -> None:
        """The coordinator heard us no sooner than ``sent_at``: its own count of the session began then or later."""
        self.cancel()
        self.heard_at = sent_at
        left = sent_at + seconds - self._reactor.seconds()
        self._expiry = self._reactor.callLater(max(0.0, left), self._over)

    def lately(self, seconds: float) -> bool:
        """Whether more than half of a session of so many seconds is left."""
        return bool(self._reactor.seconds() - self.heard_at < seconds / 2)

    def cancel(self) -> None:
        """Ends the count."""
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()
        self._expiry = None


class Rest:
    """A pause of one coroutine that others can end, or keep from beginning."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._nap: Deferred[None] | None = None
        self._woken = False

    async def sleep(self, seconds: float) -> None:
        """Rests, until it is over or cut short."""
        if self._woken:
            self._woken = False
            return
        nap: Deferred[None] = Deferred()
        self._nap = nap
        call = self._reactor.callLater(seconds, nap.callback, None)
        try:
            await nap
        finally:
            self._nap = None
            if call.active():
                call.cancel()

    def wake(self) -> None:
        """Cuts the pause short; the next one where there is none."""
        nap, self._nap = self._nap, None
        if nap is None:
            self._woken = True
        elif not nap.called:
            nap.callback(None)


async def topic_must_be_there(client: Client, topic: str, *, was_there: bool) -> None:
    """``TopicNotFound`` where a fresh listing lacks it; where it was there before two must, for the first may come from
    a broker that is just starting.
    """
    if client.partition_count(topic) is not None:
        return
    found = await client.look_for(topic)
    if was_there and found is None:
        await deferLater(client.reactor, DELETED_CHECK_SECONDS)
        await client.refresh()
    if client.partition_count(topic) is None:
        raise TopicNotFound(f"there is no topic {topic}")
