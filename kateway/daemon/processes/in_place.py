"""Upgrades a gateway of one process: it drains, and becomes what is installed now, under the same process number.

``exec`` keeps the sockets: clients that connect wait in the queue, and those that are connected wait for the answer to
their next request, for as long as the new code takes to start. The embedded store and all other files that only one
process may have are closed before. What is installed is checked first, with the new configuration, by a process of its
own: where that finds a fault nothing changes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import tcp
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from kateway.daemon.processes import settings_text
from kateway.daemon.processes.link import close_all
from kateway.daemon.processes.place import own_command
from kateway.daemon.processes.settings_text import settings_memory
from kateway.errors import ConfigError

VARIABLE = "_KATEWAY_IN_PLACE"

_log = Logger()


@attrs.frozen(kw_only=True)
class Kept:
    """What the code before has left: descriptors of listeners, by ``public`` or ``admin`` and their endpoints, and of
    connections; and what it was a member of.
    """

    generation: int = 1
    gateway: str = ""
    """The gateway's name, which stays."""
    memberships: list[Mapping[str, Any]] = attrs.field(factory=list)
    """Of groups that were not left."""
    listeners: dict[str, dict[str, int]] = attrs.field(factory=dict)
    connections: list[tuple[str, int]] = attrs.field(factory=list)

    def take(self, kind: str, endpoint: str) -> int | None:
        """Returns a listener's descriptor, once."""
        return self.listeners.get(kind, {}).pop(endpoint, None)

    def close_rest(self) -> None:
        """Closes the listeners that nothing has asked for: the configuration names them no more."""
        close_all([one for by_endpoint in self.listeners.values() for one in by_endpoint.values()])
        self.listeners.clear()


def take_kept(environ: MutableMapping[str, str]) -> Kept:
    """Returns what was left, which is nothing in a process that has just been started."""
    text = environ.pop(VARIABLE, None)
    if text is None:
        return Kept()
    table: dict[str, Any] = json.loads(text)
    return Kept(
        generation=table["generation"],
        gateway=table.get("gateway", ""),
        memberships=_read_rows(table.get("memberships_in", -1)),
        listeners=table["listeners"],
        connections=[(listener, descriptor) for listener, descriptor in table["connections"]],
    )


def _read_rows(descriptor: int) -> list[Mapping[str, Any]]:
    if descriptor < 0:
        return []
    text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    os.close(descriptor)
    rows: list[Mapping[str, Any]] = json.loads(text)
    return rows


class InPlace:
    """One upgrade, from its check to ``exec``. In the way of ``Successor`` it takes connections."""

    def __init__(self, reactor: Any, generation: int, gateway: str = "") -> None:
        """``generation`` is that of the code to come, ``gateway`` the name that it goes on under."""
        self._reactor = reactor
        self.generation = generation
        self._kept = Kept(generation=generation, gateway=gateway)
        self.clusters: frozenset[str] = frozenset()
        """Those whose memberships the code to come goes on with."""
        self._settings = -1
        self._ports: list[tcp.Port] = []
        self._ended = False

    async def check(self, timeout_seconds: float, text: str) -> None:
        """``ConfigError`` names every problem of what is installed and of its configuration, whose file has this
        ``text``: what is checked is what the new code starts with, whatever becomes of the file meanwhile.
        """
        if not {"-n", "--nodaemon", "-no"} & set(sys.argv):
            raise ConfigError(["a process in the background has no terminal or unit that waits: run twistd with -n"])
        pool = self._reactor.getThreadPool()
        settings = settings_memory(text)
        try:
            problems = await deferToThreadPool(self._reactor, pool, checked, own_command(), timeout_seconds, settings)
        except BaseException:
            os.close(settings)
            raise
        self._settings = settings
        if problems:
            self.give_up()
            raise ConfigError(problems)

    def keep_listeners(self, kind: str, endpoints: Iterable[str], ports: Iterable[IListeningPort]) -> None:
        """Keeps the sockets of ports, which can be closed from now on. Those of ``unix:`` are made again.
        ``ConfigError``: there is no room for more descriptors.
        """
        for endpoint, port in zip(endpoints, ports, strict=True):
            if isinstance(port, tcp.Port):
                try:
                    self._kept.listeners.setdefault(kind, {})[endpoint] = os.dup(port.fileno())
                except OSError as error:
                    raise ConfigError([f"the socket of {endpoint} cannot be kept: {error}"]) from error
                port._shouldShutdown = False
                self._ports.append(port)

    def give_up(self) -> None:
        """Closes what was kept: the code that runs goes on."""
        self._kept.close_rest()
        for port in self._ports:
            port._shouldShutdown = True
        self._ports.clear()
        os.close(self._settings)
        self._settings = -1

    def takes(self, listener: str) -> Callable[[int], bool]:
        """Returns what keeps a connection of ``public`` or ``admin``."""

        def take(descriptor: int) -> bool:
            try:
                self._kept.connections.append((listener, os.dup(descriptor)))
            except OSError:
                return False  # no room for more descriptors: it ends behind its answer
            return True

        return take

    async def give(self, membership: Mapping[str, Any]) -> bool:
        """Keeps a membership."""
        self._kept.memberships.append(membership)
        return True

    async def keep_from(self, key: Sequence[str]) -> None:
        """The code to come waits for none."""

    def close(self) -> None:
        """No more connections come; the rest happens when the reactor has stopped."""

    def start(self) -> None:
        """Stops the reactor, and then runs the new code, unless the process is told to end meanwhile."""
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            return  # it was told so a moment ago
        self._reactor.addSystemEventTrigger("after", "shutdown", self._execute)
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                # the reactor's own handler would stop it once more, and the new code would run all the same
                signal.signal(number, lambda *_: self.end())
            except ValueError:
                _log.debug("not the main thread: signals stay as they are")

    def end(self) -> None:
        """Has the process end when it has drained, as TERM does: the new code is not run."""
        self._ended = True

    def _execute(self) -> None:
        if self._ended:
            _log.info("the process was told to end while it drained: what is installed now is not started")
            return
        kept = self._kept
        # hundreds are more than a variable of the environment may hold
        memberships = settings_memory(json.dumps(kept.memberships))
        table = {**attrs.asdict(kept), "memberships_in": memberships}
        del table["memberships"]
        for descriptor in (
            *(one for by_endpoint in kept.listeners.values() for one in by_endpoint.values()),
            *(descriptor for _listener, descriptor in kept.connections),
            self._settings,
            memberships,
        ):
            os.set_inheritable(descriptor, True)
        _remove_pid_file(pid_file(sys.argv[1:]))
        sys.stdout.flush()
        sys.stderr.flush()
        environment = {
            **os.environ,
            VARIABLE: json.dumps(table),
            settings_text.VARIABLE: str(self._settings),
        }
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def pid_file(arguments: Sequence[str]) -> str:
    """Returns the file that twistd, with these arguments, has written its process number to; empty where none."""
    found = "twistd.pid"
    for place, argument in enumerate(arguments):
        if argument == "kateway":
            break
        if argument == "--pidfile":
            found = arguments[place + 1]
        elif argument.startswith("--pidfile="):
            found = argument.removeprefix("--pidfile=")
    return found


def _remove_pid_file(path: str) -> None:
    # twistd refuses to start where the file names a process that lives, and that is this one
    with suppress(OSError, ValueError):
        if path and int(Path(path).read_text()) == os.getpid():
            os.unlink(path)


def checked(command: list[str], timeout_seconds: float, settings: int) -> list[str]:
    """Has what is installed check the configuration, the text in ``settings``; names its problems. Blocks."""
    try:
        done = subprocess.run(
            [*command, "--check"],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_seconds,
            pass_fds=(settings,),
            env={**os.environ, settings_text.VARIABLE: str(settings)},
        )
    except subprocess.TimeoutExpired:
        return [
            f"checking what is installed took longer than {timeout_seconds:g} s: try again when the machine is less "
            "busy, or raise process.start_seconds"
        ]
    except OSError as error:
        return [f"what is installed cannot be run: {error}"]
    if done.returncode == 0:
        return []
    lines = [line.removeprefix("kateway: ") for line in done.stderr.splitlines() if line.startswith("kateway: ")]
    return lines or [f"what is installed cannot be run: {line}" for line in done.stderr.splitlines()[-1:]]
