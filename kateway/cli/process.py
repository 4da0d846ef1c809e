"""Looks into the running process: ``kateway-admin profile``, ``stacks`` and ``memory``."""

from __future__ import annotations

import argparse
from typing import Any

from kateway.cli.client import AdminClient
from kateway.cli.commands import Command

JSON = {"Accept": "application/json"}


def add_process(commands: Any, command: Command) -> None:
    """Adds the commands."""
    meaning = "sample the gateway's stacks: lines for a flame graph, with --json for speedscope"
    profile = command(commands, "profile", meaning, _profile)
    profile.add_argument("--seconds", type=float, default=10.0, metavar="N", help="for so long (default: 10)")
    command(commands, "stacks", "what every thread of the gateway is doing", _stacks)
    memory = command(commands, "memory", "the lines that hold most memory, where it is traced", _memory)
    memory.add_argument("--limit", type=int, default=20, metavar="N", help="so many (default: 20)")


def _profile(client: AdminClient, options: argparse.Namespace) -> Any:
    headers = JSON if options.json else None
    seconds = options.seconds
    return client.call("POST", "/profile", {"seconds": seconds}, headers, working_seconds=seconds).body


def _stacks(client: AdminClient, options: argparse.Namespace) -> Any:
    return client.call("GET", "/stacks", headers=JSON if options.json else None).body


def _memory(client: AdminClient, options: argparse.Namespace) -> Any:
    return client.call("GET", f"/memory?limit={options.limit}").body
