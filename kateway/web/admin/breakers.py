"""Serves the breakers of clusters over the admin API: their state in every process, and their state by hand."""

from __future__ import annotations

from typing import Any

from kateway.core.administration import Administration
from kateway.errors import BadRequest, NotFound
from kateway.observe.parts import ALONE, OtherProcesses, Parts
from kateway.registry.documents import time_text
from kateway.web.admin.requests import AdminCall, answer, by
from kateway.web.admin.rows import Pages
from kateway.web.exchange import Response

ASKED = "breakers"
SET = "set_breaker"
_WORSE = ("closed", "half_open", "open")


class BreakerCalls:
    """Handlers."""

    def __init__(self, administration: Administration, others: OtherProcesses = ALONE) -> None:
        self._do = administration
        self._others = others

    async def breakers(self, call: AdminCall) -> Response:
        """Lists them."""
        parts = await self._others.ask(ASKED)
        rows = await self._rows(parts)
        return answer(
            200, {**Pages(lambda name: rows[name]).page({name: name for name in rows}, call.query), **parts.named}
        )

    async def set_breaker(self, call: AdminCall) -> Response:
        """Opens one for maintenance, or closes it, in every process."""
        table = call.table()
        state = table.get("state")
        if state not in ("open", "closed") or len(table) > 1:
            raise BadRequest('the body must be {"state":"open"} or {"state":"closed"}')
        cluster = call.names["cluster"]
        await self._do.set_breaker(cluster, state, by(call))
        parts = await self._others.ask(SET, {"cluster": cluster, "state": state})
        rows = await self._rows(parts)
        return answer(200, {"name": cluster, **rows[cluster], **parts.named})

    async def _rows(self, parts: Parts) -> dict[str, dict[str, Any]]:
        """One row a cluster: the state that refuses most, and that of each process where they are several."""
        own = await self.part(None)
        if self._others.index is None:
            return own
        of_all = {self._others.index: own, **parts.by_process}
        found = {}
        for cluster in own:
            rows = {process: table[cluster] for process, table in sorted(of_all.items()) if cluster in table}
            worst = max(rows.values(), key=lambda row: (_WORSE.index(row["state"]), row["failures"]))
            each = [{"process": process, **row} for process, row in rows.items()]
            found[cluster] = {**worst, "failures": sum(row["failures"] for row in rows.values()), "processes": each}
        return found

    async def part(self, _arguments: Any) -> dict[str, dict[str, Any]]:
        """This process's breakers."""
        return {cluster: self._row(cluster) for cluster in self._do.breakers}

    async def set_here(self, arguments: Any) -> dict[str, dict[str, Any]]:
        """Sets this process's, on behalf of the one that was asked to; answers with all."""
        if arguments["cluster"] not in self._do.breakers:
            raise NotFound(f"there is no cluster {arguments['cluster']} here")
        self._do.breakers.set_by_hand(arguments["cluster"], arguments["state"])
        return await self.part(None)

    async def take_over(self) -> None:
        """Opens what is open by hand in the other processes: this one has just been started."""
        for table in (await self._others.ask(ASKED)).all:
            for cluster, row in table.items():
                if row["by_hand"] and row["state"] == "open" and cluster in self._do.breakers:
                    self._do.breakers.set_by_hand(cluster, "open")

    def _row(self, cluster: str) -> dict[str, Any]:
        shown = self._do.breakers.status(cluster)
        since_ms = self._do.now_ms() - round(shown.pop("seconds") * 1000)
        return {**shown, "since": time_text(since_ms)}
