"""Lets a person in for one application alone: ``kateway-admin portal-link``."""

from __future__ import annotations

import argparse
from typing import Any

from kateway.cli.client import AdminClient
from kateway.cli.commands import Command

APP = "APP"


def add_portal_links(links: Any, command: Command) -> None:
    """Adds the commands."""
    make = command(links, "make", "make a link; it is shown this once, and good once", _make)
    make.add_argument("app", metavar=APP)


def _make(client: AdminClient, options: argparse.Namespace) -> Any:
    return client.call("POST", f"/applications/{client.name(options.app, APP)}/portal-links").body
