"""When an elastic topic gets more partitions: never for a moment's load, never too soon, never too many at once."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kateway.core.elastic import MOST_MISSED, Controller, Decision, Sample
from kateway.registry.interface import Elastic

RULES = Elastic(max_partitions=16, target_bytes_per_second=100.0, target_readers_per_partition=2, cooldown_seconds=600)
STEP = 10.0
SUSTAINED = 300.0


class World:
    """A topic that gets what its controller decides."""

    def __init__(self, partitions: int = 2, rules: Elastic = RULES) -> None:
        self.controller = Controller(SUSTAINED, STEP)
        self.partitions = partitions
        self.rules = rules
        self.now = 0.0
        self.changed_at: float | None = None
        self.growths: list[tuple[float, int, int]] = []

    def sample(self, rate: float | None, readers: int | None = 0) -> Decision:
        since = None if self.changed_at is None else self.now - self.changed_at
        decision = self.controller.decide(Sample(self.now, rate, readers), self.partitions, self.rules, since)
        if decision.action == "grow":
            self.growths.append((self.now, self.partitions, decision.partitions))
            self.partitions, self.changed_at = decision.partitions, self.now
        self.now += STEP
        return decision


def test_load_above_target_for_five_minutes_doubles_the_partitions() -> None:
    world = World()
    for _ in range(30):
        assert world.sample(201.0).action == "stay"
    assert world.sample(201.0).action == "grow"
    assert world.growths == [(300.0, 2, 4)]
    assert world.sample(201.0).reason == "the load is within its target"


def test_load_that_falls_below_its_target_once_begins_anew() -> None:
    world = World()
    for _ in range(10):
        for _ in range(29):
            world.sample(1000.0)
        world.sample(200.0)
    assert world.growths == []


def test_load_that_goes_on_growing_waits_for_the_cooldown() -> None:
    world = World()
    for _ in range(300):
        decision = world.sample(1e6)
    assert [(was, now) for _, was, now in world.growths] == [(2, 4), (4, 8), (8, 16)]
    times = [at for at, _, _ in world.growths]
    assert [later - earlier for earlier, later in pairwise(times)] == [600.0, 600.0]
    assert "max_partitions are reached" in decision.reason


def test_readers_beyond_the_partitions_count_as_load() -> None:
    world = World()
    for _ in range(31):
        decision = world.sample(0.0, readers=5)
    assert decision.action == "grow"
    assert decision.reason == "5 readers of a group are more than 2 for each of 2 partitions"


def test_samples_that_are_missing_for_long_interrupt_a_load() -> None:
    world = World()
    for _ in range(25):
        world.sample(1000.0)
    for _ in range(MOST_MISSED):
        assert world.sample(None).reason == "the load is not known just now"
    for _ in range(10):
        assert world.sample(1000.0).action == "stay"
    world = World()
    for _ in range(25):
        world.sample(1000.0)
    world.sample(None)
    for _ in range(5):
        decision = world.sample(1000.0)
    assert decision.action == "grow"


def test_target_that_is_not_set_does_not_matter() -> None:
    rules = Elastic(target_bytes_per_second=None, target_readers_per_partition=None, cooldown_seconds=0)
    world = World(rules=rules)
    for _ in range(100):
        world.sample(1e9, readers=1000)
    assert world.growths == []


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1e6)), max_size=400),
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(0, 2000),
)
def test_growths_keep_their_bounds_whatever_the_load(
    rates: list[float | None], partitions: int, most: int, cooldown: int
) -> None:
    rules = Elastic(max_partitions=most, target_bytes_per_second=100.0, cooldown_seconds=cooldown)
    world = World(partitions, rules)
    taken: list[tuple[float, float | None, int]] = []
    for rate in rates:
        taken.append((world.now, rate, world.partitions))
        world.sample(rate)
    last = None
    for at, was, now in world.growths:
        assert was < now <= min(2 * was, most)
        assert last is None or at - last >= max(cooldown, SUSTAINED)
        last = at
        # above the target all the time, but for samples that were missing
        before = [(rate, had) for when, rate, had in taken if at - SUSTAINED <= when <= at]
        assert all(had == was and (rate is None or rate > 100.0 * was) for rate, had in before)


@given(st.lists(st.sampled_from([150.0, 250.0]), max_size=400))
def test_load_that_swings_about_its_target_grows_only_where_it_stayed_above_it(rates: list[float]) -> None:
    world = World()
    run = best = 0
    for rate in rates:
        world.sample(rate)
        run = run + 1 if rate > 200 else 0
        best = max(best, run)
    assert bool(world.growths) == (best > SUSTAINED / STEP)
