"""Adds modules' commands to the command line, and reads the names that are written there."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from kateway.cli.client import AdminClient

Act = Callable[[AdminClient, argparse.Namespace], Any]
"""Carries a command out, and returns the object to print."""
Command = Callable[[Any, str, str, Act], argparse.ArgumentParser]
"""Adds a command to a group of them: by its name, its help and its act."""

APP, KEY, CLUSTER = "APP", "KEY", "CLUSTER"
TOPIC = "APP/TOPIC/VERSION"
BINDING = "SUBSCRIBER/APP/TOPIC/VERSION"
"""How names are written: with so many parts."""
