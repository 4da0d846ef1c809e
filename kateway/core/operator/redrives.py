"""All redrives and discards of this gateway: at most one of a group at a time, the last one of each is remembered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from kateway.core.gateway import Gateway
from kateway.core.groups.memberships import Memberships
from kateway.core.operator.naming import GroupName, GroupPlace
from kateway.core.operator.redrive import Letter, Redrive
from kateway.errors import Conflict, Draining, NotFound
from kateway.model import Message
from kateway.storage.interface import Outcome

MOST_RUNNING = 16
MOST_REMEMBERED = 1000

_log = Logger()
Count = Callable[[tuple[str, str, str], str, str, Sequence[Message], Sequence[Outcome]], None]
"""Counts a publish, by topic, cluster and tenant."""
Ended = Callable[[Redrive], None]


class Redrives:
    """Starts redrives and answers for them. ``now_ms`` is milliseconds since the epoch."""

    def __init__(
        self,
        gateway: Gateway,
        groups: Memberships,
        clock: IReactorTime,
        now_ms: Callable[[], int],
        count: Count | None = None,
    ) -> None:
        self._count = count
        self._gateway = gateway
        self._groups = groups
        self._clock = clock
        self._now_ms = now_ms
        self._last: dict[tuple[GroupName, bool], Redrive] = {}
        """By the group, and whether it discards."""
        self._running: dict[Redrive, Deferred[None]] = {}
        self._draining = False

    def last(self, name: GroupName, *, discards: bool = False) -> Redrive:
        """The group's redrive (discard) that runs, or ran last. ``NotFound``."""
        redrive = self._last.get((name, discards))
        if redrive is None:
            done = "discarded" if discards else "redriven"
            raise NotFound(f"nothing of this group was {done} here since the gateway started")
        return redrive

    async def start(
        self,
        name: GroupName,
        group: GroupPlace,
        letters: Collection[Letter] | None,
        per_second: float | None,
        ended: Ended,
        *,
        discards: bool = False,
    ) -> Redrive:
        """Begins a redrive, or a discard; ``ended`` is called behind it. ``Conflict`` while one of the group is under
        way.
        """
        key = name, discards
        before = self._last.get(key)
        for each in (before, self._last.get((name, not discards))):
            if each is not None and each.state == "running":
                done = "discarded" if each.discards else "redriven"
                raise Conflict(f"the group's dead letters are being {done} already; GET says how far it is")
        if self._draining:
            raise Draining()
        if len(self._running) >= MOST_RUNNING:
            raise Conflict(f"{MOST_RUNNING} redrives are under way: that is as many as there may be")
        redrive = Redrive(
            self._gateway,
            self._groups,
            self._clock,
            self._now_ms,
            group,
            name.application,
            letters=letters,
            per_second=per_second,
            discards=discards,
            count=None if self._count is None else partial(self._count, name[1:4], group.place.cluster, ""),
        )
        # noted before anything is waited for: a second call must find it
        self._last[key] = redrive
        try:
            await redrive.start()
        except BaseException:
            if before is None:
                del self._last[key]
            else:
                self._last[key] = before
            raise
        running = Deferred.fromCoroutine(redrive.run())
        self._running[redrive] = running

        def over(_: None) -> None:
            del self._running[redrive]
            ended(redrive)

        running.addCallback(over).addErrback(lambda failure: _log.failure("the end of a redrive broke", failure))
        self._forget()
        return redrive

    async def stop(self) -> None:
        """Ends those under way behind the letters that are being written."""
        self._draining = True
        for redrive in list(self._running):
            redrive.stop()
        await DeferredList(list(self._running.values()))

    def _forget(self) -> None:
        for key, redrive in list(self._last.items())[: max(len(self._last) - MOST_REMEMBERED, 0)]:
            if redrive.state != "running":
                del self._last[key]
