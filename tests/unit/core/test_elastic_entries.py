"""Entries of elastic topics: which are refused, and with how many partitions they are put."""

from __future__ import annotations

import pytest

from kateway.core.elastic_entries import ElasticEntries, wanted_partitions
from kateway.errors import Conflict
from kateway.registry import plans
from kateway.registry.interface import Application, Elastic, Placement, PlacementState, Topic


def topic(partitions: int | None = None, *, name: str = "t", elastic: bool = True) -> Topic:
    rules = Elastic() if elastic else None
    return Topic(application="app1", topic=name, version="v1", partitions=partitions, elastic=rules)


def placement(partitions: int, state: PlacementState = "settled", later: int = 0) -> Placement:
    return Placement(
        application="app1", topic="t", version="v1", partitions=partitions, state=state, next_partitions=later
    )


def test_topic_becomes_elastic_only_where_gateways_share_a_registry() -> None:
    entries = ElasticEntries(refusal="elsewhere")
    plain = plans.build([Application(name="app1"), topic(elastic=False)], 1)
    with pytest.raises(Conflict, match="elsewhere"):
        entries.check(topic(), plain)
    entries.check(topic(elastic=False), plain)
    # one that is elastic already may be changed
    entries.check(topic(8), plans.build([Application(name="app1"), topic()], 1))


def test_topic_beyond_the_most_that_may_be_elastic_is_refused() -> None:
    snapshot = plans.build([Application(name="app1"), topic(), topic(name="u", elastic=False)], 1)
    ElasticEntries(max_topics=2).check(topic(name="u"), snapshot)
    ElasticEntries(max_topics=1).check(topic(), plans.build([Application(name="app1"), placement(2)], 1))
    with pytest.raises(Conflict, match=r"1 topics are elastic already \(elastic.max_topics\)"):
        ElasticEntries(max_topics=1).check(topic(name="u"), snapshot)


@pytest.mark.parametrize(
    ("put", "old", "where", "wanted"),
    [
        (None, None, None, None),
        (3, 2, None, 3),
        (None, 2, placement(2), 2),
        (None, 8, placement(2), 8),
        (None, None, placement(2), 2),
        (2, 2, placement(2), 2),
        (4, 2, placement(2), 4),
        (2, 2, placement(2, "announced", 4), 2),
        (None, 2, placement(2, "reading", 4), 4),
    ],
)
def test_partitions_of_an_entry_are_not_fewer_than_are_in_force(
    put: int | None, old: int | None, where: Placement | None, wanted: int | None
) -> None:
    former = None if old is None else topic(old)
    assert wanted_partitions(topic(put), former, where) == wanted


def test_entry_with_fewer_partitions_than_are_in_force_is_refused() -> None:
    with pytest.raises(Conflict, match="has 4 partitions in force"):
        wanted_partitions(topic(2), topic(4), placement(2, "reading", 4))
