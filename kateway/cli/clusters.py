"""Shows a cluster's circuit breaker, and the records kept while it is away: ``kateway-admin breakers``, ``handoff``."""

from __future__ import annotations

import argparse
from typing import Any

from kateway.cli.client import AdminClient
from kateway.cli.commands import CLUSTER, Act, Command
from kateway.cli.entries import add_listing


def add_breakers(breakers: Any, command: Command) -> None:
    """Adds the commands."""
    add_listing(breakers, command, "/breakers")
    for action, state, meaning in (
        ("open", "open", "refuse publishes to a cluster at once, until it is closed by hand: for maintenance"),
        ("close", "closed", "let publishes go to a cluster again"),
    ):
        command(breakers, action, meaning, _set_breaker(state)).add_argument("cluster", metavar="CLUSTER")


def add_handoff(handoff: Any, command: Command) -> None:
    """Adds the commands."""
    add_listing(handoff, command, "/handoff")
    for action, act, meaning in (
        ("refused", _list_refused, "list the records that the cluster refused when they were written later, with why"),
        ("retry", _change_refused("POST", "/retry"), "write the refused records again"),
        ("delete", _change_refused("DELETE", ""), "delete the refused records for good"),
    ):
        command(handoff, action, meaning, act).add_argument("cluster", metavar="CLUSTER")


def _set_breaker(state: str) -> Act:
    def act(client: AdminClient, options: argparse.Namespace) -> Any:
        return client.call("POST", f"/breakers/{client.name(options.cluster, CLUSTER)}", {"state": state}).body

    return act


def _list_refused(client: AdminClient, options: argparse.Namespace) -> Any:
    return client.list(f"/handoff/{client.name(options.cluster, CLUSTER)}/refused")


def _change_refused(method: str, below: str) -> Act:
    def act(client: AdminClient, options: argparse.Namespace) -> Any:
        return client.call(method, f"/handoff/{client.name(options.cluster, CLUSTER)}/refused{below}").body

    return act
