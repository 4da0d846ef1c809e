"""What the processes of a gateway share in memory: documents that outlive each of them, and open readers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from twisted.internet.task import Clock

from kateway.config.schema import AdminConfig
from kateway.core.access import shared_readers
from kateway.core.access.rate_limits import Quotas
from kateway.core.access.shared_readers import SharedReaders, row_of
from kateway.daemon.processes.shared_document import PLACE_BYTES, SharedDocument, shared_memory
from kateway.errors import QuotaExceeded
from kateway.model import Principal
from kateway.registry.interface import Application, Quota, Snapshot
from kateway.web.admin.actors import Actor
from kateway.web.admin.portal_links import PortalLinks
from kateway.web.admin.sessions import USES_SECONDS, Sessions

ADMIN = Actor("admin", "admin", proof=b"proof")


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = shared_memory("test")
    yield descriptor
    os.close(descriptor)


def nothing() -> None:
    """There is nothing to take over."""


def test_document_is_news_to_each_process_once(memory: int) -> None:
    one, other = SharedDocument(memory), SharedDocument(memory)
    assert one.news() is None
    with one.changing(nothing):
        assert one.write(b"first")
    assert one.news() is None
    assert other.news() == b"first"
    assert other.news() is None
    with other.changing(nothing):
        assert other.write(b"second")
    assert one.news() == b"second"
    assert SharedDocument(memory).news() == b"second"


def test_document_that_is_half_written_leaves_the_one_before_in_force(memory: int) -> None:
    one = SharedDocument(memory)
    with one.changing(nothing):
        one.write(b"whole")
    # a process is killed between the document and its number
    os.pwrite(memory, b"x" * 100, 4096)
    assert SharedDocument(memory).news() == b"whole"


def test_document_beyond_its_bound_is_refused_and_changes_nothing(memory: int) -> None:
    one = SharedDocument(memory)
    with one.changing(nothing):
        one.write(b"fits")
        assert not one.write(bytes(PLACE_BYTES))
    assert SharedDocument(memory).news() == b"fits"


class Browser:
    """One that has signed in."""

    def __init__(self, sessions: Sessions) -> None:
        opened = sessions.open(ADMIN)
        self.actor = opened.actor
        self._halves = opened.header.encode(), [opened.cookie.encode()]

    def known(self, sessions: Sessions) -> bool:
        return sessions.find(*self._halves) is not None


def sessions_of(memory: int, clock: Clock, config: AdminConfig | None = None) -> Sessions:
    return Sessions(clock.seconds, lambda: config or AdminConfig(), SharedDocument(memory))


def test_session_holds_in_every_process_and_outlives_the_one_that_opened_it(memory: int) -> None:
    clock = Clock()
    first, second = sessions_of(memory, clock), sessions_of(memory, clock)
    browser = Browser(first)
    assert browser.known(second)
    assert browser.known(sessions_of(memory, clock))


def test_sign_out_at_one_process_ends_the_session_and_its_streams_at_the_others(memory: int) -> None:
    clock = Clock()
    first, second = sessions_of(memory, clock), sessions_of(memory, clock)
    browser, other = Browser(first), Browser(first)
    assert browser.known(second)
    ended: list[str] = []
    second.on_end(browser.actor, lambda: ended.append("stream"))
    first.end(browser.actor)
    second.sweep()
    assert ended == ["stream"]
    assert not browser.known(second)
    assert other.known(second)


def test_sessions_opened_at_two_processes_are_all_kept(memory: int) -> None:
    clock = Clock()
    first, second = sessions_of(memory, clock), sessions_of(memory, clock)
    browsers = [Browser(first), Browser(second), Browser(first), Browser(second)]
    assert all(browser.known(one) for one in (first, second) for browser in browsers)


def test_session_with_an_open_stream_is_not_idle_in_the_process_that_takes_over(memory: int) -> None:
    clock, config = Clock(), AdminConfig(session_idle_seconds=60)
    first = sessions_of(memory, clock, config)
    watched, idle = Browser(first), Browser(first)
    first.on_end(watched.actor, lambda: None)
    for _ in range(20):
        clock.advance(USES_SECONDS)
        first.sweep()
    successor = sessions_of(memory, clock, config)
    assert watched.known(successor)
    assert not idle.known(successor)


def test_idle_session_ends_in_every_process(memory: int) -> None:
    clock, config = Clock(), AdminConfig(session_idle_seconds=60)
    first, second = sessions_of(memory, clock, config), sessions_of(memory, clock, config)
    browser = Browser(first)
    assert browser.known(second)
    clock.advance(61)
    assert not browser.known(second)
    assert not browser.known(first)
    assert len(first) == len(second) == 0


def test_portal_link_lets_in_once_at_whichever_process(memory: int) -> None:
    clock = Clock()
    first, second = (PortalLinks(clock.seconds, AdminConfig, SharedDocument(memory)) for _ in range(2))
    link = first.make("app1", ADMIN)
    actor = second.redeem(link.encode())
    assert actor is not None
    assert actor.application == "app1"
    assert first.redeem(link.encode()) is None
    kept = first.make("app1", ADMIN)
    second.keep(lambda actor: actor.application != "app1")
    assert first.redeem(kept.encode()) is None


# --- readers ----------------------------------------------------------------------------------------------------


@pytest.fixture
def readers() -> Iterator[int]:
    descriptor = shared_readers.shared_memory(100, 2)
    yield descriptor
    os.close(descriptor)


def quotas(readers: int, row: int) -> Quotas:
    return Quotas(seconds=Clock().seconds, readers=SharedReaders(readers, 2, row).of)


SNAPSHOT = Snapshot(
    applications={"app1": Application(name="app1", quota=Quota(readers=3)), "app2": Application(name="app2")}
)
APP = Principal("app1", "key1")


def test_readers_of_all_processes_are_counted_together(readers: int) -> None:
    one, other = quotas(readers, row_of(0, 1)), quotas(readers, row_of(1, 1))
    leave = one.of(APP, SNAPSHOT).enter()
    one.of(APP, SNAPSHOT).enter()
    other.of(APP, SNAPSHOT).enter()
    for each in (one, other):
        with pytest.raises(QuotaExceeded, match="3 readers"):
            each.of(APP, SNAPSHOT).enter()
        assert ("app1", "readers", 1.0) in list(each.used(SNAPSHOT))
    leave()
    leave()
    other.of(APP, SNAPSHOT).enter()
    with pytest.raises(QuotaExceeded):
        other.of(APP, SNAPSHOT).enter()


def test_readers_of_a_process_that_died_are_given_back(readers: int) -> None:
    one, other = quotas(readers, row_of(0, 1)), quotas(readers, row_of(1, 1))
    one.of(APP, SNAPSHOT).enter()
    for _ in range(2):
        other.of(APP, SNAPSHOT).enter()
    SharedReaders(readers, 2, 0).clear(row_of(1, 1))
    for _ in range(2):
        one.of(APP, SNAPSHOT).enter()
    with pytest.raises(QuotaExceeded):
        one.of(APP, SNAPSHOT).enter()


def test_readers_of_both_generations_of_an_upgrade_count(readers: int) -> None:
    old, new = quotas(readers, row_of(0, 4)), quotas(readers, row_of(0, 5))
    for _ in range(2):
        old.of(APP, SNAPSHOT).enter()
    new.of(APP, SNAPSHOT).enter()
    with pytest.raises(QuotaExceeded):
        new.of(APP, SNAPSHOT).enter()
    SharedReaders(readers, 2, 0).clear(row_of(0, 4))
    new.of(APP, SNAPSHOT).enter()


def test_application_without_the_quota_is_not_limited(readers: int) -> None:
    one = quotas(readers, row_of(0, 1))
    for _ in range(100):
        one.of(Principal("app2", "key2"), SNAPSHOT).enter()


def test_reader_that_leaves_when_its_row_was_emptied_is_not_counted_below_none(readers: int) -> None:
    one = quotas(readers, row_of(0, 1))
    leave = one.of(APP, SNAPSHOT).enter()
    SharedReaders(readers, 2, 0).clear(row_of(0, 1))
    leave()
    for _ in range(3):
        one.of(APP, SNAPSHOT).enter()
    with pytest.raises(QuotaExceeded):
        one.of(APP, SNAPSHOT).enter()
