"""The file of changes holds the newest ones, also where the gateway stops while it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from kateway.daemon.change_keeping import FILE_NAME, ChangeKeeping
from kateway.observe.troubles import Changes


class Threads:
    """A reactor with threads that work when they are told to."""

    def __init__(self) -> None:
        self.work: list[tuple[Callable[..., None], Callable[[], Any]]] = []

    def getThreadPool(self) -> Threads:
        return self

    def callInThreadWithCallback(self, done: Callable[..., None], work: Callable[[], Any]) -> None:
        self.work.append((done, work))

    def callFromThread(self, do: Callable[..., None], *told: Any) -> None:
        do(*told)

    def run(self) -> None:
        done, work = self.work.pop()
        done(True, work())


def test_changes_are_written_one_after_the_other_and_the_newest_last(tmp_path: Path) -> None:
    threads, changes = Threads(), Changes(lambda: 1.0)
    keeping = ChangeKeeping(changes, tmp_path, threads)
    changes.note("start", "gateway", "ok")
    regular = Deferred.fromCoroutine(keeping.save())
    changes.note("drain", "gateway", "ok")
    last = Deferred.fromCoroutine(keeping.save())
    # the threads are free to take the later one first
    while threads.work:
        threads.run()
    assert (regular.called, last.called) == (True, True)
    assert b'"drain"' in (tmp_path / FILE_NAME).read_bytes()
