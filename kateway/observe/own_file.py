"""Puts a whole file in the place of the last one: it is written beside that and renamed, so that a crash leaves one of
the two. Only its owner may read it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

ONLY_THE_OWNER = 0o600


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Gives the file to write to; it takes its place when all is written. Blocks; ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, ONLY_THE_OWNER)
    with open(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
