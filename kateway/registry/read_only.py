"""The registries that the gateway cannot change: the open one, and the base of the file driver."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence

from kateway.errors import KatewayError, RegistryOpen
from kateway.model import Health
from kateway.registry import plans
from kateway.registry.changes import Changes, E
from kateway.registry.interface import GatewayEntry, Snapshot, Transforms, Written
from kateway.registry.plans import Change, Plan


class ReadOnlyRegistry(Changes):
    """Every change is refused; the only gateway known is this one; key use is kept in memory."""

    read_only = True

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(snapshot)
        self._gateway: GatewayEntry | None = None
        self._used: dict[str, int] = {}

    def check_writable(self) -> None:
        raise self._refusal()

    @abstractmethod
    def _refusal(self) -> KatewayError: ...

    async def _put(self, entry: E, expected: str | None, plan: Plan | None = None) -> Written[E]:
        raise self._refusal()

    async def _delete(self, plan: Plan) -> None:
        raise self._refusal()

    async def register_gateway(self, entry: GatewayEntry) -> None:
        self._gateway = entry

    async def gateways(self) -> Sequence[GatewayEntry]:
        return [] if self._gateway is None else [self._gateway]

    async def stop(self) -> None:
        self._gateway = None

    async def note_used(self, used: Mapping[str, int]) -> None:
        known = self.snapshot.keys
        self._used = {key: at for key, at in (self._used | dict(used)).items() if key in known}

    async def last_used(self, keys: Collection[str]) -> Mapping[str, int]:
        return {key: self._used[key] for key in keys if key in self._used}


class OpenRegistry(ReadOnlyRegistry):
    """No registry: nothing is registered and everything is allowed (``snapshot.open``)."""

    driver = "open"

    def __init__(self) -> None:
        super().__init__(Snapshot(open=True))

    def configure(self, transforms: Iterable[Transforms]) -> None:
        """Puts the transforms of the configuration file in force."""
        before = self.snapshot
        changes = [Change("transforms", "/".join(entry.name), entry) for entry in transforms]
        after = plans.apply(Snapshot(open=True), changes, before.revision + 1)
        self._current.replace(plans.with_generations(after, before))

    def _refusal(self) -> KatewayError:
        return RegistryOpen(
            'the gateway is open, so there is nothing to register: set [registry] driver to "embedded" or "zookeeper"'
        )

    async def start(self) -> None: ...

    async def reload(self) -> None: ...

    def health(self) -> Health:
        return Health(True, details={"driver": self.driver})
