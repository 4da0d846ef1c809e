"""Where a topic that a client names lives: which store, under which name there, and which group name it is read with.

``OpenNames`` is the rule without a registry: ``v1`` is the plain topic, ``vN`` is ``topic.vN``, a group is as given,
so that an existing Kafka works with no set-up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from kateway.storage.interface import Store

OPEN_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
"""Kafka's own grammar: with no registry a dot means nothing."""

MAX_STORED_NAME = 249


class Place(NamedTuple):
    """A topic found: its cluster by name and as a store, its name there."""

    cluster: str
    store: Store
    topic: str


class OpenNames:
    """Names as they are, on the default cluster."""

    grammar = OPEN_NAME

    def __init__(self, stores: Mapping[str, Store]) -> None:
        self._cluster = "default" if "default" in stores else next(iter(stores))
        self._store = stores[self._cluster]

    def place(self, version: str, topic: str) -> Place:
        return Place(self._cluster, self._store, topic if version == "v1" else f"{topic}.{version}")
