"""The registries that the gateway cannot change: the open one, and what the file driver has in common with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NoReturn

from kateway.errors import KatewayError, RegistryOpen
from kateway.model import Health
from kateway.registry.current import Current
from kateway.registry.interface import (
    Application,
    Binding,
    BindingName,
    Callback,
    GatewayEntry,
    Key,
    Snapshot,
    Topic,
    TopicName,
    Written,
)


class ReadOnlyRegistry(ABC):
    """Every write is refused; the only gateway known is this one; key use is kept in memory."""

    read_only = True

    def __init__(self, snapshot: Snapshot) -> None:
        self._current = Current(snapshot)
        self._gateway: GatewayEntry | None = None
        self._used: dict[str, int] = {}

    @property
    def snapshot(self) -> Snapshot:
        return self._current.snapshot

    def watch(self, callback: Callback) -> Callable[[], None]:
        return self._current.watch(callback)

    @abstractmethod
    def _refusal(self) -> KatewayError: ...

    def _refuse(self) -> NoReturn:
        raise self._refusal()

    async def put_application(self, application: Application, expected: str | None = None) -> Written[Application]:
        self._refuse()

    async def delete_application(self, name: str, expected: str | None = None) -> None:
        self._refuse()

    async def put_key(self, key: Key, expected: str | None = None) -> Written[Key]:
        self._refuse()

    async def delete_key(self, application: str, key: str, expected: str | None = None) -> None:
        self._refuse()

    async def put_topic(self, topic: Topic, expected: str | None = None) -> Written[Topic]:
        self._refuse()

    async def delete_topic(self, name: TopicName, expected: str | None = None) -> None:
        self._refuse()

    async def put_binding(self, binding: Binding, expected: str | None = None) -> Written[Binding]:
        self._refuse()

    async def delete_binding(self, name: BindingName, expected: str | None = None) -> None:
        self._refuse()

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

    def _refusal(self) -> KatewayError:
        return RegistryOpen(
            'the gateway is open, so there is nothing to register: set [registry] driver to "embedded" or "zookeeper"'
        )

    async def start(self) -> None: ...

    async def reload(self) -> None: ...

    def health(self) -> Health:
        return Health(True, details={"driver": self.driver})
