"""Shows series over a window: ``kateway-admin history``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from kateway.cli.client import AdminClient
from kateway.cli.commands import Command

WINDOWS = ("15m", "1h", "3h", "24h", "2d", "7d")


def add_history(commands: Any, command: Command) -> None:
    """Adds the command."""
    history = command(commands, "history", "series over a window: last, lowest, mean and highest figures", _history)
    history.add_argument(
        "object", nargs="?", metavar="OBJECT", help="APP, APP/TOPIC/VERSION or a group; without: the gateway"
    )
    history.add_argument("--window", choices=WINDOWS, default="1h", help="back from now (default: 1h)")
    history.add_argument("--series", metavar="NAME,NAME", help="these alone")


def _history(client: AdminClient, options: argparse.Namespace) -> Any:
    given = {"object": options.object, "window": options.window, "series": options.series}
    query = urlencode({name: value for name, value in given.items() if value is not None})
    found = client.call("GET", f"/history?{query}").body
    if options.json:
        return found
    rows = [{"series": name, **_summary(figures)} for name, figures in found["series"].items()]
    return {"from": found["from"], "to": found["to"], "step_seconds": found["step_seconds"], "figures": rows}


def _summary(figures: Sequence[float | None]) -> dict[str, Any]:
    known = [figure for figure in figures if figure is not None]
    if not known:
        return {"last": "unknown"}
    last = figures[-1]
    return {
        "last": "unknown" if last is None else f"{last:g}",
        "lowest": f"{min(known):g}",
        "mean": f"{sum(known) / len(known):.4g}",
        "highest": f"{max(known):g}",
    }
