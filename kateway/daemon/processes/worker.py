"""Serves a supervisor as one of its processes: inherited listeners, signs of life, orders, questions."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
from collections.abc import Collection, Coroutine, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger

from kateway.cluster.interface import Place, process_name
from kateway.core.access.shared_readers import SharedReaders, row_of
from kateway.daemon.periodic import RegularWork
from kateway.daemon.processes.asking import Answerer, Answering, Others, free_path
from kateway.daemon.processes.inherited import READERS, Inherited
from kateway.daemon.processes.link import Link
from kateway.daemon.processes.listeners import Listeners
from kateway.daemon.processes.peers import (
    MOST_BRIEF_BYTES,
    MOST_PROBLEM_BYTES,
    Figures,
    Peers,
    fitting,
    peer_from_table,
)
from kateway.daemon.processes.receiving import GoesOn, Receiving
from kateway.daemon.processes.running import runs
from kateway.daemon.processes.shared_document import SharedDocument
from kateway.daemon.processes.together import health_of_all
from kateway.errors import ConfigError, KatewayError
from kateway.model import Health
from kateway.observe.process import cpu_seconds, resident_bytes
from kateway.observe.render import Labels, Samples
from kateway.observe.together import added_up
from kateway.web.site.health import PROCESSES
from kateway.web.tcp.proxied import ProxyRules
from kateway.web.tcp.tls import Certificate

BEAT_SECONDS = 1.0
INTRODUCED_SECONDS = 1.0
ANSWER_SECONDS = 120.0
"""How long the supervisor may take for what it is asked: a new generation has to start."""
RUN_DIRECTORY = "run"

_log = Logger()


class Gateway(Protocol):
    """The process's gateway, as orders need it."""

    def figures(self) -> Figures: ...
    @property
    def goes_on(self) -> GoesOn | None: ...
    async def reload_here(self, *, only_check: bool) -> None: ...
    def retire(self, successor: socket.socket | None) -> None: ...


class Worker:
    """One of several processes. ``data`` is the directory that all of them share."""

    def __init__(self, inherited: Inherited, reactor: Any, data: Path) -> None:
        self.inherited = inherited
        self.index = inherited.index
        run = data / RUN_DIRECTORY
        run.mkdir(mode=0o700, parents=True, exist_ok=True)
        _forget_ended(run)
        self.peers = Peers(run, inherited.index, inherited.generation)
        readers = inherited.memories.get(READERS)
        self.readers = (
            None
            if readers is None
            else SharedReaders(readers, inherited.count, row_of(self.index, inherited.generation)).of
        )
        """Finds the count of an application's readers, which all processes share."""
        self._reactor = reactor
        self._gateway: Gateway | None = None
        self._link: Link | None = None
        self._beating = RegularWork(reactor)
        self._asked: dict[int, Deferred[dict[str, Any]]] = {}
        self._numbers = count(1)
        self._receiving: Receiving | None = None
        self._factories: Mapping[str, IProtocolFactory] = {}
        self._listeners = Listeners(reactor)
        self._ports: list[Any] = []
        """Its own."""
        self._holds_back = False
        self.others = Others(reactor, self.peers, inherited.count)
        """Whom to ask for their part of an answer."""
        self._answering: Any = None
        self._introduced: Deferred[None] = Deferred()

    def start(
        self,
        gateway: Gateway,
        reactor: Any,
        factories: Mapping[str, IProtocolFactory],
        answerers: Mapping[str, Answerer],
    ) -> None:
        """Takes orders and questions from now on; ``factories`` are those of connections which a predecessor hands
        over, by their listeners, ``answerers`` give this process's part of an answer.
        """
        self._gateway = gateway
        self._factories = factories
        # the stacks of a process that hangs are logged by C code: it need not come to its reactor for that
        faulthandler.register(signal.SIGUSR1, file=sys.__stderr__ or sys.stderr, all_threads=True, chain=False)
        # a terminal's Ctrl-C and a hang-up go to every process of its group: what follows is the supervisor's to say
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        end = socket.socket(fileno=self.inherited.link)
        os.set_inheritable(self.inherited.link, False)
        self._link = Link(self._reactor, end, self._message, self._orphaned)
        self._beating.every(BEAT_SECONDS, self._beat)
        path = free_path(self.peers.admin_path(self.index))
        self._answering = reactor.listenUNIX(path, Answering(answerers), mode=0o600)

    def listen(
        self,
        kind: str,
        factory: IProtocolFactory,
        certificates: list[Certificate],
        rules: ProxyRules | None = None,
    ) -> list[IListeningPort]:
        """Listens on the inherited sockets, of ``public``, ``admin`` or ``cluster``; ``certificates`` has those in
        use.
        """
        places: Mapping[str, int] = getattr(self.inherited, kind)
        ports = self._listeners.listen(kind, places, factory, certificates, rules)
        self._ports += ports
        if self._holds_back:
            self._pause()
        return ports

    def hold_back(self) -> None:
        """Accepts nothing yet where a process that this one is to replace still serves: it does so from the same
        sockets until all of the new generation are ready. A reader that came here before would be sent there, or would
        have this process join its group beside the other.
        """
        self._holds_back = self.peers.replaces
        if self._holds_back:
            self._pause()

    def _pause(self) -> None:
        for port in self._ports:
            port.stopReading()

    def _accept(self) -> None:
        if self._holds_back:
            self._holds_back = False
            for port in self._ports:
                port.startReading()

    async def stop_listening(self) -> None:
        """Accepts no more in the place of another process."""
        await self._listeners.stop()

    @property
    def successor_name(self) -> str:
        """What the process that replaces this one is called among all gateways; this one's own where none does."""
        pids = (peer.pid for peer in self.peers.live if peer.index == self.index)
        return process_name(Place(self.inherited.gateway, self.index, next(pids, os.getpid())))

    def shared(self, name: str) -> SharedDocument | None:
        """A document that all processes share."""
        descriptor = self.inherited.memories.get(name)
        return None if descriptor is None else SharedDocument(descriptor)

    async def introduced(self) -> None:
        """Waits until the supervisor has said which processes there are, for a moment at most."""
        with suppress(TookTooLong):
            await self._introduced.addTimeout(INTRODUCED_SECONDS, self._reactor)

    def serves(self) -> None:
        """Tells the supervisor that requests are answered."""
        self._tell_figures()
        self._send({"serving": True})

    def failed(self, problems: list[str]) -> None:
        """Tells the supervisor why this process cannot start."""
        self._send({"failed": fitting(problems, MOST_PROBLEM_BYTES)})

    async def stop(self) -> None:
        """Ends what belongs to a running process; the supervisor gives one that still runs its time."""
        self._beating.stop()
        if self._link is not None:
            self._link.close()
        if self._receiving is not None:
            self._receiving.close()
        if self._answering is not None:
            # else the reactor would end before the port has taken its socket away
            await maybeDeferred(self._answering.stopListening)

    async def add_figures(self, own: Samples, members: Collection[Labels]) -> Samples:
        """This process's figures with those of all others; ``members``: groups that it is a member of."""
        parts = await self.others.ask("figures")
        return added_up(self.index, own, parts.by_process, parts.unanswered, members)

    def health_of_all(self, own: Mapping[str, Health]) -> dict[str, Health]:
        """The health of the gateway's parts, of which this process sees ``own``."""
        found = health_of_all(own, (peer.figures for peer in self.peers.others))
        if self.peers.missing:
            told = "; ".join(f"process {index}: {why}" for index, why in sorted(self.peers.missing.items()))
            found[PROCESSES] = Health(False, f"{told}; others answer in its place, and it is started again")
        return found

    async def ask(self, what: str) -> dict[str, Any]:
        """Has the supervisor do something for all processes. ``ConfigError`` names every problem."""
        number = next(self._numbers)
        deferred: Deferred[dict[str, Any]] = Deferred()
        self._asked[number] = deferred
        try:
            if not self._send({"ask": what, "id": number}):
                raise KatewayError("the supervisor of the processes does not answer")
            answered = await deferred.addTimeout(ANSWER_SECONDS, self._reactor)
        except TookTooLong as error:
            raise KatewayError(
                f"the supervisor of the processes has not answered within {ANSWER_SECONDS:g} s; its log says more"
            ) from error
        finally:
            self._asked.pop(number, None)
        if answered["problems"]:
            raise ConfigError(answered["problems"])
        return answered

    def _send(self, message: dict[str, Any]) -> bool:
        return self._link is not None and self._link.send(message)

    async def _beat(self) -> None:
        try:
            self._tell_figures()
        except Exception:
            self._send({})  # a sign of life all the same
            raise

    def _tell_figures(self) -> None:
        figures = Figures() if self._gateway is None else self._gateway.figures()
        figures = attrs.evolve(
            figures,
            configuration=_brief(figures.configuration),
            cpu_seconds=cpu_seconds(),
            resident_bytes=resident_bytes(),
        )
        if not self._send({"figures": attrs.asdict(figures)}):
            self._send({})  # else the supervisor would kill it as one that hangs

    def _orphaned(self) -> None:
        _log.error("the supervisor is gone: this process ends")
        self._beating.stop()
        self._reactor.stop()

    def _message(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if "peers" in message:
            self.peers.take(peer_from_table(table) for table in message["peers"])
            self.peers.missing = {int(index): why for index, why in message["missing"].items()}
            if not self._introduced.called:
                self._introduced.callback(None)
            if self.peers.in_place:
                self._accept()
        if "answered" in message:
            waiting = self._asked.get(message["answered"])
            if waiting is not None and not waiting.called:
                waiting.callback(message)
        order = message.get("do")
        gateway = self._gateway
        assert gateway is not None
        if order == "take" and descriptors:
            end = socket.socket(fileno=descriptors.pop())
            self._receiving = Receiving(self._reactor, end, self._factories, gateway.goes_on)
            self._accept()
        elif order == "retire":
            # without the way to its successor, for which this process had no room, connections end behind an answer
            gateway.retire(socket.socket(fileno=descriptors.pop()) if descriptors else None)
        elif order == "stand-in":
            places = [(kind, endpoint) for kind, endpoint in message["places"]]
            if not self._listeners.stand_in(message["index"], places, descriptors):
                self._send({"not-stood-in": message["index"]})
        elif order == "stand-down":
            Deferred.fromCoroutine(self._listeners.stand_down(message["index"]))
        elif order in {"check-reload", "reload"}:
            work = gateway.reload_here(only_check=order == "check-reload")
            Deferred.fromCoroutine(self._answer(message["id"], work))

    async def _answer(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except CancelledError:
            raise
        except ConfigError as error:
            problems = list(error.problems)
        except KatewayError as error:
            problems = [str(error)]
        except Exception as error:
            _log.failure("an order of the supervisor failed")
            problems = [repr(error)]
        else:
            problems = []
        self._send({"answer": number, "problems": fitting(problems, MOST_PROBLEM_BYTES)})


def _brief(configuration: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of the configuration as the other processes are told it every second."""
    last = configuration.get("last_reload")
    if not last:
        return configuration
    return {**configuration, "last_reload": {**last, "problems": fitting(last["problems"], MOST_BRIEF_BYTES)}}


def _forget_ended(run: Path) -> None:
    """Takes the sockets of processes away that were killed, and the locks of these: their names have the process's
    number. One with this process's number was another's: in a container the numbers are the same after each start.
    """
    for path in run.glob("*-*-*.sock*"):
        number = path.name.partition(".")[0].rpartition("-")[2]
        if not number.isdecimal() or int(number) == os.getpid() or not runs(int(number)):
            path.unlink(missing_ok=True)
