"""Says what a plugin of each of the six seams has to be, and lists those that are installed with their state.

Each seam is a group of entry points. A factory with an attribute ``Options``, an attrs class, is called with an
instance of it as its last argument, made of the plugin's table and checked; one without it takes no such argument.
``Options_contra`` is that class. ``docs/plugins.rst`` has an example of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import attrs

from kateway.config.schema import PluginStorageConfig
from kateway.core import entry_points
from kateway.core.access.authentication import Authenticator, AuthenticatorContext
from kateway.core.access.authorization import Authorizer
from kateway.core.audit.events import Sink, SinkContext
from kateway.core.breaker import Breaker
from kateway.core.entry_points import Installed
from kateway.core.metrics_sinks import MetricsSink, MetricsSinkContext
from kateway.core.plugin_watch import Watches
from kateway.core.transforms.plugged import Transform
from kateway.model import Health
from kateway.observe.store import StoreCells
from kateway.storage.interface import Store

Options_contra = TypeVar("Options_contra", contravariant=True)


class AuthenticatorFactory(Protocol[Options_contra]):
    """``kateway.authenticators``, chosen by ``[auth] methods``; options in ``[auth.options.NAME]``."""

    def __call__(self, context: AuthenticatorContext, options: Options_contra, /) -> Authenticator: ...


class AuthorizerFactory(Protocol[Options_contra]):
    """``kateway.authorizers``, chosen by ``[auth] authorizer``; options in ``[auth.options.NAME]``."""

    def __call__(self, max_deliveries: int, options: Options_contra, /) -> Authorizer: ...


class AuditSinkFactory(Protocol[Options_contra]):
    """``kateway.audit_sinks``, chosen by ``[audit] sinks``; options in ``[audit.options.NAME]``."""

    def __call__(self, context: SinkContext, options: Options_contra, /) -> Sink: ...


class TransformFactory(Protocol[Options_contra]):
    """``kateway.transforms``, chosen by a step ``{"plugin": NAME, "options": {…}}``. Without ``Options`` the entry
    point is the transform itself.
    """

    def __call__(self, options: Options_contra, /) -> Transform: ...


@attrs.frozen(kw_only=True)
class StoreContext:
    """What a store's factory is given."""

    name: str
    """The cluster's: ``main`` of ``[storage.main]``."""
    config: PluginStorageConfig
    reactor: Any
    cells: StoreCells | None = None
    """What the store counts in; ``None`` where nothing is counted."""


class StoreFactory(Protocol[Options_contra]):
    """``kateway.stores``, chosen by ``[storage.CLUSTER] driver``; options in ``[storage.CLUSTER.options]``."""

    def __call__(self, context: StoreContext, options: Options_contra, /) -> Store: ...


class MetricsSinkFactory(Protocol[Options_contra]):
    """``kateway.metrics_sinks``, chosen by ``[metrics] sinks``; options in ``[metrics.options.NAME]``."""

    def __call__(self, context: MetricsSinkContext, options: Options_contra, /) -> MetricsSink: ...


class ClusterState(NamedTuple):
    """A cluster as the list of plugins sees it: the breaker of a store is its cluster's."""

    driver: str
    breaker: Breaker
    health: Health


class PluginList:
    """The plugins of all seams with their state."""

    def __init__(self, watches: Watches, clusters: Callable[[], Mapping[str, ClusterState]]) -> None:
        self._watches = watches
        self._clusters = clusters
        self._installed: list[Installed] | None = None

    def rows(self) -> dict[str, dict[str, Any]]:
        """By ``SEAM/NAME``."""
        if self._installed is None:
            # what is installed later takes a restart
            self._installed = [each for group in entry_points.GROUPS for each in entry_points.installed(group)]
        return {f"{_seam(each.group)}/{each.name}": self._row(each) for each in self._installed}

    def _row(self, each: Installed) -> dict[str, Any]:
        state = self._of_store(each.name) if each.group == entry_points.STORES else self._watched(each)
        return {
            "seam": _seam(each.group),
            "plugin": each.name,
            "distribution": each.distribution,
            "version": each.version,
            **state,
        }

    def _watched(self, each: Installed) -> dict[str, Any]:
        watch = self._watches.of(each.group, each.name)
        return _state(watch.state, watch.failures, watch.last_error)

    def _of_store(self, driver: str) -> dict[str, Any]:
        clusters = [each for each in self._clusters().values() if each.driver == driver]
        failures = sum(each.breaker.failures for each in clusters)
        if any(each.breaker.refusing for each in clusters):
            state = "taken_out"
        elif failures or not all(each.health.healthy for each in clusters):
            state = "failing"
        else:
            state = "loaded" if clusters else "not_loaded"
        errors = [each.breaker.last_error or ("" if each.health.healthy else each.health.reason) for each in clusters]
        return _state(state, failures, next(filter(None, errors), ""))


def _state(state: str, failures: int, last_error: str) -> dict[str, Any]:
    return {"state": state, "failures": failures, "last_error": last_error or None}


def _seam(group: str) -> str:
    return group.removeprefix("kateway.")
