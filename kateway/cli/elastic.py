"""Shows how elastic topics grow, and has the option that makes a topic one: ``kateway-admin elastic``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from kateway.cli.client import AdminClient
from kateway.cli.commands import Command


def add_elastic(commands: Any, command: Command) -> None:
    """Adds the command."""
    command(commands, "elastic", "what is seen of elastic topics, was done, and would be", _elastic)


def elastic_option(text: str) -> dict[str, Any] | None:
    """Reads what makes a topic elastic: an object of JSON; ``none`` ends it."""
    if text == "none":
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f'must be none, or JSON such as {{"max_partitions":8}}: {error}') from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError('must be none, or an object such as {"max_partitions":8}')
    return found


def _elastic(client: AdminClient, options: argparse.Namespace) -> Any:
    found = client.list("/elastic")
    return found if options.json else {"items": [_short(row) for row in found["items"]]}


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """A topic as one line."""
    last = row["did"][-1] if row["did"] else None
    sees, would = row["sees"], row["would"]
    return {
        "name": row["name"],
        "state": row["state"],
        "in_force": row["partitions"]["in_force"],
        "goes_over_to": row["goes_over_to"],
        "bytes_per_second": sees["bytes_per_second"],
        "readers": sees["readers"],
        "would": would["action"],
        "reason": would["reason"],
        "waits_for": would["waits_for"],
        "last_growth": None if last is None else f"{last['at']} {last['was']} to {last['now']}",
    }
