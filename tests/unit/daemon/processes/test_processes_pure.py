"""The pure parts of several processes: how many, what they cannot share, when one is replaced, what they tell."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock

from kateway.config.file import from_table
from kateway.core.access.rate_limits import Bucket, Quotas
from kateway.core.access.shared_rates import SharedBucket, SharedRates, shared_memory
from kateway.daemon.processes.in_place import Kept, take_kept
from kateway.daemon.processes.inherited import VARIABLE, Inherited, from_text, tell_problems, to_environment
from kateway.daemon.processes.link import Link, pair
from kateway.daemon.processes.notify import READY, notify
from kateway.daemon.processes.peers import Figures, Peer, Peers, peer_from_table, peer_table
from kateway.daemon.processes.place import own_command
from kateway.daemon.processes.plan import process_count, sharing_faults
from kateway.daemon.processes.restarts import Restarts
from kateway.daemon.processes.settings_text import VARIABLE as SETTINGS
from kateway.daemon.processes.settings_text import settings_memory, take_settings_text
from kateway.daemon.processes.stand_ins import StandIns
from kateway.daemon.processes.together import health_of_all, row, summed
from kateway.errors import ConfigError, QuotaExceeded
from kateway.model import Health, Principal
from kateway.observe import families
from kateway.observe.cells import Counter, Histogram
from kateway.observe.together import added_up, encode
from kateway.registry.interface import Application, Quota, Snapshot
from kateway.web.tcp.shared_sockets import listening_sockets

KAFKA = {"storage": {"default": {"driver": "kafka"}}}
INHERITED = Inherited(index=1, count=2, generation=3, gateway="gateway-x", link=3, quotas=4, public={"tcp:1": 5})


def test_count_without_an_option_is_one_and_auto_one_a_processor() -> None:
    assert process_count(from_table({})) == 1
    assert process_count(from_table({"process": {"count": "auto"}})) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("count", [0, 257, "all", True, 1.5])
def test_count_that_is_no_number_of_processes_is_a_configuration_error(count: object) -> None:
    with pytest.raises(ConfigError, match=r"process\.count"):
        from_table({"process": {"count": count}})


def test_what_one_process_has_to_itself_cannot_be_shared_and_is_named() -> None:
    assert sharing_faults(from_table({})) == []
    assert sharing_faults(from_table({**KAFKA, "process": {"count": 2}})) == []
    faults = sharing_faults(
        from_table(
            {
                "process": {"count": 2},
                "http": {"public": ["systemd:domain=INET:index=0"]},
                "storage": {"default": {}, "main": {"driver": "kafka", "handoff": True}},
                "registry": {"driver": "embedded"},
            }
        )
    )
    assert [fault.partition(";")[0] for fault in faults] == [
        "process.count: the embedded store of storage.default is one process's",
        "process.count: the handoff of storage.main is one process's",
        "process.count: the embedded registry is one process's",
        "http.public: systemd:domain=INET:index=0: sockets that systemd made serve one process",
    ]


def test_pauses_grow_with_early_ends_and_begin_again_after_a_long_life() -> None:
    restarts = Restarts(max_pause_seconds=2)
    assert [restarts.pause(1) for _ in range(5)] == [0.0, 0.5, 1.0, 2.0, 2.0]
    assert restarts.pause(60) == 0.0
    assert restarts.pause(1) == 0.0


def test_peers_tell_of_a_process_that_was_replaced(tmp_path: Path) -> None:
    peers = Peers(tmp_path, 0, 1)
    changes: list[int] = []
    peers.watch(lambda: changes.append(len(peers.live)))
    one, other = Peer(index=1, pid=11, generation=1), Peer(index=0, pid=10, generation=1)
    peers.take([one, other])
    peers.take([attrs.evolve(one, figures=Figures(groups=2)), other])
    assert ([peer.pid for peer in peers.live], [peer.pid for peer in peers.others], changes) == ([10, 11], [11], [2])
    peers.take([attrs.evolve(one, pid=12), other])
    assert changes == [2, 2]
    assert peers.socket_path(1) == tmp_path / "process-1-12.sock"
    assert peers.socket_path(0) == tmp_path / f"process-0-{os.getpid()}.sock"


def test_what_another_version_adds_is_passed_over() -> None:
    peer = Peer(index=1, pid=2, generation=3, figures=Figures(groups=4, unhealthy={"storage.main": "away"}))
    table = peer_table(peer)
    assert peer_from_table(table) == peer
    assert peer_from_table({**table, "mood": "good", "figures": {**table["figures"], "mood": 1}}) == peer
    assert from_text(to_environment(INHERITED)) == INHERITED
    assert from_text(to_environment(INHERITED)[:-1] + ', "mood": 1}') == INHERITED


def test_load_is_added_up_and_health_is_bad_where_it_is_for_all() -> None:
    other = Peer(index=1, pid=2, generation=1, figures=Figures(connections=2, groups=1, unhealthy={"registry": "away"}))
    assert summed({"connections": 1, "groups": 1}, [other]) == {"connections": 3, "groups": 2}
    own = {"storage.main": Health(False, "no broker"), "registry": Health(False, "away")}
    found = health_of_all(own, [other.figures])
    assert (found["storage.main"].healthy, found["registry"].healthy) == (True, False)
    assert health_of_all(own, []) == own
    assert row(other)["connections"] == 2


def test_figures_are_added_up_and_those_without_a_sum_have_their_process() -> None:
    published = next(family for family in families.FAMILIES.values() if family.kind == "counter" and family.labels)
    labels = tuple("x" for _ in published.labels)
    counter, histogram = Counter(), Histogram(families.REACTOR_LAG.buckets)
    counter.value = 2.0
    histogram.observe(0.002)

    def samples(age: float) -> list:  # type: ignore[type-arg]
        return [
            (published, [(labels, counter)]),
            (families.REACTOR_LAG, [((), histogram)]),
            (families.GROUP_OLDEST, [(("a", "t", "v1", "g", "a"), age)]),
            (families.STORE_UP, [(("main",), 1.0)]),
        ]

    found = {
        family.name: (family.labels, dict(rows))
        for family, rows in added_up(0, samples(3.0), {1: json.loads(encode(samples(7.0)))})
    }
    assert found[published.name][1] == {labels: 4.0}
    both = found[families.REACTOR_LAG.name][1][()]
    assert isinstance(both, Histogram)
    assert (sum(both.counts), both.total) == (2, 0.004)
    assert list(found[families.GROUP_OLDEST.name][1].values()) == [7.0]
    assert found[families.STORE_UP.name] == (("cluster", "process"), {("main", "0"): 1.0, ("main", "1"): 1.0})


def test_lag_of_a_group_that_one_process_reads_is_not_added_to_what_another_one_remembers() -> None:
    here, left, letters = (("a", topic, "v1", "g", "a") for topic in ("t", "l", "t.g.dead"))

    def samples(lag: float, *members: tuple[str, ...]) -> list:  # type: ignore[type-arg]
        return [
            (families.SUBSCRIBE_READERS, [(labels, 1.0) for labels in members]),
            (families.GROUP_LAG, [(here, lag), (left, 7.0), (letters, lag)]),
            (families.GROUP_DEAD, [(here, lag)]),
        ]

    others = {1: json.loads(encode(samples(3.0, here, letters))), 2: json.loads(encode(samples(50.0)))}
    for members, lag in (((here, letters), 5.0), ((), 3.0)):
        found = {
            family.name: dict(rows) for family, rows in added_up(0, samples(2.0, *members), others, members=members)
        }
        assert found[families.GROUP_LAG.name] == {here: lag, left: 7.0, letters: lag}
        assert found[families.GROUP_DEAD.name] == {here: lag}


def test_a_rate_is_shared_by_processes_and_outlives_one() -> None:
    descriptor = shared_memory(100)
    try:
        clock = Clock()
        one, other = (Quotas(seconds=clock.seconds, make=SharedRates(descriptor).bucket) for _ in range(2))
        snapshot = Snapshot(applications={"app1": Application(name="app1", quota=Quota(publish_records_per_second=10))})
        principal = Principal("app1")
        clock.advance(100)
        for quotas in (one, other) * 5:
            quotas.of(principal, snapshot).publish(1, 100, clock.seconds())
        for quotas in (one, other, Quotas(seconds=clock.seconds, make=SharedRates(descriptor).bucket)):
            with pytest.raises(QuotaExceeded):
                quotas.of(principal, snapshot).publish(1, 100, clock.seconds())
        clock.advance(0.1)
        other.of(principal, snapshot).publish(1, 100, clock.seconds())
        with pytest.raises(QuotaExceeded):
            one.of(principal, snapshot).publish(1, 100, clock.seconds())
    finally:
        os.close(descriptor)


def test_a_shared_bucket_behaves_as_one_that_is_not() -> None:
    descriptor = shared_memory(1)
    try:
        plain, shared = Bucket(10.0, 5.0), SharedRates(descriptor).bucket("name", 10.0, 5.0)
        assert isinstance(shared, SharedBucket)
        for now, units, rate in ((5.0, 4, 10.0), (5.1, 30, 10.0), (6.0, 5, 20.0), (9.5, 1, 20.0)):
            found = []
            for bucket in (plain, shared):
                if bucket.rate != rate:
                    bucket.retune(rate, now)
                wait = bucket.wait(units, now)
                if not wait:
                    bucket.tokens -= units
                found.append((round(wait, 9), round(bucket.level(now), 9)))
            assert found[0] == found[1]
    finally:
        os.close(descriptor)


def test_a_full_table_counts_alone() -> None:
    descriptor = shared_memory(1)
    try:
        rates = SharedRates(descriptor)
        kinds = {type(rates.bucket(f"name{number}", 1.0, 0.0)) for number in range(100)}
        assert kinds == {SharedBucket, Bucket}
    finally:
        os.close(descriptor)


class OneReader:
    """A reactor that reads when it is told to."""

    def __init__(self) -> None:
        self.readers: list[Link] = []

    def addReader(self, reader: Link) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Link) -> None:
        self.readers.remove(reader)


def test_a_link_carries_messages_whole_with_their_descriptors_and_tells_its_end() -> None:
    reactor = OneReader()
    ours, theirs = pair()
    got: list[tuple[dict[str, object], int]] = []
    lost: list[bool] = []

    came: list[int] = []

    def received(message: dict[str, object], descriptors: list[int]) -> None:
        got.append((message, len(descriptors)))
        came.extend(descriptors)

    link = Link(reactor, ours, received, lambda: lost.append(True))
    other = Link(reactor, theirs, received, lambda: None)
    with open(os.devnull) as file:
        assert other.send({"a": 1}, [file.fileno()])
    assert other.send({"b": 2})
    link.doRead()
    assert got == [({"a": 1}, 1), ({"b": 2}, 0)]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(came[0])  # it was not taken out of the list
    other.close()
    link.doRead()
    assert (lost, link.open, link.send({"c": 3}), reactor.readers) == ([True], False, False, [])


def test_a_link_that_is_not_read_has_no_room_in_the_end() -> None:
    reactor = OneReader()
    ours, theirs = pair()
    link = Link(reactor, ours, lambda _message, _descriptors: None, lambda: None)
    sent = 0
    while link.send({"text": "x" * 1000}):
        sent += 1
    assert sent > 10
    link.close()
    theirs.close()


def test_problems_of_a_start_go_to_the_supervisor() -> None:
    ours, theirs = pair()
    with ours, theirs:
        told = attrs.evolve(INHERITED, link=theirs.fileno())
        tell_problems({VARIABLE: to_environment(told)}, ["http.public: wrong"])
        assert ours.recv(1000) == b'{"failed": ["http.public: wrong"]}'
        tell_problems({}, ["not told"])
        with pytest.raises(BlockingIOError):
            ours.recv(1000)


def test_the_command_of_a_process_has_the_gateways_options_and_none_of_twistds() -> None:
    command = own_command(["/bin/twistd", "-n", "--pidfile=x", "--logfile", "y", "kateway", "--config", "k.toml"])
    assert command[1:] == ["/bin/twistd", "-n", "--pidfile=", "--logfile=-", "kateway", "--config", "k.toml"]


def test_systemd_is_told_where_it_waits(tmp_path: Path) -> None:
    assert not notify(READY, {})
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as waiting:
        waiting.bind(path)
        assert notify(READY, {"NOTIFY_SOCKET": path})
        assert waiting.recv(100) == f"READY=1\nMAINPID={os.getpid()}".encode()
    assert not notify(READY, {"NOTIFY_SOCKET": path + "x"})


def test_processes_have_sockets_of_their_own_and_a_port_in_use_is_named() -> None:
    made = listening_sockets("tcp:0:interface=127.0.0.1", 3)
    try:
        assert len({one.getsockname() for one in made}) == 1
        port = made[0].getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on tcp:{port}"):
            listening_sockets(f"tcp:{port}:interface=127.0.0.1", 2)
    finally:
        for one in made:
            one.close()


def test_unix_sockets_are_one_for_all(tmp_path: Path) -> None:
    made = listening_sockets(f"unix:{tmp_path / 'socket'}:mode=600", 2)
    assert {one.getsockname() for one in made} == {str(tmp_path / "socket")}
    assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o600
    for one in made:
        one.close()


def test_what_was_kept_over_an_upgrade_is_taken_once() -> None:
    one, other = os.pipe()
    kept = Kept(generation=2, listeners={"public": {"tcp:1": one, "tcp:2": other}}, connections=[("public", 9)])
    environ = {"_KATEWAY_IN_PLACE": json.dumps(attrs.asdict(kept))}
    found = take_kept(environ)
    assert (found, environ) == (kept, {})
    assert found.take("public", "tcp:1") == one
    assert found.take("public", "tcp:1") is None
    assert found.take("admin", "tcp:1") is None
    found.close_rest()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(other)
    os.close(one)
    assert take_kept({}) == Kept()


def test_text_of_the_configuration_is_what_was_in_force_for_each_process() -> None:
    memory = settings_memory('a = "ä"\n' * 10000)
    for _ in range(2):
        environ = {SETTINGS: str(os.dup(memory))}
        assert take_settings_text(environ) == 'a = "ä"\n' * 10000
        assert take_settings_text(environ) is None
    os.close(memory)


class Process:
    """A process that is told to stand in, or is no longer able to."""

    def __init__(self) -> None:
        self.able = True
        self.reads = True
        self.told: list[tuple[str, int]] = []
        self.link = self

    def send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> bool:
        if self.reads:
            assert len(descriptors) == len(message.get("places", ()))
            self.told.append((message["do"], message["index"]))
        return self.reads


def test_each_place_without_a_process_has_one_stand_in_at_a_time() -> None:
    listening = [{"public": {"tcp:0": one}} for one in listening_sockets("tcp:0:interface=127.0.0.1", 3)]
    stand_ins = StandIns(listening)
    current = {index: Process() for index in range(3)}
    one, two, three = current.values()
    stand_ins.arrange(current)
    assert not one.told + two.told + three.told
    one.able = False
    two.reads = False  # its link is full
    for _ in range(3):
        stand_ins.arrange(current)
    assert three.told == [("stand-in", 0)]
    two.reads, three.able = True, False
    stand_ins.arrange(current)
    assert two.told == [("stand-in", 0), ("stand-in", 2)]
    two.able = False
    stand_ins.arrange(current)
    four = current[2] = Process()
    stand_ins.arrange(current)
    assert four.told == [("stand-in", 0), ("stand-in", 1)]
    current[0], current[1] = Process(), Process()
    stand_ins.arrange(current)
    stand_ins.arrange(current)
    assert four.told[2:] == [("stand-down", 0), ("stand-down", 1)]
    for sockets in listening:
        sockets["public"]["tcp:0"].close()


def test_stand_in_that_cannot_accept_at_each_endpoint_gives_way_to_another_or_is_asked_again() -> None:
    listening = [{"public": {"tcp:0": one}} for one in listening_sockets("tcp:0:interface=127.0.0.1", 3)]
    stand_ins = StandIns(listening)
    one, two, three = Process(), Process(), Process()
    one.able = False
    current = {0: one, 1: two, 2: three}
    stand_ins.arrange(current)
    stand_ins.failed(0, two)
    stand_ins.arrange(current)
    assert (two.told, three.told) == ([("stand-in", 0), ("stand-down", 0)], [("stand-in", 0)])
    for _ in range(3):
        stand_ins.failed(0, three)
        stand_ins.arrange(current)
    assert three.told == [("stand-in", 0)] * 4
    stand_ins.arrange(current)
    one.able = True
    stand_ins.arrange(current)
    assert (len(two.told), three.told[4:]) == (2, [("stand-down", 0)])
    one.able = False
    stand_ins.arrange(current)
    # what failed in its last absence is forgotten
    assert two.told[2:] == [("stand-in", 0)]
    for sockets in listening:
        sockets["public"]["tcp:0"].close()
