"""What goes over the link between two generations of a process, beside connections: memberships."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from kateway.daemon.processes.handing_over import KEYS_AT_ONCE, ROOM_SECONDS, SAID_SECONDS, Successor
from kateway.daemon.processes.in_place import VARIABLE, take_kept
from kateway.daemon.processes.link import Link, pair
from kateway.daemon.processes.peers import Peer, Peers
from kateway.daemon.processes.receiving import Receiving
from kateway.daemon.processes.settings_text import settings_memory

KEY = ["default", "g", "t"]


class Readers:
    """As much of a reactor as links need."""

    def __init__(self) -> None:
        self.links: list[Link] = []

    def addReader(self, link: Link) -> None:
        self.links.append(link)

    def removeReader(self, link: Link) -> None:
        self.links.remove(link)

    def read(self) -> None:
        for link in tuple(self.links):
            link.doRead()


class GoesOn:
    """Notes what comes."""

    def __init__(self, *clusters: str) -> None:
        self.clusters = clusters
        self.heard: list[Any] = []

    def begin(self) -> None:
        self.heard.append("begin")

    def will_come(self, keys: Sequence[Sequence[str]], *, all_told: bool) -> None:
        self.heard.append((keys, all_told))

    def take(self, membership: Mapping[str, Any]) -> None:
        self.heard.append(membership)

    def does_not_come(self, key: Sequence[str]) -> None:
        self.heard.append(("not", key))

    def end(self) -> None:
        self.heard.append("end")


class Generations:
    """Two processes, of which one retires."""

    def __init__(self, goes_on: GoesOn | None) -> None:
        self.clock, self.readers = Clock(), Readers()
        ours, self.theirs = pair()
        self.before = Successor(ours, self.clock)
        self.after = Receiving(self.readers, self.theirs, {"public": Factory()}, goes_on)

    def run(self, work: Any, seconds: float = 0.0) -> Any:
        found: list[Any] = []
        Deferred.fromCoroutine(work).addCallback(found.append)
        while not found and seconds > 0:
            self.clock.advance(0.01)
            seconds -= 0.01
        return found[0] if found else None


@pytest.fixture
def goes_on() -> GoesOn:
    return GoesOn("default")


@pytest.fixture
def two(goes_on: GoesOn) -> Iterator[Generations]:
    two = Generations(goes_on)
    two.run(two.before.listens())
    yield two
    two.before.close()
    two.after.close()


def test_successor_says_which_clusters_it_knows_and_hears_what_comes(two: Generations, goes_on: GoesOn) -> None:
    assert two.before.clusters == {"default"}
    two.run(two.before.announce([KEY, ["another", "g", "t"]]))
    assert two.run(two.before.give({"cluster": "default"})) is True
    two.run(two.before.keep_from(KEY))
    two.readers.read()
    assert goes_on.heard == ["begin", ([KEY], False), ([], True), {"cluster": "default"}, ("not", KEY)]
    two.before.close()
    two.readers.read()
    assert goes_on.heard[-1] == "end"


def test_hundreds_of_memberships_are_announced_in_several_messages(two: Generations, goes_on: GoesOn) -> None:
    two.run(two.before.announce([["default", "g", str(number)] for number in range(2 * KEYS_AT_ONCE + 1)]))
    two.readers.read()
    assert [len(keys) for keys, _all in goes_on.heard[1:]] == [KEYS_AT_ONCE, KEYS_AT_ONCE, 1, 0]


def test_membership_too_long_for_a_message_is_not_given(two: Generations) -> None:
    assert two.run(two.before.give({"partitions": "x" * 200_000})) is False


def test_membership_waits_for_room_and_is_not_given_where_none_comes(two: Generations, goes_on: GoesOn) -> None:
    sent = 0
    while two.run(two.before.give({"number": sent, "padding": "x" * 50_000})):
        sent += 1
    found: list[bool] = []
    two.clock.advance(ROOM_SECONDS)  # the one that had no room
    Deferred.fromCoroutine(two.before.give({"number": -1})).addCallback(found.append)
    Deferred.fromCoroutine(two.before.give({"padding": "x" * 50_000})).addCallback(found.append)
    two.readers.read()
    two.clock.advance(0.02)
    assert False not in found
    assert sent > 1
    two.readers.read()
    assert len(goes_on.heard) >= 1 + sent


def test_successor_of_an_older_version_is_told_nothing() -> None:
    two = Generations(None)
    two.run(two.before.listens(), SAID_SECONDS + 0.1)
    assert two.before.clusters == frozenset()
    two.run(two.before.announce([KEY]))
    assert two.run(two.before.give({"cluster": "default"})) is False
    two.before.close()
    two.after.close()


def test_successor_that_has_ended_is_given_nothing(two: Generations) -> None:
    two.after.close()
    assert two.run(two.before.give({"cluster": "default"})) is False


def test_gone_successor_keeps_the_retiring_process_from_nothing() -> None:
    ours, theirs = pair()
    theirs.close()
    before = Successor(ours, Clock())
    Deferred.fromCoroutine(before.listens())
    assert before.clusters == frozenset()
    before.close()


def test_links_lead_to_the_process_of_a_name_while_it_is_there_and_then_to_its_successor(tmp_path: Path) -> None:
    peers = Peers(tmp_path, 0, 2)
    peers.take([Peer(index=0, pid=17, generation=1), Peer(index=1, pid=18, generation=1)])
    assert (peers.replaces, peers.in_place) == (True, False)
    (tmp_path / "process-1-18.sock").touch()
    assert peers.path_of(1, 18).name == "process-1-18.sock"
    peers.take([Peer(index=0, pid=os.getpid(), generation=2), Peer(index=1, pid=19, generation=2)])
    assert (peers.replaces, peers.in_place) == (False, True)
    assert peers.path_of(1, 18).name == "process-1-18.sock"
    (tmp_path / "process-1-18.sock").unlink()
    assert peers.path_of(1, 18).name == "process-1-19.sock"


def test_process_that_comes_after_a_dead_one_replaces_none(tmp_path: Path) -> None:
    peers = Peers(tmp_path, 0, 2)
    peers.take([Peer(index=1, pid=18, generation=2)])
    assert not peers.replaces
    peers.take([Peer(index=0, pid=17, generation=2)])
    assert not peers.replaces


def test_memberships_of_the_code_before_are_read_from_a_memory() -> None:
    rows = [{"cluster": "default", "number": number} for number in range(1000)]
    table = {"generation": 2, "gateway": "gateway-ab", "listeners": {}, "connections": []}
    environ = {VARIABLE: json.dumps({**table, "memberships_in": settings_memory(json.dumps(rows))})}
    kept = take_kept(environ)
    assert (kept.gateway, kept.memberships) == ("gateway-ab", rows)
    # code of an older version has kept none
    assert take_kept({VARIABLE: json.dumps({"generation": 2, "listeners": {}, "connections": []})}).memberships == []
