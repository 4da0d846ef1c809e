"""A cache that is full is emptied."""

from __future__ import annotations

from kateway.bounded_cache import BoundedCache


def test_full_cache_is_emptied_before_the_next_entry() -> None:
    cache: BoundedCache[int, str] = BoundedCache(2)
    assert cache.keep(1, "a") == "a"
    cache.keep(2, "b")
    assert dict(cache) == {1: "a", 2: "b"}
    cache.keep(3, "c")
    assert dict(cache) == {3: "c"}
