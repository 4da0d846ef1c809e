"""Starts a process for one of the supervisor's places, and keeps what was last heard of it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.daemon.processes import settings_text
from kateway.daemon.processes.inherited import VARIABLE, Inherited, to_environment
from kateway.daemon.processes.link import Link, pair
from kateway.daemon.processes.peers import Figures, Peer, figures_from_table
from kateway.daemon.processes.stand_ins import Sockets

_log = Logger()
FIRST_DESCRIPTOR = 3


class Child(ProcessProtocol):
    """A running process. ``heard`` is called with each of its messages, ``ended`` when it is gone."""

    def __init__(
        self,
        reactor: Any,
        inherited: Inherited,
        sockets: Sockets,
        quotas: int,
        memories: Mapping[str, int],
        settings: int,
        command: Sequence[str],
        wall: Callable[[], float],
        heard: Callable[[Child, dict[str, Any]], None],
        ended: Callable[[Child], None],
    ) -> None:
        """Starts it; ``OSError`` where the system has no room for one more. ``settings`` is the memory
        with the configuration's text.
        """
        self._reactor = reactor
        self._heard = heard
        self._ended = ended
        self.index = inherited.index
        self.generation = inherited.generation
        self.began: float = reactor.seconds()
        self.started = wall()
        self.last_heard = self.began
        self.serves = False
        self.retiring = False
        self.killed = False
        self.reloads = 0
        """How many reloads had come into force when it read its configuration."""
        self.problems: list[str] = []
        """Why it could not start."""
        self.exit = ""
        self.figures = Figures()
        ours, theirs = pair()
        # 0 to 2 are as ours; the link and the quotas come first, the listeners behind them
        descriptors = {0: 0, 1: 1, 2: 2, FIRST_DESCRIPTOR: theirs.fileno(), FIRST_DESCRIPTOR + 1: quotas}
        shared: dict[str, int] = {}
        for name, memory in memories.items():
            shared[name] = len(descriptors)
            descriptors[shared[name]] = memory
        text = len(descriptors)
        descriptors[text] = settings
        places: dict[str, dict[str, int]] = {}
        for kind, by_endpoint in sockets.items():
            for endpoint, one in by_endpoint.items():
                number = len(descriptors)
                descriptors[number] = one.fileno()
                places.setdefault(kind, {})[endpoint] = number
        told = Inherited(
            index=inherited.index,
            count=inherited.count,
            generation=inherited.generation,
            gateway=inherited.gateway,
            began=inherited.began,
            link=FIRST_DESCRIPTOR,
            quotas=FIRST_DESCRIPTOR + 1,
            memories=shared,
            public=places.get("public", {}),
            admin=places.get("admin", {}),
            cluster=places.get("cluster", {}),
        )
        self.link = Link(reactor, ours, self._message, lambda: None)
        environment = {**os.environ, VARIABLE: to_environment(told), settings_text.VARIABLE: str(text)}
        try:
            self._process = reactor.spawnProcess(self, command[0], list(command), environment, childFDs=descriptors)
        except OSError:
            self.link.close()
            raise
        finally:
            theirs.close()
        self.pid: int = self._process.pid

    @property
    def able(self) -> bool:
        """Whether it serves, and is not about to end."""
        return self.serves and self.running and not self.killed and not self.retiring

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return not self.exit

    def peer(self) -> Peer:
        """What the others are told of it."""
        return Peer(
            index=self.index,
            pid=self.pid,
            generation=self.generation,
            started=self.started,
            silent_seconds=round(self._reactor.seconds() - self.last_heard, 3),
            figures=self.figures,
        )

    def signal(self, number: int) -> None:
        """Sends it a signal while it runs."""
        if self.running:
            os.kill(self.pid, number)

    def kill_hung(self, grace_seconds: float) -> None:
        """Has its stacks logged, and kills it."""
        if self.killed:
            return
        self.killed = True
        self.signal(signal.SIGUSR1)
        # a stopped one has the signal waiting, and runs its handler when it goes on
        self.signal(signal.SIGCONT)
        self._reactor.callLater(grace_seconds, self.signal, signal.SIGKILL)

    def _message(self, message: dict[str, Any], _descriptors: list[int]) -> None:
        self.last_heard = self._reactor.seconds()
        if "figures" in message:
            self.figures = figures_from_table(message["figures"])
        if "failed" in message:
            self.problems = [str(problem) for problem in message["failed"]]
        self._heard(self, message)

    # --- ProcessProtocol --------------------------------------------------------------------------------------------

    def processEnded(self, reason: Failure) -> None:
        """Called by the reactor when it is gone, and what it sent has been read."""
        if self.link.open:
            self.link.doRead()  # its last words may still wait
        self.link.close()
        error: Any = reason.value
        if isinstance(error, ProcessDone):
            self.exit = "ended"
        elif getattr(error, "signal", None):
            self.exit = f"was ended by {signal.Signals(error.signal).name}"
        else:
            self.exit = f"ended with exit code {getattr(error, 'exitCode', None)}"
        self._ended(self)


def own_command(arguments: Sequence[str] | None = None) -> list[str]:
    """The command that starts what is installed now with the options of this process's command line."""
    given = list(sys.argv if arguments is None else arguments)
    # behind the sub-command are kateway's own options; before it are twistd's, of which a process needs none
    options = given[given.index("kateway", 1) + 1 :]
    return [sys.executable, given[0], "-n", "--pidfile=", "--logfile=-", "kateway", *options]
