"""Sets disk space aside: a spool that has filled its disk needs some to be drained, or even to be opened.

SQLite writes before it deletes: a batch to its log, and the log's pages to the file. Without room for that a full spool
stays full for ever, though the cluster takes records again. So the room lies in a file of its own, which is given up
when it is needed; until it is there again nothing more is taken.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

RESERVE_BYTES = 24 << 20
"""More than the log of a spool that has filled its disk: a checkpoint is due after 8 MiB, and one transaction has 8."""

FILE = "reserve"


class DiskReserve:
    """One spool's. Called from its thread, but for ``held``."""

    def __init__(self, directory: Path) -> None:
        self.held = False
        """Whether the room is set aside."""
        self._directory = directory

    @property
    def _path(self) -> Path:
        return self._directory / FILE

    def take(self) -> None:
        """Sets the room aside, where the disk has twice as much."""
        path = self._path
        with suppress(OSError):
            if not path.exists() or path.stat().st_size < RESERVE_BYTES:
                if shutil.disk_usage(self._directory).free < 2 * RESERVE_BYTES:
                    return
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    os.posix_fallocate(file, 0, RESERVE_BYTES)
                finally:
                    os.close(file)
            self.held = True

    def give_up(self) -> bool:
        """Gives the room back to the disk; false where it was not set aside."""
        self.held = False
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
