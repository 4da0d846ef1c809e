"""Leaves the groups of a process that has died, on its behalf: else its partitions would wait for its session's end.

Each process notes its members of groups in memory that outlives it; a member that it has passed on to its successor
stands in that one's note, in the same memory. The first of the processes that are left reads
what a dead one has noted, and so does its successor, in case that none is left. The note is emptied when its groups
were left. All of it is work in the background: where a coordinator does not answer nothing else waits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import orjson
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.daemon.periodic import RegularWork
from kateway.daemon.processes.inherited import members_of
from kateway.daemon.processes.running import runs
from kateway.daemon.processes.worker import Worker
from kateway.errors import KatewayError
from kateway.storage.interface import OwnMember, OwnMembers, Store

NOTE_SECONDS = 1.0
"""A membership that is younger when its process dies ends with its session."""
AT_ONCE = 16
"""Groups that are left at the same time."""

_log = Logger()
_Row = list[Any]
"""A member as it is noted: its cluster, and the fields of ``OwnMember``."""


class _Note(NamedTuple):
    pid: int
    members: list[_Row]


class LeavingForDead:
    """One process's. ``within_seconds``: what is not left by then is given up, for the sessions have ended."""

    def __init__(self, worker: Worker, stores: Mapping[str, Store], clock: IReactorTime, within_seconds: float) -> None:
        self._worker = worker
        self._stores = {
            name: cast(OwnMembers, store) for name, store in stores.items() if hasattr(store, "own_members")
        }
        self._clock = clock
        self._within_seconds = within_seconds
        self._own = worker.shared(members_of(worker.index))
        self._noted: list[_Row] | None = None
        self._inherited: list[_Row] = []
        """A predecessor's members that are not left yet: they stay in the note, for the next successor."""
        self._seen: set[tuple[int, int]] = set()
        self._leaving: dict[int, Deferred[None]] = {}
        """By the index of the process that has died."""

    def start(self, regular: RegularWork) -> None:
        """Leaves for a predecessor that nothing has been left for; from now on notes and watches."""
        index = self._worker.index
        note = self._read(index)
        if note is not None:
            self._inherited = note.members
            self._begin(index, note)
        regular.every(NOTE_SECONDS, self._note)
        self._worker.peers.watch(self._changed)
        self._changed()

    def stop(self) -> None:
        """Gives up what is under way."""
        for each in tuple(self._leaving.values()):
            each.cancel()

    def note_now(self) -> None:
        """Notes what this process is a member of, without waiting for the next time."""
        Deferred.fromCoroutine(self._note()).addErrback(_is_logged)

    async def _note(self) -> None:
        noted = [[name, *member] for name, store in self._stores.items() for member in store.own_members()]
        noted += self._inherited
        # news: the other generation of an upgrade has written its own, and may be gone by now
        if self._own is not None and (self._own.news() is not None or noted != self._noted):
            with self._own.changing(lambda: None):
                if self._own.write(_document(os.getpid(), noted)):
                    self._noted = noted

    def _changed(self) -> None:
        before, self._seen = self._seen, {(peer.index, peer.pid) for peer in self._worker.peers.live}
        live = {index for index, _pid in self._seen}
        replaced = {index for index, _pid in before - self._seen}
        own = self._worker.index
        if min(live, default=own) != own:
            return
        # also for places that have long been empty: the first of us may have died before it had left for them
        for index in range(self._worker.inherited.count):
            if index != own and index not in self._leaving and (index in replaced or index not in live):
                note = self._read(index)
                if note is not None:
                    self._begin(index, note)

    def _read(self, index: int) -> _Note | None:
        """The note of a process that has died; ``None`` where it lives, and leaves by itself, or its successor has
        noted its own.
        """
        memory = self._worker.shared(members_of(index))
        document = None if memory is None else memory.news()
        if document is None:
            return None
        note = _note(document)
        return None if runs(note.pid) or not note.members else note

    def _begin(self, index: int, note: _Note) -> None:
        leaving = self._leaving[index] = Deferred.fromCoroutine(self._leave_for(index, note))

        def over(_: object) -> None:
            del self._leaving[index]

        leaving.addErrback(_is_logged)
        leaving.addBoth(over)

    async def _leave_for(self, index: int, note: _Note) -> None:
        rows = iter(note.members)
        remaining: list[_Row] = []
        deadline = self._clock.seconds() + self._within_seconds
        leaving = [Deferred.fromCoroutine(self._leave_each(rows, remaining, deadline)) for _ in range(AT_ONCE)]
        for _succeeded, failure in await DeferredList(leaving, consumeErrors=True):
            if isinstance(failure, Failure):
                failure.raiseException()
        remaining += rows
        # the rest waits for the end of the dead one's sessions
        say = _log.warn if remaining else _log.info
        say(
            "{count} of {all} groups were left for process {index}, which has died",
            count=len(note.members) - len(remaining),
            all=len(note.members),
            index=index,
        )
        if index == self._worker.index:
            self._inherited = []
            await self._note()
        else:
            self._put_back(index, note.pid, remaining)

    async def _leave_each(self, rows: Iterator[_Row], remaining: list[_Row], deadline: float) -> None:
        while (left := deadline - self._clock.seconds()) > 0 and (row := next(rows, None)) is not None:
            cluster, *member = row
            store = self._stores.get(cluster)
            if store is None:
                continue
            try:
                await Deferred.fromCoroutine(store.leave_for(OwnMember(*member))).addTimeout(left, self._clock)
            except (KatewayError, TookTooLong) as error:
                remaining.append(row)
                _log.debug("a group of a dead process could not be left: {error!r}", error=error)

    def _put_back(self, index: int, pid: int, remaining: list[_Row]) -> None:
        """Notes what is still to be left, unless a successor has written its own."""
        memory = self._worker.shared(members_of(index))
        if memory is None:
            return
        with memory.changing(lambda: None):
            document = memory.news()
            if document is not None and _note(document).pid == pid:
                memory.write(_document(pid, remaining))


def _note(document: bytes) -> _Note:
    table = orjson.loads(document)
    return _Note(table["pid"], table["members"])


def _document(pid: int, members: list[_Row]) -> bytes:
    return orjson.dumps({"pid": pid, "members": members})


def _is_logged(failure: Any) -> None:
    if not failure.check(CancelledError):
        _log.failure("groups of a dead process could not be left", failure)
