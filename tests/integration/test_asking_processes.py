"""A process asks the others over their real sockets, and names those that do not answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import LogEvent, globalLogPublisher

from kateway.daemon.processes.asking import SILENT_SECONDS, Answering, Others
from kateway.daemon.processes.peers import Peer, Peers
from kateway.errors import NotFound

here = pytest_twisted.ensureDeferred
PIDS = {1: 1001, 2: 1002, 3: 1003}
SOON = 0.2
"""Seconds that an answer is waited for."""


async def answered(arguments: Any) -> dict[str, Any]:
    return {"you said": arguments}


async def plain(_arguments: Any) -> bytes:
    return b'{"bytes":"are JSON already"}'


async def refused(_arguments: Any) -> None:
    raise NotFound("there is no such thing here")


def never(given_up: Deferred[None]) -> Callable[[Any], Any]:
    """Takes for ever, and notes when it is given up."""

    async def wait(_arguments: Any) -> None:
        await Deferred(lambda _: given_up.callback(None))

    return wait


@pytest_twisted.async_yield_fixture()
async def asked(tmp_path: Path) -> AsyncIterator[tuple[Others, Deferred[None]]]:
    """Process 0 of five. 1 answers, 2 takes for ever, 3 is hung and has no socket, 4 does not serve."""
    given_up: Deferred[None] = Deferred()
    peers = Peers(tmp_path, 0, 1)
    silent = {3: SILENT_SECONDS + 1}
    peers.take(
        [Peer(index=index, pid=pid, generation=1, silent_seconds=silent.get(index, 0.0)) for index, pid in PIDS.items()]
    )
    clock: Any = reactor
    ports = [
        clock.listenUNIX(
            str(peers.admin_path(index)),
            Answering({"question": answer, "plain": plain, "refused": refused}),
        )
        for index, answer in ((1, answered), (2, never(given_up)))
    ]
    yield Others(reactor, peers, 5), given_up
    for port in ports:
        await maybeDeferred(port.stopListening)


@pytest.fixture
def warnings() -> Any:
    found: list[LogEvent] = []

    def note(event: LogEvent) -> None:
        if "did not answer" in str(event.get("log_format")):
            found.append(event)

    globalLogPublisher.addObserver(note)
    yield found
    globalLogPublisher.removeObserver(note)


@here
async def test_processes_without_an_answer_in_time_are_named_and_the_others_told(
    asked: tuple[Others, Deferred[None]], warnings: list[LogEvent]
) -> None:
    others, given_up = asked
    parts = await others.ask("question", ["a", 1], seconds=SOON)
    assert parts.by_process == {1: {"you said": ["a", 1]}}
    assert parts.unanswered == (2, 3, 4)
    assert sorted(event["index"] for event in warnings) == [2, 3]
    # the one that was asked gives the work up
    await given_up


@here
async def test_answer_of_bytes_is_taken_as_it_is(asked: tuple[Others, Deferred[None]]) -> None:
    others, _ = asked
    parts = await others.ask("plain", seconds=SOON)
    assert parts.by_process == {index: {"bytes": "are JSON already"} for index in (1, 2)}


@here
async def test_hung_and_missing_processes_are_absent_before_they_are_asked(
    asked: tuple[Others, Deferred[None]],
) -> None:
    others, _ = asked
    assert others.absent == (3, 4)
    assert others.index == 0


@here
async def test_question_that_is_refused_there_is_not_answered(
    asked: tuple[Others, Deferred[None]], warnings: list[LogEvent]
) -> None:
    others, _ = asked
    parts = await others.ask("refused", seconds=SOON)
    assert parts.by_process == {}
    assert parts.unanswered == (1, 2, 3, 4)
    assert len(warnings) == 3
