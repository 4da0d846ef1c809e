"""Counts publishes by topic and by cluster, when their outcome is known: one call a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kateway.core.access.control import AuthorizedRequest
from kateway.errors import Draining, InvalidTopic, KatewayError, TopicNotFound
from kateway.model import HandedOff, Message
from kateway.observe import families
from kateway.observe.bundles import ClusterCells, TopicCells
from kateway.observe.cells import Counter
from kateway.observe.series import Series
from kateway.storage.interface import Outcome

Names = tuple[str, str, str]
"""Application, topic and version."""


class PublishCounts:
    """The cells of publishes, by the names that their topics are registered with."""

    def __init__(self, series: Series) -> None:
        self._series = series

    def answered(self, authorized: AuthorizedRequest, messages: Sequence[Message], outcomes: Sequence[Outcome]) -> None:
        """Counts the messages of a publish by their outcomes."""
        counted = authorized.counted
        cluster = self._series.cluster(authorized.place.cluster)
        taken, size = _taken(cluster, messages, outcomes, lambda error: self._error(authorized, error))
        if taken:
            topic = counted.topic
            if topic is None or not topic.live:
                topic = self._find(authorized)
            counted.producer.value += taken
            topic.records.value += taken
            topic.bytes.value += size
            counted.cluster = cluster

    def by_operator(
        self, names: Names, cluster_name: str, tenant: str, messages: Sequence[Message], outcomes: Sequence[Outcome]
    ) -> None:
        """Counts an operator's publish or redrive by its topic; ``tenant``: the application whose manager's session
        it was, which is the producer. An administrator is none.
        """
        topic = self._series.topic(*names)
        taken, size = _taken(
            self._series.cluster(cluster_name), messages, outcomes, lambda error: topic.error(error.code)
        )
        topic.records.value += taken
        topic.bytes.value += size
        if tenant and taken:
            topic.producer(tenant, "").value += taken

    def _find(self, authorized: AuthorizedRequest) -> TopicCells:
        """Finds the cells of the topic and its caller, and keeps them with the permission."""
        counted, principal = authorized.counted, authorized.principal
        topic = counted.topic = self._series.topic(*authorized.registered)
        counted.producer = topic.producer(principal.application, principal.key or "")
        return topic

    def replayed(self, cluster: str) -> None:
        """Counts a publish that was answered as the first one under its key."""
        self._series.cluster(cluster).duplicates.value += 1

    def refused(self, authorized: AuthorizedRequest | None, error: BaseException | None, records: int = 1) -> None:
        """Counts a publish that failed as a whole, before it was authorised where there is no ``authorized``."""
        self._error(authorized, error).value += records
        if authorized is not None and isinstance(error, KatewayError) and error.maybe_written:
            self._series.cluster(authorized.place.cluster).maybe_written.value += records

    def _error(self, authorized: AuthorizedRequest | None, error: BaseException | None) -> Counter:
        if isinstance(error, Draining):
            self._series.counter(families.HTTP_REJECTED, ("draining",)).value += 1
        code = error.code if isinstance(error, KatewayError) else KatewayError.code
        return self._failing(authorized, error).error(code)

    def _failing(self, authorized: AuthorizedRequest | None, error: BaseException | None) -> TopicCells:
        series = self._series
        if authorized is None:
            # what an unknown caller names is no topic: any number of names would be series
            return series.other_topic()
        names = authorized.registered
        if isinstance(error, (TopicNotFound, InvalidTopic)) and names not in series.topics:
            return series.other_topic()
        return series.topic(*names)


def _taken(
    cluster: ClusterCells,
    messages: Sequence[Message],
    outcomes: Sequence[Outcome],
    failed: Callable[[KatewayError], Counter],
) -> tuple[int, int]:
    """Counts a publish's outcomes by its cluster; returns the records taken, and their bytes."""
    taken = size = unsure = 0
    for message, outcome in zip(messages, outcomes, strict=False):
        if isinstance(outcome, KatewayError):
            failed(outcome).value += 1
            cluster.maybe_written.value += outcome.maybe_written
            unsure += outcome.maybe_written
            continue
        if isinstance(outcome, HandedOff):
            cluster.handoff.value += 1
        taken += 1
        size += len(message.value or b"") + len(message.key or b"")
    if taken or unsure:
        # what a transform, a share of the room or an open breaker refused reached no store
        cluster.batch.observe(len(messages))
    return taken, size
