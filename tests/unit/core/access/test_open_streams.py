"""Open streams end when their permission does, once, and leave nothing behind."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from kateway.core.access.authorization import AccessRequest
from kateway.core.access.control import AuthorizedRequest, Place
from kateway.core.access.open_streams import OpenStreams
from kateway.errors import Denied, KatewayError
from kateway.model import Principal
from kateway.observe.bundles import Counted


class World:
    """An entrance that revokes what it is told to, and time that the test moves: the epoch and the clock's."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.gone: set[str] = set()
        self.broken = False
        self.ends: dict[str, float] = {}
        self.ended: list[tuple[str, KatewayError]] = []
        self.open_streams = OpenStreams(self, self.clock, lambda: 1000.0 + self.clock.seconds())  # type: ignore[arg-type]

    def review(self, authorized: AuthorizedRequest) -> float | None:
        if self.broken:
            raise RuntimeError("a plug-in that breaks")
        expires = self.ends.get(authorized.asked.topic, authorized.principal.expires)
        if authorized.asked.topic in self.gone or (expires is not None and expires <= 1000.0 + self.clock.seconds()):
            raise Denied("gone")
        return expires

    def hold(self, topic: str, expires: float | None = None) -> Any:
        principal = Principal("app", "key", expires)
        asked = AccessRequest("subscribe", "v1", topic)
        authorized = AuthorizedRequest(Place("default", None, topic), "", principal, None, (), asked, None, Counted())  # type: ignore[arg-type]
        return self.open_streams.hold(authorized, lambda error: self.ended.append((topic, error)))

    @property
    def topics(self) -> list[str]:
        return [topic for topic, _ in self.ended]


def test_a_recheck_ends_those_whose_permission_is_gone() -> None:
    world = World()
    world.hold("a")
    world.hold("b")
    world.gone = {"b"}
    world.open_streams.recheck()
    world.open_streams.recheck()
    assert world.topics == ["b"]
    assert len(world.open_streams) == 1


def test_one_that_ended_by_itself_is_forgotten() -> None:
    world = World()
    release = world.hold("a", expires=1010.0)
    release()
    release()
    world.gone = {"a"}
    world.open_streams.recheck()
    assert world.ended == []
    assert len(world.open_streams) == 0
    assert world.clock.getDelayedCalls() == []


def test_credentials_that_expire_end_it_in_time() -> None:
    world = World()
    world.hold("a", expires=1010.0)
    world.clock.advance(9.9)
    assert world.topics == []
    world.clock.advance(0.2)
    assert world.topics == ["a"]
    assert world.clock.getDelayedCalls() == []


def test_credentials_that_expire_while_they_cannot_be_reviewed_end_it_as_soon_as_they_can(
    logged_errors: list[dict[str, Any]],
) -> None:
    world = World()
    world.hold("a", expires=1010.0)
    world.broken = True
    world.clock.pump([10.1] + [1.0] * 60)
    assert world.topics == []
    assert 1 <= len(logged_errors) < 10
    logged_errors.clear()
    world.broken = False
    world.clock.pump([1.0] * 60)
    assert world.topics == ["a"]
    assert world.clock.getDelayedCalls() == []


def test_credentials_that_expire_in_days_are_looked_at_daily() -> None:
    world = World()
    release = world.hold("a", expires=1000.0 + 3 * 86400)
    world.clock.pump([86400, 86400])
    assert world.topics == []
    world.clock.advance(86401)
    assert world.topics == ["a"]
    release()


def test_an_end_that_comes_to_be_known_later_is_kept_too() -> None:
    world = World()
    world.hold("a")
    world.ends = {"a": 1010.0}
    world.open_streams.recheck()
    world.open_streams.recheck()
    assert len(world.clock.getDelayedCalls()) == 1
    world.clock.advance(9.9)
    assert world.topics == []
    world.clock.advance(0.2)
    assert world.topics == ["a"]


def test_an_end_that_is_put_off_is_waited_for() -> None:
    world = World()
    release = world.hold("a", expires=1010.0)
    world.ends = {"a": 1020.0}
    world.clock.advance(11)
    assert world.topics == []
    world.clock.advance(10)
    assert world.topics == ["a"]
    release()
    assert world.clock.getDelayedCalls() == []


def test_one_that_is_gone_before_it_is_held_hears_of_it_when_it_is_ready_to() -> None:
    world = World()
    world.gone = {"a"}
    world.hold("a")
    assert world.topics == []
    world.clock.advance(0.02)
    assert world.topics == ["a"]


def test_an_end_that_releases_at_once_is_fine() -> None:
    world = World()
    releases: list[Any] = []
    visit_end: list[KatewayError] = []
    principal, asked = Principal("app"), AccessRequest("subscribe", "v1", "a")
    authorized = AuthorizedRequest(Place("default", None, "a"), "", principal, None, (), asked, None, Counted())  # type: ignore[arg-type]

    def end(error: KatewayError) -> None:
        visit_end.append(error)
        releases[0]()

    releases.append(world.open_streams.hold(authorized, end))
    world.gone = {"a"}
    world.open_streams.recheck()
    assert len(visit_end) == 1
