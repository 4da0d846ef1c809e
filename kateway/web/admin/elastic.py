"""Shows how elastic topics grow: ``GET /admin/v1/elastic``."""

from __future__ import annotations

from kateway.core.growth_report import WAITING
from kateway.core.growths import Growths
from kateway.registry.documents import time_text
from kateway.registry.validators import PLACEMENT_STATES
from kateway.web.admin.requests import AdminCall, answer
from kateway.web.admin.rows import check_choice, page_of
from kateway.web.exchange import Response


class ElasticCalls:
    """The call about elastic topics."""

    def __init__(self, growths: Growths) -> None:
        self._growths = growths

    async def elastic(self, call: AdminCall) -> Response:
        """Shows of each topic what the gateway that leads sees, what was done, and what it would do now."""
        check_choice(call.query, "state", (WAITING, *PLACEMENT_STATES))
        leader, found = await self._growths.rows()
        rows = [
            {"name": name, **row, "did": [{**growth, "at": time_text(growth["at"])} for growth in row["did"]]}
            for name, row in found.items()
        ]
        return answer(200, {"gateway": leader or None, **page_of(rows, call.query, ())})
