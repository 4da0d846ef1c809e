"""The rights of an application to its own and other topics."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from kateway.config.schema import AuthConfig, Config, PluginsConfig
from kateway.core.access.authentication import Credentials
from kateway.core.access.authorization import AccessRequest, BindingAuthorizer, Grant, build_authorizer
from kateway.core.access.failures import build_failures
from kateway.core.access.policy import build_access
from kateway.core.access.rate_limits import Quotas
from kateway.core.plugin_watch import Watches
from kateway.errors import AmbiguousTopic, ConfigError, Denied, TopicNotFound, TopicRetired, Unauthorized
from kateway.model import Principal
from kateway.registry.interface import Application, Binding, Key, Snapshot, Topic
from kateway.registry.secrets import hash_secret

APP1, APP2, APP3 = Principal("app1"), Principal("app2"), Principal("app3")


def topic(application: str, name: str, **members: object) -> Topic:
    return Topic(application=application, topic=name, version="v1", **members)  # type: ignore[arg-type]


def binding(subscriber: str, application: str, name: str, *groups: str, **members: object) -> Binding:
    given: dict[str, object] = {"groups": frozenset(groups or ("*",)), **members}
    return Binding(subscriber=subscriber, application=application, topic=name, version="v1", **given)  # type: ignore[arg-type]


def registered(*entries: Topic | Binding, keys: tuple[Key, ...] = ()) -> Snapshot:
    return Snapshot(
        applications={name: Application(name=name) for name in ("app1", "app2", "app3")},
        keys={key.key: key for key in keys},
        topics={entry.name: entry for entry in entries if isinstance(entry, Topic)},
        bindings={entry.name: entry for entry in entries if isinstance(entry, Binding)},
    )


SNAPSHOT = registered(
    topic("app1", "foo"),
    topic("app2", "foo"),
    topic("app1", "orders", storage_name="legacy.orders", cluster="main"),
    topic("app1", "old", state="deprecated", deprecated=1_767_225_600_000, sunset=1_798_761_600_000),
    topic("app1", "older", state="deprecated"),
    topic("app1", "gone", state="retired"),
    topic("app1", "both"),
    topic("app2", "both"),
    binding("app2", "app1", "orders", "billing", "audit", max_deliveries=3),
    binding("app3", "app1", "foo", dead_letter=False),
    binding("app3", "app1", "both"),
    binding("app3", "app2", "both"),
    binding("app2", "app1", "gone"),
)


def ask(principal: Principal, *asked: str, snapshot: Snapshot = SNAPSHOT) -> Grant:
    return BindingAuthorizer(max_deliveries=7).authorize(principal, AccessRequest(*asked), snapshot)  # type: ignore[arg-type]


def test_an_application_publishes_to_and_reads_its_own_topics() -> None:
    assert ask(APP1, "publish", "v1", "foo") == Grant("default", "app1.foo.v1", "", True, 7, (), "app1")
    assert ask(APP1, "subscribe", "v1", "app1.foo", "g") == Grant(
        "default", "app1.foo.v1", "app1.g", True, 7, (), "app1"
    )


def test_two_applications_with_the_same_names_never_meet() -> None:
    mine, other = (ask(principal, "subscribe", "v1", "foo", "g") for principal in (APP1, APP2))
    assert mine.topic != other.topic
    assert mine.group != other.group


@pytest.mark.parametrize("name", ["orders", "app1.orders"])
def test_a_bound_topic_is_read_with_the_groups_of_the_binding_alone(name: str) -> None:
    grant = ask(APP2, "subscribe", "v1", name, "billing")
    assert grant == Grant("main", "legacy.orders", "app2.billing", True, 3, (), "app1")
    assert ask(APP2, "describe", "v1", name).topic == "legacy.orders"
    with pytest.raises(Denied):
        ask(APP2, "subscribe", "v1", name, "other")


def test_a_binding_without_dead_letters_never_gives_a_record_up() -> None:
    grant = ask(APP3, "subscribe", "v1", "foo", "g")
    assert (grant.dead_letter, grant.max_deliveries) == (False, 0)


@pytest.mark.parametrize("name", ["orders", "app1.orders", "app1.foo", "app1.nothing", "nobody.nothing"])
def test_publish_to_anothers_topic_is_refused(name: str) -> None:
    with pytest.raises(Denied):
        ask(APP2, "publish", "v1", name)


@pytest.mark.parametrize("purpose", ["subscribe", "describe"])
@pytest.mark.parametrize("name", ["app1.foo", "app1.nothing", "nobody.nothing"])
def test_without_a_binding_anothers_topic_is_denied_whether_it_exists_or_not(purpose: str, name: str) -> None:
    with pytest.raises(Denied):
        ask(APP2, purpose, "v1", name)


def test_a_name_that_is_nobodys_is_not_found() -> None:
    with pytest.raises(TopicNotFound):
        ask(APP1, "publish", "v1", "nothing")
    with pytest.raises(TopicNotFound):
        ask(APP1, "publish", "v2", "foo")
    with pytest.raises(TopicNotFound):
        ask(APP2, "subscribe", "v2", "orders", "billing")


@pytest.mark.parametrize("name", [".foo", "app1.", "..", "app1.foo.v1", "app1/foo", "app1%2Efoo", "app1.foo\0", "föo"])
def test_names_that_try_to_escape_lead_nowhere(name: str) -> None:
    with pytest.raises((Denied, TopicNotFound)):
        ask(APP1, "subscribe", "v1", name, "g")


def test_a_name_that_two_bindings_share_must_be_said_in_full() -> None:
    with pytest.raises(AmbiguousTopic, match=r"app1\.both, app2\.both"):
        ask(APP3, "subscribe", "v1", "both", "g")
    assert ask(APP3, "subscribe", "v1", "app2.both", "g").topic == "app2.both.v1"


def test_retired_topic_is_gone_for_its_users_and_404_for_others() -> None:
    for principal, purpose in ((APP1, "publish"), (APP1, "subscribe"), (APP2, "subscribe")):
        with pytest.raises(TopicRetired):
            ask(principal, purpose, "v1", "gone")
    with pytest.raises(Denied):
        ask(APP3, "subscribe", "v1", "app1.gone", "g")


def test_a_deprecated_topic_says_so_in_headers() -> None:
    assert ask(APP1, "publish", "v1", "old").headers == (
        (b"Deprecation", b"@1767225600"),
        (b"Sunset", b"Fri, 01 Jan 2027 00:00:00 GMT"),
    )
    assert ask(APP1, "publish", "v1", "older").headers == ((b"Deprecation", b"@0"),)


def test_permission_holds_only_for_its_snapshot() -> None:
    authorizer = BindingAuthorizer()
    asked = AccessRequest("subscribe", "v1", "app1.orders", "billing")
    granted = authorizer.authorize(APP2, asked, SNAPSHOT)
    assert authorizer.authorize(APP2, asked, SNAPSHOT) is granted
    with pytest.raises(Denied):
        authorizer.authorize(APP2, asked, registered(topic("app1", "orders")))
    with pytest.raises(Denied):
        authorizer.authorize(APP2, asked._replace(topic="app1.foo"), SNAPSHOT)


def test_an_authorizer_that_does_not_exist_is_a_fault_of_the_configuration() -> None:
    assert isinstance(build_authorizer("bindings", 0, Watches(PluginsConfig(), Clock().seconds)), BindingAuthorizer)
    with pytest.raises(ConfigError, match=r"auth\.authorizer"):
        build_authorizer("magic", 0, Watches(PluginsConfig(), Clock().seconds))


def test_a_stream_may_go_on_until_what_it_was_admitted_with_is_gone() -> None:
    clock = Clock()
    key = Key(key="k", application="app2", kind="sub", secret_hash=hash_secret("s"))
    orders, bound = topic("app1", "orders"), binding("app2", "app1", "orders", "g")
    current = registered(orders, bound, keys=(key,))
    failures = build_failures(AuthConfig(), clock.seconds)
    quotas = Quotas(seconds=clock.seconds)
    access = build_access(
        Config(),
        quotas,
        failures,
        snapshot=lambda: current,
        now=clock.seconds,
        watches=Watches(PluginsConfig(), Clock().seconds),
    )
    asked = AccessRequest("subscribe", "v1", "orders", "g")
    permission = access.admit(Credentials("192.0.2.1", b"k", b"s"), asked)
    assert permission.principal == Principal("app2", "k")
    assert not permission.allowance.counts
    current = registered(orders, bound, topic("app3", "new"), keys=(key,))
    assert access.review(permission, asked) is None
    for changed, reason in (
        (registered(orders, bound), Unauthorized),
        (registered(orders, keys=(key,)), TopicNotFound),
        (registered(orders, binding("app2", "app1", "orders", "h"), keys=(key,)), Denied),
        (registered(topic("app1", "orders", state="retired"), bound, keys=(key,)), TopicRetired),
        (registered(topic("app1", "orders", storage_name="x"), bound, keys=(key,)), Denied),
    ):
        current = changed
        with pytest.raises(reason):
            access.review(permission, asked)


def test_every_fault_of_the_rules_configuration_is_named_at_once() -> None:
    config = Config(auth=AuthConfig(methods=("magic",), authorizer="fate"))
    clock = Clock()
    failures, quotas = build_failures(config.auth, clock.seconds), Quotas(seconds=clock.seconds)
    with pytest.raises(ConfigError) as refused:
        build_access(
            config,
            quotas,
            failures,
            snapshot=Snapshot,
            now=clock.seconds,
            watches=Watches(PluginsConfig(), Clock().seconds),
        )
    assert [problem.partition(":")[0] for problem in refused.value.problems] == ["auth.methods", "auth.authorizer"]
