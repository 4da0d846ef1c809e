"""Lists, shows and deletes entries of the registry, whatever their kind, and reads their options."""

from __future__ import annotations

import argparse
import math
from typing import Any

from kateway.cli.client import AdminClient
from kateway.cli.commands import Command


def add_listing(commands: Any, command: Command, path: str) -> None:
    """Adds ``list``."""

    def act(client: AdminClient, options: argparse.Namespace) -> Any:
        query = {name: getattr(options, name) for name in ("contains", "sort") if getattr(options, name)}
        return client.list(path, **query, **({"desc": "1"} if options.desc else {}))

    parser = command(commands, "list", "list them", act)
    parser.add_argument("--contains", metavar="TEXT", help="only those with this text in their name")
    parser.add_argument("--sort", metavar="COLUMN", help="by this, not by name")
    parser.add_argument("--desc", action="store_true", help="the other way round")


def add_showing(commands: Any, command: Command, metavar: str, path: str) -> None:
    """Adds ``show``."""

    def act(client: AdminClient, options: argparse.Namespace) -> Any:
        return client.call("GET", path.format(client.name(options.name, metavar))).body

    command(commands, "show", "show one", act).add_argument("name", metavar=metavar)


def add_deleting(commands: Any, command: Command, metavar: str, path: str) -> argparse.ArgumentParser:
    """Adds ``delete``."""

    def act(client: AdminClient, options: argparse.Namespace) -> Any:
        query = "?delete_records=true" if getattr(options, "delete_records", False) else ""
        return client.call("DELETE", path.format(client.name(options.name, metavar)) + query).body

    parser = command(commands, "delete", "delete one", act)
    parser.add_argument("name", metavar=metavar)
    return parser


def finite(text: str) -> float | int:
    """Reads an option that is a number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(number) if number.is_integer() else number


def limit(text: str) -> float | int | None:
    """Reads an option that is a number or ``none``."""
    return None if text == "none" else finite(text)
