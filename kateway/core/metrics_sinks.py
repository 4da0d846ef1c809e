"""Sends the gateway's figures to sinks again and again; found by the entry point group ``kateway.metrics_sinks``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.config.schema import MetricsConfig
from kateway.core import entry_points
from kateway.core.plugin_watch import Watch, Watches
from kateway.errors import ConfigError, Problems

_log = Logger()

Exposition = Callable[[], Awaitable[bytes]]
"""The figures of now in Prometheus' text format 0.0.4."""


class MetricsSink(Protocol):
    """Where figures go."""

    async def write(self, exposition: bytes) -> None:
        """Sends the figures of now; raises where it could not. One call at a time; those that are missed meanwhile are
        not made up for.
        """

    async def close(self) -> None:
        """Frees the sink's resources; the last call."""


@attrs.frozen(kw_only=True)
class MetricsSinkContext:
    """What a sink's factory is given: ``factory(context)`` or ``factory(context, options)``."""

    clock: IReactorTime
    """The reactor."""
    in_thread: Callable[[Callable[[], None]], Deferred[None]]
    """Runs a blocking function off the reactor's thread."""


def _log_failure(failure: Failure) -> None:
    _log.failure("a metrics sink was cancelled", failure)


class MetricsSinks:
    """The configured sinks together."""

    def __init__(self, sinks: Mapping[str, tuple[MetricsSink, Watch]], exposition: Exposition) -> None:
        self._sinks = sinks
        self._exposition = exposition
        self._writing: set[str] = set()
        self._held: dict[str, Deferred[None]] = {}
        """The newest write to each sink: one that waits for a Deferred that nothing else refers to must not be
        garbage-collected, which would look as if it had ended.
        """

    def __len__(self) -> int:
        return len(self._sinks)

    async def tell(self) -> None:
        """Sends the figures of now to each sink that is not busy with earlier ones and not taken out; waits for none,
        so that a slow one holds up no other.
        """
        due = [name for name, (_sink, watch) in self._sinks.items() if name not in self._writing and watch.admit()]
        if not due:
            return
        text = await self._exposition()
        for name in due:
            self._writing.add(name)
            self._held[name] = Deferred.fromCoroutine(self._write(name, text)).addErrback(_log_failure)

    async def _write(self, name: str, text: bytes) -> None:
        sink, watch = self._sinks[name]
        try:
            await watch.write(lambda: sink.write(text))
        except CancelledError:
            raise
        except Exception as error:
            _log.debug("metrics sink {sink}: {error}", sink=name, error=error)
        finally:
            self._writing.discard(name)

    async def stop(self) -> None:
        """Closes the sinks."""
        for name, (sink, _watch) in self._sinks.items():
            try:
                await sink.close()
            except CancelledError:
                raise
            except Exception as error:
                _log.warn("metrics sink {sink} did not close: {error}", sink=name, error=error)


def build_metrics_sinks(
    config: MetricsConfig, context: MetricsSinkContext, exposition: Exposition, watches: Watches
) -> MetricsSinks:
    """The sinks that ``[metrics] sinks`` names. ``ConfigError`` names every fault."""
    if config.sinks and not config.enabled:
        raise ConfigError(["metrics.sinks: without metrics.enabled there are no figures to send"])
    sinks: dict[str, tuple[MetricsSink, Watch]] = {}
    problems = Problems()
    for name in config.sinks:
        sink = problems.take(_sink, name, config, context)
        if sink is not None:
            sinks[name] = (sink, watches.loaded(entry_points.METRICS_SINKS, name))
    problems.refuse()
    return MetricsSinks(sinks, exposition)


def _sink(name: str, config: MetricsConfig, context: MetricsSinkContext) -> MetricsSink:
    factory = entry_points.load(entry_points.METRICS_SINKS, name, "metrics.sinks")
    made: MetricsSink = entry_points.make(factory, context, config.options.get(name, {}), f"metrics.options.{name}")
    return made
