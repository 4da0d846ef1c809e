"""Hands the text of the configuration file that is in force, or was checked, to a process that starts with it.

A process that is started in the place of another must not meet a file that was changed, perhaps broken, since: the file
is read anew by a start of the whole, a reload and an upgrade, and by nothing else.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

VARIABLE = "_KATEWAY_SETTINGS"
"""Of the environment: the descriptor of the text; not an option, which is why it does not begin as those do."""


def settings_memory(text: str) -> int:
    """Returns the descriptor of a memory that holds the text; the caller closes it."""
    descriptor = os.memfd_create("kateway-settings")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(text.encode())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def take_settings_text(environ: MutableMapping[str, str]) -> str | None:
    """Returns the text that this process was given, once; ``None`` where it reads the file."""
    told = environ.pop(VARIABLE, None)
    if told is None:
        return None
    descriptor = int(told)
    # several processes have the same memory, and its one position
    text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    os.close(descriptor)
    return text.decode()
