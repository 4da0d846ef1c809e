"""Keeps a snapshot and its watchers, and turns each change into a plan: the same in all drivers.

``WritableRegistry`` has a driver's ``_commit`` carry the plans out; ``readonly`` refuses them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from kateway.registry import plans
from kateway.registry.current import Current
from kateway.registry.documents import kind_of, name_of
from kateway.registry.interface import (
    Application,
    Binding,
    BindingName,
    Callback,
    Entry,
    GatewayEntry,
    Key,
    Placement,
    Snapshot,
    Topic,
    TopicName,
    Transforms,
    Written,
)
from kateway.registry.plans import Plan

E = TypeVar("E", bound=Entry)


class Changes(ABC):
    """Snapshot, watch, and every change as one of two kinds."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._current = Current(snapshot)
        self._report = b""

    @property
    def snapshot(self) -> Snapshot:
        return self._current.snapshot

    def watch(self, callback: Callback) -> Callable[[], None]:
        return self._current.watch(callback)

    def on_applied(self, callback: Callable[[float], None]) -> None:
        self._current.applied = callback

    @property
    def unheard_since(self) -> float | None:
        """A registry that only this process has is never unheard."""
        return None

    async def lead(self, report: bytes) -> bool:
        """The only gateway leads."""
        self._report = report
        return True

    async def leader_report(self) -> bytes:
        return self._report

    async def register_process(self, entry: GatewayEntry) -> None:  # noqa: B027  # where others do not share it
        """Does nothing: processes that share no registry do not ask for each other."""

    @abstractmethod
    async def gateways(self) -> Sequence[GatewayEntry]: ...

    async def placing(self) -> Sequence[GatewayEntry]:
        return await self.gateways()

    @abstractmethod
    async def _put(self, entry: E, expected: str | None, plan: Plan | None = None) -> Written[E]: ...

    @abstractmethod
    async def _delete(self, plan: Plan) -> None: ...

    async def put_application(self, application: Application, expected: str | None = None) -> Written[Application]:
        return await self._put(application, expected)

    async def put_key(self, key: Key, expected: str | None = None) -> Written[Key]:
        return await self._put(key, expected)

    async def put_topic(
        self, topic: Topic, expected: str | None = None, placement: Placement | None = None
    ) -> Written[Topic]:
        return await self._put(topic, expected, plans.put_topic(topic, expected, placement))

    async def put_placement(self, placement: Placement, expected: str | None) -> Written[Placement]:
        return await self._put(placement, expected, plans.put_placement(placement, expected))

    async def put_binding(self, binding: Binding, expected: str | None = None) -> Written[Binding]:
        return await self._put(binding, expected)

    async def put_transforms(self, transforms: Transforms, expected: str | None = None) -> Written[Transforms]:
        return await self._put(transforms, expected)

    async def delete_application(self, name: str, expected: str | None = None) -> None:
        await self._delete(plans.delete("applications", name, expected))

    async def delete_key(self, application: str, key: str, expected: str | None = None) -> None:
        await self._delete(plans.delete_key(application, key, expected))

    async def delete_topic(self, name: TopicName, expected: str | None = None) -> None:
        await self._delete(plans.delete("topics", "/".join(name), expected))

    async def delete_binding(self, name: BindingName, expected: str | None = None) -> None:
        await self._delete(plans.delete("bindings", "/".join(name), expected))

    async def delete_placement(self, name: TopicName, expected: str | None) -> None:
        await self._delete(plans.delete("placements", "/".join(name), expected))

    async def delete_transforms(self, name: TopicName, expected: str | None = None) -> None:
        await self._delete(plans.delete("transforms", "/".join(name), expected))


class WritableRegistry(Changes):
    """How a plan is carried out is the driver's."""

    read_only = False

    def check_writable(self) -> None:
        """Every change is possible."""

    def __init__(self) -> None:
        super().__init__(Snapshot())

    @abstractmethod
    async def _commit(self, plan: Plan) -> tuple[Snapshot, Snapshot]:
        """Carries a plan out; answers the snapshots that it was made on and that came of it."""

    async def _put(self, entry: E, expected: str | None, plan: Plan | None = None) -> Written[E]:
        before, after = await self._commit(plans.put(entry, expected) if plan is None else plan)
        kind, name = kind_of(entry), name_of(entry)
        # it may be gone again, where finding out whether it was written took long
        now = plans.found(after, kind, name) or entry
        return Written(cast(E, now), plans.found(before, kind, name) is None)

    async def _delete(self, plan: Plan) -> None:
        await self._commit(plan)
