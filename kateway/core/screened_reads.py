"""Reads without a group through the transforms in force: records changed, or passed over, as for a subscription."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from kateway.core.reads import Read, Run
from kateway.core.transforms.in_force import Outgoing, Shown, View
from kateway.core.transforms.pipeline import Dropped
from kateway.loop_turns import LoopTurns
from kateway.model import Record


class ScreenedRead:
    """A read whose records are examined. A record on which a step fails is passed over unless ``on_error`` is ``stop``:
    there is no group whose dead letters it could go to, and a read moves nothing.

    It examines everything up to the end of the log, as long as that may take: a read that ended before would look
    whole, and one that came back with nothing could never be continued behind what it had passed over.
    """

    def __init__(self, read: Read, view: View, turns: LoopTurns, clock: IReactorTime) -> None:
        self._read = read
        self._view = view
        self._turns = turns
        self._clock = clock
        self._left: Run | None = None
        """What was read and not examined yet."""

    @property
    def incomplete(self) -> bool:
        return self._read.incomplete

    async def first(self, wait_seconds: float, max_bytes: int) -> Run | None:
        until = self._clock.seconds() + wait_seconds
        run = await self._shown(await self._read.first(wait_seconds, max_bytes), max_bytes)
        while run is None and (left := until - self._clock.seconds()) > 0:
            further = await self._read.more(left, max_bytes)
            if further is None:
                return None
            run = await self._shown(further, max_bytes)
        return run

    async def next(self, max_bytes: int) -> Run | None:
        left, self._left = self._left, None
        return await self._shown(left or await self._read.next(max_bytes), max_bytes)

    async def more(self, wait_seconds: float, max_bytes: int) -> Run | None:
        left, self._left = self._left, None
        return await self._shown(left or await self._read.more(wait_seconds, max_bytes), max_bytes)

    async def _shown(self, run: Run | None, max_bytes: int) -> Run | None:
        """Examines a run and those after it until there is a record to show; ``None`` at the end of the log."""
        while run is not None:
            partition, records = run
            outgoing = self._view.outgoing()
            if outgoing is None:
                return run
            rest = list(records)
            shown = await self._examine(outgoing, partition, rest)
            left = (partition, rest) if rest else None
            if shown:
                self._left = left
                return partition, shown
            run = left or await self._read.next(max_bytes)
        return None

    async def _examine(self, outgoing: Outgoing, partition: int, records: list[Record]) -> list[Record]:
        """Examines records, at least one; takes those that were examined out of the list, and gives those to show."""
        turns = self._turns
        await turns.granted()
        shown: list[Record] = []
        now = self._view.in_force.now()
        done = 0
        for record in records[: turns.left or 1]:
            if done and turns.over:
                break
            done += 1
            outcome = outgoing.show(record, partition, now)
            if isinstance(outcome, Shown):
                shown.append(outcome.record)
            elif not isinstance(outcome, Dropped) and outcome.on_error == "stop":
                raise outcome.error
        del records[:done]
        turns.examined(done)
        return shown
