"""Names of topics and groups to places in stores and back, with a registry and without."""

from __future__ import annotations

from typing import Any

import pytest

from kateway.core.groups.dead_letters import dead_letter_topic
from kateway.core.operator.naming import Found, GroupName, Names
from kateway.errors import InvalidName, NotFound, RegistryUnavailable, TopicNotFound
from kateway.registry.interface import Application, Snapshot, Topic

STORES: Any = {"default": object(), "other": object()}


def registered(*topics: Topic) -> Names:
    snapshot = Snapshot(
        applications={name: Application(name=name) for name in ("app1", "app2")},
        topics={topic.name: topic for topic in topics},
    )
    return Names(STORES, lambda: snapshot)


FOO = Topic(application="app1", topic="foo", version="v1")
OLD = Topic(application="app1", topic="old", version="v2", cluster="other", storage_name="legacy")


def test_registered_topic_is_found_where_it_is_stored() -> None:
    names = registered(FOO, OLD)
    assert names.topic("app1", "foo", "v1") == ("default", STORES["default"], "app1.foo.v1")
    assert names.topic("app1", "old", "v2") == ("other", STORES["other"], "legacy")
    with pytest.raises(TopicNotFound):
        names.topic("app2", "foo", "v1")
    with pytest.raises(RegistryUnavailable):
        registered(Topic(application="app1", topic="foo", version="v1", cluster="gone")).topic("app1", "foo", "v1")


@pytest.mark.parametrize("topic", [FOO, OLD])
def test_registered_group_is_found_and_known_again(topic: Topic) -> None:
    names = registered(FOO, OLD)
    name = GroupName("app2", *topic.name, "g1")
    place, group = names.group(name)
    assert group == "app2.g1"
    assert names.found(place.cluster, group, place.topic) == Found(name, False)
    assert names.found(place.cluster, group, dead_letter_topic(place.topic, group)) == Found(name, True)
    assert names.found(place.cluster, group, "elsewhere") is None
    assert names.found(place.cluster, "g1", place.topic) is None


def test_group_of_no_application_is_not_found() -> None:
    names = registered(FOO)
    with pytest.raises(NotFound):
        names.group(GroupName("app3", "app1", "foo", "v1", "g1"))
    with pytest.raises(InvalidName):
        names.group(GroupName("app2", "app1", "foo", "v1", "g.1"))


@pytest.mark.parametrize(("topic", "version"), [("foo", "v1"), ("a.b", "v1"), ("foo", "v2"), ("a.b", "v12")])
def test_open_group_is_found_and_known_again(topic: str, version: str) -> None:
    names = Names(STORES, None)
    name = GroupName("default", "default", topic, version, "my.group")
    place, group = names.group(name)
    assert (place.cluster, group) == ("default", "my.group")
    assert names.found("default", group, place.topic) == Found(name, False)
    assert names.found("default", group, dead_letter_topic(place.topic, group)) == Found(name, True)


def test_open_mode_knows_no_other_application() -> None:
    names = Names(STORES, None)
    for wrong in (("app1", "foo", "v1"), ("default", "foo", "1"), ("default", "a b", "v1"), ("default", "..", "v1")):
        with pytest.raises((NotFound, InvalidName)):
            names.topic(*wrong)
