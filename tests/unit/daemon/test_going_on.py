"""Memberships of the process before this one are gone on with, or left on its behalf."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from kateway.core.groups.passed_membership import PassedMembership
from kateway.core.passing.succession import Succession
from kateway.daemon.clustering import Clustering
from kateway.daemon.going_on import GoingOn, taker
from kateway.daemon.processes.in_place import InPlace
from kateway.daemon.processes.inherited import Inherited
from kateway.daemon.processes.peers import Peer, peer_table
from kateway.daemon.processes.worker import Worker
from kateway.storage.passed_member import PassedMember

OWN, BEFORE = "gateway-ab-0-18", "gateway-ab-0-17"
LABELLED = f"kateway-default@{BEFORE}@unix:/run/process-0-17.sock"
PASSED = PassedMembership("default", 5, PassedMember("g", "t", "m", 7, False, (0,), 10.0, 0.0, client_id=LABELLED))
KEY = ["default", "g", "t"]


class Groups:
    def __init__(self) -> None:
        self.gone_on_with: list[PassedMembership] = []
        self.left: list[tuple[str, PassedMember]] = []
        self.goes_on = True

    def go_on(self, passed: PassedMembership) -> bool:
        self.gone_on_with.append(passed)
        return self.goes_on

    async def leave_for(self, cluster: str, member: PassedMember) -> None:
        self.left.append((cluster, member))


class Passing:
    def __init__(self) -> None:
        self.succession = Succession(Clock())
        self.names: dict[str, str] = {}

    def goes_on_as(self, former: str, now: str) -> None:
        self.names[former] = now


class Leaving:
    def __init__(self) -> None:
        self.noted = 0

    def note_now(self) -> None:
        self.noted += 1


class World:
    """What goes on, with or without links to other processes and gateways."""

    def __init__(self, address: str | None = "unix:/run/process-0-18.sock", name: str = OWN) -> None:
        self.groups, self.passing, self.leaving = Groups(), Passing(), Leaving()
        clustering: Any = None
        if address is not None:
            clustering = Clustering.__new__(Clustering)
            clustering.address, clustering._name, clustering.passing = address, name, self.passing
        groups: Any = self.groups
        leaving: Any = self.leaving
        self.going_on = GoingOn(["default"], groups, clustering, leaving)


def test_membership_is_gone_on_with_noted_at_once_and_found_by_its_former_name() -> None:
    world = World()
    world.going_on.begin()
    world.going_on.will_come([KEY], all_told=True)
    assert world.passing.succession._left(("default", "g", "t")) > 0
    world.going_on.take(PASSED.table())
    assert world.groups.gone_on_with == [PASSED]
    assert (world.going_on.taken, world.leaving.noted, world.groups.left) == (1, 1, [])
    assert world.passing.names == {BEFORE: OWN}
    assert world.passing.succession._left(("default", "g", "t")) == 0


def test_membership_that_cannot_be_gone_on_with_is_left_and_not_waited_for() -> None:
    world = World()
    world.groups.goes_on = False
    world.going_on.begin()
    world.going_on.will_come([KEY], all_told=True)
    world.going_on.take(PASSED.table())
    assert world.groups.left == [("default", PASSED.member)]
    assert (world.going_on.taken, world.leaving.noted) == (0, 0)
    assert world.passing.succession._left(("default", "g", "t")) == 0


@pytest.mark.parametrize(
    ("client_id", "address", "name", "found"),
    [
        (LABELLED, "unix:/run/process-0-18.sock", OWN, True),
        (LABELLED, "unix:/run/process-1-18.sock", "gateway-ab-1-18", False),
        (LABELLED, "10.0.0.5:9094/0", OWN, False),  # an endpoint has come with the new configuration
        (f"kateway-default@{BEFORE}@10.0.0.5:9094/0", "10.0.0.5:9094/0", OWN, True),
        (f"kateway-default@{BEFORE}@10.0.0.5:9094/0", "10.0.0.6:9094/0", OWN, False),
        ("kateway-default@gateway-cd@10.0.0.5:9094", "10.0.0.5:9094", "gateway-cd", True),
        ("kateway-default@gateway-cd@10.0.0.5:9094", "10.0.0.5:9094", "gateway-ef", False),
        ("", "10.0.0.5:9094", "gateway-cd", False),
        ("", None, "", True),
        (LABELLED, None, "", False),
    ],
)
def test_membership_is_gone_on_with_where_what_it_is_called_leads_here(
    client_id: str, address: str | None, name: str, found: bool
) -> None:
    world = World(address, name)
    passed = PASSED._replace(member=PASSED.member._replace(client_id=client_id))
    world.going_on.take(passed.table())
    assert bool(world.groups.gone_on_with) is found
    assert bool(world.groups.left) is not found


def test_membership_of_an_unknown_cluster_or_another_form_is_passed_over(
    logged_errors: list[dict[str, object]],
) -> None:
    world = World()
    world.going_on.take(PASSED._replace(cluster="gone").table())
    world.going_on.take({"cluster": "default"})
    world.going_on.does_not_come(KEY)
    world.going_on.end()
    assert (world.groups.gone_on_with, world.groups.left) == ([], [])


async def test_code_to_come_is_given_what_its_configuration_has() -> None:
    upgrade = InPlace(Clock(), 2, "gateway-ab")
    upgrade.clusters = frozenset({"default"})
    found = taker(upgrade)
    assert (found.wants("default"), found.wants("gone")) == (True, False)
    assert await found.give(PASSED)
    await found.keep_from(PASSED.key)
    assert upgrade._kept.memberships == [PASSED.table()]


class Port:
    def __init__(self) -> None:
        self.reading = True

    def stopReading(self) -> None:
        self.reading = False

    def startReading(self) -> None:
        self.reading = True


@pytest.mark.parametrize("generation", [1, 2], ids=["in the place of a dead one", "in an upgrade"])
def test_process_accepts_when_it_is_the_one_of_its_place(tmp_path: Path, generation: int) -> None:
    inherited = Inherited(index=0, count=2, generation=2, gateway="gateway-ab", link=-1, quotas=-1)
    worker = Worker(inherited, Clock(), tmp_path)
    worker._gateway = object()  # type: ignore[assignment]
    port = Port()
    worker._ports.append(port)
    before = [Peer(index=0, pid=1, generation=1)] if generation == 2 else []
    others = [Peer(index=1, pid=2, generation=1)]

    def told(*peers: Peer) -> None:
        worker._message({"peers": [peer_table(peer) for peer in peers], "missing": {}}, [])

    told(*before, *others)
    worker.hold_back()
    assert port.reading is (generation == 1)
    told(*before, *others)
    assert port.reading is (generation == 1)
    assert worker.successor_name == ("gateway-ab-0-1" if before else f"gateway-ab-0-{os.getpid()}")
    told(Peer(index=0, pid=os.getpid(), generation=2), *others)
    assert port.reading
