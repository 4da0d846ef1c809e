"""Says what a reader of a group is asked for, whichever gateway it then reads at."""

from __future__ import annotations

from typing import Literal, NamedTuple

from kateway.core.delivery.batch import NOT_KNOWN, Client
from kateway.core.transforms.in_force import View
from kateway.observe.delivery import DeliveryCells
from kateway.storage.interface import Reset

Mode = Literal["auto", "explicit"]

MOST_PARTITIONS = 1 << 31
"""Where the topic's count is not given."""


class Wanted(NamedTuple):
    """A reader that is asked for."""

    mode: Mode = "auto"
    reset: Reset = "earliest"
    """Where the group begins; as ``max_deliveries`` that of the reader for whom the group is joined."""
    short: bool = True
    """A poll that ends by itself soon; false for followers and long streams."""
    ack_timeout: float = 60.0
    max_deliveries: int | None = None
    """``None``: as configured."""
    partitions: int = MOST_PARTITIONS
    """How many the topic has."""
    view: View | None = None
    """What its client sees of the records."""
    cells: DeliveryCells | None = None
    """Where its deliveries are counted."""
    client: Client = NOT_KNOWN
    names: tuple[str, ...] = ()
    """Of the group, as its deliveries are counted."""
    spare: bool = False
    """Of a client that reads at another gateway already: it gets what has no other reader here, gives way to one that
    comes, and does not keep the membership alive.
    """
