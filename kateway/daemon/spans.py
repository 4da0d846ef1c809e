"""Switches tracing on, off and over, as ``[tracing]`` says."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.logger import Logger

from kateway.config.addresses import url_fault
from kateway.config.schema import Config
from kateway.errors import ConfigError
from kateway.observe import families
from kateway.observe.cells import Histogram
from kateway.observe.series import Series
from kateway.observe.tracing import Tracer, Tracing

if TYPE_CHECKING:
    from kateway.observe.otlp import OtlpSender, Plan

TRACED = ("publish", "subscribe", "acknowledge", "read")
"""Operations whose times get traces as examples."""
_PATH = "/v1/traces"
_OPTION = "tracing.otlp_endpoint"

_log = Logger()


def build_spans(settings: Config) -> Plan | None:
    """Plans how spans are sent; ``None`` where nothing is traced. ``ConfigError`` where they cannot be."""
    config = settings.tracing
    if not config.otlp_endpoint:
        return None
    fault = url_fault(config.otlp_endpoint)
    if fault:
        raise ConfigError([f"{_OPTION}: {fault}"])
    try:
        # the SDK takes 0.2 s and some megabytes: only where it is used
        from kateway.observe.otlp import Plan
    except ImportError as error:
        raise ConfigError(
            [f"{_OPTION}: tracing needs OpenTelemetry's SDK ({error}); install it with: pip install 'kateway[tracing]'"]
        ) from error
    endpoint = config.otlp_endpoint.rstrip("/")
    return Plan(
        endpoint if endpoint.endswith(_PATH) else endpoint + _PATH,
        config.service_name,
        config.timeout_seconds,
        config.interval_seconds,
        config.max_queued_spans,
        config.max_request_spans,
    )


class Spans:
    """Holds what is traced with, and what sends it; ``resource`` describes this gateway."""

    def __init__(self, reactor: Any, series: Series | None, resource: Mapping[str, str]) -> None:
        self.tracing = Tracing()
        self._reactor = reactor
        self._resource = resource
        self._durations: dict[str, Histogram] = (
            {} if series is None else {name: series.histogram(families.HTTP_DURATION, (name,)) for name in TRACED}
        )
        self._plan: Plan | None = None
        self._sender: OtlpSender | None = None
        self._ending: set[Deferred[None]] = set()

    def configure(self, plan: Plan | None, sample_ratio: float) -> None:
        """Traces by a plan from now on; what the one before has not sent yet is sent beside it."""
        if plan != self._plan:
            before, self._plan, self._sender = self._sender, plan, None
            if before is not None:
                self._end(before, before.timeout_seconds)
        if plan is None:
            self.tracing.tracer = None
            return
        if self._sender is None:
            from kateway.observe.otlp import OtlpSender

            self._sender = OtlpSender(plan, self._reactor, dict(self._resource), self.tracing.dropped)
        seconds = self._reactor.seconds
        self.tracing.tracer = Tracer(sample_ratio, self._sender, seconds, time.time_ns, self._durations)

    async def stop(self, seconds: float) -> None:
        """Sends what waits, for so long at most; nothing is traced any more."""
        self.tracing.tracer = None
        sender, self._sender, self._plan = self._sender, None, None
        if sender is not None:
            self._end(sender, seconds)
        try:
            # those that a reload ended a moment ago too
            await DeferredList(list(self._ending)).addTimeout(seconds, self._reactor)
        except TookTooLong:
            pass  # by then each has given up

    def _end(self, sender: OtlpSender, seconds: float) -> None:
        ending = Deferred.fromCoroutine(sender.stop(seconds))
        self._ending.add(ending)

        def over(_: object) -> None:
            self._ending.discard(ending)

        ending.addErrback(lambda failure: _log.failure("the end of tracing broke", failure)).addBoth(over)
