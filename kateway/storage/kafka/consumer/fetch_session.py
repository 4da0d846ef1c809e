"""Keeps a broker's fetch session: the next request has only the changes since the last (KIP-227). No I/O.

A broker that keeps a session remembers a request's partitions, their offsets and sizes; it answers only for those
that have something new. A request for two thousand partitions of which one moved is then as small as one for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from kateway.storage.kafka.protocol.requests import SESSION_BEGINS, SESSIONLESS, Wanted

LAST_EPOCH = (1 << 31) - 1


class Asking(NamedTuple):
    """What a fetch request is to say."""

    session: int
    epoch: int
    wanted: list[Wanted]
    """All of them, or those that are new or asked for differently in a session."""
    forgotten: list[int]
    """Partitions that the session holds and that are wanted no more."""


class FetchSession:
    """One broker's. A request is under way at a time; ``answered`` or ``lost`` says what became of it."""

    __slots__ = ("_keep", "asked", "epoch", "id")

    def __init__(self, former: int = 0) -> None:
        """``former``: a session of ours that the broker may still hold; the first request ends it."""
        self.id = former
        self.epoch = 0
        """Of the next request; 0 where that begins anew, with everything."""
        self.asked: dict[int, Wanted] = {}
        """What the broker knows to be wanted."""
        self._keep = False

    def ask(
        self, all_of_them: Iterable[int], changed: Iterable[int], wanted: Callable[[int], Wanted | None], *, keep: bool
    ) -> Asking | None:
        """The next request; ``None``, and nothing happens, where nothing is wanted. ``wanted`` is asked about those
        that ``changed`` since the last one, in a session, else about ``all_of_them``. ``keep``: begin a session.
        """
        if not self.epoch:
            asked = {want.partition: want for partition in all_of_them if (want := wanted(partition))}
            if not asked:
                return None
            self.asked, self._keep = asked, keep
            return Asking(self.id, SESSION_BEGINS if keep else SESSIONLESS, list(asked.values()), [])
        new: list[Wanted] = []
        forgotten: list[int] = []
        more = 0
        for partition in changed:
            want, before = wanted(partition), self.asked.get(partition)
            if want is None:
                if before is not None:
                    forgotten.append(partition)
            elif want != before:
                new.append(want)
                more += before is None
        if len(self.asked) + more == len(forgotten):
            return None
        for partition in forgotten:
            del self.asked[partition]
        self.asked.update((want.partition, want) for want in new)
        return Asking(self.id, self.epoch, new, forgotten)

    def answered(self, session: int) -> None:
        """The broker has answered, in the session that it names; 0: it keeps none."""
        if not self.epoch:
            self.id = session
            self.epoch = 1 if session and self._keep else 0
        elif session == self.id:
            self.epoch = self.epoch + 1 if self.epoch < LAST_EPOCH else 1
        else:
            self.lost()

    def lost(self) -> None:
        """The broker's state is unknown: the next request is a full one."""
        self.epoch = 0
