"""Listings from brokers that have not all heard of a topic yet."""

from __future__ import annotations

from types import MappingProxyType

from kateway.config.addresses import Address
from kateway.storage.kafka.cluster.new_topics import NEW_SECONDS, NewTopics
from kateway.storage.kafka.protocol.metadata import ClusterView, TopicView


def listing(*topics: str, brokers: int = 3, leader: int = 1) -> ClusterView:
    return ClusterView(
        MappingProxyType({node: Address("h", node) for node in range(1, brokers + 1)}),
        1,
        MappingProxyType({topic: TopicView((leader,)) for topic in topics}),
    )


def test_a_new_topic_stays_while_a_broker_that_is_behind_answers() -> None:
    new = NewTopics()
    view = new.added(listing("old"), None, 0)
    view = new.added(listing("old", "new"), view, 100)
    view = new.added(listing("old"), view, 100 + NEW_SECONDS / 2)
    assert view == listing("old", "new")
    assert new.added(listing("old", "new", leader=2), view, 104) == listing("old", "new", leader=2)


def test_topic_that_a_later_listing_lacks_is_gone() -> None:
    new = NewTopics()
    view = new.added(listing(), None, 0)
    view = new.added(listing("new"), view, 100)
    view = new.added(listing(), view, 100 + NEW_SECONDS)
    assert view == listing()
    assert new.added(listing(), view, 101 + NEW_SECONDS) == listing()


def test_topic_that_was_there_at_first_is_not_new() -> None:
    new = NewTopics()
    view = new.added(listing("old"), None, 0)
    assert new.added(listing(), view, 1) == listing()


def test_topic_known_to_be_deleted_is_gone_at_once_and_may_come_again() -> None:
    new = NewTopics()
    view = new.added(listing(), None, 0)
    view = new.added(listing("new"), view, 1)
    new.deleted("new")
    view = new.added(listing(), view, 2)
    assert view == listing()
    view = new.added(listing("new"), view, 3)
    assert new.added(listing(), view, 4) == listing("new")


def test_a_sole_broker_is_not_behind() -> None:
    new = NewTopics()
    view = new.added(listing(brokers=1), None, 0)
    view = new.added(listing("new", brokers=1), view, 1)
    view = new.added(listing(brokers=1), view, 2)
    assert view == listing(brokers=1)
    # a second broker comes, and what was gone meanwhile does not come with it
    assert new.added(listing(brokers=2), view, 3) == listing(brokers=2)
