"""Awaits several pieces of work that are under way at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred, FirstError, gatherResults

T = TypeVar("T")


async def gathered(work: Sequence[Deferred[T]]) -> list[T]:
    """Returns the results of all, in their order. Where one fails or the caller is cancelled, the others are given up.

    The error is that of the work itself: ``gatherResults`` alone wraps it, a cancellation too, and handlers of the
    error would not know it.
    """
    try:
        return await gatherResults(work, consumeErrors=True)
    except FirstError as error:
        for each in work:
            each.cancel()
        error.subFailure.raiseException()
