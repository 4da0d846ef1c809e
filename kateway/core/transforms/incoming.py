"""Transforms messages on their way in, a slice of the loop's time at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from kateway.core.transforms.pipeline import Kept, Pipeline, Rejected
from kateway.errors import KatewayError, TransformRejected
from kateway.model import Message

SLICE_SECONDS = 0.002
"""Of one turn of the loop: a batch of ten thousand records takes a third of a second in all."""

Transformed = list[Message | KatewayError]


def transform(
    pipeline: Pipeline, messages: Sequence[Message], now: Callable[[], float], clock: IReactorTime
) -> Deferred[Transformed]:
    """Runs a topic's steps on messages; gives for each what is to be written, or the error that refuses it. A single
    message is done at once.
    """
    if len(messages) == 1:
        return succeed([_one(pipeline, messages[0], now())])
    return Deferred.fromCoroutine(_many(pipeline, messages, now, clock))


async def _many(
    pipeline: Pipeline, messages: Sequence[Message], now: Callable[[], float], clock: IReactorTime
) -> Transformed:
    done: Transformed = []
    until = clock.seconds() + SLICE_SECONDS
    at = now()
    for message in messages:
        if clock.seconds() > until:
            await deferLater(clock, 0)
            until = clock.seconds() + SLICE_SECONDS
        done.append(_one(pipeline, message, at))
    return done


def _one(pipeline: Pipeline, message: Message, now: float) -> Message | KatewayError:
    outcome = pipeline.apply(message, now)
    if isinstance(outcome, Kept):
        return outcome.record
    return outcome.error if isinstance(outcome, Rejected) else TransformRejected("a step does not let the record in")
