"""Shows records to a group's readers through the transforms in force: some changed, some passed over, some refused."""

from __future__ import annotations

from typing import NamedTuple

from kateway.core.transforms.in_force import Failed, Outgoing, Shown
from kateway.errors import KatewayError
from kateway.loop_turns import LoopTurns
from kateway.model import Record


class Screened(NamedTuple):
    """What became of records: ``kept`` as they are stored and ``shown`` as the reader sees them, one for one."""

    kept: list[Record]
    shown: list[Record]
    refused: list[tuple[Record, KatewayError]]
    """To go to the dead letters."""
    examined: int
    """How many of the records that is: the others were not looked at."""
    stopped: KatewayError | None
    """The error that ends the stream at the first record that was not examined."""


def screen(turns: LoopTurns, outgoing: Outgoing, partition: int, records: list[Record], now: float) -> Screened:
    """Examines records, at least one, in the slice that was begun. ``now``: seconds since the epoch."""
    kept: list[Record] = []
    shown: list[Record] = []
    refused: list[tuple[Record, KatewayError]] = []
    examined = 0
    stopped = None
    for record in records:
        if examined and turns.over:
            break
        outcome = outgoing.show(record, partition, now)
        if isinstance(outcome, Shown):
            kept.append(record)
            shown.append(outcome.record)
        elif isinstance(outcome, Failed):
            if outcome.on_error == "stop":
                stopped = outcome.error
                break
            refused.append((record, outcome.error))
        examined += 1
    turns.examined(max(examined, 1))
    return Screened(kept, shown, refused, examined, stopped)
