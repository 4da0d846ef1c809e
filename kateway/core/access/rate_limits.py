"""Limits rates with token buckets, counted lazily from the clock, without timers.

A bucket holds one second's worth (at least one unit) and may go into debt: a batch is admitted when the bucket holds
as much as the batch needs or is full, and then pays for all of it. So a batch larger than a second's worth passes,
and the average is still exactly the rate. Publishing and requests are refused (``QuotaExceeded`` with the seconds
until the same request would pass); reading is never refused, ``read`` answers how long to wait before the next read.

A key whose own quota names a member has a bucket of its own for that; for the rest it draws on its application's.
Counting is per gateway. Buckets outlive a change of the snapshot: used tokens stay used.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from kateway.errors import QuotaExceeded
from kateway.model import Principal
from kateway.registry.interface import Quota, Snapshot

PRUNED_PER_INSERT = 2
"""Old entries looked at whenever a new one is made: the table sheds idle ones as fast as it grows."""

IDLE_SECONDS = 60.0
"""Untouched for so long, an entry may go; sooner would make and forget the entries of many slow callers in turn."""

MAX_KEYS_OF_AN_APPLICATION = 1000
"""Most principals with allowances at once; an allowance is made again at need."""

Seconds = Callable[[], float]
"""A clock that never goes backwards (``reactor.seconds``)."""


class Bucket:
    """``rate`` units a second; starts full. Plain arithmetic: it is looked at for every request."""

    __slots__ = ("capacity", "rate", "tokens", "updated")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.capacity = max(rate, 1.0)
        self.tokens = self.capacity
        self.updated = now

    def level(self, now: float) -> float:
        """Returns the tokens at ``now``; below zero in debt."""
        elapsed = now - self.updated
        if elapsed > 0:
            self.updated = now
            self.tokens = min(self.capacity, self.tokens + elapsed * self.rate)
        return self.tokens

    def wait(self, units: float, now: float) -> float:
        """Seconds until ``units`` would be admitted; 0: now. Takes nothing."""
        tokens = self.tokens
        if now > self.updated:
            # level(), written out: a call less for every request of the hot path
            tokens += (now - self.updated) * self.rate
            if tokens > self.capacity:  # noqa: PLR1730 - min() is another call
                tokens = self.capacity
            self.tokens = tokens
            self.updated = now
        if tokens >= units:
            return 0.0
        missing = min(units, self.capacity) - tokens
        # less than a nanosecond is rounding: a client that waits exactly as long as it was told must pass
        return missing / self.rate if missing > self.rate * 1e-9 else 0.0

    def retune(self, rate: float, now: float) -> None:
        """Goes on at another rate, as full or as indebted (in seconds) as it was."""
        share = self.level(now) / self.capacity
        self.rate = rate
        self.capacity = max(rate, 1.0)
        self.tokens = share * self.capacity


class Meter:
    """The buckets of one application, or of one key with a quota of its own. ``None``: no limit."""

    __slots__ = ("publish_bytes", "publish_records", "readers", "requests", "subscribe_bytes", "touched")

    def __init__(self) -> None:
        self.touched = 0.0
        self.publish_records: Bucket | None = None
        self.publish_bytes: Bucket | None = None
        self.subscribe_bytes: Bucket | None = None
        self.requests: Bucket | None = None
        self.readers = 0

    def tune(self, quota: Quota, now: float) -> None:
        """Takes on a quota's rates, keeping the used tokens of buckets that were there."""
        self.touched = now
        self.publish_records = _tuned(self.publish_records, quota.publish_records_per_second, now)
        self.publish_bytes = _tuned(self.publish_bytes, quota.publish_bytes_per_second, now)
        self.subscribe_bytes = _tuned(self.subscribe_bytes, quota.subscribe_bytes_per_second, now)
        self.requests = _tuned(self.requests, quota.requests_per_second, now)

    def idle(self, now: float) -> bool:
        """Nothing would be forgotten with it: not used of late, no readers, every bucket full."""
        long_ago = now - IDLE_SECONDS
        if self.readers or self.touched > long_ago:
            return False
        buckets = (self.publish_records, self.publish_bytes, self.subscribe_bytes, self.requests)
        return all(
            bucket is None or (bucket.updated <= long_ago and bucket.level(now) >= bucket.capacity)
            for bucket in buckets
        )


def _tuned(bucket: Bucket | None, rate: float | None, now: float) -> Bucket | None:
    if rate is None:
        return None
    if bucket is None:
        return Bucket(rate, now)
    if bucket.rate != rate:
        bucket.retune(rate, now)
    return bucket


class Allowance:
    """The present rest of one principal's quotas. Good for one request; ask ``Quotas.of`` again for the next."""

    __slots__ = (
        "_bytes",
        "_named",
        "_read",
        "_reader_meter",
        "_readers",
        "_records",
        "_requests",
        "_seconds",
        "counts",
    )

    def __init__(self, application: Meter, own: Meter | None, key_quota: Quota | None, app_quota: Quota) -> None:
        def pick(member: str) -> Bucket | None:
            chosen = application
            if own is not None and key_quota is not None and getattr(key_quota, f"{member}_per_second") is not None:
                chosen = own
            bucket: Bucket | None = getattr(chosen, member)
            return bucket

        self._records = pick("publish_records")
        self._bytes = pick("publish_bytes")
        self._read = pick("subscribe_bytes")
        self._requests = pick("requests")
        self._reader_meter, self._readers = application, app_quota.readers
        if own is not None and key_quota is not None and key_quota.readers is not None:
            self._reader_meter, self._readers = own, key_quota.readers
        self._named = tuple(
            (b'"%b";r=' % name, bucket, _policy(name, bucket))
            for name, bucket in (
                (b"requests", self._requests),
                (b"publish-records", self._records),
                (b"publish-bytes", self._bytes),
            )
            if bucket is not None
        )
        self.counts = bool(self._named or self._read or self._readers is not None)
        """False: there is no quota at all, and every check is a waste of time."""

    def request(self, now: float) -> None:
        """Counts one request, or raises ``QuotaExceeded``."""
        bucket = self._requests
        if bucket is None:
            return
        wait = bucket.wait(1, now)
        if wait:
            raise _exceeded("requests", bucket, wait)
        bucket.tokens -= 1

    def publish(self, records: int, size: int, now: float) -> None:
        """Counts one request that publishes so many records and bytes, or raises ``QuotaExceeded``, counting none."""
        requests, counted, sized = self._requests, self._records, self._bytes
        if requests is not None:
            wait = requests.wait(1, now)
            if wait:
                raise _exceeded("requests", requests, wait)
        if counted is not None:
            wait = counted.wait(records, now)
            if wait:
                raise _exceeded("published records", counted, wait)
        if sized is not None:
            wait = sized.wait(size, now)
            if wait:
                raise _exceeded("published bytes", sized, wait)
            sized.tokens -= size
        if counted is not None:
            counted.tokens -= records
        if requests is not None:
            requests.tokens -= 1

    def read(self, size: int, now: float) -> float:
        """Counts bytes that were read, and answers the seconds to wait before reading more; 0: none."""
        bucket = self._read
        if bucket is None:
            return 0.0
        left = bucket.level(now) - size
        bucket.tokens = left
        return -left / bucket.rate if left < 0 else 0.0

    def enter(self) -> Callable[[], None]:
        """Counts a reader until the callable returned is called (once or more), or raises ``QuotaExceeded``."""
        meter = self._reader_meter
        if self._readers is not None and meter.readers >= self._readers:
            raise QuotaExceeded(f"the quota of {self._readers} readers at once is used up")
        meter.readers += 1
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                meter.readers -= 1

        return leave

    def headers(self, now: float) -> tuple[tuple[bytes, bytes], ...]:
        """``RateLimit-Policy`` and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers) of the quota nearest to its
        end: its rest, and the seconds until it is full again.
        """
        if not self._named:
            return ()
        # hot, so written out: no call for each bucket, and the policy is said once for all
        least = 2.0
        nearest = self._named[0]
        for named in self._named:
            bucket = named[1]
            if now > bucket.updated:
                bucket.level(now)
            share = bucket.tokens / bucket.capacity
            if share < least:
                least = share
                nearest = named
        prefix, bucket, policy = nearest
        left = bucket.tokens
        refill = ceil((bucket.capacity - left) / bucket.rate)
        return policy, (b"RateLimit", prefix + b"%d;t=%d" % (left if left > 0 else 0, refill))


def _policy(name: bytes, bucket: Bucket) -> tuple[bytes, bytes]:
    window = ceil(bucket.capacity / bucket.rate)
    return b"RateLimit-Policy", b'"%b";q=%d;w=%d' % (name, bucket.capacity, window)


def _exceeded(unit: str, bucket: Bucket, wait: float) -> QuotaExceeded:
    return QuotaExceeded(f"the quota of {bucket.rate:g} {unit} a second is used up", retry_after_seconds=wait)


class Quotas:
    """The allowances of all principals seen lately; idle ones are forgotten, at most ``max_tracked`` are kept."""

    def __init__(self, *, seconds: Seconds, max_tracked: int = 100_000) -> None:
        self._seconds = seconds
        self._max_tracked = max_tracked
        self._snapshot: Snapshot | None = None
        self._allowances: dict[str, dict[str, Allowance]] = {}
        """By application, then by key: views on meters, cheap to make again."""
        self._meters: dict[tuple[str, str], Meter] = {}
        """By application and key; the key is empty for the bucket that the application's keys share. Oldest first."""

    def __len__(self) -> int:
        return len(self._meters)

    def of(self, principal: Principal, snapshot: Snapshot) -> Allowance:
        """Returns the principal's allowance under the snapshot."""
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._allowances.clear()
        by_key = self._allowances.get(principal.application)
        if by_key is not None:
            found = by_key.get(principal.key)
            if found is not None:
                return found
        return self._make(principal.application, principal.key, snapshot)

    def _make(self, application: str, key: str, snapshot: Snapshot) -> Allowance:
        now = self._seconds()
        app_quota = snapshot.quota(application)
        entry = snapshot.keys.get(key)
        key_quota = entry.quota if entry is not None and entry.application == application else None
        shared = self._meter((application, ""), app_quota, now)
        own = None if key_quota is None else self._meter((application, key), key_quota, now)
        allowance = Allowance(shared, own, key_quota, app_quota)
        by_key = self._allowances.setdefault(application, {})
        if len(by_key) >= MAX_KEYS_OF_AN_APPLICATION:
            by_key.clear()
        by_key[key] = allowance
        return allowance

    def _meter(self, name: tuple[str, str], quota: Quota, now: float) -> Meter:
        meter = self._meters.get(name)
        if meter is None:
            self._prune(now)
            meter = self._meters[name] = Meter()
        meter.tune(quota, now)
        return meter

    def _prune(self, now: float) -> None:
        """Forgets the oldest entries if they are idle; at the bound, the oldest without readers even if in debt."""
        for _ in range(min(PRUNED_PER_INSERT, len(self._meters))):
            name = next(iter(self._meters))
            meter = self._meters.pop(name)
            crowded = len(self._meters) + 1 >= self._max_tracked
            if meter.idle(now) or (crowded and not meter.readers):
                # an allowance must not outlive its meter: two meters for one application would double its quota
                self._allowances.pop(name[0], None)
            else:
                self._meters[name] = meter
