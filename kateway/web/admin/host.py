"""Serves the gateway's processes over the admin API: their list, and the upgrade to what is installed now."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from kateway.core.administration import Administration
from kateway.errors import BadRequest
from kateway.web.admin.requests import AdminCall, answer, by
from kateway.web.exchange import Response


class HostCalls:
    """Handlers. ``rows`` gives the processes, ``upgrade`` the generation that has taken over."""

    def __init__(
        self,
        rows: Callable[[], list[dict[str, Any]]],
        upgrade: Callable[[], Coroutine[Any, Any, int]],
        administration: Administration,
    ) -> None:
        self._rows = rows
        self._upgrade = upgrade
        self._do = administration

    async def processes(self, _call: AdminCall) -> Response:
        """Lists them."""
        return answer(200, {"items": self._rows(), "next": None})

    async def upgrade(self, call: AdminCall) -> Response:
        """Has a new generation take over; answers when it serves."""
        if call.table():
            raise BadRequest("the body must be empty")
        generation = await self._do.audited(self._upgrade(), by(call), "upgrade", "processes")
        return answer(200, {"generation": generation})
