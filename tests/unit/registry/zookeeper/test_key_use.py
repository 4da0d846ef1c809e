"""When a key was last used goes with the key, whatever takes that away."""

from __future__ import annotations

import pytest
import pytest_twisted

from kateway.registry import plans
from kateway.registry.interface import Application, Key, Snapshot
from kateway.registry.plans import Plan
from kateway.registry.secrets import hash_secret
from kateway.registry.zookeeper.key_use import KeyUse
from kateway.registry.zookeeper.registry import ZookeeperRegistry

HASH = hash_secret("secret", b"0123456789abcdef")


class Nodes:
    """The client of a ZooKeeper that notes which nodes are deleted."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

    async def delete(self, path: str) -> None:
        self.deleted.append(path)


class Committing(ZookeeperRegistry):
    """A registry whose transactions all succeed, in memory."""

    def __init__(self, nodes: Nodes) -> None:
        self.kept = Snapshot()
        self._use = KeyUse(nodes, "/root")  # type: ignore[arg-type]

    async def _commit(self, plan: Plan) -> tuple[Snapshot, Snapshot]:
        before = self.kept
        self.kept = plans.apply(before, plan(before), before.revision + 1)
        return before, self.kept


@pytest.mark.parametrize(
    ("application", "key", "forgotten"),
    [("app1", None, ["/root/used/pub1", "/root/used/sub1"]), ("app1", "pub1", ["/root/used/pub1"])],
)
@pytest_twisted.ensureDeferred
async def test_deleted_key_is_forgotten_with_its_last_use(
    application: str, key: str | None, forgotten: list[str]
) -> None:
    nodes = Nodes()
    registry = Committing(nodes)
    for name in ("app1", "app2"):
        await registry.put_application(Application(name=name))
    for name, owner in (("pub1", "app1"), ("sub1", "app1"), ("pub2", "app2")):
        await registry.put_key(Key(key=name, application=owner, kind="pub", secret_hash=HASH))
    if key is None:
        await registry.delete_application(application)
    else:
        await registry.delete_key(application, key)
    assert sorted(nodes.deleted) == forgotten
