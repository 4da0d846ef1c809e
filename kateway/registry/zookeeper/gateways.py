"""The live gateways in ZooKeeper, and the processes of those that have several: each has an ephemeral node, which goes
with its session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson
from kazoo.exceptions import NoNodeError
from twisted.logger import Logger

from kateway.errors import BadRequest
from kateway.registry.documents import gateway_from_table, gateway_to_table
from kateway.registry.interface import GatewayEntry
from kateway.registry.zookeeper.client import WatchEvent, ZookeeperClient


class Presence:
    """Keeps this gateway's entry and lists all. ``changed`` is called when ours may need to be made again: it
    should not look at once, or two gateways of one name would take it from each other without a pause.
    """

    _log = Logger()

    def __init__(self, client: ZookeeperClient, folder: str, changed: Callable[[], None]) -> None:
        self._client = client
        self._folder = folder
        self._changed = changed
        self._watched = False
        self._written = b""
        self.entry: GatewayEntry | None = None

    def reconnected(self) -> None:
        """The connection is a new one, and the session may be."""
        self._watched = False

    async def ensure(self) -> bool:
        """Ensures that our entry is there, is our session's, and is up to date. Whether it had to be made."""
        entry = self.entry
        if entry is None:
            return False
        content = orjson.dumps(gateway_to_table(entry))
        if self._watched and content == self._written:
            return False
        # until all of this has come to its end, the state of the node is unknown
        before, self._written = self._written, b""
        path = f"{self._folder}/{entry.name}"
        result, watch = self._client.exists_and_watch(path)
        stat = await result
        self._watched = True
        watch.addCallback(self._heard)
        if stat is not None and stat.ephemeralOwner != self._client.session[0]:
            # the node of our last session: it would go when that expires, and take our name off the list
            await self._client.delete(path)
            stat = None
        if stat is None:
            await self._client.create(path, content, ephemeral=True)
        elif content != before:
            await self._client.set(path, content)
        self._written = content
        return stat is None

    def _heard(self, _event: WatchEvent) -> None:
        self._watched = False
        self._changed()

    async def list_all(self) -> Sequence[GatewayEntry]:
        try:
            names = await self._client.get_children(self._folder)
        except NoNodeError:
            # deleted by hand: it comes again with the next look
            return []
        found = await self._client.get_many([f"{self._folder}/{name}" for name in names])
        entries = []
        for path, (content, _stat) in found.items():
            try:
                entries.append(gateway_from_table(path.rpartition("/")[2], orjson.loads(content)))
            except (BadRequest, ValueError, TypeError, AttributeError):
                self._log.warn("{path} is not a gateway's entry", path=path)
        return sorted(entries, key=lambda entry: entry.name)
