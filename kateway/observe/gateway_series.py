"""The series of the gateway as a whole: names, and the figures of now from what is counted and sampled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from kateway.observe import families
from kateway.observe.cells import Counter, Histogram
from kateway.observe.exposition import Sampled
from kateway.observe.families import OPERATIONS, Family
from kateway.observe.last_minute import LastMinute
from kateway.observe.series import Series

RATES: dict[str, tuple[Family, str]] = {
    "in_records": (families.PUBLISH_RECORDS, ""),
    "in_bytes": (families.PUBLISH_BYTES, ""),
    "errors": (families.PUBLISH_ERRORS, ""),
    "maybe_written": (families.PUBLISH_MAYBE_WRITTEN, ""),
    "handed_off": (families.PUBLISH_HANDOFF, ""),
    "duplicates": (families.PUBLISH_DUPLICATES, ""),
    "out_records": (families.SUBSCRIBE_RECORDS, ""),
    "out_bytes": (families.SUBSCRIBE_BYTES, ""),
    "acknowledged": (families.SUBSCRIBE_ACKNOWLEDGED, "ok"),
    "retried": (families.SUBSCRIBE_ACKNOWLEDGED, "retry"),
    "dead": (families.SUBSCRIBE_ACKNOWLEDGED, "dead"),
    "expired": (families.SUBSCRIBE_ACKNOWLEDGED, "expired"),
    "redelivered": (families.SUBSCRIBE_REDELIVERED, ""),
    "blocked": (families.SUBSCRIBE_BLOCKED, ""),
    "commit_failures": (families.GROUP_COMMIT_FAILURES, ""),
    "rebalances": (families.GROUP_REBALANCES, ""),
    "throttled": (families.QUOTA_THROTTLED, ""),
    "auth_failures": (families.AUTH_FAILURES, ""),
    "rejected": (families.HTTP_REJECTED, ""),
    "store_errors": (families.STORE_ERRORS, ""),
    "breaker_changes": (families.BREAKER_TRANSITIONS, ""),
}
"""Counters by their series' names: added up over their label sets, or those whose last label is this, per second."""
REQUESTS = tuple(f"requests_{operation}" for operation in OPERATIONS)
FAILURES = ("requests", "client_errors", "server_errors")
GAUGES: dict[str, tuple[Family, str]] = {
    "connections": (families.HTTP_CONNECTIONS, ""),
    "in_flight": (families.HTTP_IN_FLIGHT, ""),
    "stores_up": (families.STORE_UP, ""),
    "store_bytes_in_flight": (families.STORE_BYTES, ""),
    "handoff_records": (families.STORE_HANDOFF, ""),
    "breakers_open": (families.BREAKER_STATE, "open"),
    "registry_up": (families.REGISTRY_UP, ""),
    "generation": (families.GENERATION, ""),
    "draining": (families.DRAINING, ""),
    "resident_bytes": (families.RESIDENT, ""),
    "open_files": (families.OPEN_FILES, ""),
}
"""Sampled series by their names, added up in the same way."""
OF_GROUPS = ("readers", "groups", "lag", "unacknowledged")
CPU = "cpu"
"""Seconds of it in a second."""
QUANTILES: dict[str, tuple[Family, str]] = {
    "publish_seconds": (families.HTTP_DURATION, "publish"),
    "subscribe_seconds": (families.HTTP_DURATION, "subscribe"),
    "acknowledge_seconds": (families.HTTP_DURATION, "acknowledge"),
    "store_seconds": (families.STORE_DURATION, ""),
    "record_age_seconds": (families.SUBSCRIBE_AGE, ""),
    "reactor_lag_seconds": (families.REACTOR_LAG, ""),
}
"""Histograms, whose buckets are series; shares of theirs are worked out where they are read."""
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}

PLAIN = (*RATES, CPU, *FAILURES, *REQUESTS, *GAUGES, *OF_GROUPS)


def bucket(name: str, place: int) -> str:
    """Names the series of a histogram's bucket."""
    return f"{name}_bucket_{place}"


SERIES = (
    *PLAIN,
    *(bucket(name, place) for name, (family, _) in QUANTILES.items() for place in range(len(family.buckets) + 1)),
)
SHOWN = (*PLAIN, *(f"{name}_{share}" for name in QUANTILES for share in SHARES))
"""What a reader may ask for."""


class GatewayFigures:
    """Works out the figures of one look after the other; ``at`` is a clock that never goes back."""

    def __init__(self, series: Series, at: float) -> None:
        self._series = series
        self._counted = LastMinute(at, len(self._totals({})))
        self._looked = False

    def look(self, at: float, sampled: Iterable[Sampled], of_groups: Mapping[str, float | None]) -> list[float | None]:
        """Returns the figures in the order of ``SERIES``."""
        found: dict[str, list[tuple[tuple[str, ...], float]]] = defaultdict(list)
        for family, labels, value in sampled:
            found[family.name].append((labels, value))
        self._counted.look(at, self._totals(found))
        rates = iter(self._counted.rates())
        plain: list[float | None] = [next(rates) for _ in (*RATES, CPU, *FAILURES, *REQUESTS)]
        if not self._looked:
            # what the start has cost was used before the first look began
            plain[len(RATES)] = None
        self._looked = True
        for family, last in GAUGES.values():
            values = [value for labels, value in found.get(family.name, ()) if not last or labels[-1] == last]
            plain.append(sum(values) if values else None)
        plain += [of_groups.get(name) for name in OF_GROUPS]
        return [*plain, *rates]

    def _totals(self, sampled: Mapping[str, list[tuple[tuple[str, ...], float]]]) -> list[float]:
        series = self._series
        totals = [_sum(series, family, last) for family, last in RATES.values()]
        totals.append(sum(value for _, value in sampled.get(families.CPU.name, ())))
        requests: dict[str, float] = dict.fromkeys(OPERATIONS, 0.0)
        client = server = 0.0
        for (operation, code), cell in series.cells(families.HTTP_REQUESTS):
            assert isinstance(cell, Counter)
            requests[operation] = requests.get(operation, 0.0) + cell.value
            client += cell.value if code.startswith("4") else 0.0
            server += cell.value if code.startswith("5") else 0.0
        totals += [sum(requests.values()), client, server, *(requests[operation] for operation in OPERATIONS)]
        for family, first in QUANTILES.values():
            counts = [0.0] * (len(family.buckets) + 1)
            for labels, cell in series.cells(family):
                if not first or labels[0] == first:
                    assert isinstance(cell, Histogram)
                    counts = [before + count for before, count in zip(counts, cell.counts, strict=True)]
            totals += counts
        return totals


def _sum(series: Series, family: Family, last: str) -> float:
    cells = series.cells(family)
    return sum(cell.value for labels, cell in cells if isinstance(cell, Counter) and (not last or labels[-1] == last))
