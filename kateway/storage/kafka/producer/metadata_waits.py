"""Looks at the cluster anew: publishes to topics and partitions that are not known wait for that, and so does
a caller that finds its leaders out of date. Callers in the same moment share a lookup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from kateway.errors import Draining, KatewayError, TopicNotFound, Unavailable
from kateway.model import Message
from kateway.storage.interface import Outcome
from kateway.storage.kafka.cluster.client import Client

LOOK_SECONDS = 0.25
"""How often leaders are looked for while some partition has none that answers, and topics that are not known."""
LOOKS = 2
"""A topic that so many lookups do not find does not exist: brokers list a new one a little after it is made."""


@attrs.define(eq=False)
class Lookup:
    """A publish to a topic or partition that is not known. ``size``: bytes that it counts."""

    topic: str
    messages: Sequence[Message]
    acks: int
    deadline: float
    size: int
    deferred: Deferred[list[Outcome]]
    looks: int = 0
    """Successful ones that began after it came, with the one that is under way."""


class Lookups:
    """``send(lookup, last)`` sends a publish on its way and says whether it could; ``looked`` is told after each
    look, ``released(bytes)`` of publishes that failed here.
    """

    def __init__(
        self,
        client: Client,
        send: Callable[[Lookup, bool], bool],
        looked: Callable[[], None],
        released: Callable[[int, int], None],
    ) -> None:
        self.wanted = False
        """A lookup is due, though no publish waits for it."""
        self.looked_at = -float("inf")
        self._client = client
        self._send = send
        self._heard = looked
        self._released = released
        self._waiting: list[Lookup] = []
        self._looking: Deferred[None] | None = None

    @property
    def busy(self) -> bool:
        return bool(self._waiting) or self._looking is not None

    def add(self, lookup: Lookup) -> None:
        """Keeps a publish until a fresh look has been had, or its deadline is over."""
        self._waiting.append(lookup)
        self._look()

    def view_changed(self) -> None:
        """Sends the waiting publishes that can be sent now, in their order: later ones must be behind them."""
        waiting, self._waiting = self._waiting, []  # sending may answer callers, which may publish again
        unsent = [lookup for lookup in waiting if not self._send(lookup, False)]
        self._waiting = unsent + self._waiting

    def sweep(self, now: float) -> None:
        """Fails overdue publishes; looks where a look is due."""
        self._fail_overdue(now)
        if (self.wanted or self._waiting) and now - self.looked_at >= LOOK_SECONDS:
            self._look()

    def fail_waiting(self) -> None:
        """Fails the waiting publishes before their deadlines."""
        self._fail_overdue(inf)

    def _fail_overdue(self, now: float) -> None:
        overdue = [lookup for lookup in self._waiting if lookup.deadline <= now]
        if overdue:
            self._waiting = [lookup for lookup in self._waiting if lookup.deadline > now]
            for lookup in overdue:
                self._fail(lookup, Unavailable, f"the cluster cannot be asked: {self._client.health().reason}")

    def stop(self) -> None:
        """Looks no more, and fails the waiting publishes."""
        waiting, self._waiting = self._waiting, []
        for lookup in waiting:
            self._fail(lookup, Draining, "the gateway stopped before it was sent")
        if self._looking is not None:
            self._looking.cancel()

    def _look(self) -> None:
        if self._looking is not None:
            return
        self.wanted = False
        self.looked_at = self._client.reactor.seconds()
        for lookup in self._waiting:
            lookup.looks += 1
        looking = self._looking = self._client.refresh()
        looking.addCallbacks(self._looked, self._look_failed)
        if looking.called:
            self._looking = None

    def _looked(self, _result: None) -> None:
        self._looking = None
        self.view_changed()
        last = [lookup for lookup in self._waiting if lookup.looks >= LOOKS]
        self._waiting = [lookup for lookup in self._waiting if lookup.looks < LOOKS]
        for lookup in last:
            if not self._send(lookup, True):
                self._fail(lookup, TopicNotFound, f"there is no topic {lookup.topic}")
        self._heard()
        if any(not lookup.looks for lookup in self._waiting):
            self._look()

    def _look_failed(self, failure: Failure) -> None:
        """No broker could be asked: the sweep tries again until they are overdue."""
        self._looking = None
        for lookup in self._waiting:
            lookup.looks = max(lookup.looks - 1, 0)
        self.wanted = True
        failure.trap(KatewayError, CancelledError)

    def _fail(self, lookup: Lookup, kind: type[KatewayError], detail: str) -> None:
        self._released(lookup.size, len(lookup.messages))
        lookup.deferred.callback([kind(detail) for _ in lookup.messages])
