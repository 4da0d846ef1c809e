"""Keeps the clusters' stores with their breakers and handoffs, which start, are looked at and stop together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from kateway.config.schema import Config
from kateway.core.breaker import LOOK_SECONDS, Breaker
from kateway.core.plugins import ClusterState
from kateway.daemon.assembly import build_breakers, build_handoffs, build_store
from kateway.daemon.counting import Counting
from kateway.daemon.periodic import RegularWork
from kateway.daemon.quietly import quietly
from kateway.model import Health


class Storing:
    """One gateway's. ``tripped`` is told the cluster and the state of a breaker that has changed by itself.
    ``member_label``, ``process`` and ``generation`` are the stores' (``assembly.build_store``).
    """

    def __init__(
        self,
        settings: Config,
        reactor: Any,
        data: Path,
        counting: Counting,
        tripped: Callable[[str, str], None],
        member_label: Callable[[], str] | None,
        process: int | None,
        generation: int = 1,
    ) -> None:
        self._settings = settings
        self._counting = counting
        self._tripped = tripped
        self.stores = {
            name: build_store(name, settings, reactor, counting.stores.get(name), member_label, process, generation)
            for name in settings.storage
        }
        self.breakers = build_breakers(settings, reactor.seconds, self._breaker_changed)
        self.handoffs = build_handoffs(settings, reactor, data, self.stores, self.breakers)

    async def start(self) -> None:
        """Starts the handoffs, and behind them what they write to."""
        for handoff in self.handoffs.values():
            await handoff.start()
        for store in self.stores.values():
            await store.start()

    def look(self, regular: RegularWork) -> None:
        """Looks at breakers and handoffs from now on."""
        regular.every(LOOK_SECONDS, self._look_at_breakers)
        for handoff in self.handoffs.values():
            regular.every(LOOK_SECONDS, handoff.look)

    async def stop(self, left: Callable[[], float]) -> None:
        """Stops all, each store within the seconds that are left then."""
        for name, store in self.stores.items():
            await quietly(f"stopping the store {name}", Deferred.fromCoroutine(store.stop(left())))
        for name, handoff in self.handoffs.items():
            await quietly(f"stopping the handoff of {name}", Deferred.fromCoroutine(handoff.stop()))

    def health(self, name: str) -> Health:
        """Of one cluster, as its breaker sees it."""
        return self.breakers.health(name, self.stores[name].health())

    def parts(self) -> dict[str, Health]:
        """The health of each cluster, by its name in the configuration."""
        return {f"storage.{name}": self.health(name) for name in self.stores}

    def status(self) -> dict[str, Any]:
        """The clusters' part of ``GET /admin/v1/status``."""
        return {
            name: {
                **health_row(self.health(name)),
                # a plugin may be made of another store, which has named itself
                "driver": self._settings.storage[name].driver,
                "breaker": self.breakers[name].state,
                **({"handoff": self.handoffs[name].status()} if name in self.handoffs else {}),
            }
            for name in self.stores
        }

    def clusters(self) -> Mapping[str, ClusterState]:
        """The clusters as the list of plugins has them."""
        return {
            name: ClusterState(self._settings.storage[name].driver, self.breakers[name], store.health())
            for name, store in self.stores.items()
        }

    async def _look_at_breakers(self) -> None:
        self.breakers.look(self.stores)

    def _breaker_changed(self, cluster: str, breaker: Breaker, by_hand: bool) -> None:
        if breaker.state == "open":
            # their callers need not wait for their deadlines
            self.stores[cluster].fail_unsent()
        self._counting.breaker_changed(cluster, breaker.state)
        if not by_hand:
            # a change by hand has an event of its own, with its actor
            self._tripped(cluster, breaker.state)


def health_row(health: Health) -> dict[str, Any]:
    """A part's health as status answers have it."""
    return {"healthy": health.healthy, "reason": health.reason, **health.details}
