"""A process and its supervisor understand each other, however long a message is, and though descriptors are lost."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from kateway.daemon.processes.inherited import Inherited
from kateway.daemon.processes.link import MAX_MESSAGE_BYTES, Link, pair
from kateway.daemon.processes.peers import Figures
from kateway.daemon.processes.worker import ANSWER_SECONDS, BEAT_SECONDS, Worker
from kateway.errors import ConfigError, KatewayError

PROBLEMS = [f"applications.app{number}.quota.readers: must be a whole number, is 'x'" for number in range(5000)]


class Reactor(Clock):
    """A clock with links that are read when they are told to, and no sockets."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[Link] = []

    def addReader(self, link: Link) -> None:
        self.links.append(link)

    def removeReader(self, link: Link) -> None:
        self.links.remove(link)

    def listenUNIX(self, *_told: object, mode: int) -> Reactor:
        return self

    def stopListening(self) -> None:
        pass


class Gateway:
    def __init__(self) -> None:
        self.now = Figures()
        self.retired: list[socket.socket | None] = []

    def figures(self) -> Figures:
        return self.now

    async def reload_here(self, *, only_check: bool) -> None:
        raise ConfigError(PROBLEMS)

    def retire(self, successor: socket.socket | None) -> None:
        self.retired.append(successor)


class Told:
    """A worker with its supervisor's end of the link."""

    def __init__(self, folder: Path) -> None:
        self.end, theirs = pair()
        inherited = Inherited(index=1, count=2, generation=1, gateway="g", link=os.dup(theirs.fileno()), quotas=-1)
        theirs.close()
        self.clock = Reactor()
        self.gateway = Gateway()
        before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)]
        self.worker = Worker(inherited, self.clock, folder)
        self.worker.start(self.gateway, self.clock, {}, {})
        for number, handler in before:
            signal.signal(number, handler)

    def orders(self, message: dict[str, Any]) -> None:
        self.end.send(json.dumps(message).encode())
        self.clock.links[0].doRead()

    def heard(self) -> list[dict[str, Any]]:
        found = []
        while True:
            try:
                found.append(json.loads(self.end.recv(MAX_MESSAGE_BYTES)))
            except BlockingIOError:
                return found


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    made = Told(tmp_path)
    yield made
    made.worker._beating.stop()
    assert made.worker._link is not None
    made.worker._link.close()
    made.end.close()


def test_sign_of_life_is_given_though_the_last_reload_had_thousands_of_problems(told: Told) -> None:
    told.gateway.now = Figures(connections=7, configuration={"generation": 1, "last_reload": {"problems": PROBLEMS}})
    told.heard()
    told.clock.advance(BEAT_SECONDS)
    (said,) = told.heard()
    assert said["figures"]["connections"] == 7


def test_sign_of_life_is_given_though_the_figures_are_too_large(told: Told) -> None:
    told.gateway.now = Figures(links=PROBLEMS)
    told.heard()
    told.clock.advance(BEAT_SECONDS)
    assert told.heard() == [{}]


def test_reload_with_thousands_of_problems_is_answered_with_as_many_as_fit(told: Told) -> None:
    told.heard()
    told.orders({"do": "check-reload", "id": 3})
    (said,) = told.heard()
    assert said["answer"] == 3
    assert said["problems"][0] == PROBLEMS[0]
    assert f"{len(PROBLEMS) - len(said['problems']) + 1} more" in said["problems"][-1]


def test_process_that_has_no_room_for_the_way_to_its_successor_drains(told: Told) -> None:
    told.orders({"do": "retire"})
    assert told.gateway.retired == [None]


def test_place_whose_sockets_did_not_arrive_is_not_stood_in_for(told: Told) -> None:
    told.heard()
    told.orders({"do": "stand-in", "index": 0, "places": [["public", "tcp:0"]]})
    assert told.heard() == [{"not-stood-in": 0}]


def test_each_question_to_the_supervisor_has_a_number_of_its_own(told: Told) -> None:
    told.heard()
    asking = [Deferred.fromCoroutine(told.worker.ask("reload")) for _ in range(2)]
    numbers = [message["id"] for message in told.heard()]
    told.orders({"answered": numbers[0], "problems": []})
    asking.append(Deferred.fromCoroutine(told.worker.ask("reload")))
    numbers += [message["id"] for message in told.heard()]
    for number in numbers[1:]:
        told.orders({"answered": number, "problems": []})
    assert [each.called for each in asking] == [True] * 3


def test_question_without_an_answer_fails_with_an_error_that_says_so(told: Told) -> None:
    asking = Deferred.fromCoroutine(told.worker.ask("upgrade"))
    told.worker._beating.stop()
    told.clock.advance(ANSWER_SECONDS)
    failed: list[Failure] = []
    asking.addErrback(failed.append)
    assert failed[0].check(KatewayError)


def test_sockets_left_by_a_process_with_the_same_number_are_taken_away(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir(exist_ok=True)
    left = run / f"process-0-{os.getpid()}.sock"
    left.touch()
    lock = run / f"{left.name}.lock"
    lock.symlink_to(str(os.getpid()))
    Worker(Inherited(index=0, count=2, generation=1, gateway="g", link=-1, quotas=-1), Clock(), tmp_path)
    assert not left.exists()
    assert not lock.is_symlink()
