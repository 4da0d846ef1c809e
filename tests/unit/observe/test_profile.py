"""Profiles of this very process: what a busy thread does is seen, and is told in both forms."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kateway.observe.memory import Memory, MemoryTracing
from kateway.observe.profile import HERTZ, Profile, collapsed, label, sample, speedscope
from kateway.observe.stacks import stacks, text


def busy(until: threading.Event) -> None:
    while not until.wait(0.001):
        pass


@contextmanager
def at_work(name: str) -> Iterator[None]:
    """A thread of that name that runs ``busy``."""
    until = threading.Event()
    thread = threading.Thread(target=busy, args=(until,), name=name)
    thread.start()
    try:
        yield
    finally:
        until.set()
        thread.join()


def test_busy_thread_is_seen_in_nearly_every_sample() -> None:
    with at_work("worker"):
        profile = sample(0.3, threading.Event())
    function = label(busy.__code__)
    seen = sum(count for stack, count in profile.stacks.items() if stack[0] == "worker" and function in stack)
    assert 5 < profile.samples <= 0.3 * HERTZ + 1
    assert seen >= profile.samples - 1
    assert 0.29 < profile.seconds < 2


def test_sampling_thread_itself_is_left_out() -> None:
    own = threading.current_thread().name
    assert all(stack[0] != own for stack in sample(0.05, threading.Event()).stacks)


def test_enough_ends_it_early() -> None:
    enough = threading.Event()
    enough.set()
    began = time.monotonic()
    assert sample(30, enough).samples == 1
    assert time.monotonic() - began < 5


PROFILE = Profile({("Main", "a:f:1", "b:g:2"): 3, ("Main", "a:f:1"): 1, ("pool; 1", "a:f:1"): 4}, 4, 0.04)


def test_collapsed_form_has_a_line_a_stack_with_its_count_behind() -> None:
    assert collapsed(PROFILE) == "pool, 1;a:f:1 4\nMain;a:f:1;b:g:2 3\nMain;a:f:1 1\n"


def test_speedscope_form_has_a_profile_a_thread_whose_weights_are_seconds() -> None:
    found = speedscope(PROFILE, "it")
    assert found["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    assert [frame["name"] for frame in found["shared"]["frames"]] == ["a:f:1", "b:g:2"]
    main, pool = found["profiles"]
    assert (main["name"], main["samples"], main["weights"]) == ("Main", [[0, 1], [0]], [0.03, 0.01])
    assert (main["startValue"], main["endValue"], main["type"], main["unit"]) == (0, 0.04, "sampled", "seconds")
    assert (pool["name"], pool["samples"], pool["weights"]) == ("pool; 1", [[0]], [0.04])


def test_stacks_show_the_innermost_call_last_and_not_the_caller() -> None:
    with at_work("worker"):
        found = {each.thread: each.calls for each in stacks()}
        told = text(stacks())
    assert "busy" in [call.function for call in found["worker"]]
    assert threading.current_thread().name not in found
    assert told.index("worker\n") < told.index(" busy\n")


def test_memory_tracing_is_switched_on_and_off_and_changed() -> None:
    async def at_once(work: object) -> Memory:
        raise AssertionError

    import tracemalloc

    tracing = MemoryTracing(at_once)
    try:
        tracing.configure(1)
        assert tracemalloc.get_traceback_limit() == 1
        tracing.configure(3)
        assert tracemalloc.get_traceback_limit() == 3
    finally:
        tracing.configure(0)
    assert not tracemalloc.is_tracing()
