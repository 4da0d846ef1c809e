"""Each place of a supervisor has a process again, whatever a start, an end or an upgrade meets.

The processes are real and do nothing: what they say is said by the test, as it would come over their links.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from kateway.config.file import from_table
from kateway.core.access.shared_readers import GENERATIONS
from kateway.daemon.processes.link import MAX_MESSAGE_BYTES, Link
from kateway.daemon.processes.peers import Figures, encode
from kateway.daemon.processes.place import Child
from kateway.daemon.processes.supervisor import KILL_SECONDS, LOOK_SECONDS, Supervisor

COUNT = 2


class Started:
    """A process that was started, as the reactor knows it."""

    def __init__(self, child: Child, pid: int, environment: dict[str, str]) -> None:
        self.child = child
        self.pid = pid
        self.environment = environment
        self.ended = False

    def serves(self) -> None:
        self.child._message({"serving": True}, [])

    def end(self, *, killed: bool = False) -> None:
        self.ended = True
        self.child.processEnded(Failure(ProcessTerminated(signal=9) if killed else ProcessDone(0)))


class ProcessReactor(Clock):
    """A clock that starts processes, but for those that it has no room for."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[Link] = []
        self.started: list[Started] = []
        self.room = 1000
        self.stopped = False

    def addReader(self, link: Link) -> None:
        self.links.append(link)

    def removeReader(self, link: Link) -> None:
        self.links.remove(link)

    def spawnProcess(
        self, child: Child, _file: str, _command: list[str], environment: dict[str, str], childFDs: dict[int, int]
    ) -> Started:
        for descriptor in childFDs.values():
            os.fstat(descriptor)  # each is open
        if len(self.live()) >= self.room:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        # nothing has this number: a signal to it would be an error
        started = Started(child, 2**22 + 1 + len(self.started), environment)
        self.started.append(started)
        return started

    def live(self) -> list[Started]:
        return [one for one in self.started if not one.ended]

    def callFromThread(self, do: Callable[[], object]) -> None:
        do()

    def callWhenRunning(self, _do: Callable[[], object]) -> None:
        self.stopped = True

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """What was sent, by the number of the process."""
    sent: list[tuple[int, int]] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR2)}
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    yield sent
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def reactor() -> ProcessReactor:
    return ProcessReactor()


@pytest.fixture
def supervisor(reactor: ProcessReactor, signals: list[tuple[int, int]]) -> Iterator[Supervisor]:
    settings = from_table(
        {
            "process": {"count": COUNT},
            "storage": {"default": {"driver": "kafka"}},
            "http": {"public": ["tcp:0:interface=127.0.0.1"], "admin": ["tcp:0:interface=127.0.0.1"]},
        }
    )
    made = Supervisor(settings, reactor, lambda: settings, lambda: "", lambda: ["kateway"])
    yield made
    stopping = made.stopService()
    for one in reactor.live():
        one.end()
    assert stopping.called


def listened() -> int:
    """How many sockets of this process listen."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as one:
            found += one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return found


def start(supervisor: Supervisor, reactor: ProcessReactor) -> list[Started]:
    supervisor.startService()
    for one in reactor.live():
        one.serves()
    return reactor.live()


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def generations(reactor: ProcessReactor) -> list[tuple[int, int]]:
    return sorted((one.child.index, one.child.generation) for one in reactor.live())


async def test_place_is_filled_when_the_system_has_room_again(
    supervisor: Supervisor, reactor: ProcessReactor, logged_errors: list[dict[str, Any]]
) -> None:
    one, _two = start(supervisor, reactor)
    reactor.room = 1
    one.end(killed=True)
    before = descriptors()
    for _ in range(60):
        reactor.advance(LOOK_SECONDS)
    assert (len(reactor.live()), descriptors()) == (1, before)
    assert "cannot be started: Resource temporarily unavailable" in supervisor._missing[0]
    reactor.room = COUNT
    reactor.advance(supervisor.settings.process.max_restart_pause_seconds)
    assert generations(reactor) == [(0, 1), (1, 1)]
    # not one a look: pauses grow
    assert len(logged_errors) < 12
    logged_errors.clear()


async def test_start_that_has_no_room_is_no_start(
    supervisor: Supervisor,
    reactor: ProcessReactor,
    logged_errors: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registered: list[object] = []
    monkeypatch.setattr("atexit.register", registered.append)
    reactor.room = 1
    supervisor.startService()
    assert (reactor.stopped, len(registered), len(logged_errors)) == (True, 1, 1)
    logged_errors.clear()


async def test_upgrade_without_room_for_all_ends_what_it_has_started_and_says_why(
    supervisor: Supervisor, reactor: ProcessReactor, signals: list[tuple[int, int]], logged_errors: list[dict[str, Any]]
) -> None:
    start(supervisor, reactor)
    reactor.room = COUNT + 1
    before = descriptors()
    told = supervisor.upgrade()
    (problem,) = await told
    assert problem.startswith("process 1: cannot be started")
    first = reactor.live()[-1]
    assert (first.pid, signal.SIGTERM) in signals
    first.end()
    assert (generations(reactor), descriptors()) == ([(0, 1), (1, 1)], before)
    logged_errors.clear()
    reactor.room = 2 * COUNT
    again = supervisor.upgrade()
    for one in reactor.live()[COUNT:]:
        one.serves()
    assert await again == []
    assert generations(reactor)[1::2] == [(0, 2), (1, 2)]
    reactor.advance(supervisor.settings.http.drain_seconds + KILL_SECONDS)


async def test_upgrade_begins_when_those_of_one_that_failed_have_ended(
    supervisor: Supervisor, reactor: ProcessReactor, logged_errors: list[dict[str, Any]]
) -> None:
    start(supervisor, reactor)
    first = supervisor.upgrade()
    failing, draining = reactor.live()[COUNT:]
    draining.serves()
    failing.end()
    assert len(await first) == 1
    second = supervisor.upgrade()
    # its processes would have the number, and the counters of readers, of the one that drains
    assert len(reactor.live()) == COUNT + 1
    draining.end()
    for one in reactor.live()[COUNT:]:
        one.serves()
    assert await second == []
    logged_errors.clear()
    reactor.advance(supervisor.settings.http.drain_seconds + KILL_SECONDS)


async def test_process_that_ends_during_an_upgrade_is_replaced_by_one_of_the_same_generation(
    supervisor: Supervisor, reactor: ProcessReactor, logged_errors: list[dict[str, Any]]
) -> None:
    one, _two = start(supervisor, reactor)
    upgraded = supervisor.upgrade()
    one.end(killed=True)
    reactor.advance(0)
    assert generations(reactor) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    rows = [(each.child.index, each.child.generation % GENERATIONS) for each in reactor.live()]
    assert len(rows) == len(set(rows))
    for each in reactor.live():
        if each.child.generation == 2:
            each.serves()
    assert await upgraded == []
    assert supervisor._missing == {}
    logged_errors.clear()
    reactor.advance(supervisor.settings.http.drain_seconds + KILL_SECONDS)


async def test_upgrade_fails_where_a_successor_has_ended_while_the_others_started(
    supervisor: Supervisor, reactor: ProcessReactor, logged_errors: list[dict[str, Any]]
) -> None:
    start(supervisor, reactor)
    upgraded = supervisor.upgrade()
    one, two = reactor.live()[COUNT:]
    one.serves()
    one.end(killed=True)
    two.serves()
    assert await upgraded == ["process 0: it was ended by SIGKILL"]
    assert generations(reactor)[::2] == [(0, 1), (1, 2)]
    logged_errors.clear()
    reactor.advance(KILL_SECONDS)


async def test_fault_of_ours_in_an_upgrade_is_told_to_the_caller(
    supervisor: Supervisor, reactor: ProcessReactor, logged_errors: list[dict[str, Any]]
) -> None:
    start(supervisor, reactor)
    supervisor._reread = lambda: {}["none"]  # type: ignore[assignment, typeddict-item]
    (problem,) = await supervisor.upgrade()
    assert problem.startswith("the supervisor failed")
    logged_errors.clear()


async def test_fault_of_ours_in_a_look_does_not_end_the_looks(
    supervisor: Supervisor, reactor: ProcessReactor, signals: list[tuple[int, int]], logged_errors: list[dict[str, Any]]
) -> None:
    one, two = start(supervisor, reactor)
    two.child.figures = object()  # type: ignore[assignment]
    reactor.advance(LOOK_SECONDS)
    assert len(logged_errors) == 1
    while reactor.seconds() < supervisor.settings.process.hang_seconds + 2 * LOOK_SECONDS:
        reactor.advance(LOOK_SECONDS)
    assert (one.pid, signal.SIGKILL) in signals or (one.pid, signal.SIGUSR1) in signals
    logged_errors.clear()
    reactor.advance(KILL_SECONDS)
    logged_errors.clear()


def test_processes_hold_the_last_descriptors_of_their_sockets_when_they_are_told_to_end(
    supervisor: Supervisor, reactor: ProcessReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # each accepts once more and closes: what comes until another descriptor is closed would be reset
    before = listened()
    start(supervisor, reactor)
    assert listened() > before
    held: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _pid, _number: held.append(listened()))
    supervisor.stopService()
    assert held == [before] * COUNT


class Orders:
    """What a process is told over its link."""

    def __init__(self, one: Started) -> None:
        self._child = one.child
        self.open = True
        self.told: list[dict[str, Any]] = []
        one.child.link.close()
        one.child.link = self  # type: ignore[assignment]

    def send(self, message: dict[str, Any], _descriptors: object = ()) -> bool:
        self.told.append(message)
        return True

    def close(self) -> None:
        self.open = False

    def doRead(self) -> None:
        """It has said nothing more when it ends."""

    def asked(self) -> list[str]:
        return [message["do"] for message in self.told if "do" in message]

    def answers(self, *problems: str) -> None:
        (number,) = [message["id"] for message in self.told if "id" in message][-1:]
        self._child._message({"answer": number, "problems": problems}, [])


async def test_process_that_started_during_a_reload_reloads_before_it_goes_on(
    supervisor: Supervisor, reactor: ProcessReactor, logged_errors: list[dict[str, Any]]
) -> None:
    one, two = start(supervisor, reactor)
    remaining = Orders(two)
    one.end(killed=True)
    reactor.advance(0)
    logged_errors.clear()
    late = Orders(reactor.live()[-1])
    reloaded = supervisor.reload()
    for _ in range(2):
        remaining.answers()
    assert await reloaded == []
    assert late.asked() == []
    reactor.live()[-1].serves()
    assert late.asked() == ["reload"]
    late.answers()
    assert late.asked() == ["reload"]


async def test_process_that_started_during_a_reload_and_cannot_reload_is_started_with_what_is_in_force(
    supervisor: Supervisor,
    reactor: ProcessReactor,
    signals: list[tuple[int, int]],
    logged_errors: list[dict[str, Any]],
) -> None:
    one, two = start(supervisor, reactor)
    remaining = Orders(two)
    one.end(killed=True)
    reactor.advance(0)
    logged_errors.clear()
    late = reactor.live()[-1]
    orders = Orders(late)
    reloaded = supervisor.reload()
    for _ in range(2):
        remaining.answers()
    assert await reloaded == []
    late.serves()
    orders.answers("http.public: the file was broken since")
    assert (late.pid, signal.SIGTERM) in signals
    late.end()
    reactor.advance(supervisor.settings.process.max_restart_pause_seconds)
    newest = reactor.live()[-1]
    told = Orders(newest)
    newest.serves()
    assert told.asked() == []
    logged_errors.clear()


async def test_process_that_started_before_a_reload_failed_does_not_reload(
    supervisor: Supervisor, reactor: ProcessReactor, logged_errors: list[dict[str, Any]]
) -> None:
    one, two = start(supervisor, reactor)
    remaining = Orders(two)
    one.end(killed=True)
    reactor.advance(0)
    logged_errors.clear()
    late = Orders(reactor.live()[-1])
    reloaded = supervisor.reload()
    remaining.answers("http.publik: there is no such option")
    assert len(await reloaded) == 1
    reactor.live()[-1].serves()
    assert late.asked() == []


def test_processes_are_told_of_each_other_though_their_figures_are_large(
    supervisor: Supervisor, reactor: ProcessReactor
) -> None:
    one, two = start(supervisor, reactor)
    orders = Orders(two)
    one.child.figures = Figures(connections=3, links=[f"gateway-{number:012}" for number in range(10000)])
    supervisor._tell_peers()
    (said,) = orders.told
    assert len(encode(said)) <= MAX_MESSAGE_BYTES
    assert said["peers"][0]["figures"]["connections"] == 3


@pytest.mark.parametrize("checked", [False, True], ids=["while it checks", "while it reloads"])
async def test_reload_waits_for_no_process_that_has_ended_and_comes_into_force(
    supervisor: Supervisor, reactor: ProcessReactor, logged_errors: list[dict[str, Any]], checked: bool
) -> None:
    one, two = start(supervisor, reactor)
    ending, remaining = Orders(one), Orders(two)
    told: list[list[str]] = []
    supervisor.reload().addCallback(told.append)
    if checked:
        ending.answers()
        remaining.answers()
    one.end(killed=True)
    logged_errors.clear()
    remaining.answers()
    if not checked:
        remaining.answers()
    assert told == [[]]
    reactor.advance(0)
    late = reactor.live()[-1]
    orders = Orders(late)
    late.serves()
    assert (orders.asked(), late.child.reloads) == ([], 1)
