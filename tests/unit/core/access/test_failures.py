"""Wrong credentials are locked out by address and key, the right ones behind the same address are not."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from kateway.config.schema import AuthConfig, PluginsConfig
from kateway.core.access.authentication import (
    Authentication,
    AuthenticatorContext,
    Credentials,
    build_authentication,
)
from kateway.core.access.failures import Failures, build_failures
from kateway.core.plugin_watch import Watches
from kateway.errors import TooManyFailures, Unauthorized
from kateway.registry.interface import Application, Key, Snapshot
from kateway.registry.secrets import hash_secret

SECRET = b"correct-horse-battery-staple-0123"
HOME = "192.0.2.1"


class Gate:
    """Authentication by key and secret, with the keys ``good``, ``revoked`` and ``other``."""

    def __init__(self, config: AuthConfig | None = None) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        hashed = hash_secret(SECRET.decode())
        keys = [Key(key=name, application="app1", kind="pub", secret_hash=hashed) for name in ("good", "revoked")]
        self.snapshot = Snapshot(
            applications={"app1": Application(name="app1")}, keys={entry.key: entry for entry in keys}
        )
        config = AuthConfig() if config is None else config
        self.failures = build_failures(config, self.clock.seconds)
        context = AuthenticatorContext(config=config, snapshot=lambda: self.snapshot, now=self.clock.seconds)
        self.authentication: Authentication = build_authentication(
            context, self.failures, Watches(PluginsConfig(), self.clock.seconds)
        )

    def right(self, key: bytes = b"good", address: str = HOME) -> None:
        principal = self.authentication.authenticate(Credentials(address, key, SECRET), "publish")
        assert principal.key == key.decode()

    def wrong(self, key: bytes = b"good", secret: bytes = b"wrong", address: str = HOME) -> None:
        with pytest.raises(Unauthorized):
            self.authentication.authenticate(Credentials(address, key, secret), "publish")

    def locked(self, key: bytes = b"good", secret: bytes = SECRET, address: str = HOME) -> float:
        with pytest.raises(TooManyFailures) as refused:
            self.authentication.authenticate(Credentials(address, key, secret), "publish")
        assert refused.value.status == 429
        assert refused.value.retry_after_seconds is not None
        return refused.value.retry_after_seconds

    def revoke(self, key: str) -> None:
        left = {name: entry for name, entry in self.snapshot.keys.items() if name != key}
        self.snapshot = Snapshot(applications=self.snapshot.applications, keys=left)


def test_a_key_wrong_too_often_from_an_address_is_refused_there_without_a_look_until_the_window_is_over() -> None:
    gate = Gate()
    for _ in range(20):
        gate.wrong()
        gate.clock.advance(0.1)
    wait = gate.locked()
    assert wait == pytest.approx(8)
    gate.right(address="192.0.2.2")
    gate.clock.advance(wait)
    gate.right()


def test_a_revoked_key_used_on_and_on_locks_no_other_key_behind_its_address_out() -> None:
    gate = Gate()
    gate.right(b"revoked")
    gate.revoke("revoked")
    for _ in range(20):
        gate.wrong(b"revoked", SECRET)
        gate.right()
    for _ in range(89):
        gate.locked(b"revoked")
        gate.right()


def test_right_credentials_seen_before_go_on_while_their_key_is_locked_and_a_wrong_secret_does_not() -> None:
    gate = Gate()
    gate.right()
    for _ in range(20):
        gate.wrong()
    gate.locked(secret=b"wrong")
    gate.locked(secret=b"another")
    gate.right()


def test_right_credentials_are_forgotten_after_an_hour() -> None:
    gate = Gate()
    gate.right()
    gate.clock.advance(3600)
    for _ in range(20):
        gate.wrong()
    gate.locked()


def test_an_address_wrong_over_many_keys_is_refused_but_for_keys_that_were_right_from_there() -> None:
    gate = Gate()
    gate.right()
    for n in range(200):
        gate.wrong(b"k%d" % n)
    gate.locked(b"one-more")
    gate.locked(b"revoked")
    gate.right()
    gate.wrong()
    gate.right(b"revoked", address="192.0.2.2")
    with pytest.raises(Unauthorized, match="needs credentials"):
        gate.authentication.authenticate(Credentials(HOME), "publish")


def test_wrong_tokens_lock_no_key_and_a_token_that_was_right_goes_on() -> None:
    clock = Clock()
    failures = build_failures(AuthConfig(), clock.seconds)
    failures.note_right(HOME, b"\0bearer", b"right")
    for n in range(20):
        failures.refuse(HOME, b"\0bearer", b"wrong")
        failures.wrong(HOME, b"\0bearer", b"guess%d" % n)
    failures.refuse(HOME, b"\0bearer", b"right")
    failures.refuse(HOME, b"good", b"")
    with pytest.raises(TooManyFailures):
        failures.refuse(HOME, b"\0bearer", b"unseen")


def test_failures_further_apart_than_the_window_are_let_pass() -> None:
    gate = Gate()
    for _ in range(100):
        gate.wrong()
        gate.clock.advance(0.51)


def test_the_failures_of_an_ipv6_network_count_together() -> None:
    gate = Gate(AuthConfig(max_failures=2))
    gate.wrong(address="2001:db8::1")
    gate.wrong(address="2001:db8::2")
    gate.locked(address="2001:db8::3")
    gate.wrong(address="2001:db8:0:1::1")
    gate.wrong(address="::ffff:192.0.2.1")
    gate.wrong(address="192.0.2.1")
    gate.locked(address="::ffff:192.0.2.1")


def test_names_longer_than_a_key_count_together_and_are_not_kept_whole() -> None:
    gate = Gate(AuthConfig(max_failures=2))
    gate.wrong(b"x" * 5000)
    gate.wrong(b"x" * 5001)
    gate.locked(b"x" * 5002)
    assert {len(name) for _, name in gate.failures.pairs.seen} == {65}


def test_no_more_is_remembered_than_the_bound_and_old_failures_go() -> None:
    clock = Clock()
    failures = Failures(
        seconds=clock.seconds,
        max_failures=3,
        max_address_failures=5,
        window_seconds=10,
        remembered_seconds=60,
        max_tracked=50,
    )
    for n in range(200):
        failures.wrong(f"192.0.2.{n}", b"k", b"s")
        failures.note_right(f"192.0.2.{n}", b"k", b"right")
    assert (len(failures.pairs.seen), len(failures.addresses.seen), len(failures.right)) == (50, 50, 100)
    clock.advance(10)
    failures.wrong("198.51.100.1", b"k", b"s")
    assert list(failures.pairs.seen) == [("198.51.100.1", b"k")]
    assert list(failures.addresses.seen) == ["198.51.100.1"]
