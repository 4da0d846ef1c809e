"""Starts equal processes that share the listeners, replaces those that end or hang, and has all of them reload, drain
or give way to a new generation. It has no connection of its own: to no client, no Kafka, no registry.
"""

from __future__ import annotations

import atexit
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, gatherResults
from twisted.logger import ILogObserver, Logger

from kateway.config.schema import Config
from kateway.core.access import shared_readers
from kateway.core.access.shared_rates import shared_memory
from kateway.core.access.shared_readers import SharedReaders, row_of
from kateway.daemon import logs
from kateway.daemon.periodic import RegularWork
from kateway.daemon.processes import shared_document
from kateway.daemon.processes.inherited import DOCUMENTS, READERS, Inherited, members_of
from kateway.daemon.processes.link import MAX_MESSAGE_BYTES, pair
from kateway.daemon.processes.notify import READY, STOPPING, notify
from kateway.daemon.processes.peers import MOST_BRIEF_BYTES, MOST_PROBLEM_BYTES, encode, fitting, peer_table
from kateway.daemon.processes.place import Child, own_command
from kateway.daemon.processes.plan import process_count
from kateway.daemon.processes.restarts import FIRST_PAUSE_SECONDS, Restarts
from kateway.daemon.processes.settings_text import settings_memory
from kateway.daemon.processes.stand_ins import Sockets, StandIns
from kateway.errors import ConfigError, Problems
from kateway.web.tcp.shared_sockets import listening_sockets

LOOK_SECONDS = 0.5
STACKS_SECONDS = 0.5
"""How long a process that hangs has for logging its stacks before it is killed."""
KILL_SECONDS = 5.0
"""Beyond the drain time, until a process that does not end is killed."""
ANSWERED_SECONDS = 0.1
"""A drain that is asked for by a call begins behind the call's answer."""
ANSWER_SECONDS = 30.0
"""How long a process may take to say whether it can reload."""

_log = Logger()


class Supervisor(Service):
    """The service of a gateway with several processes. ``reread`` gives the configuration as it is now in its file,
    ``text`` the file as it was last read without a fault.
    """

    name = "kateway"

    def __init__(
        self,
        settings: Config,
        reactor: Any,
        reread: Callable[[], Config],
        text: Callable[[], str],
        command: Callable[[], list[str]] = own_command,
    ) -> None:
        self.settings = settings
        self._reactor = reactor
        self._reread = reread
        self._text = text
        self._command = command
        self._count = process_count(settings)
        self._gateway = f"gateway-{secrets.token_hex(6)}"
        self._began = time.time()
        self._generation = 1
        self._sockets: list[Sockets] = []
        """By index; ``admin`` is the first one's."""
        self._current: dict[int, Child] = {}
        self._all: set[Child] = set()
        self._restarts = [Restarts(settings.process.max_restart_pause_seconds) for _ in range(self._count)]
        self._stopping = False
        self._was_up = False
        self._looked = 0.0
        self._looking = RegularWork(reactor)
        self._one_at_a_time = DeferredLock()
        self._answers: dict[int, tuple[Child, Deferred[list[str]]]] = {}
        self._asked = 0
        self._ended: dict[Child, list[Deferred[None]]] = {}
        self._serving: dict[Child, Deferred[list[str]]] = {}
        self._quotas = -1
        self._memories: dict[str, int] = {}
        """What the processes share beside the quotas' rates, by its name."""
        self._readers: SharedReaders | None = None
        self._settings = -1
        """The text of the configuration in force, in which a successor starts."""
        self._stand_ins = StandIns(())
        self._reloads = 0
        """How many have come into force."""
        self._missing: dict[int, str] = {}
        """Why the process of a place does not serve, where it did."""

    # --- starting ---------------------------------------------------------------------------------------------------

    def setServiceParent(self, parent: Any) -> None:
        parent.setComponent(ILogObserver, logs.observer(self.settings.log.format, "supervisor"))
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        try:
            self._listen()
        except ConfigError as error:
            self._cannot_start(error.problems)
            return
        tracked = self.settings.quotas.max_tracked
        self._quotas = shared_memory(tracked)
        self._memories = {
            READERS: shared_readers.shared_memory(tracked, self._count),
            **{
                name: shared_document.shared_memory(name) for name in (*DOCUMENTS, *map(members_of, range(self._count)))
            },
        }
        self._readers = SharedReaders(self._memories[READERS], self._count, 0)
        self._settings = settings_memory(self._text())
        self._stand_ins = StandIns(self._sockets)
        try:
            for index in range(self._count):
                self._current[index] = self._spawn(index, self._generation, self._settings)
        except OSError as error:
            self._stopping = True
            self._cannot_start([_not_started(error)])
            return
        self._looked = self._reactor.seconds()
        self._looking.every(LOOK_SECONDS, self._look)
        for number, do in ((signal.SIGHUP, self.reload), (signal.SIGUSR2, self.upgrade)):
            self._on_signal(number, do)

    def _listen(self) -> None:
        problems = Problems()
        self._sockets = [{"public": {}, "admin": {}, "cluster": {}} for _ in range(self._count)]
        for kind, endpoints, count in (
            ("public", self.settings.http.public, self._count),
            ("admin", self.settings.http.admin, 1),
            # a link comes to any of them, which passes it through to the one that it is meant for
            ("cluster", [endpoint] if (endpoint := self.settings.cluster.endpoint) else [], self._count),
        ):
            for endpoint in endpoints:
                made = problems.take(listening_sockets, endpoint, count) or []
                for index, one in enumerate(made):
                    self._sockets[index][kind][endpoint] = one
        problems.refuse()

    def _on_signal(self, number: int, do: Callable[[], Deferred[list[str]]]) -> None:
        def caught(*_args: object) -> None:
            self._reactor.callFromThread(do)

        try:
            signal.signal(number, caught)
        except ValueError:
            _log.debug("not the main thread: signals stay as they are")

    def _spawn(self, index: int, generation: int, settings: int) -> Child:
        """Starts a process with the text in ``settings``. ``OSError``: the system has no room for one more."""
        child = Child(
            self._reactor,
            Inherited(
                index=index,
                count=self._count,
                generation=generation,
                gateway=self._gateway,
                began=self._began,
                link=0,
                quotas=0,
            ),
            self._sockets[index],
            self._quotas,
            self._memories,
            settings,
            self._command(),
            time.time,
            self._heard,
            self._has_ended,
        )
        child.reloads = self._reloads
        self._all.add(child)
        _log.info(
            "process {index} of generation {generation} is started: {pid}",
            index=index,
            generation=generation,
            pid=child.pid,
        )
        # it finds the message when it comes to it: what it takes over from the others is asked before it serves
        self._tell_peers()
        return child

    def _cannot_start(self, problems: list[str]) -> None:
        for problem in problems:
            _log.critical("kateway cannot start: {problem}", problem=problem)
        atexit.register(_exit_with_failure)
        self._reactor.callWhenRunning(self._reactor.stop)

    # --- the processes ----------------------------------------------------------------------------------------------

    def _heard(self, child: Child, message: Mapping[str, Any]) -> None:
        if message.get("serving") and not child.serves:
            child.serves = True
            self._missing.pop(child.index, None)
            waiting = self._serving.pop(child, None)
            if waiting is not None:
                waiting.callback([])
            self._tell_peers()
            self._arrange()
            self._catch_up(child)
            if not self._was_up and all(each.serves for each in self._current.values()):
                self._was_up = True
                _log.info("all {count} processes serve", count=self._count)
                notify(READY)
        if "answer" in message:
            _asked, answer = self._answers.pop(message["answer"], (None, None))
            if answer is not None:
                answer.callback([str(problem) for problem in message.get("problems", [])])
        if "not-stood-in" in message:
            self._stand_ins.failed(message["not-stood-in"], child)
        if message.get("ask") == "drain":
            # answered before: the process that asks is one of those that end
            child.link.send({"answered": message["id"], "problems": [], "generation": self._generation})
            self._reactor.callLater(ANSWERED_SECONDS, self._reactor.stop)
        elif "ask" in message:
            do = {"reload": self.reload, "upgrade": self.upgrade}.get(message["ask"])
            if do is not None:
                do().addCallback(self._answer, child, message["id"])

    def _answer(self, problems: list[str], child: Child, number: int) -> list[str]:
        told = fitting(problems, MOST_PROBLEM_BYTES)
        child.link.send({"answered": number, "problems": told, "generation": self._generation})
        return problems

    async def _look(self) -> None:
        now = self._reactor.seconds()
        late = now - self._looked > self.settings.process.hang_seconds / 2
        self._looked = now
        for child in tuple(self._all):
            if late:
                # we did not run ourselves: what the processes have sent is not read yet
                child.last_heard = now
            elif child.serves and now - child.last_heard > self.settings.process.hang_seconds:
                if not child.killed:
                    _log.error(
                        "process {index} ({pid}) gives no sign of life for {seconds:.1f} s: it is killed",
                        index=child.index,
                        pid=child.pid,
                        seconds=now - child.last_heard,
                    )
                child.kill_hung(STACKS_SECONDS)
            elif not child.serves and now - child.began > self.settings.process.start_seconds and not child.killed:
                child.problems = [f"it did not serve within {self.settings.process.start_seconds:g} s"]
                child.kill_hung(STACKS_SECONDS)
        self._tell_peers()
        self._arrange()

    def _arrange(self) -> None:
        if self._was_up and not self._stopping:
            self._stand_ins.arrange(self._current)

    def _tell_peers(self) -> None:
        serving = [child.peer() for child in self._current.values() if child.serves]
        message = {"peers": [peer_table(peer) for peer in serving], "missing": self._missing}
        if len(encode(message)) > MAX_MESSAGE_BYTES:
            # of hundreds of processes that have links to hundreds of gateways
            message["peers"] = [peer_table(peer, brief=True) for peer in serving]
        for child in self._all:
            child.link.send(message)

    def _has_ended(self, child: Child) -> None:
        self._all.discard(child)
        if self._readers is not None:
            self._readers.clear(row_of(child.index, child.generation))
        for deferred in self._ended.pop(child, []):
            deferred.callback(None)
        for number, (asked, answer) in list(self._answers.items()):
            if asked is child:
                # its successor starts with what is in force by then
                del self._answers[number]
                answer.callback([])
        waiting = self._serving.pop(child, None)
        if waiting is not None:
            why = child.problems or [f"it {child.exit} before it served; the log says more"]
            waiting.callback([f"process {child.index}: {problem}" for problem in why])
        expected = self._stopping or child.retiring or self._current.get(child.index) is not child
        say = _log.info if expected else _log.error
        say("process {index} ({pid}) {exit}", index=child.index, pid=child.pid, exit=child.exit)
        if expected:
            return
        del self._current[child.index]
        self._missing[child.index] = "; ".join([f"it {child.exit}", *fitting(child.problems, MOST_BRIEF_BYTES)])
        self._tell_peers()
        self._arrange()
        if not self._was_up:
            self._stopping = True
            self._cannot_start(child.problems or [f"process {child.index} {child.exit} before it served"])
            return
        pause = self._restarts[child.index].pause(self._reactor.seconds() - child.began)
        if pause:
            _log.warn(
                "process {index} ends again and again: its successor is started in {pause:g} s; {why}",
                index=child.index,
                pause=pause,
                why=self._missing[child.index],
            )
        self._reactor.callLater(pause, self._replace, child.index)

    def _replace(self, index: int) -> None:
        if self._stopping or index in self._current:
            return
        try:
            # also while an upgrade is tried: its generation has processes of its own
            self._current[index] = self._spawn(index, self._generation, self._settings)
        except OSError as error:
            pause = max(self._restarts[index].pause(0.0), FIRST_PAUSE_SECONDS)
            self._missing[index] = _not_started(error)
            _log.error(
                "process {index}: {why}; it is tried again in {pause:g} s",
                index=index,
                why=self._missing[index],
                pause=pause,
            )
            self._reactor.callLater(pause, self._replace, index)

    # --- all at once ------------------------------------------------------------------------------------------------

    def _ask(self, child: Child, do: str) -> Deferred[list[str]]:
        """Has a process do something; fires with the problems that it names."""
        self._asked += 1
        number = self._asked
        deferred: Deferred[list[str]] = Deferred()
        self._answers[number] = child, deferred
        deferred.addTimeout(ANSWER_SECONDS, self._reactor)

        def silent(_failure: object) -> list[str]:
            self._answers.pop(number, None)
            return ["it has not answered"]

        deferred.addErrback(silent)
        child.link.send({"do": do, "id": number})
        return deferred.addCallback(lambda found: [f"process {child.index}: {problem}" for problem in found])

    async def _ask_all(self, children: Sequence[Child], do: str) -> list[str]:
        found = await gatherResults([self._ask(child, do) for child in children])
        # each names the same faults of the same file
        return list(dict.fromkeys(problem.partition(": ")[2] for problems in found for problem in problems))

    def reload(self) -> Deferred[list[str]]:
        """Has every process reload, all or nothing; fires with every problem."""
        return self._one_at_a_time.run(lambda: Deferred.fromCoroutine(_told(self._reload())))

    async def _reload(self) -> list[str]:
        problems = await self._ask_all(self._that_serve(), "check-reload")
        if not problems:
            children = self._that_serve()
            problems = await self._ask_all(children, "reload")
            if not problems:
                self._keep_text()
                self._reloads += 1
                for child in children:
                    child.reloads = self._reloads
                for child in self._that_serve():
                    self._catch_up(child)
        for problem in problems:
            _log.warn("nothing was reloaded: {problem}", problem=problem)
        return problems

    def _that_serve(self) -> list[Child]:
        return [child for child in self._current.values() if child.serves]

    def _catch_up(self, child: Child) -> None:
        """Has a process reload that was still starting, with the text before, when the others did. Where it cannot, for
        the file was broken since, its successor starts with what is in force.
        """
        if child.reloads == self._reloads:
            return
        child.reloads = self._reloads

        def reloaded(problems: list[str]) -> None:
            for problem in problems:
                _log.warn("{problem}: it is started again", problem=problem)
            if problems:
                child.signal(signal.SIGTERM)

        self._ask(child, "reload").addCallback(reloaded)

    def _keep_text(self) -> None:
        """Keeps the text that has come into force, for a successor."""
        try:
            self._reread()
        except ConfigError:
            return  # it was changed again, and is not in force
        former, self._settings = self._settings, settings_memory(self._text())
        os.close(former)

    def upgrade(self) -> Deferred[list[str]]:
        """Has a new generation take over; fires with the problems that keep it from that."""
        return self._one_at_a_time.run(lambda: Deferred.fromCoroutine(_told(self._upgrade())))

    async def _upgrade(self) -> list[str]:
        # those of the last upgrade may still have streams to hand over, to the generation that would retire now; those
        # of one that failed have the number, and with it the counters of readers, that this one will have
        others = self._all.difference(self._current.values())
        await gatherResults([self._until_ended(child) for child in others])
        problems = Problems()
        settings = problems.take(self._reread)
        if settings is not None:
            problems.found += [
                f"{option}: cannot change with an upgrade; restart the gateway"
                for option, before, after in (
                    ("process.count", self._count, process_count(settings)),
                    ("http.public", self.settings.http.public, settings.http.public),
                    ("http.admin", self.settings.http.admin, settings.http.admin),
                    ("cluster.endpoint", self.settings.cluster.endpoint, settings.cluster.endpoint),
                )
                if before != after
            ]
        if self._stopping:
            problems.found.append("the gateway is stopping")
        if settings is None or problems.found:
            return self._not_upgraded(problems.found)
        successors: list[Child] = []
        try:
            text = settings_memory(self._text())
        except OSError as error:
            return self._not_upgraded([_not_started(error)])
        try:
            found = await self._start_all(successors, text)
        except BaseException:
            self._end_all(successors, text)
            raise
        if found or self._stopping:
            self._end_all(successors, text)
            return self._not_upgraded(found)
        os.close(self._settings)
        self._settings = text
        self._generation += 1
        self.settings = settings
        for child in successors:
            before = self._current.get(child.index)
            self._current[child.index] = child
            self._missing.pop(child.index, None)
            if before is not None:
                _hand_over(before, child)
                patience = settings.http.drain_seconds + KILL_SECONDS
                self._reactor.callLater(patience, before.signal, signal.SIGKILL)
        self._tell_peers()
        _log.info("generation {generation} serves", generation=self._generation)
        return []

    async def _start_all(self, successors: list[Child], settings: int) -> list[str]:
        """Starts the next generation, and waits until it serves; gives the problems that keep it from that."""
        outcomes: list[Deferred[list[str]]] = []
        for index in range(self._count):
            try:
                child = self._spawn(index, self._generation + 1, settings)
            except OSError as error:
                return [f"process {index}: {_not_started(error)}"]
            successors.append(child)
            outcomes.append(Deferred())
            self._serving[child] = outcomes[-1]
        found = [problem for one in await gatherResults(outcomes) for problem in one]
        # one that served may have ended while the others started
        return found or [f"process {child.index}: it {child.exit}" for child in successors if not child.running]

    def _end_all(self, successors: list[Child], settings: int) -> None:
        """Ends a generation that cannot take over."""
        os.close(settings)
        for child in successors:
            child.signal(signal.SIGTERM)
            self._reactor.callLater(KILL_SECONDS, child.signal, signal.SIGKILL)

    def _not_upgraded(self, problems: list[str]) -> list[str]:
        for problem in problems:
            _log.error("nothing was upgraded: {problem}", problem=problem)
        return problems

    # --- stopping ---------------------------------------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._stopping = True
        notify(STOPPING)
        self._looking.stop()
        http = self.settings.http
        children = tuple(self._all)
        gone = [self._until_ended(child) for child in children]
        # first: each process accepts once more right before it closes its own, which then has to be the last
        for by_kind in self._sockets:
            for by_endpoint in by_kind.values():
                for one in by_endpoint.values():
                    one.close()
        for child in children:
            child.signal(signal.SIGTERM)
        try:
            await gatherResults(gone).addTimeout(http.drain_seconds + KILL_SECONDS, self._reactor)
        except CancelledError:
            raise
        except Exception:
            for child in tuple(self._all):
                child.signal(signal.SIGKILL)
            await gatherResults([self._until_ended(child) for child in tuple(self._all)])
        for call in self._reactor.getDelayedCalls():
            if call.func == self._replace:
                call.cancel()
        if self._quotas >= 0:
            for descriptor in (self._quotas, self._settings, *self._memories.values()):
                os.close(descriptor)
            self._quotas = -1
        _log.info("all processes have ended")

    def _until_ended(self, child: Child) -> Deferred[None]:
        deferred: Deferred[None] = Deferred()
        self._ended.setdefault(child, []).append(deferred)
        return deferred


async def _told(work: Coroutine[Any, Any, list[str]]) -> list[str]:
    """Does what was asked for; a fault of ours is a problem that is told as any, so that each question is answered."""
    try:
        return await work
    except CancelledError:
        raise
    except Exception as error:
        _log.failure("what was asked of the supervisor failed")
        return [f"the supervisor failed; its log says more: {error!r}"]


def _not_started(error: OSError) -> str:
    return f"cannot be started: {error.strerror or error}; see the limits of processes, memory and open files"


def _hand_over(before: Child, child: Child) -> None:
    """Has a process give its connections to its successor; where it cannot be told to, it drains."""
    before.retiring = True
    try:
        ours, theirs = pair()
    except OSError:
        before.signal(signal.SIGTERM)
        return
    with ours, theirs:
        told = child.link.send({"do": "take"}, [theirs.fileno()])
        if not (told and before.link.send({"do": "retire"}, [ours.fileno()])):
            before.signal(signal.SIGTERM)


def _exit_with_failure() -> None:
    sys.stdout.flush()
    os._exit(1)
