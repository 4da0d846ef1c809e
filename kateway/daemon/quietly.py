"""Takes one step of stopping, so that its failure does not keep the next from being taken."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

_log = Logger()


async def quietly(doing: str, stopping: Any) -> None:
    """Awaits a step of stopping; its failure is logged and does not keep the next step from being taken."""
    try:
        await stopping
    except CancelledError:
        raise
    except Exception:
        _log.failure("{doing} failed", doing=doing)
