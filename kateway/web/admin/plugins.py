"""Lists the plugins of all seams: ``GET /admin/v1/plugins``."""

from __future__ import annotations

from typing import Any

from kateway.core.plugin_watch import STATES
from kateway.core.plugins import PluginList
from kateway.observe.parts import ALONE, OtherProcesses
from kateway.web.admin.requests import AdminCall, answer
from kateway.web.admin.rows import check_choice, page_of
from kateway.web.exchange import Response

ASKED = "plugins"
_WORSE = ("not_loaded", "loaded", "failing", "taken_out")
SORTABLE = ("seam", "plugin", "distribution", "version", "failures")


class PluginCalls:
    """The calls about plugins."""

    def __init__(self, plugins: PluginList, others: OtherProcesses = ALONE) -> None:
        self._plugins = plugins
        self._others = others

    async def plugins(self, call: AdminCall) -> Response:
        """Lists them; of several processes the state of the one where a plugin fares worst, and all failures."""
        check_choice(call.query, "state", STATES)
        found = self._plugins.rows()
        parts = await self._others.ask(ASKED)
        for told in parts.all:
            for name, row in told.items():
                if name in found:
                    found[name] = _both(found[name], row)
        rows = [{"name": name, **row} for name, row in found.items()]
        return answer(200, {**page_of(rows, call.query, SORTABLE), **parts.named})

    async def part(self, _arguments: Any) -> dict[str, dict[str, Any]]:
        """This process's plugins."""
        return self._plugins.rows()


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    worse = max(one, other, key=lambda row: _WORSE.index(row["state"]) if row["state"] in _WORSE else 0)
    error = worse["last_error"] or one["last_error"] or other["last_error"]
    return {**worse, "failures": one["failures"] + other["failures"], "last_error": error}
