"""Which metrics a change of the registry leaves, and which quotas are shown."""

from __future__ import annotations

from twisted.internet.task import Clock

from kateway.core.access.rate_limits import Quotas
from kateway.daemon import sampling
from kateway.daemon.forgetting import forget_unregistered
from kateway.model import Principal
from kateway.observe import families
from kateway.observe.bundles import OTHER
from kateway.observe.series import MOST_OBJECTS, Series
from kateway.registry.interface import Application, Binding, Quota, Snapshot, Topic

FOO = Topic(application="app1", topic="foo", version="v1")
BOUND = Binding(subscriber="app2", application="app1", topic="foo", version="v1", groups=frozenset({"g1"}))
SNAPSHOT = Snapshot(
    applications={name: Application(name=name) for name in ("app1", "app2")},
    topics={FOO.name: FOO},
    bindings={BOUND.name: BOUND},
)


def test_registered_topics_and_bound_groups_stay_with_their_dead_letters_and_others_go() -> None:
    series = Series(lambda: 0.0, max_series=40000)
    kept = [
        ("app1", "foo", "v1", "own", "app1"),
        ("app1", "foo", "v1", "g1", "app2"),
        ("app1", "foo.g1.dead", "v1", "g1", "app2"),
    ]
    gone = [
        ("app1", "foo", "v1", "g2", "app2"),
        ("app1", "foo", "v1", "g1", "app3"),
        ("app1", "foo", "v2", "own", "app1"),
        ("app1", "bar.g1.dead", "v1", "g1", "app1"),
    ]
    for names in kept + gone:
        series.group(*names)
    for topic in (("app1", "foo", "v1"), ("app1", "bar", "v1"), ("app3", "foo", "v1")):
        series.topic(*topic)
    for application in ("app2", "app3"):
        series.counter(families.QUOTA_THROTTLED, (application, "requests")).value += 1
    forget_unregistered(series, SNAPSHOT)
    assert list(series.groups) == kept
    assert list(series.topics) == [("app1", "foo", "v1")]
    assert [labels for labels, _ in series.cells(families.QUOTA_THROTTLED)] == [("app2", "requests")]


def test_quotas_in_use_are_shown_by_application_and_those_beyond_the_most_together() -> None:
    clock = Clock()
    used = Quotas(seconds=clock.seconds)
    quota = Quota(publish_records_per_second=10)
    names = [f"app{number}" for number in range(MOST_OBJECTS + 2)]
    snapshot = Snapshot(applications={name: Application(name=name, quota=quota) for name in names})
    for name in names:
        used.of(Principal(name), snapshot).publish(4, 0, 0.0)
    shown = list(sampling.quotas(used, snapshot))
    assert {family for family, _, _ in shown} == {families.QUOTA_USED}
    assert {round(share, 6) for _, _, share in shown} == {0.4}
    assert sum(labels == (OTHER, "publish_records") for _, labels, _ in shown) == 2
    assert ("app0", "publish_records") in [labels for _, labels, _ in shown]
