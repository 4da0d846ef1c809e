"""When keys were last used, in ZooKeeper: a node a key, apart from the entries, because no snapshot needs it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kazoo.exceptions import KazooException, NodeExistsError, NoNodeError

from kateway.registry.zookeeper.client import ZookeeperClient


class KeyUse:
    """Moments of last use; a node holds milliseconds since the epoch as digits."""

    def __init__(self, client: ZookeeperClient, root: str) -> None:
        self._client = client
        self._folder = f"{root}/used"

    async def note(self, used: Mapping[str, int]) -> None:
        """Keeps the later of the stored and the given moment. One key after the other: this is never urgent."""
        noted = await self.last(used)
        for key, at in used.items():
            if noted.get(key, 0) < at:
                await self._write(f"{self._folder}/{key}", str(at).encode())

    async def last(self, keys: Collection[str]) -> Mapping[str, int]:
        paths = {f"{self._folder}/{key}": key for key in keys}
        found = await self._client.get_many(list(paths))
        return {paths[path]: int(content) for path, (content, _stat) in found.items() if content.isdigit()}

    async def forget(self, key: str) -> None:
        try:
            await self._client.delete(f"{self._folder}/{key}")
        except KazooException:
            # never used, or ZooKeeper went away just now: what stays is a moment without a key
            pass

    async def _write(self, path: str, content: bytes) -> None:
        try:
            await self._client.set(path, content)
        except NoNodeError:
            try:
                await self._client.create(path, content)
            except NodeExistsError:
                # another gateway noted the same key just now
                pass
