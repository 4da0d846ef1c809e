"""Limits rates with token buckets, counted lazily from the clock, without timers.

A bucket holds one second's worth (at least one unit) and may go into debt: a batch is admitted when the bucket holds
as much as the batch needs or is full, and then pays for all of it. So a batch larger than a second's worth passes,
and the average is still exactly the rate. Publishing and requests are refused (``QuotaExceeded`` with the seconds
until the same request would pass); reading is never refused, ``read`` answers how long to wait before the next read.

A key whose own quota names a member has a bucket of its own for that; for the rest it draws on its application's.
Counting is per gateway: its processes share their buckets (``shared_rates``) and readers (``shared_readers``). Buckets
outlive a change of the snapshot: used tokens stay used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil
from typing import Protocol

from kateway.errors import QuotaExceeded
from kateway.model import Principal
from kateway.registry.interface import Quota, Snapshot

PRUNED_PER_INSERT = 2
"""Old entries looked at whenever a new one is made: the table sheds idle ones as fast as it grows."""

IDLE_SECONDS = 60.0
"""Untouched for so long, an entry may go; sooner would make and forget the entries of many slow callers in turn."""

RATES = ("publish_records", "publish_bytes", "subscribe_bytes", "requests")
"""The quotas that are rates."""

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


MakeBucket = Callable[[str, float, float], Bucket]
"""Makes the bucket of a quota's member, with its rate, now."""
MakeNamed = Callable[[str, float, float], Bucket]
"""Makes the bucket of a name: processes that share their buckets find the same one by it."""


class ReaderCount(Protocol):
    """The readers of a name in all processes."""

    def add(self, change: int) -> None:
        """Counts this process's."""

    def others(self) -> int:
        """Those of the others."""


CountReaders = Callable[[str], ReaderCount | None]
"""Finds the count of a name; ``None`` where each process counts alone."""


class Meter:
    """The buckets of one application, or of one key with a quota of its own. ``None``: no limit."""

    __slots__ = (
        "_make",
        "publish_bytes",
        "publish_records",
        "readers",
        "requests",
        "shared_readers",
        "subscribe_bytes",
        "touched",
    )

    def __init__(self, make: MakeBucket, shared_readers: ReaderCount | None = None) -> None:
        self._make = make
        self.touched = 0.0
        self.publish_records: Bucket | None = None
        self.publish_bytes: Bucket | None = None
        self.subscribe_bytes: Bucket | None = None
        self.requests: Bucket | None = None
        self.readers = 0
        """This process's."""
        self.shared_readers = shared_readers

    @property
    def all_readers(self) -> int:
        """Of all processes."""
        return self.readers if self.shared_readers is None else self.readers + self.shared_readers.others()

    def tune(self, quota: Quota, now: float) -> None:
        """Takes on a quota's rates, keeping the used tokens of buckets that were there."""
        self.touched = now
        self.publish_records = self._tuned(
            "publish_records", self.publish_records, quota.publish_records_per_second, now
        )
        self.publish_bytes = self._tuned("publish_bytes", self.publish_bytes, quota.publish_bytes_per_second, now)
        self.subscribe_bytes = self._tuned(
            "subscribe_bytes", self.subscribe_bytes, quota.subscribe_bytes_per_second, now
        )
        self.requests = self._tuned("requests", self.requests, quota.requests_per_second, now)

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

    def _tuned(self, member: str, bucket: Bucket | None, rate: float | None, now: float) -> Bucket | None:
        if rate is None:
            return None
        if bucket is None:
            return self._make(member, rate, now)
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
            raise _exceeded("requests", "requests", bucket, wait)
        bucket.tokens -= 1

    def publish(self, records: int, size: int, now: float) -> None:
        """Counts one request that publishes so many records and bytes, or raises ``QuotaExceeded``, counting none."""
        requests, counted, sized = self._requests, self._records, self._bytes
        if requests is not None:
            wait = requests.wait(1, now)
            if wait:
                raise _exceeded("requests", "requests", requests, wait)
        if counted is not None:
            wait = counted.wait(records, now)
            if wait:
                raise _exceeded("publish_records", "published records", counted, wait)
        if sized is not None:
            wait = sized.wait(size, now)
            if wait:
                raise _exceeded("publish_bytes", "published bytes", sized, wait)
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
        shared = meter.shared_readers
        if shared is not None:
            # before the others are looked at: else two processes might both let the last one in
            shared.add(1)
        if self._readers is not None and meter.all_readers >= self._readers:
            if shared is not None:
                shared.add(-1)
            error = QuotaExceeded(f"the quota of {self._readers} readers at once is used up")
            error.quota = "readers"
            raise error
        meter.readers += 1
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                meter.readers -= 1
                if shared is not None:
                    shared.add(-1)

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


def _exceeded(quota: str, unit: str, bucket: Bucket, wait: float) -> QuotaExceeded:
    error = QuotaExceeded(f"the quota of {bucket.rate:g} {unit} a second is used up", retry_after_seconds=wait)
    error.quota = quota
    return error


class Quotas:
    """The allowances of all principals seen lately; idle ones are forgotten, at most ``max_tracked`` are kept."""

    def __init__(
        self,
        *,
        seconds: Seconds,
        max_tracked: int = 100_000,
        make: MakeNamed | None = None,
        readers: CountReaders | None = None,
    ) -> None:
        """``make`` makes buckets that other processes share, ``readers`` finds counts that they do."""
        self._count_readers = readers
        self._make_named = make
        self._seconds = seconds
        self._max_tracked = max_tracked
        self._snapshot: Snapshot | None = None
        self._allowances: dict[str, dict[str, Allowance]] = {}
        """By application, then by key: views on meters, cheap to make again."""
        self._meters: dict[tuple[str, str], Meter] = {}
        """By application and key; the key is empty for the bucket that the application's keys share. Oldest first."""

    def __len__(self) -> int:
        return len(self._meters)

    def used(self, snapshot: Snapshot) -> Iterator[tuple[str, str, float]]:
        """Gives what applications have used of their quotas: name, quota, share; above 1 in debt. What a key has used
        of a quota of its own is not among it.
        """
        now = self._seconds()
        for (application, key), meter in list(self._meters.items()):
            if key:
                continue
            for quota in RATES:
                bucket: Bucket | None = getattr(meter, quota)
                if bucket is not None:
                    yield application, quota, 1 - bucket.level(now) / bucket.capacity
            readers = snapshot.quota(application).readers
            if readers:
                yield application, "readers", meter.all_readers / readers

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
            meter = self._meters[name] = Meter(self._maker(name), self._shared_readers(name))
        meter.tune(quota, now)
        return meter

    def _shared_readers(self, name: tuple[str, str]) -> ReaderCount | None:
        return None if self._count_readers is None else self._count_readers("\0".join(name))

    def _maker(self, name: tuple[str, str]) -> MakeBucket:
        make = self._make_named
        if make is None:
            return lambda _member, rate, now: Bucket(rate, now)
        named = make
        return lambda member, rate, now: named(f"{name[0]}\0{name[1]}\0{member}", rate, now)

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
