"""Entries, their names and their tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.errors import BadRequest, InvalidName, InvalidParameter
from kateway.registry.documents import (
    Kind,
    from_table,
    gateway_from_table,
    gateway_to_table,
    kind_of,
    name_of,
    time_text,
    to_table,
)
from kateway.registry.file import read
from kateway.registry.interface import (
    Application,
    Binding,
    Entry,
    GatewayEntry,
    Key,
    Quota,
    Snapshot,
    Topic,
    open_topic,
    stored_group,
)
from kateway.registry.plans import build
from kateway.registry.secrets import NO_SECRET_HASH, hash_secret, matches, new_key, new_secret

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
VERSIONS = st.integers(0, 999_999_999).map(lambda number: f"v{number}")
TIMES = st.integers(0, 4_000_000_000_000)
HASH = hash_secret("secret", b"0123456789abcdef")
RATES = st.none() | st.floats(0.001, 1e12)
QUOTAS = st.builds(
    Quota,
    publish_records_per_second=RATES,
    publish_bytes_per_second=RATES,
    subscribe_bytes_per_second=RATES,
    requests_per_second=RATES,
    readers=st.none() | st.integers(0, 1000),
)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Application, name=NAMES, description=st.text(max_size=100), quota=QUOTAS),
    st.builds(
        Key,
        key=NAMES,
        application=NAMES,
        kind=st.sampled_from(["pub", "sub"]),
        secret_hash=st.just(HASH),
        rotated_hash=st.none() | st.just(HASH),
        rotated_until=TIMES,
        made=TIMES,
        quota=st.none() | QUOTAS,
    ),
    st.builds(
        Topic,
        application=NAMES,
        topic=NAMES,
        version=VERSIONS,
        cluster=NAMES,
        partitions=st.none() | st.integers(1, 1000),
        replicas=st.integers(1, 5),
        retention_hours=st.none() | st.integers(1, 10000),
        storage_name=st.none() | st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,100}", fullmatch=True),
        state=st.sampled_from(["active", "deprecated", "retired"]),
        deprecated=st.none() | TIMES,
        sunset=st.none() | TIMES,
    ),
    st.builds(
        Binding,
        subscriber=NAMES,
        application=NAMES,
        topic=NAMES,
        version=VERSIONS,
        groups=st.frozensets(NAMES | st.just("*"), min_size=1, max_size=5),
        dead_letter=st.booleans(),
        max_deliveries=st.integers(0, 100),
    ),
)


@given(ENTRIES)
def test_an_entry_and_its_table_say_the_same(entry: Entry) -> None:
    again = from_table(kind_of(entry), name_of(entry), to_table(entry), "etag")
    assert again == entry
    assert again.etag == "etag"


BAD_NAMES = [
    "", "a.b", "a/b", "..", "a b", "a%2fb", "ä", "a" * 65, "a\n", "*", "\x00", "\uff41", "app\u200b",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize(
    "make",
    [
        lambda name: Application(name=name),
        lambda name: Key(key=name, application="app", kind="pub", secret_hash=HASH),
        lambda name: Key(key="key", application=name, kind="pub", secret_hash=HASH),
        lambda name: Topic(application=name, topic="t", version="v1"),
        lambda name: Topic(application="app", topic=name, version="v1"),
        lambda name: Topic(application="app", topic="t", version=name),
        lambda name: Topic(application="app", topic="t", version="v1", cluster=name),
        lambda name: Binding(subscriber=name, application="a", topic="t", version="v1", groups=["g"]),
        lambda name: Binding(
            subscriber="s", application="a", topic="t", version="v1", groups=[f"{name}." if name == "*" else name]
        ),
        lambda name: GatewayEntry(name=name),
    ],
)
def test_a_name_outside_the_grammar_is_refused(make: Callable[[str], object], name: str) -> None:
    with pytest.raises(InvalidName):
        make(name)


@pytest.mark.parametrize("version", ["1", "v", "v01", "V1", "v-1", "v1.0", "v1\n", "v1234567890"])
def test_a_version_is_v_and_a_number(version: str) -> None:
    with pytest.raises(InvalidName):
        Topic(application="app", topic="t", version=version)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a" * 250, "a b", "__consumer_offsets"])
def test_a_name_that_no_store_takes_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        Topic(application="app", topic="t", version="v1", storage_name=name)


@pytest.mark.parametrize(
    ("kind", "name", "table", "word"),
    [
        ("applications", "app", {"qouta": {}}, "qouta"),
        ("applications", "app", {"quota": {"readers": -1}}, "readers"),
        ("applications", "app", {"quota": {"readers": True}}, "readers"),
        ("applications", "app", {"quota": {"publish_bytes_per_second": 0}}, "publish_bytes_per_second"),
        ("applications", "app", {"quota": {"publish_bytes_per_second": float("nan")}}, "publish_bytes_per_second"),
        ("applications", "app", {"quota": []}, "table"),
        ("applications", "app", {"description": 7}, "description"),
        ("applications", "app", {"description": "x" * 1025}, "description"),
        ("applications", "app", [], "table"),
        ("applications", "app", {"name": "other"}, "name"),
        ("applications", "app", {"etag": "7"}, "etag"),
        ("keys", "key", {"kind": "pub", "secret_hash": HASH}, "application"),
        ("keys", "key", {"application": "app", "kind": "both", "secret_hash": HASH}, "kind"),
        ("keys", "key", {"application": "app", "kind": "pub", "secret_hash": "secret"}, "secret_hash"),
        ("topics", "app/t/v1", {"partitions": 0}, "partitions"),
        ("topics", "app/t/v1", {"partitions": "4"}, "partitions"),
        ("topics", "app/t/v1", {"replicas": None}, "replicas"),
        ("topics", "app/t/v1", {"state": "asleep"}, "state"),
        ("topics", "app/t/v1", {"sunset": "tomorrow"}, "sunset"),
        ("topics", "app/t/v1", {"sunset": "2027-01-01T00:00:00"}, "zone"),
        ("topics", "app/t/v1", {"sunset": 7}, "sunset"),
        ("topics", "app/t/v1", {"stored_as": "x"}, "stored_as"),
        ("topics", "app/t", {}, "application/topic/version"),
        ("bindings", "s/app/t/v1", {}, "groups"),
        ("bindings", "s/app/t/v1", {"groups": "g1"}, "groups"),
        ("bindings", "s/app/t/v1", {"groups": []}, "groups"),
        ("bindings", "s/app/t/v1", {"groups": [7]}, "groups"),
        ("bindings", "s/app/t/v1", {"groups": ["g"], "dead_letter": 1}, "dead_letter"),
        ("bindings", "s/app/t/v1", {"groups": ["g"], "max_deliveries": -1}, "max_deliveries"),
    ],
)
def test_a_table_with_a_fault_is_refused_by_its_member(kind: Kind, name: str, table: object, word: str) -> None:
    with pytest.raises(BadRequest) as caught:
        from_table(kind, name, table)
    assert word in caught.value.detail


def test_a_reader_of_stored_tables_passes_over_what_a_newer_gateway_wrote() -> None:
    entry = from_table("topics", "app/t/v1", {"partitions": 3, "colour": "red"}, lenient=True)
    assert entry == Topic(application="app", topic="t", version="v1", partitions=3)


def test_the_defaults_are_the_contracts() -> None:
    assert to_table(Topic(application="app", topic="t", version="v1")) == {
        "cluster": "default", "partitions": None, "replicas": 1, "retention_hours": 168, "storage_name": None,
        "state": "active",
    }  # fmt: skip
    assert from_table("applications", "app", {"quota": None}) == Application(name="app")


def test_times_are_texts_in_tables() -> None:
    assert time_text(1_700_000_000_000) == "2023-11-14T22:13:20Z"
    assert time_text(1_700_000_000_007) == "2023-11-14T22:13:20.007Z"


def test_a_gateways_entry_passes_over_what_a_newer_one_tells() -> None:
    entry = GatewayEntry(name="gw", public=("127.0.0.1:1",), version="9", started=1000, load={"readers": 2})
    assert gateway_from_table("gw", {**gateway_to_table(entry), "mood": "fine"}) == entry
    assert gateway_from_table("gw", {}) == GatewayEntry(name="gw")


def test_a_secret_matches_its_hash_and_no_other() -> None:
    secret = new_secret()
    assert len(secret) >= 22
    assert secret != new_secret()
    hashed = hash_secret(secret)
    assert hashed != hash_secret(secret)
    assert secret not in hashed
    assert matches(secret, hashed)
    for other in ("", secret[:-1], secret + "x", "ä", "\udcff"):
        assert not matches(other, hashed)
        assert not matches(other, NO_SECRET_HASH)
    assert Key(key=new_key(), application="app", kind="pub", secret_hash=hashed).secret_hash not in repr(
        Key(key="key", application="app", kind="pub", secret_hash=hashed)
    )


def test_a_rotated_secret_is_good_until_its_time() -> None:
    other = hash_secret("other", b"0123456789abcdef")
    key = Key(
        key="key", application="app", kind="pub", secret_hash=HASH, rotated_hash=other, rotated_until=1000
    )  # fmt: skip
    assert key.hashes(999) == (HASH, other)
    assert key.hashes(1000) == (HASH,)


def test_a_keys_own_quota_stands_before_its_applications_member_by_member() -> None:
    app = Application(name="app", quota=Quota(readers=10, publish_records_per_second=100))
    key = Key(key="key", application="app", kind="pub", secret_hash=HASH, quota=Quota(readers=1))
    snapshot = build([app, key, attrs.evolve(key, key="plain", quota=None)], 1)
    assert snapshot.quota("app", "key") == Quota(readers=1, publish_records_per_second=100)
    assert snapshot.quota("app", "plain") == app.quota
    assert snapshot.quota("app") == app.quota
    assert snapshot.quota("nobody") == Quota()


def test_a_snapshot_cannot_be_changed() -> None:
    snapshot = build([Application(name="app")], 1)
    with pytest.raises(TypeError):
        snapshot.applications["other"] = Application(name="other")  # type: ignore[index]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        snapshot.open = True  # type: ignore[misc]
    assert Snapshot().applications == {}


def test_names_in_the_store_keep_applications_apart() -> None:
    assert Topic(application="app", topic="t", version="v1").stored_as == "app.t.v1"
    assert Topic(application="app", topic="t", version="v1", storage_name="x").stored_as == "x"
    assert stored_group("app", "g") == "app.g"
    assert (open_topic("t", "v1"), open_topic("t", "v2")) == ("t", "t.v2")


def test_the_worked_example_is_a_registry() -> None:
    snapshot = read(Path(__file__).parents[3] / "conf" / "registry.toml")
    assert set(snapshot.applications) == {"shop", "billing"}
    assert snapshot.topics["shop", "orders", "v2"].stored_as == "legacy.orders"
    assert snapshot.topics["shop", "orders", "v1"].state == "deprecated"
    assert snapshot.bindings["billing", "shop", "orders", "v2"].allows("audit")
    assert matches("an-example-secret-never-to-be-used", snapshot.keys["shop-pub"].secret_hash)


def test_a_hash_of_another_kind_is_refused() -> None:
    for hashed in ("", "sha256$$", "md5$00$00", HASH.upper(), HASH + "0", f"{HASH}\n"):
        with pytest.raises(InvalidParameter):
            Key(key="key", application="app", kind="pub", secret_hash=hashed)
