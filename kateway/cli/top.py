"""Shows a live table of groups in a terminal, prints it once elsewhere: ``kateway-admin top``."""

from __future__ import annotations

import argparse
import os
import select
import shutil
import sys
import termios
import time
import tty
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlencode

from kateway.cli.client import AdminClient, Unreachable
from kateway.cli.commands import Command
from kateway.cli.groups import STATES
from kateway.cli.tables import printable

MOST_ROWS = 1000
"""Of one answer of the admin API."""
WIDTH = 80
WIDE = 120
"""From so many columns on there is room for the reason too."""
FRAME_LINES = 3
"""Above the rows: the line of words, an empty one, the columns' heads."""
ASCENDING = frozenset({"name", "state", "reader", "application", "topic", "group"})
"""Columns that begin with the smallest; of figures the largest is of interest."""
COLUMNS: tuple[tuple[str, int], ...] = (("VERDICT", 14), ("LAG", 6), ("AGE", 5), ("READERS", 7), ("OUT/S", 6))
_ENTER, _LEAVE, _HOME = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l", "\x1b[H"
_REST_OF_LINE, _REST_OF_SCREEN = "\x1b[K", "\x1b[J"


def add_top(commands: Any, command: Command) -> None:
    """Adds the command."""
    top = command(commands, "top", "a live table of groups, the most troubled first; q or Ctrl-C ends it", _top)
    top.add_argument("--sort", default="severity", metavar="COLUMN", help="by this: severity, lag, readers, name …")
    top.add_argument("--reverse", action="store_true", help="the other way round")
    top.add_argument("--state", choices=STATES, help="only those, or of this verdict")
    top.add_argument("--contains", metavar="TEXT", help="only those with this text in their name")
    top.add_argument("--limit", type=_count, metavar="N", help="at most so many (default: as fit; printed once, all)")
    top.add_argument("--interval", type=_seconds, default=2.0, metavar="SECONDS", help="between two looks (default: 2)")
    top.add_argument("--once", action="store_true", help="print it once")


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= MOST_ROWS:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {MOST_ROWS}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("must be a number from 0.1 to 3600")
    return seconds


def _top(client: AdminClient, options: argparse.Namespace) -> Any:
    if options.json:
        return _page(client, options, options.limit or MOST_ROWS)
    if options.once or not (sys.stdout.isatty() and sys.stdin.isatty()):
        page = _page(client, options, options.limit or MOST_ROWS)
        return "\n".join(lines(page["items"], shutil.get_terminal_size((WIDTH, 0)).columns, more=bool(page["next"])))
    return _live(client, options)


def _page(client: AdminClient, options: argparse.Namespace, limit: int) -> dict[str, Any]:
    query = {"sort": options.sort, "limit": str(limit)}
    query |= {name: getattr(options, name) for name in ("contains", "state") if getattr(options, name)}
    if (options.sort in ASCENDING) is options.reverse:
        query["desc"] = "1"
    page: dict[str, Any] = client.call("GET", f"/groups?{urlencode(query)}").body
    return page


# --- in a terminal --------------------------------------------------------------------------------------------------


def _live(client: AdminClient, options: argparse.Namespace) -> str:
    """Draws until it is ended; returns the last table, which stays on the terminal."""
    shown: list[str] = []
    with suppress(KeyboardInterrupt), _screen():
        while True:
            size = shutil.get_terminal_size((WIDTH, 24))
            room = max(size.lines - FRAME_LINES - 1, 1)
            try:
                page = _page(client, options, min(options.limit or MOST_ROWS, room))
            except Unreachable as error:  # it may come back; what was seen stays
                note = str(error)
            else:
                shown = lines(page["items"], size.columns, more=bool(page["next"]))
                note = shown[0]
            # a line that is too long would move the others down
            drawn = [f"{time.strftime('%H:%M:%S')}  {note}", *shown[1:]]
            _draw([line[: size.columns] for line in drawn][: size.lines])
            if _key(options.interval) in {"q", "Q"}:
                break
    return "\n".join(shown)


def _key(seconds: float) -> str:
    """Waits so long for a key; a terminal that is gone is ``q``."""
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return os.read(sys.stdin.fileno(), 1).decode("ascii", "replace") or "q" if readable else ""


@contextmanager
def _screen() -> Iterator[None]:
    """Takes the terminal over, and gives it back as it was."""
    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    try:
        tty.setcbreak(stdin)
        sys.stdout.write(_ENTER)
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _draw(drawn: Sequence[str]) -> None:
    sys.stdout.write(_HOME + "\n".join(line + _REST_OF_LINE for line in drawn) + _REST_OF_SCREEN)
    sys.stdout.flush()


# --- the table ------------------------------------------------------------------------------------------------------


def lines(rows: Sequence[Mapping[str, Any]], width: int, *, more: bool = False) -> list[str]:
    """A line of words, an empty one, and the table; no line is longer than ``width`` where that is 60 or more."""
    if not rows:
        return ["no groups", ""]
    verdicts = Counter(row["verdict"]["state"] for row in rows)
    words = f"{len(rows)}{' first' if more else ''} group{'' if len(rows) == 1 else 's'}: "
    words += ", ".join(f"{count} {state}" for state, count in verdicts.items())
    used = sum(size + 1 for _, size in COLUMNS)
    room = max(width - used, 10)
    longest = min(max(len(row["name"]) for row in rows), room)
    reason = room - longest - 1 if width >= WIDE else 0
    heads = [name.ljust(size) if name == "VERDICT" else name.rjust(size) for name, size in COLUMNS]
    head = " ".join([*heads, "GROUP".ljust(longest), *(["WHY"] if reason > 0 else [])])
    return [_cut(words, width), "", head.rstrip(), *(_line(row, longest, reason) for row in rows)]


def _line(row: Mapping[str, Any], longest: int, reason: int) -> str:
    cells = (
        row["verdict"]["state"],
        _figure(row["lag"]),
        _age(row["oldest_seconds"]) if row["lag"] else "-",
        str(row["readers"]),
        _figure(None if row["rates"] is None else row["rates"]["out_records"]),
    )
    sized = [
        cell.ljust(size) if name == "VERDICT" else cell.rjust(size)
        for cell, (name, size) in zip(cells, COLUMNS, strict=True)
    ]
    why = [_cut(printable(row["verdict"]["reason"]), reason)] if reason > 0 else []
    return " ".join([*sized, _middle(printable(row["name"]), longest).ljust(longest), *why]).rstrip()


def _figure(value: float | None) -> str:
    """A number in at most six characters; ``?`` is unknown."""
    if value is None:
        return "?"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size * 10:
            return f"{value / size:.1f}{unit}" if value < size * 1000 else f"{value / size:.0f}{unit}"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _middle(text: str, most: int) -> str:
    """Leaves out the middle: a group's name differs at its ends."""
    if len(text) <= most:
        return text
    behind = (most - 1) * 2 // 3
    return f"{text[: most - 1 - behind]}…{text[len(text) - behind :]}"
