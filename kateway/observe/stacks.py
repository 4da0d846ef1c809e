"""Shows the present stack of every thread of the process."""

from __future__ import annotations

import sys
import threading
import traceback
from typing import NamedTuple

from kateway.observe.profile import MOST_DEPTH, thread_names


class Call(NamedTuple):
    """One call of a stack."""

    function: str
    file: str
    line: int | None


class ThreadStack(NamedTuple):
    """A thread's calls, the innermost last."""

    thread: str
    calls: list[Call]


def stacks() -> list[ThreadStack]:
    """The stacks of all threads but the calling one. To be called off the reactor's thread, so that its stack shows."""
    own = threading.get_ident()
    names = thread_names()
    found = [
        ThreadStack(
            names.get(thread, f"thread-{thread}"),
            [
                Call(frame.f_code.co_qualname, frame.f_code.co_filename, line)
                for frame, line in list(traceback.walk_stack(top))[:MOST_DEPTH][::-1]
            ],
        )
        for thread, top in sys._current_frames().items()
        if thread != own
    ]
    return sorted(found, key=lambda each: each.thread)


def text(found: list[ThreadStack]) -> str:
    """The same for people."""
    return "\n".join(
        f"{each.thread}\n" + "".join(f"  {call.file}:{call.line} {call.function}\n" for call in each.calls)
        for each in found
    )
