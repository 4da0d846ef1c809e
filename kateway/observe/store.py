"""Counts the requests to one store: how long each took and waited, and what failed."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from kateway.errors import KatewayError
from kateway.observe import families
from kateway.observe.cells import Counter, Histogram
from kateway.observe.series import Series


class StoreCells:
    """The cells of one cluster. Names of requests and errors come from code of ours: there are few."""

    def __init__(self, series: Series, cluster: str) -> None:
        self._series = series
        self._cluster = cluster
        self._durations: dict[str, Histogram] = {}
        self._errors: dict[str, Counter] = {}

    def ended(self, request: str, seconds: float, result: object) -> None:
        """Counts a request with its answer or its failure; one that was cancelled says nothing."""
        if isinstance(result, Failure):
            if result.check(CancelledError):
                return
            error = result.value
            self.failed(error.code if isinstance(error, KatewayError) else type(error).__name__)
        histogram = self._durations.get(request)
        if histogram is None:
            histogram = self.duration(request)
        histogram.observe(seconds)

    def duration(self, request: str) -> Histogram:
        """Returns where is counted how long requests take."""
        histogram = self._series.histogram(families.STORE_DURATION, (self._cluster, request))
        self._durations[request] = histogram
        return histogram

    def queue(self, request: str) -> Histogram:
        """Returns where is counted how long requests wait to be sent."""
        return self._series.histogram(families.STORE_QUEUE, (self._cluster, request))

    def failed(self, error: str) -> None:
        """Counts an error by its name."""
        counter = self._errors.get(error)
        if counter is None:
            labels = self._cluster, error
            counter = self._errors[error] = self._series.counter(families.STORE_ERRORS, labels)
        counter.value += 1
