"""Tells whether a process of this host runs, by its number."""

from __future__ import annotations

import os


def runs(pid: int) -> bool:
    """Whether it does; one that has ended and was not waited for counts as running."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # it lives, and is another user's
    return True
