"""Sessions and portal links as pure state, on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from kateway.config.schema import AdminConfig
from kateway.web.admin.actors import Actor, digest
from kateway.web.admin.portal_links import PortalLinks
from kateway.web.admin.sessions import Opened, Sessions

CONFIG = AdminConfig(max_sessions=3, session_idle_seconds=10, session_max_seconds=60, max_portal_links=2)
ANN = Actor("ann", "admin", proof=digest(b"anns-token"))
BOB = Actor("bob", "viewer", proof=digest(b"bobs-token"))


def sessions(clock: Clock, config: AdminConfig = CONFIG) -> Sessions:
    return Sessions(clock.seconds, lambda: config)


def found(all_of_them: Sessions, opened: Opened) -> Actor | None:
    return all_of_them.find(opened.header.encode(), [b"x", opened.cookie.encode()])


def test_session_is_found_by_both_its_halves_alone() -> None:
    held = sessions(Clock())
    one, two = held.open(ANN), held.open(BOB)
    assert found(held, one) == one.actor == ANN._replace(session=digest(one.header.encode()))
    assert held.find(one.header.encode(), [two.cookie.encode()]) is None
    assert held.find(one.header.encode(), []) is None
    assert held.find(one.cookie.encode(), [one.header.encode()]) is None
    assert len({one.cookie, one.header, two.cookie, two.header}) == 4


def test_no_half_is_kept_or_shown() -> None:
    held = sessions(Clock())
    opened = held.open(ANN)
    kept = repr([(name, each.cookie, each.actor) for name, each in held._sessions.items()]) + repr(opened)
    assert opened.cookie not in kept
    assert opened.header not in kept


def test_session_ends_when_it_was_idle_for_too_long() -> None:
    clock = Clock()
    held = sessions(clock)
    opened = held.open(ANN)
    clock.advance(9.9)
    assert found(held, opened) is not None
    clock.advance(9.9)
    assert found(held, opened) is not None
    clock.advance(10)
    assert found(held, opened) is None
    assert len(held) == 0


def test_session_ends_when_it_is_old_however_much_it_is_used() -> None:
    clock = Clock()
    held = sessions(clock)
    opened = held.open(ANN)
    for _ in range(11):
        clock.advance(5)
        assert found(held, opened) is not None
    assert held.seconds_left(opened.actor) == 5
    clock.advance(5)
    assert found(held, opened) is None


def test_open_stream_is_a_use_until_it_is_given_up() -> None:
    clock, ended = Clock(), list[str]()
    held = sessions(clock)
    opened = held.open(ANN)
    give_up = held.on_end(opened.actor, lambda: ended.append("told"))
    clock.advance(30)
    held.sweep()
    assert len(held) == 1
    give_up()
    clock.advance(9)
    held.sweep()
    assert len(held) == 1
    clock.advance(1)
    held.sweep()
    assert len(held) == 0
    assert ended == []


def test_every_stream_of_a_session_that_ends_is_told_once_though_one_of_them_fails(
    logged_errors: list[dict[str, Any]],
) -> None:
    clock, ended = Clock(), list[str]()
    held = sessions(clock)
    opened = held.open(ANN)

    def fail() -> None:
        raise ValueError("a stream's own")

    held.on_end(opened.actor, lambda: ended.append("one"))
    held.on_end(opened.actor, fail)
    held.on_end(opened.actor, lambda: ended.append("two"))
    clock.advance(60)
    held.sweep()
    held.end(opened.actor)
    assert sorted(ended) == ["one", "two"]
    held.on_end(opened.actor, lambda: ended.append("late"))
    assert ended[-1] == "late"
    assert len(logged_errors) == 1
    logged_errors.clear()


def test_session_whose_caller_is_let_in_no_more_ends_with_streams_of_bearers() -> None:
    ended: list[str] = []
    held = sessions(Clock())
    anns, bobs = held.open(ANN), held.open(BOB)

    def told(name: str) -> Callable[[], None]:
        return lambda: ended.append(name)

    held.on_end(anns.actor, told("ann's session"))
    held.on_end(ANN, told("ann's token"))
    held.on_end(BOB, told("bob's token"))
    held.on_end(ANN, told("given up"))()
    held.keep(lambda actor: actor.name != "ann")
    assert ended == ["ann's session", "ann's token"]
    assert found(held, anns) is None
    assert found(held, bobs) is not None


def test_session_that_was_not_used_for_longest_gives_way() -> None:
    held = sessions(Clock())
    first, second, third = (held.open(ANN) for _ in range(3))
    assert found(held, first) is not None
    fourth = held.open(ANN)
    assert [found(held, one) is not None for one in (first, second, third, fourth)] == [True, False, True, True]


Step = tuple[str, float]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["open", "use", "end", "sweep"]), st.floats(0, 4)),
        st.tuples(st.just("wait"), st.floats(0, 30)),
    ),
    max_size=40,
)


@given(STEPS)
def test_sessions_are_bounded_and_each_one_found_is_neither_idle_nor_old(steps: list[Step]) -> None:
    clock = Clock()
    held = sessions(clock)
    opened: list[Opened] = []
    began: list[float] = []
    used: list[float] = []
    over: set[int] = set()
    for step, value in steps:
        number = int(value)
        if step == "open":
            opened.append(held.open(ANN))
            began.append(clock.seconds())
            used.append(clock.seconds())
        elif step == "wait":
            clock.advance(value)
        elif step == "sweep":
            held.sweep()
        elif number < len(opened):
            if step == "end":
                held.end(opened[number].actor)
                over.add(number)
            elif found(held, opened[number]) is None:
                over.add(number)
            else:
                assert number not in over
                assert clock.seconds() - began[number] < CONFIG.session_max_seconds
                assert clock.seconds() - used[number] < CONFIG.session_idle_seconds
                used[number] = clock.seconds()
        assert len(held) <= CONFIG.max_sessions


# --- portal links ----------------------------------------------------------------------------------------------


def test_link_lets_its_applications_tenant_in_once() -> None:
    links = PortalLinks(Clock().seconds, lambda: CONFIG)
    link = links.make("app1", ANN)
    assert links.redeem(b"other") is None
    assert links.redeem(link.encode()) == Actor("portal:app1", "tenant", "app1", ANN.proof)
    assert links.redeem(link.encode()) is None


def test_link_is_over_after_its_time() -> None:
    clock = Clock()
    links = PortalLinks(clock.seconds, lambda: CONFIG)
    link = links.make("app1", ANN)
    clock.advance(599.9)
    late = links.make("app1", ANN)
    clock.advance(0.1)
    assert links.redeem(link.encode()) is None
    assert links.redeem(late.encode()) is not None


def test_oldest_link_gives_way_and_those_of_a_token_that_is_gone_are_forgotten() -> None:
    links = PortalLinks(Clock().seconds, lambda: attrs.evolve(CONFIG, max_portal_links=2))
    first, second, third = links.make("a", ANN), links.make("b", ANN), links.make("c", BOB)
    assert links.redeem(first.encode()) is None
    links.keep(lambda actor: actor.proof == BOB.proof)
    assert links.redeem(second.encode()) is None
    assert links.redeem(third.encode()) is not None
    assert len(links) == 0
