"""A child process that cannot outlive the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

STANDSTILL_SECONDS = 10.0

# The kernel sends the death signal when the *thread* that made the child ends, so one thread that lives as long as
# the process makes all of them. The signal is set after the fork by a small program that then becomes the command:
# a preexec_fn is not safe, and warned of, in a process with threads.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
_LAUNCH = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None, use_errno=True).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() != int(sys.argv[1]):
    sys.exit("the tests ended before the server began")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Process:
    """One server process: its output goes to a file; it dies with the tests, however they end."""

    def __init__(
        self, command: Sequence[str], *, log: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        self.command = list(command)
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *command]

        def spawn() -> subprocess.Popen[bytes]:
            with log.open("ab") as output:
                # a session of its own: Ctrl-C reaches the tests, which then end it in good order
                return subprocess.Popen(
                    launch,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=env,
                    start_new_session=True,
                )

        self._child = _spawner.submit(spawn).result()
        self.pid = self._child.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._child.poll()

    def signal(self, number: int) -> None:
        if self._child.poll() is None:
            os.kill(self.pid, number)

    def freeze(self) -> None:
        """Stops it; returns when all its threads stand still. On a busy machine those of a JVM go on for a moment."""
        self.signal(signal.SIGSTOP)
        until = time.monotonic() + STANDSTILL_SECONDS
        tasks = Path(f"/proc/{self.pid}/task")
        while tasks.exists() and not all(map(_stands_still, tasks.iterdir())):
            assert time.monotonic() < until, f"process {self.pid} does not stand still"
            time.sleep(0.005)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._child.wait()

    def stop(self, timeout_seconds: float = 30.0) -> int:
        """Asks it to end (TERM) and gives its exit code; one that does not end is killed."""
        self.thaw()
        self.signal(signal.SIGTERM)
        return self.wait(timeout_seconds)

    def wait(self, timeout_seconds: float = 30.0) -> int:
        """Its exit code once it has ended; it is killed when it takes longer."""
        try:
            return self._child.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._child.wait()

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def wait_until(self, answers: Callable[[], bool], timeout_seconds: float = 60.0) -> None:
        """Blocks until ``answers()``; raises with the end of the log when the process ends or takes too long."""
        end = time.monotonic() + timeout_seconds
        while not answers():
            if self.exit_code is not None:
                raise RuntimeError(f"{self.command[0]} ended with {self.exit_code}:\n{self.output()[-4000:]}")
            if time.monotonic() > end:
                raise RuntimeError(f"{self.command[0]} did not answer in time:\n{self.output()[-4000:]}")
            time.sleep(0.05)


def _stands_still(task: Path) -> bool:
    """Whether a thread is stopped, or gone; its state is the first field behind the name in brackets (proc(5))."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0] in {"T", "t", "Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return True
