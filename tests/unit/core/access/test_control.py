"""Where a request comes in, with a registry and without."""

from __future__ import annotations

import gc
import weakref
from copy import copy
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock

from kateway.config.schema import AuthConfig, Config, PluginsConfig
from kateway.core.access.authentication import Credentials, Purpose
from kateway.core.access.authorization import AccessRequest
from kateway.core.access.control import OPEN_PRINCIPAL, OpenAccess, RegistryAccess
from kateway.core.access.failures import build_failures
from kateway.core.access.policy import build_access
from kateway.core.access.rate_limits import Quotas
from kateway.core.plugin_watch import Watches
from kateway.errors import Denied, RegistryUnavailable, Unauthorized
from kateway.registry.interface import Application, Binding, Key, Snapshot, Topic
from kateway.registry.secrets import hash_secret

STORE: Any = object()
OTHER: Any = object()


def nobody_looks(_purpose: Purpose) -> Credentials:
    raise AssertionError("nobody wants to know who is asking")


def test_without_a_registry_the_versions_are_topics_of_the_default_cluster() -> None:
    control = OpenAccess({"other": OTHER, "default": STORE})
    authorized = control.enter(AccessRequest("subscribe", "v1", "foobar", "g"), nobody_looks)
    assert authorized.place == ("default", STORE, "foobar")
    assert (authorized.group, authorized.principal, authorized.allowance) == ("g", OPEN_PRINCIPAL, None)
    assert control.enter(AccessRequest("publish", "v2", "foobar"), nobody_looks).place.topic == "foobar.v2"
    assert control.review(authorized) is None
    assert control.read_pause(authorized, 1 << 30) == 0.0


def test_without_a_default_cluster_it_is_the_only_one() -> None:
    authorized = OpenAccess({"main": STORE}).enter(AccessRequest("publish", "v1", "t"), nobody_looks)
    assert authorized.place.cluster == "main"


class Guarded:
    """A registry of ``app1`` with the topic ``foo`` on ``main``, bound to ``app2``."""

    def __init__(self, **stores: Any) -> None:
        self.clock = Clock()
        self.snapshot = Snapshot(
            applications={name: Application(name=name) for name in ("app1", "app2")},
            keys={"k": Key(key="k", application="app2", kind="sub", secret_hash=hash_secret("s"))},
            topics={
                entry.name: entry for entry in [Topic(application="app1", topic="foo", version="v1", cluster="main")]
            },
            bindings={
                entry.name: entry
                for entry in [
                    Binding(
                        subscriber="app2",
                        application="app1",
                        topic="foo",
                        version="v1",
                        groups=frozenset({"g"}),
                        max_deliveries=3,
                    )
                ]
            },
        )
        failures = build_failures(AuthConfig(), self.clock.seconds)
        quotas = Quotas(seconds=self.clock.seconds)
        access = build_access(
            Config(),
            quotas,
            failures,
            snapshot=self.now,
            now=self.clock.seconds,
            watches=Watches(PluginsConfig(), self.clock.seconds),
        )
        self.control = RegistryAccess(access, stores or {"main": STORE}, self.now, self.clock.seconds)

    def now(self) -> Snapshot:
        return self.snapshot

    def enter(self, *asked: str, key: bytes = b"k", secret: bytes = b"s") -> Any:
        return self.control.enter(AccessRequest(*asked), lambda _: Credentials("192.0.2.1", key, secret))  # type: ignore[arg-type]


def test_a_grant_says_where_the_topic_is_and_how_often_it_is_handed_out() -> None:
    authorized = Guarded().enter("subscribe", "v1", "foo", "g")
    assert authorized.place == ("main", STORE, "app1.foo.v1")
    assert (authorized.principal.application, authorized.max_deliveries) == ("app2", 3)
    assert authorized.allowance is None, "no quota: nothing to count"


def test_application_that_is_unknown_or_not_allowed_is_refused() -> None:
    with pytest.raises(Unauthorized):
        Guarded().enter("subscribe", "v1", "foo", "g", secret=b"wrong")
    with pytest.raises(Denied):
        Guarded().enter("subscribe", "v1", "foo", "other-group")


def test_a_cluster_that_this_gateway_does_not_have_is_named() -> None:
    with pytest.raises(RegistryUnavailable, match=r"storage\.main"):
        Guarded(default=STORE).enter("subscribe", "v1", "foo", "g")


def test_application_is_not_refused_as_unknown_before_the_registry_was_read() -> None:
    guarded = Guarded()
    guarded.snapshot = Snapshot(known=False)
    with pytest.raises(RegistryUnavailable):
        guarded.enter("subscribe", "v1", "foo", "g")


def test_a_visit_is_revoked_when_its_key_is_gone() -> None:
    guarded = Guarded()
    authorized = guarded.enter("subscribe", "v1", "foo", "g")
    assert guarded.control.review(authorized) is None
    guarded.snapshot = Snapshot(
        applications=guarded.snapshot.applications, topics=guarded.snapshot.topics, bindings=guarded.snapshot.bindings
    )
    with pytest.raises(Unauthorized):
        guarded.control.review(authorized)


def test_rules_are_the_same_until_the_registry_or_the_configuration_changes() -> None:
    guarded = Guarded()
    rules = guarded.control.rules()
    assert guarded.control.same_rules(rules)
    guarded.snapshot = attrs.evolve(guarded.snapshot, revision=2)
    assert not guarded.control.same_rules(rules)
    rules = guarded.control.rules()
    assert guarded.control.same_rules(rules)
    guarded.control.access = copy(guarded.control.access)
    assert not guarded.control.same_rules(rules)


def test_rules_that_a_connection_keeps_do_not_keep_the_snapshot_of_then() -> None:
    guarded = Guarded()
    before = weakref.ref(guarded.snapshot)
    kept = guarded.control.rules()
    guarded.snapshot = attrs.evolve(guarded.snapshot, revision=2)
    assert not guarded.control.same_rules(kept)
    gc.collect()
    assert before() is None
