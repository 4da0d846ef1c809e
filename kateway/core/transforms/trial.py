"""Tries transforms on records, and tells what they would do: nothing is written and no group moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from kateway.core.transforms.pipeline import Pipeline, Rejected, TracedStep
from kateway.errors import KatewayError
from kateway.model import Message, Record


class Tried(NamedTuple):
    """One record's way through the steps."""

    partition: int | None
    offset: int | None
    steps: Sequence[TracedStep]

    @property
    def outcome(self) -> Literal["kept", "changed", "dropped", "refused"]:
        """What became of it in the end."""
        if not self.steps:
            return "kept"
        last = self.steps[-1]
        if last.error is not None:
            return "refused"
        if last.dropped or last.after is None:
            return "dropped"
        return "kept" if last.after == self.steps[0].before else "changed"

    @property
    def error(self) -> KatewayError | None:
        """Why it was refused."""
        return self.steps[-1].error if self.steps else None


def as_published(record: Record) -> Message:
    """A record that is there as it would come in if it were published again."""
    return Message(record.value, record.key, record.headers, None, record.timestamp)


def attempt(pipeline: Pipeline, source: Message | Record, now: float, partition: int | None) -> Tried:
    """Runs the steps on one record. ``now``: seconds since the epoch."""
    offset = source.offset if isinstance(source, Record) else None
    return Tried(partition, offset, pipeline.trace(source, now, partition))


def check(pipeline: Pipeline, record: Record, now: float) -> KatewayError | None:
    """Runs steps of the way in on a record that is there, as if it were published again; gives why it is refused."""
    outcome = pipeline.apply(as_published(record), now)
    return outcome.error if isinstance(outcome, Rejected) else None
