"""Quotas: admissions, refusals with their waits, and the meters kept."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from kateway.core.access.rate_limits import IDLE_SECONDS, Allowance, Bucket, Quotas
from kateway.errors import QuotaExceeded
from kateway.model import Principal
from kateway.registry.interface import Application, Key, Quota, Snapshot

HASH = f"sha256${'0' * 32}${'0' * 64}"


def snapshot_of(quota: Quota, *keys: Key) -> Snapshot:
    return Snapshot(
        applications={"app1": Application(name="app1", quota=quota), "app2": Application(name="app2", quota=quota)},
        keys={key.key: key for key in keys},
    )


def key(name: str, quota: Quota | None = None) -> Key:
    return Key(key=name, application="app1", kind="pub", secret_hash=HASH, quota=quota)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def allowance(clock: Clock, quota: Quota) -> Allowance:
    return Quotas(seconds=clock.seconds).of(Principal("app1"), snapshot_of(quota))


def test_a_bucket_holds_one_seconds_worth(clock: Clock) -> None:
    mine = allowance(clock, Quota(publish_records_per_second=10))
    for _ in range(10):
        mine.publish(1, 100, clock.seconds())
    with pytest.raises(QuotaExceeded) as refused:
        mine.publish(1, 100, clock.seconds())
    assert refused.value.retry_after_seconds == pytest.approx(0.1)
    assert refused.value.status == 429


def test_a_bucket_of_less_than_one_a_second_holds_one(clock: Clock) -> None:
    mine = allowance(clock, Quota(publish_records_per_second=0.1))
    mine.publish(1, 1, clock.seconds())
    with pytest.raises(QuotaExceeded) as refused:
        mine.publish(1, 1, clock.seconds())
    assert refused.value.retry_after_seconds == pytest.approx(10)


@given(
    rate=st.floats(0.05, 1e6),
    sizes=st.lists(st.integers(1, 100_000), min_size=1, max_size=50),
    started=st.floats(0, 1e6),
)
def test_caller_that_waits_as_long_as_told_is_admitted(rate: float, sizes: list[int], started: float) -> None:
    now = started
    bucket = Bucket(rate, now)
    for size in sizes:
        now += bucket.wait(size, now)
        assert bucket.wait(size, now) == 0
        bucket.tokens -= size


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_under_steady_overload_the_admitted_rate_is_the_quota(clock: Clock, batch: int) -> None:
    mine = allowance(clock, Quota(publish_records_per_second=100))
    admitted = 0
    seconds = 200
    for _ in range(seconds * 50):
        clock.advance(0.02)
        for _ in range(3):
            try:
                mine.publish(batch, batch, clock.seconds())
            except QuotaExceeded:
                continue
            admitted += batch
    assert admitted / seconds == pytest.approx(100, rel=0.05)


def test_a_batch_larger_than_a_seconds_worth_passes_and_is_paid_for(clock: Clock) -> None:
    mine = allowance(clock, Quota(publish_bytes_per_second=1000))
    mine.publish(1, 5000, clock.seconds())
    with pytest.raises(QuotaExceeded) as refused:
        mine.publish(1, 1, clock.seconds())
    assert refused.value.retry_after_seconds == pytest.approx(4.001)


def test_request_refused_for_one_reason_is_not_charged_for_another(clock: Clock) -> None:
    mine = allowance(clock, Quota(publish_records_per_second=10, publish_bytes_per_second=100, requests_per_second=5))
    mine.publish(1, 100, clock.seconds())
    for _ in range(20):
        with pytest.raises(QuotaExceeded):
            mine.publish(1, 50, clock.seconds())
    clock.advance(0.5)
    mine.publish(9, 50, clock.seconds())


def test_requests_are_counted_apart(clock: Clock) -> None:
    mine = allowance(clock, Quota(requests_per_second=2))
    mine.request(clock.seconds())
    mine.publish(1000, 1_000_000, clock.seconds())
    with pytest.raises(QuotaExceeded) as refused:
        mine.request(clock.seconds())
    assert refused.value.retry_after_seconds == pytest.approx(0.5)


def test_reading_is_slowed_and_not_refused(clock: Clock) -> None:
    mine = allowance(clock, Quota(subscribe_bytes_per_second=1000))
    read = 0
    while clock.seconds() < 100:
        read += 700
        clock.advance(mine.read(700, clock.seconds()))
    assert read / clock.seconds() == pytest.approx(1000, rel=0.05)


def test_readers_beyond_the_quota_are_refused_until_one_leaves(clock: Clock) -> None:
    mine = allowance(clock, Quota(readers=2))
    leave = mine.enter()
    mine.enter()
    with pytest.raises(QuotaExceeded):
        mine.enter()
    leave()
    leave()
    mine.enter()
    with pytest.raises(QuotaExceeded):
        mine.enter()


def test_no_readers_at_all_may_be_allowed(clock: Clock) -> None:
    with pytest.raises(QuotaExceeded):
        allowance(clock, Quota(readers=0)).enter()


def test_an_application_without_a_quota_is_not_counted(clock: Clock) -> None:
    mine = allowance(clock, Quota())
    assert not mine.counts
    for _ in range(100):
        mine.publish(1000, 1 << 20, clock.seconds())
    assert mine.read(1 << 30, clock.seconds()) == 0
    assert mine.headers(clock.seconds()) == ()


def test_the_keys_of_an_application_share_its_quota_and_another_application_does_not(clock: Clock) -> None:
    quotas = Quotas(seconds=clock.seconds)
    snapshot = snapshot_of(Quota(publish_records_per_second=2), key("one"), key("two"))
    quotas.of(Principal("app1", "one"), snapshot).publish(1, 1, 0)
    quotas.of(Principal("app1", "two"), snapshot).publish(1, 1, 0)
    with pytest.raises(QuotaExceeded):
        quotas.of(Principal("app1", "one"), snapshot).publish(1, 1, 0)
    quotas.of(Principal("app2", "three"), snapshot).publish(1, 1, 0)


def test_a_keys_own_quota_replaces_its_applications_member_by_member(clock: Clock) -> None:
    quotas = Quotas(seconds=clock.seconds)
    snapshot = snapshot_of(
        Quota(publish_records_per_second=1, publish_bytes_per_second=10),
        key("one", Quota(publish_records_per_second=3)),
        key("two"),
    )
    one, two = (quotas.of(Principal("app1", name), snapshot) for name in ("one", "two"))
    for _ in range(3):
        one.publish(1, 1, 0)
    with pytest.raises(QuotaExceeded, match="3 published records"):
        one.publish(1, 1, 0)
    two.publish(1, 7, 0)
    clock.advance(0.999)
    with pytest.raises(QuotaExceeded, match="10 published bytes"):
        one.publish(1, 100, clock.seconds())


def test_used_key_stays_used_when_the_snapshot_changes(clock: Clock) -> None:
    quotas = Quotas(seconds=clock.seconds)
    quotas.of(Principal("app1"), snapshot_of(Quota(publish_records_per_second=10))).publish(10, 1, 0)
    with pytest.raises(QuotaExceeded):
        quotas.of(Principal("app1"), snapshot_of(Quota(publish_records_per_second=10))).publish(1, 1, 0)
    with pytest.raises(QuotaExceeded):
        quotas.of(Principal("app1"), snapshot_of(Quota(publish_records_per_second=1000))).publish(1, 1, 0)
    quotas.of(Principal("app1"), snapshot_of(Quota())).publish(1000, 1, 0)


def test_idle_applications_are_forgotten_and_those_with_readers_or_debt_are_not(clock: Clock) -> None:
    quotas = Quotas(seconds=clock.seconds)
    snapshot = Snapshot(
        applications={
            f"a{n}": Application(name=f"a{n}", quota=Quota(publish_records_per_second=1, readers=9))
            for n in range(3000)
        }
    )
    leave = quotas.of(Principal("a0"), snapshot).enter()
    quotas.of(Principal("a1"), snapshot).publish(1000, 1, 0)
    for n in range(2, 1000):
        quotas.of(Principal(f"a{n}"), snapshot).publish(1, 1, 0)
    assert len(quotas) == 1000
    clock.advance(IDLE_SECONDS + 1)
    for n in range(1000, 3000):
        quotas.of(Principal(f"a{n}"), snapshot)
    assert len(quotas) == 2002
    with pytest.raises(QuotaExceeded):
        quotas.of(Principal("a1"), snapshot).publish(1, 1, clock.seconds())
    leave()


def test_no_more_than_the_bound_is_remembered(clock: Clock) -> None:
    quotas = Quotas(seconds=clock.seconds, max_tracked=100)
    snapshot = Snapshot(
        applications={
            f"a{n}": Application(name=f"a{n}", quota=Quota(publish_records_per_second=1)) for n in range(1000)
        }
    )
    for n in range(1000):
        quotas.of(Principal(f"a{n}"), snapshot).publish(50, 1, 0)
    assert len(quotas) <= 100


def test_the_headers_tell_of_what_is_nearest_to_its_end(clock: Clock) -> None:
    mine = allowance(clock, Quota(publish_records_per_second=10, publish_bytes_per_second=1000))
    mine.publish(1, 900, clock.seconds())
    assert mine.headers(clock.seconds()) == (
        (b"RateLimit-Policy", b'"publish-bytes";q=1000;w=1'),
        (b"RateLimit", b'"publish-bytes";r=100;t=1'),
    )


def test_a_principal_whose_key_is_anothers_has_its_own_applications_quota(clock: Clock) -> None:
    quotas = Quotas(seconds=clock.seconds)
    stranger = attrs.evolve(key("one", Quota(publish_records_per_second=1000)), application="app2")
    mine = quotas.of(Principal("app1", "one"), snapshot_of(Quota(publish_records_per_second=1), stranger))
    mine.publish(1, 1, 0)
    with pytest.raises(QuotaExceeded):
        mine.publish(1, 1, 0)
