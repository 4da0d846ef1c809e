"""Circuit breakers, one a cluster: while nothing can be written there, publishes are refused at once.

- *closed*: publishes go to the store. It opens when for ``open_after_seconds`` none was written, and
  ``minimum_requests`` failed for the store's sake.
- *open*: publishes are refused. When the store's own probe reaches the cluster again, it is half-open.
- *half-open*: one publish is let through. If it is written the breaker closes; if it fails, it opens for a pause that
  doubles.

An operator can open it for maintenance; then it stays open until an operator closes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil, inf
from random import random
from typing import Any, Literal

import attrs
from twisted.logger import Logger

from kateway.backoff import Backoff
from kateway.errors import Draining, KatewayError, OutcomeUnknown, Overloaded, StoreUnavailable, Unavailable
from kateway.model import Health, Receipt
from kateway.storage.interface import Admission, Outcome, Store

State = Literal["closed", "open", "half_open"]

LOOK_SECONDS = 0.25
"""How often is looked whether a breaker is to open, or to try: a return of the cluster is noticed within it."""
LONGEST_PAUSE_SECONDS = 10.0
RETRY_SPREAD_SECONDS = 4.0
"""Clients that were refused in one moment come back over so many seconds, not in one wave."""

_log = Logger()


@attrs.frozen
class BreakerConfig:
    """When a breaker opens. ``open_after_seconds`` 0: never by itself."""

    open_after_seconds: float = 12.0
    minimum_requests: int = 20
    probe_seconds: float = 1.0


def for_the_stores_sake(outcome: Outcome) -> bool:
    """Whether a failure says that the store cannot be written to; those of the caller or of the gateway do not."""
    return isinstance(outcome, (Unavailable, OutcomeUnknown)) and not isinstance(outcome, (Overloaded, Draining))


class Breaker:
    """One cluster's state: pure, times are given in seconds of any one clock."""

    __slots__ = (
        "_backoff",
        "_config",
        "_failing_since",
        "_probing",
        "_seen",
        "_written_at",
        "by_hand",
        "failures",
        "last_error",
        "next_probe",
        "refusing",
        "since",
        "state",
        "successes",
    )  # fmt: skip

    def __init__(self, config: BreakerConfig, now: float) -> None:
        self.state: State = "closed"
        self.since = now
        self.refusing = False
        """Whether publishes have to ask ``admit``. The hot path looks at nothing else."""
        self.successes = 0
        """Publishes that were written, counted by the hot path; ``look`` notices the difference."""
        self.failures = 0
        """In a row, for the store's sake."""
        self.last_error = ""
        self.next_probe = 0.0
        """While it is open: not half-open before."""
        self.by_hand = False
        self._config = config
        self._backoff = Backoff(config.probe_seconds, LONGEST_PAUSE_SECONDS)
        self._probing = False
        self._seen = 0
        self._written_at = now
        """When a written publish was last noticed."""
        self._failing_since = inf
        """When the earliest of the failed publishes began."""

    def failed(self, error: KatewayError, began: float) -> None:
        """Counts a publish, begun at ``began``, that failed for the store's sake."""
        self.failures += 1
        self.last_error = error.detail
        self._failing_since = min(self._failing_since, began)

    def count(self, outcomes: Iterable[Outcome], began: float) -> None:
        """Counts a publish by its outcomes: a success where any message was written, however many others were not, as
        one partition without a leader must not close the cluster.
        """
        failed: KatewayError | None = None
        for outcome in outcomes:
            if isinstance(outcome, Receipt):
                self.successes += 1
                return
            if failed is None and isinstance(outcome, KatewayError) and for_the_stores_sake(outcome):
                failed = outcome
        if failed is not None:
            self.failed(failed, began)

    def look(self, now: float, healthy: bool) -> bool:
        """Moves on with time; ``healthy``: the store's probe reaches the cluster. Returns whether the state changed."""
        if self.successes != self._seen:
            self._seen = self.successes
            self._written_at = now
            self.failures = 0
            self._failing_since = inf
            # a publish that was sent before it opened was written after all
            return self.state != "closed" and not self.by_hand and self._enter("closed", now)
        if self.state == "closed":
            config = self._config
            waited = now - max(self._written_at, min(self._failing_since, now))
            late = 0 < config.open_after_seconds <= waited
            return late and self.failures >= config.minimum_requests and self._open(now)
        if self.by_hand or self._probing:
            return False
        if self.state == "open":
            return healthy and now >= self.next_probe and self._enter("half_open", now)
        return not healthy and self._open(now)

    def admit(self) -> bool:
        """Whether a publish may go to the store though ``refusing``: as the one probe. Its end must be reported."""
        if self.state != "half_open" or self._probing:
            return False
        self._probing = True
        return True

    def probed(self, outcomes: Iterable[Outcome], now: float) -> bool:
        """Takes the probe's outcomes: written, failed, or neither. Returns whether the state changed."""
        self._probing = False
        if self.state != "half_open":
            return False
        outcomes = list(outcomes)
        if any(isinstance(outcome, Receipt) for outcome in outcomes):
            return self._enter("closed", now)
        return any(map(for_the_stores_sake, outcomes)) and self._open(now)

    def set_by_hand(self, state: Literal["open", "closed"], now: float) -> bool:
        """Opens it until it is closed by hand, or closes it. Returns whether the state changed."""
        changed = self.state != state or self.by_hand != (state == "open")
        # a probe that is under way says nothing of what comes after
        self._probing = False
        self.by_hand = state == "open"
        self._enter(state, now)
        return changed

    def retry_after(self, now: float) -> float:
        """Seconds until a publish may succeed, different for each call."""
        wait = self.next_probe - now if self.state == "open" and not self.by_hand else 0.0
        return max(wait, 0.0) + 1 + random() * RETRY_SPREAD_SECONDS

    def _open(self, now: float) -> bool:
        self.next_probe = now + self._backoff.next()
        return self._enter("open", now)

    def _enter(self, state: State, now: float) -> bool:
        self.state = state
        self.since = now
        self.refusing = state != "closed"
        if state == "closed":
            self._backoff.reset()
            self.failures = 0
            self._failing_since = inf
            self._written_at = now
        return True


Changed = Callable[[str, Breaker, bool], None]
"""Cluster, its breaker, and whether the change was made by hand."""


class BreakerGate:
    """A breaker as the handoff of its cluster sees it: its writes count as publishes do, and may be the probe."""

    def __init__(self, breakers: Breakers, cluster: str) -> None:
        self._breakers = breakers
        self._cluster = cluster

    def admit(self) -> Admission | None:
        """Whether a round of writes may begin, and as what."""
        breaker = self._breakers[self._cluster]
        if not breaker.refusing:
            return "write"
        return "probe" if breaker.admit() else None

    def ended(self, admitted: Admission, outcomes: Sequence[Outcome], began: float) -> None:
        """Counts the round."""
        if admitted == "probe":
            self._breakers.probed(self._cluster, outcomes)
        self._breakers[self._cluster].count(outcomes, began)


class Breakers(Mapping[str, Breaker]):
    """The clusters' breakers, by name. ``changed`` is called after each change of a state."""

    def __init__(
        self, configs: Mapping[str, BreakerConfig], seconds: Callable[[], float], changed: Changed = lambda *_: None
    ) -> None:
        self._seconds = seconds
        self._changed = changed
        self._breakers = {name: Breaker(config, seconds()) for name, config in configs.items()}

    def __getitem__(self, cluster: str) -> Breaker:
        return self._breakers[cluster]

    def __iter__(self) -> Any:
        return iter(self._breakers)

    def __len__(self) -> int:
        return len(self._breakers)

    def refusal(self, cluster: str) -> StoreUnavailable:
        """The answer to a publish while the cluster's breaker is open."""
        breaker, now = self._breakers[cluster], self._seconds()
        if breaker.by_hand:
            why = "an operator has opened its breaker for maintenance"
        else:
            why = f"nothing could be written there for {ceil(now - breaker._written_at)} s ({breaker.last_error})"
        return StoreUnavailable(
            f"the cluster {cluster} takes no records: {why}", retry_after_seconds=breaker.retry_after(now)
        )

    def probed(self, cluster: str, outcomes: Sequence[Outcome]) -> None:
        """Reports the end of the publish that ``admit`` let through."""
        if self._breakers[cluster].probed(outcomes, self._seconds()):
            self._tell(cluster)

    def look(self, stores: Mapping[str, Store]) -> None:
        """Moves all on with time; to be called every ``LOOK_SECONDS``."""
        now = self._seconds()
        for cluster, breaker in self._breakers.items():
            healthy = breaker.state == "closed" or stores[cluster].health().healthy
            if breaker.look(now, healthy):
                self._tell(cluster)

    def set_by_hand(self, cluster: str, state: Literal["open", "closed"]) -> None:
        """Opens a breaker for maintenance, until it is closed by hand; or closes it."""
        if self._breakers[cluster].set_by_hand(state, self._seconds()):
            self._tell(cluster, by_hand=True)

    def health(self, cluster: str, health: Health) -> Health:
        """Returns the store's health with its breaker's: a cluster whose breaker is open is not healthy. Half-open it
        is as healthy as the store: the publish that closes it comes only to a gateway that says that it is ready.
        """
        breaker = self._breakers[cluster]
        if breaker.state != "open":
            return health
        by = "by hand" if breaker.by_hand else f"since nothing could be written: {breaker.last_error}"
        reason = f"the breaker is {breaker.state} {by}"
        return Health(False, f"{health.reason}; {reason}" if health.reason else reason, health.details)

    def status(self, cluster: str) -> dict[str, Any]:
        """What the admin API shows of a breaker; durations in seconds."""
        breaker, now = self._breakers[cluster], self._seconds()
        waits = breaker.state == "open" and not breaker.by_hand
        return {
            "state": breaker.state,
            "by_hand": breaker.by_hand,
            "seconds": round(now - breaker.since, 1),
            "failures": breaker.failures,
            "last_error": breaker.last_error or None,
            "next_probe_seconds": round(max(breaker.next_probe - now, 0.0), 1) if waits else None,
        }

    def _tell(self, cluster: str, *, by_hand: bool = False) -> None:
        breaker = self._breakers[cluster]
        if breaker.state == "closed":
            _log.info("the breaker of {cluster} is closed: publishes go there again", cluster=cluster)
        elif breaker.state == "half_open":
            _log.info("the breaker of {cluster} is half-open: one publish tries the cluster", cluster=cluster)
        elif breaker.by_hand:
            _log.warn("the breaker of {cluster} is open, by hand: publishes are refused", cluster=cluster)
        else:
            _log.warn(
                "the breaker of {cluster} is open: nothing could be written, the last error was: {error}",
                cluster=cluster,
                error=breaker.last_error,
            )
        self._changed(cluster, breaker, by_hand)
