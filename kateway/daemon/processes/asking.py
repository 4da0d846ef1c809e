"""Asks the other processes of this host, over their UNIX sockets, for their part of an answer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import orjson
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.daemon.processes.peers import Peers
from kateway.errors import KatewayError
from kateway.observe.parts import PART_SECONDS, Parts

CONNECT_SECONDS = 2.0
SILENT_SECONDS = PART_SECONDS + 1.0
"""Beyond that a process, which gives a sign of life each second, would not answer in time either."""
MAX_QUESTION_BYTES = 65536
MAX_ANSWER_BYTES = 1 << 28

_log = Logger()
Answerer = Callable[[Any], Coroutine[Any, Any, Any]]
"""Makes the answer to a question with its arguments: bytes are JSON already."""


class Answering(Factory):
    """Answers questions: ``answerers`` by what is asked for. A question is a line of JSON, an answer is what comes
    until the end; one that is cut short is not JSON.
    """

    noisy = False

    def __init__(self, answerers: Mapping[str, Answerer]) -> None:
        self.answerers = answerers

    def buildProtocol(self, _address: Any) -> Protocol:
        return _Answer(self.answerers)


class _Answer(Protocol):
    def __init__(self, answerers: Mapping[str, Answerer]) -> None:
        self._answerers = answerers
        self._question = b""
        self._answer: Deferred[None] | None = None

    def dataReceived(self, data: bytes) -> None:
        self._question += data
        if self._answer is None and self._question.endswith(b"\n"):
            self._answer = Deferred.fromCoroutine(self._respond())
            self._answer.addErrback(self._failed)
        elif len(self._question) > MAX_QUESTION_BYTES:
            self._cut()

    def connectionLost(self, _reason: Failure = connectionDone) -> None:
        if self._answer is not None:
            self._answer.cancel()

    async def _respond(self) -> None:
        question = orjson.loads(self._question)
        answer = await self._answerers[question["ask"]](question.get("with"))
        assert self.transport is not None
        self.transport.write(answer if isinstance(answer, bytes) else orjson.dumps(answer))
        self.transport.loseConnection()

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if failure.check(KatewayError):
            _log.warn("a question of another process was not answered: {why}", why=failure.value)
        else:
            _log.failure("a question of another process was not answered", failure)
        self._cut()

    def _cut(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()


class _Asking(Protocol):
    def __init__(self) -> None:
        self.answered: Deferred[bytes] = Deferred()
        self._pieces: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size > MAX_ANSWER_BYTES:
            transport: Any = self.transport
            transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.answered.called:
            return
        if reason.check(ConnectionDone):
            self.answered.callback(b"".join(self._pieces))
        else:
            self.answered.errback(reason)


class Others:
    """Asks all other processes at once. ``count``: how many there are when all of them run."""

    def __init__(self, reactor: Any, peers: Peers, count: int) -> None:
        self._reactor = reactor
        self._peers = peers
        self._count = count

    @property
    def index(self) -> int | None:
        """This process's own."""
        return self._peers.index

    @property
    def absent(self) -> tuple[int, ...]:
        """The processes that do not serve, or have given no sign of life of late."""
        there = {peer.index for peer in self._peers.live if peer.silent_seconds <= SILENT_SECONDS}
        return tuple(index for index in range(self._count) if index not in there and index != self._peers.index)

    async def ask(self, what: str, arguments: Any = None, *, seconds: float = PART_SECONDS) -> Parts:
        """Returns the answers, and the processes that did not answer in time or do not serve."""
        others = self._peers.others
        found = await gatherResults(
            [Deferred.fromCoroutine(self._ask(peer.index, what, arguments, seconds)) for peer in others],
            consumeErrors=True,
        )
        answers = {peer.index: answer for peer, answer in zip(others, found, strict=True) if answer is not None}
        missing = [index for index in range(self._count) if index not in answers and index != self._peers.index]
        return Parts(answers, tuple(missing))

    async def _ask(self, index: int, what: str, arguments: Any, seconds: float) -> Any:
        path = self._peers.admin_path(index)
        factory = Factory.forProtocol(_Asking)
        factory.noisy = False
        try:
            endpoint = UNIXClientEndpoint(self._reactor, str(path), timeout=CONNECT_SECONDS)
            asking: Any = await endpoint.connect(factory)
            asking.transport.write(orjson.dumps({"ask": what, "with": arguments}) + b"\n")
            try:
                answer = await asking.answered.addTimeout(seconds, self._reactor)
            finally:
                asking.transport.abortConnection()
            return orjson.loads(answer)
        except CancelledError:
            raise
        except Exception as error:
            _log.warn("process {index} did not answer for {what}: {error}", index=index, what=what, error=error)
            return None


def free_path(path: Path) -> str:
    """Makes room for a socket: the one of an earlier process is taken away."""
    path.unlink(missing_ok=True)
    return str(path)
