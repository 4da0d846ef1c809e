"""The groups of a process that has died are left for it, and those of one that lives are not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from kateway.daemon.leaving import NOTE_SECONDS, LeavingForDead
from kateway.daemon.periodic import RegularWork
from kateway.daemon.processes.inherited import Inherited, members_of
from kateway.daemon.processes.peers import Peer
from kateway.daemon.processes.shared_document import SharedDocument, shared_memory
from kateway.daemon.processes.worker import Worker
from kateway.errors import Unavailable
from kateway.storage.interface import OwnMember

MEMBER = OwnMember("g1", "member-1", True)
SESSION_SECONDS = 10.0


class GroupStore:
    """Knows this process's members, and which were left for others."""

    def __init__(self) -> None:
        self.members: list[OwnMember] = []
        self.left: list[OwnMember] = []
        self.away = False
        self.answer: Deferred[None] | None = None
        """Where it is there: what a coordinator's answer waits for."""

    def own_members(self) -> Sequence[OwnMember]:
        return self.members

    async def leave_for(self, member: OwnMember) -> None:
        if self.away:
            raise Unavailable("no broker answers")
        if self.answer is not None:
            waiting: Deferred[None] = Deferred()
            self.answer.chainDeferred(waiting)
            await waiting
        self.left.append(member)


@pytest.fixture
def memories() -> Iterator[dict[str, int]]:
    made = {members_of(index): shared_memory(members_of(index)) for index in range(3)}
    yield made
    for descriptor in made.values():
        os.close(descriptor)


@pytest.fixture
def dead() -> int:
    """The number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


class One:
    """One of three processes."""

    def __init__(self, folder: Path, memories: dict[str, int], index: int) -> None:
        inherited = Inherited(
            index=index, count=3, generation=1, gateway="gateway-x", link=-1, quotas=-1, memories=memories
        )
        self.clock = Clock()
        self.store = GroupStore()
        self.worker = Worker(inherited, self.clock, folder)
        stores: Any = {"default": self.store}
        self.leaving = LeavingForDead(self.worker, stores, self.clock, SESSION_SECONDS)
        self.regular = RegularWork(self.clock)

    def live(self, *peers: tuple[int, int]) -> None:
        self.worker.peers.take(Peer(index=index, pid=pid, generation=1) for index, pid in peers)


def note(memories: dict[str, int], index: int, pid: int) -> None:
    memory = SharedDocument(memories[members_of(index)])
    with memory.changing(lambda: None):
        memory.write(b'{"pid":%d,"members":[["default","g1","member-1",true],["gone","g2","m",false]]}' % pid)


def members_noted(memories: dict[str, int], index: int) -> bytes:
    found = SharedDocument(memories[members_of(index)]).news()
    assert found is not None
    return found.partition(b'"members":')[2]


def started(folder: Path, memories: dict[str, int], index: int) -> One:
    one = One(folder, memories, index)
    one.leaving.start(one.regular)
    return one


async def test_groups_of_a_dead_process_are_left_by_the_first_of_those_that_live(
    tmp_path: Path, memories: dict[str, int], dead: int
) -> None:
    first, second = started(tmp_path, memories, 0), started(tmp_path, memories, 1)
    note(memories, 2, dead)
    for one in (first, second):
        one.live((0, 1), (1, 1), (2, dead))
        one.live((0, 1), (1, 1))
    assert (first.store.left, second.store.left) == ([MEMBER], [])
    first.regular.stop()
    second.regular.stop()


async def test_process_that_gives_way_and_lives_leaves_by_itself(tmp_path: Path, memories: dict[str, int]) -> None:
    one = started(tmp_path, memories, 0)
    note(memories, 2, os.getpid())
    one.live((0, 1), (2, os.getpid()))
    one.live((0, 1), (2, 1))
    assert one.store.left == []
    one.regular.stop()


async def test_successor_leaves_for_its_predecessor_and_notes_its_own(
    tmp_path: Path, memories: dict[str, int], dead: int
) -> None:
    note(memories, 0, dead)
    one = started(tmp_path, memories, 0)
    assert one.store.left == [MEMBER]
    one.store.members = [OwnMember("g9", "member-9", False)]
    one.clock.advance(NOTE_SECONDS)
    noted = SharedDocument(memories[members_of(0)]).news()
    assert noted == b'{"pid":%d,"members":[["default","g9","member-9",false]]}' % os.getpid()
    one.regular.stop()


async def test_coordinator_that_is_away_keeps_nothing_from_going_on(
    tmp_path: Path, memories: dict[str, int], dead: int
) -> None:
    note(memories, 0, dead)
    one = One(tmp_path, memories, 0)
    one.store.away = True
    one.leaving.start(one.regular)
    assert one.store.left == []
    one.regular.stop()
    one.leaving.stop()


async def test_note_is_emptied_when_its_groups_were_left_and_keeps_those_that_were_not(
    tmp_path: Path, memories: dict[str, int], dead: int
) -> None:
    one = started(tmp_path, memories, 0)
    note(memories, 2, dead)
    one.store.away = True
    one.live((0, 1), (2, dead))
    one.live((0, 1))
    assert members_noted(memories, 2) == b'[["default","g1","member-1",true]]}'
    one.store.away = False
    one.live((0, 1), (1, 1))
    assert one.store.left == [MEMBER]
    assert members_noted(memories, 2) == b"[]}"
    one.live((0, 1))
    assert one.store.left == [MEMBER]
    one.regular.stop()


async def test_start_waits_for_no_coordinator_and_gives_up_with_the_session(
    tmp_path: Path, memories: dict[str, int], dead: int
) -> None:
    memory = SharedDocument(memories[members_of(0)])
    rows = b",".join(b'["default","g%d","m",true]' % number for number in range(400))
    with memory.changing(lambda: None):
        memory.write(b'{"pid":%d,"members":[%s]}' % (dead, rows))
    one = One(tmp_path, memories, 0)
    one.store.answer = Deferred()
    one.leaving.start(one.regular)
    # a successor of this one would have to leave them
    assert members_noted(memories, 0).count(b'"default"') == 400
    one.clock.advance(SESSION_SECONDS)
    assert one.store.left == []
    assert members_noted(memories, 0) == b"[]}"
    one.regular.stop()
    assert one.clock.getDelayedCalls() == []


async def test_stop_gives_up_what_is_under_way(tmp_path: Path, memories: dict[str, int], dead: int) -> None:
    note(memories, 0, dead)
    one = One(tmp_path, memories, 0)
    one.store.answer = Deferred()
    one.leaving.start(one.regular)
    one.regular.stop()
    one.leaving.stop()
    assert (one.store.left, one.clock.getDelayedCalls()) == ([], [])


async def test_groups_of_processes_that_died_together_are_left_by_the_one_that_is_the_first_then(
    tmp_path: Path, memories: dict[str, int], dead: int
) -> None:
    last = started(tmp_path, memories, 2)
    note(memories, 0, dead)
    last.live((0, dead), (1, dead), (2, 1))
    last.live((1, dead), (2, 1))
    assert last.store.left == []
    last.live((2, 1))
    assert last.store.left == [MEMBER]
    last.regular.stop()


async def test_note_that_a_predecessor_wrote_over_during_an_upgrade_is_written_again(
    tmp_path: Path, memories: dict[str, int]
) -> None:
    successor = started(tmp_path, memories, 0)
    successor.store.members = [OwnMember("g9", "member-9", False)]
    successor.clock.advance(NOTE_SECONDS)
    # it lives on until it is told to give way
    note(memories, 0, os.getppid())
    successor.clock.advance(NOTE_SECONDS)
    noted = SharedDocument(memories[members_of(0)]).news()
    assert noted == b'{"pid":%d,"members":[["default","g9","member-9",false]]}' % os.getpid()
    successor.regular.stop()
