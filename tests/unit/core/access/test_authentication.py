"""Authentication: keys and secrets, client certificates, the chain of ways, and repeated failures."""

from __future__ import annotations

import base64
from importlib.metadata import EntryPoint
from pathlib import Path

import attrs
import pytest
from twisted.internet.task import Clock

from kateway.config.schema import AuthConfig, ClientCertificateConfig, PluginsConfig
from kateway.core import entry_points
from kateway.core.access.authentication import (
    Authentication,
    AuthenticatorContext,
    Credentials,
    build_authentication,
)
from kateway.core.access.client_certificate import ClientCertificate, common_name
from kateway.core.access.failures import build_failures
from kateway.core.access.key_secret import KeySecret
from kateway.core.plugin_watch import Watches
from kateway.errors import ConfigError, Denied, Unauthorized
from kateway.model import Principal
from kateway.registry.interface import Application, Key, Snapshot
from kateway.registry.secrets import hash_secret
from kateway.web.messages.credentials import credentials
from kateway.web.messages.credentials import shown as shown_in

SECRET = b"correct-horse-battery-staple-0123"


class Holder:
    """A snapshot that can be replaced, and a clock of both kinds."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.snapshot = snapshot()

    def now(self) -> Snapshot:
        return self.snapshot


def a_key(name: str = "mykey", kind: str = "pub", secret: bytes = SECRET) -> Key:
    return Key(key=name, application="app1", kind=kind, secret_hash=hash_secret(secret.decode()))  # type: ignore[arg-type]


def snapshot(*keys: Key) -> Snapshot:
    return Snapshot(
        applications={name: Application(name=name) for name in ("app1", "app2")}, keys={key.key: key for key in keys}
    )


@pytest.fixture
def holder() -> Holder:
    return Holder()


@pytest.fixture
def by_key(holder: Holder) -> KeySecret:
    holder.snapshot = snapshot(a_key(), a_key("other", "sub", b"another-secret-altogether-4567890"))
    return KeySecret(snapshot=holder.now, now=holder.clock.seconds)


def chain(holder: Holder, config: AuthConfig) -> Authentication:
    context = AuthenticatorContext(config=config, snapshot=holder.now, now=holder.clock.seconds)
    return build_authentication(
        context, build_failures(config, holder.clock.seconds), Watches(PluginsConfig(), holder.clock.seconds)
    )


def shown(key: bytes = b"mykey", secret: bytes = SECRET, address: str = "192.0.2.1") -> Credentials:
    return Credentials(address, key, secret)


# --- key and secret --------------------------------------------------------------------------------------------


def test_a_right_secret_tells_the_application_the_first_time_and_the_next(by_key: KeySecret) -> None:
    first = by_key.authenticate(shown(), "publish")
    assert first == Principal("app1", "mykey")
    assert by_key.authenticate(shown(), "publish") is first


def test_no_key_is_not_for_this_way(by_key: KeySecret) -> None:
    assert by_key.authenticate(Credentials("192.0.2.1"), "publish") is None


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        (b"mykey", b""),
        (b"mykey", b"wrong"),
        (b"mykey", SECRET + b" "),
        (b"mykey", SECRET.upper()),
        (b"mykey", b"another-secret-altogether-4567890"),
        (b"mykey", b"\xff\xfe"),
        (b"MYKEY", SECRET),
        (b"mykey\0" + SECRET, b""),
        (b"unknown", SECRET),
        (b"\xff", SECRET),
        (b"../mykey", SECRET),
    ],
)
def test_wrong_secrets_and_unknown_keys_are_told_alike(by_key: KeySecret, key: bytes, secret: bytes) -> None:
    by_key.authenticate(shown(), "publish")
    with pytest.raises(Unauthorized, match=r"^the key is unknown or its secret is wrong$"):
        by_key.authenticate(shown(key, secret), "publish")


def test_a_right_secret_of_the_wrong_kind_is_denied_and_a_wrong_one_is_not_told_the_kind(by_key: KeySecret) -> None:
    for _ in range(2):
        with pytest.raises(Denied, match="pub key"):
            by_key.authenticate(shown(), "subscribe")
    with pytest.raises(Unauthorized):
        by_key.authenticate(shown(secret=b"wrong"), "subscribe")
    assert by_key.authenticate(shown(), "describe") == Principal("app1", "mykey")


def test_a_revoked_key_is_refused_from_the_moment_that_the_snapshot_changes(holder: Holder, by_key: KeySecret) -> None:
    by_key.authenticate(shown(), "publish")
    holder.snapshot = snapshot()
    with pytest.raises(Unauthorized):
        by_key.authenticate(shown(), "publish")


def test_a_key_made_again_for_another_application_has_that_one(holder: Holder, by_key: KeySecret) -> None:
    by_key.authenticate(shown(), "publish")
    holder.snapshot = snapshot(attrs.evolve(a_key(), application="app2"))
    assert by_key.authenticate(shown(), "publish") == Principal("app2", "mykey")


def test_a_rotated_secret_works_on_until_its_grace_is_over(holder: Holder, by_key: KeySecret) -> None:
    by_key.authenticate(shown(), "publish")
    old = holder.snapshot.keys["mykey"]
    until = round(holder.clock.seconds() * 1000) + 5000
    rotated = attrs.evolve(
        old, secret_hash=hash_secret("new-secret"), rotated_hash=old.secret_hash, rotated_until=until
    )
    holder.snapshot = snapshot(rotated)
    assert by_key.authenticate(shown(secret=b"new-secret"), "publish") == Principal("app1", "mykey")
    holder.clock.advance(4)
    assert by_key.authenticate(shown(), "publish") == Principal("app1", "mykey", until / 1000)
    holder.clock.advance(1.1)
    with pytest.raises(Unauthorized):
        by_key.authenticate(shown(), "publish")
    assert by_key.authenticate(shown(secret=b"new-secret"), "publish") == Principal("app1", "mykey")


def test_no_more_pairs_are_remembered_than_the_bound(holder: Holder) -> None:
    keys = [a_key(f"k{n}", "pub", b"s%d" % n) for n in range(20)]
    holder.snapshot = snapshot(*keys)
    way = KeySecret(snapshot=holder.now, now=holder.clock.seconds, max_cached=5)
    for _ in range(2):
        for n in range(20):
            assert way.authenticate(shown(b"k%d" % n, b"s%d" % n), "publish") == Principal("app1", f"k{n}")
    assert len(way._matched) == 5
    assert not any(b"s1" in pair for pair in way._matched), "what is kept is no secret"


# --- the chain -------------------------------------------------------------------------------------------------


def test_without_credentials_the_answer_says_which_would_do(holder: Holder) -> None:
    with pytest.raises(Unauthorized) as refused:
        chain(holder, AuthConfig()).authenticate(Credentials("192.0.2.1"), "publish")
    assert refused.value.headers == (("WWW-Authenticate", 'Basic realm="kateway", charset="UTF-8"'),)


def test_missing_credentials_are_no_failure_to_count(holder: Holder) -> None:
    authentication = chain(holder, AuthConfig(max_failures=1))
    for _ in range(5):
        with pytest.raises(Unauthorized):
            authentication.authenticate(Credentials("192.0.2.1"), "publish")


def test_the_ways_are_tried_in_their_order(holder: Holder) -> None:
    config = AuthConfig(
        methods=("client-certificate", "key-secret"),
        client_certificate=ClientCertificateConfig(subjects={"CN=shop": "app2"}),
    )
    holder.snapshot = snapshot(a_key())
    authentication = chain(holder, config)
    both = shown()._replace(subject="CN=shop")
    assert authentication.authenticate(both, "publish").application == "app2"
    assert authentication.authenticate(both._replace(subject="CN=nobody"), "publish").application == "app1"


def test_where_one_way_says_no_the_next_is_asked(holder: Holder) -> None:
    class AlwaysYes:
        challenge = "Always"

        def authenticate(self, _credentials: Credentials, _purpose: str) -> Principal:
            return Principal("app2", "always:me")

    ways = [KeySecret(snapshot=holder.now, now=holder.clock.seconds), AlwaysYes()]
    failures = build_failures(AuthConfig(), holder.clock.seconds)
    authentication = Authentication(ways, failures, snapshot=holder.now, now=holder.clock.seconds)
    assert authentication.authenticate(shown(), "publish").application == "app2"
    assert not failures.pairs.seen


def test_a_way_that_does_not_exist_is_a_fault_of_the_configuration(holder: Holder) -> None:
    with pytest.raises(ConfigError) as refused:
        chain(holder, AuthConfig(methods=("key-secret", "magic", "client-certificate")))
    assert refused.value.problems[0].startswith("auth.methods: there is no 'magic'")
    assert refused.value.problems[1].startswith("auth.client_certificate: name subjects")
    with pytest.raises(ConfigError):
        chain(holder, AuthConfig(methods=()))


def test_wheel_has_the_modules_that_setup_py_declares_and_all_load() -> None:
    declared = Path(__file__, "../../../../../setup.py").resolve().read_text(encoding="utf-8")
    for group, points in entry_points.SHIPPED.items():
        assert f'"{group}"' in declared
        for name, value in points.items():
            assert f'"{name} = {value}"' in declared
            assert callable(EntryPoint(name, value, group).load())


def test_plugin_that_a_package_adds_by_an_entry_point_is_found(
    holder: Holder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "magic_ways.py").write_text(
        "from kateway.model import Principal\n"
        "class Way:\n"
        "    challenge = 'Magic'\n"
        "    def __init__(self, context):\n"
        "        self.word = context.options('magic')['word'].encode()\n"
        "    def authenticate(self, credentials, purpose):\n"
        "        return Principal('app1', 'magic:x') if credentials.token == self.word else None\n"
    )
    information = tmp_path / "magic_ways-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: magic-ways\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[kateway.authenticators]\nmagic = magic_ways:Way\nbroken = magic_ways:Nothing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = AuthConfig(methods=("magic",), options={"magic": {"word": "abracadabra"}})
    authentication = chain(holder, config)
    assert authentication.authenticate(Credentials("a", token=b"abracadabra"), "publish").application == "app1"
    with pytest.raises(Unauthorized) as refused:
        authentication.authenticate(Credentials("a", token=b"other"), "publish")
    assert refused.value.headers == (("WWW-Authenticate", "Magic"),)
    with pytest.raises(ConfigError, match="'broken' cannot be loaded"):
        chain(holder, AuthConfig(methods=("broken",)))


def test_credentials_do_not_show_their_secrets() -> None:
    shown_as = repr(Credentials("192.0.2.1", b"k", b"hush", b"hushtoken"))
    assert "hush" not in shown_as
    assert "192.0.2.1" in shown_as


def test_credentials_are_good_again_until_their_key_is_revoked(holder: Holder) -> None:
    holder.snapshot = snapshot(a_key())
    authentication = chain(holder, AuthConfig())
    principal = authentication.authenticate(shown(), "publish")
    authentication.take_used()
    assert authentication.again(shown(), "publish") == principal
    holder.snapshot = snapshot()
    for _ in range(30):
        # this is no guessing: a key that is gone is not held against the address
        with pytest.raises(Unauthorized, match="revoked or have expired"):
            authentication.again(shown(), "publish")
    holder.snapshot = snapshot(a_key())
    assert authentication.again(shown(), "publish") == principal
    assert authentication.take_used() == {}
    assert authentication.authenticate(shown(), "publish") == principal


def test_a_former_secret_tells_when_it_ends(holder: Holder) -> None:
    holder.snapshot = snapshot(a_key())
    authentication = chain(holder, AuthConfig())
    assert authentication.authenticate(shown(), "publish").expires is None
    until = round(holder.clock.seconds() * 1000) + 5000
    holder.snapshot = snapshot(
        attrs.evolve(a_key(), secret_hash=hash_secret("new"), rotated_hash=a_key().secret_hash, rotated_until=until)
    )
    assert authentication.authenticate(shown(), "publish").expires == until / 1000
    assert authentication.again(shown(), "publish").expires == until / 1000
    assert authentication.authenticate(shown(secret=b"new"), "publish").expires is None
    holder.clock.advance(5)
    with pytest.raises(Unauthorized):
        authentication.again(shown(), "publish")


def test_the_keys_that_were_used_are_told_once(holder: Holder) -> None:
    holder.snapshot = snapshot(a_key())
    authentication = chain(holder, AuthConfig())
    authentication.authenticate(shown(), "publish")
    assert authentication.take_used() == {"mykey": 1_700_000_000_000}
    assert authentication.take_used() == {}


# --- client certificates ---------------------------------------------------------------------------------------


def test_a_subject_stands_for_its_application(holder: Holder) -> None:
    way = ClientCertificate({"CN=shop,O=Example": "app1"}, common_name=False, snapshot=holder.now)
    found = way.authenticate(Credentials("192.0.2.1", subject="CN=shop,O=Example"), "publish")
    assert found == Principal("app1", "certificate:CN=shop,O=Example")
    assert way.authenticate(Credentials("192.0.2.1", subject="CN=shop"), "publish") is None
    assert way.authenticate(Credentials("192.0.2.1"), "publish") is None


def test_a_subject_whose_application_is_gone_is_refused(holder: Holder) -> None:
    way = ClientCertificate({}, common_name=True, snapshot=holder.now)
    assert way.authenticate(Credentials("192.0.2.1", subject="O=x,CN=app2"), "publish") is not None
    with pytest.raises(Unauthorized):
        way.authenticate(Credentials("192.0.2.1", subject="CN=app3"), "publish")


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("CN=app1", "app1"),
        ("O=Example,CN=app1+UID=7", "app1"),
        ("CN=app1,CN=app2", None),
        ("O=Example", None),
        (r"O=x\,CN=app1", None),
        (r"CN=app1\,CN=app2", None),
    ],
)
def test_a_common_name_is_only_taken_where_there_is_no_doubt(subject: str, name: str | None) -> None:
    assert common_name(subject) == name


# --- headers ---------------------------------------------------------------------------------------------------


def basic(text: bytes) -> bytes:
    return b"Basic " + base64.b64encode(text)


def test_the_key_for_the_purpose_counts_and_the_other_where_it_is_the_only_one() -> None:
    both = [(b"pubkey", b"p"), (b"subkey", b"s"), (b"secret", b"x")]
    assert credentials(shown_in(both), "a", "publish").key == b"p"
    assert credentials(shown_in(both), "a", "subscribe").key == b"s"
    assert credentials(shown_in(both[1:]), "a", "publish") == Credentials("a", b"s", b"x")
    assert credentials(shown_in(both[:1]), "a", "subscribe") == Credentials("a", b"p", b"")


def test_basic_is_key_and_secret_and_gives_way_to_the_headers() -> None:
    given = [(b"authorization", basic(b"k:s:t"))]
    assert credentials(shown_in(given), "a", "publish") == Credentials("a", b"k", b"s:t")
    given = [(b"authorization", basic(b"k:s")), (b"pubkey", b"p"), (b"secret", b"x")]
    assert credentials(shown_in(given), "a", "publish") == Credentials("a", b"p", b"x")


def test_bearer_is_a_token() -> None:
    assert credentials(shown_in([(b"authorization", b"bearer  abc")]), "a", "publish") == Credentials("a", token=b"abc")


@pytest.mark.parametrize("value", [b"Basic", b"Basic ???", basic(b"nocolon"), basic(b":secret")])
def test_basic_that_cannot_be_read_is_unauthorized(value: bytes) -> None:
    with pytest.raises(Unauthorized):
        credentials(shown_in([(b"authorization", value)]), "a", "publish")


def test_another_scheme_is_no_credentials() -> None:
    assert credentials(shown_in([(b"authorization", b"Digest x")]), "a", "publish") == Credentials("a")
