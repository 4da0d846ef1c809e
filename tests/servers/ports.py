"""Holds TCP ports for servers that must know theirs before they start, each given only once on the machine.

A port comes from below the range that the kernel gives to outgoing connections, and is held until this process ends:
by a lock on that byte of one file, so neither this test run nor another beside it gets it again. A server that is down
for a while therefore finds its port free when it comes back.
"""

from __future__ import annotations

import fcntl
import functools
import os
import random
import socket
import tempfile
import threading
from pathlib import Path

CANDIDATES = range(15000, 32000)


class Ports:
    """Ports that one process holds; thread-safe.

    One object a file and process: the kernel's locks belong to the process, and closing the file by any of its
    descriptors ends them all.
    """

    def __init__(self, path: Path, candidates: range) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._untried = random.sample(candidates, len(candidates))
        self._all = candidates
        self._guard = threading.Lock()

    def hold(self) -> int:
        """A port of loopback on which nothing listens; ``RuntimeError`` where none is left."""
        with self._guard:
            while self._untried:
                port = self._untried.pop()
                if self._locked(port) and _can_be_bound(port):
                    return port
        raise RuntimeError(f"every port of {self._all} is in use: end the test runs that hold them")

    def _locked(self, port: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        return True


def _can_be_bound(port: int) -> bool:
    with socket.socket() as attempt:
        try:
            attempt.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@functools.cache
def _own() -> Ports:
    return Ports(Path(tempfile.gettempdir()) / f"kateway-test-ports-{os.getuid()}", CANDIDATES)


def held_port() -> int:
    """A port that nothing else in this or any other test run of this user is given."""
    return _own().hold()
