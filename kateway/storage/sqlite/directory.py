"""Makes the data directory where it is missing, and locks it, so that one process has it at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from kateway.errors import ConfigError, DataDirectoryLocked


class DataDirectory:
    """A directory that is ours until ``release``. The lock goes with the process, however that ends."""

    def __init__(self, path: Path, where: str) -> None:
        """``where`` names the option that led here. ``DataDirectoryLocked`` names the process that has it,
        ``ConfigError`` what a person must mend.
        """
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError([f"{where}: {path} cannot be used: {error.strerror}"]) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            raise DataDirectoryLocked(
                f"{where}: process {holder or 'unknown'} uses {path}; stop it, or give this one another directory"
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock: int | None = lock

    def release(self) -> None:
        """Lets another process have it."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
