"""The history checker finds each kind of fault in a history made by hand, and nothing in a history without."""

from __future__ import annotations

import json
import struct

import pytest
from history.check import Final, Report, check
from history.record import Acknowledged, Delivery, History, Ident, Place, Publish, Session, ident
from history.wire import Incoming, Read


def name(number: int, lane: str = "a") -> Ident:
    return Ident(lane, number)


def written(count: int) -> History:
    """``count`` records acknowledged in partition 0, one after the other."""
    return History(published=[Publish(name(number), 201, Place(0, number)) for number in range(count)])


def log(*numbers: int) -> dict[int, list[tuple[int, bytes]]]:
    return {0: [(offset, name(number).value()) for offset, number in enumerate(numbers)]}


def deliver(history: History, *numbers: int, session: int = 0, at: float = 0.0, clean_at: float | None = None) -> None:
    history.sessions[session] = Session("reader", clean_at)
    history.delivered += [Delivery(session, name(number), None, at) for number in numbers]


def faults(report: Report) -> list[str]:
    return list(report.faults())


def test_a_faultless_history_has_figures_only() -> None:
    history = written(3)
    deliver(history, 0, 1, 2)
    report = check(history, Final(log(0, 1, 2), {0: 3}, drained=True))
    assert faults(report) == []
    assert (report.acknowledged, report.present, report.delivered, report.redelivered) == (3, 3, 3, 0)
    assert report.row().endswith("nothing lost, doubled or out of order")


def test_an_acknowledged_record_that_is_not_in_the_log_is_lost() -> None:
    report = check(written(3), Final(log(0, 1)))
    assert report.faults() == {"lost": [name(2)]}


def test_an_acknowledged_record_that_is_elsewhere_is_lost() -> None:
    history = History(published=[Publish(name(0), 201, Place(1, 5))])
    assert faults(check(history, Final(log(0)))) == ["lost"]


def test_a_record_that_is_committed_and_was_never_read_is_lost() -> None:
    history = written(3)
    deliver(history, 0)
    assert check(history, Final(log(0, 1, 2), {0: 2})).faults() == {"lost_on_delivery": [Place(0, 1)]}


def test_after_draining_every_record_was_read() -> None:
    history = written(2)
    deliver(history, 0)
    assert check(history, Final(log(0, 1), {}, drained=True)).faults() == {"lost_on_delivery": [Place(0, 1)]}


def test_a_record_that_is_in_the_log_twice_is_found() -> None:
    assert check(written(2), Final(log(0, 1, 1))).faults() == {"duplicated": [name(1)]}


def test_publisher_that_repeats_without_an_answer_may_have_two_copies() -> None:
    history = History(published=[Publish(name(0), 0), Publish(name(0), 201, Place(0, 1))])
    assert faults(check(history, Final(log(0, 0)))) == []


def test_publisher_that_repeats_after_a_refusal_has_one_copy() -> None:
    history = History(published=[Publish(name(0), 503, None, False), Publish(name(0), 201, Place(0, 1))])
    assert faults(check(history, Final(log(0, 0)))) == ["duplicated"]


def test_a_refused_record_that_is_in_the_log_is_denied() -> None:
    history = History(published=[Publish(name(0), 503, None, False)])
    assert faults(check(history, Final(log(0)))) == ["denied"]


@pytest.mark.parametrize("publish", [Publish(name(0), 504, None, True), Publish(name(0), 0)])
def test_a_record_without_an_outcome_may_be_there_and_is_counted(publish: Publish) -> None:
    history = History(published=[publish])
    deliver(history, 0)
    report = check(history, Final(log(0), drained=True))
    assert (faults(report), report.unacknowledged, report.unacknowledged_seen) == ([], 1, 1)


def test_record_without_a_publish_is_foreign() -> None:
    history = written(1)
    report = check(history, Final({0: [(0, name(0).value()), (1, b"no name"), (2, name(7).value())]}))
    assert report.faults() == {"foreign": [Place(0, 1), Place(0, 2)]}


def test_delivered_record_that_is_not_in_the_log_is_invented() -> None:
    history = written(1)
    deliver(history, 0, 4)
    assert faults(check(history, Final(log(0)))) == ["invented"]


def test_acknowledged_records_of_a_lane_stand_in_order() -> None:
    history = History(published=[Publish(name(0), 201, Place(0, 1)), Publish(name(1), 201, Place(0, 0))])
    assert check(history, Final(log(1, 0))).faults() == {"disordered": [name(1)]}


def test_a_first_delivery_after_a_later_one_is_out_of_order() -> None:
    history = written(3)
    deliver(history, 0, 2)
    deliver(history, 1, session=1)
    assert check(history, Final(log(0, 1, 2))).faults() == {"disordered_deliveries": [Place(0, 1)]}


def test_reads_after_a_half_close_may_be_out_of_order_and_repeated() -> None:
    history = written(3)
    deliver(history, 2, at=1, clean_at=1.5)
    history.sessions[1] = Session("half-closed")
    history.delivered += [Delivery(1, name(number), None, 2, late=True) for number in (0, 1, 2)]
    report = check(history, Final(log(0, 1, 2), drained=True))
    assert (faults(report), report.delivered, report.redelivered) == ([], 3, 1)


def test_a_response_that_goes_back_is_out_of_order() -> None:
    history = written(3)
    deliver(history, 0, 1, 0, 2)
    assert check(history, Final(log(0, 1, 2))).faults() == {"disordered_deliveries": [Place(0, 0)]}


def test_leased_records_may_come_back_late() -> None:
    history = written(2)
    deliver(history, 1, 0)
    assert faults(check(history, Final(log(0, 1)), in_order=False)) == []


def test_unsettled_record_may_be_delivered_again_and_is_counted() -> None:
    history = written(2)
    deliver(history, 0, 1, at=1)
    deliver(history, 0, 1, session=1, at=2)
    report = check(history, Final(log(0, 1), drained=True))
    assert (faults(report), report.redelivered) == ([], 2)


def test_settled_record_that_comes_again_is_repeated() -> None:
    history = written(2)
    deliver(history, 0, at=1, clean_at=1.5)
    deliver(history, 0, 1, session=1, at=2)
    assert check(history, Final(log(0, 1))).faults() == {"repeated": [Place(0, 0)]}


def test_acknowledged_record_that_comes_again_is_repeated() -> None:
    history = written(1)
    deliver(history, 0, at=1)
    history.acknowledged.append(Acknowledged(Place(0, 0), 1.5))
    deliver(history, 0, session=1, at=2)
    assert faults(check(history, Final(log(0)))) == ["repeated"]


@pytest.mark.parametrize(("crash", "excused"), [(0.9, False), (1.4, True), (2.4, True), (2.6, False), (3.5, False)])
def test_a_crash_within_the_commit_interval_excuses_it(crash: float, excused: bool) -> None:
    history = written(1)
    deliver(history, 0, at=1, clean_at=1.5)
    deliver(history, 0, session=1, at=3)
    report = check(history, Final(log(0)), outages=[(crash, crash)], commit_seconds=1)
    assert faults(report) == ([] if excused else ["repeated"])


def test_record_settled_during_an_outage_may_come_again() -> None:
    history = written(1)
    deliver(history, 0, at=3, clean_at=4)
    deliver(history, 0, session=1, at=9)
    assert faults(check(history, Final(log(0)), outages=[(2, 5)], commit_seconds=1)) == []
    assert faults(check(history, Final(log(0)), outages=[(2, 2.5)], commit_seconds=1)) == ["repeated"]


def test_an_ident_is_in_the_value_whatever_its_size() -> None:
    assert ident(name(12, "w1").value(200)) == ("w1", 12)
    assert len(name(12).value(200)) == 200
    with pytest.raises(ValueError, match="unpack"):
        ident(b"no name")


HEAD = b"HTTP/1.1 200 OK\r\n"


def chunked(*chunks: bytes) -> bytes:
    parts = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"


def frame(partition: int, offset: int, value: bytes) -> bytes:
    return (
        struct.pack(">iqqii", partition, offset, 0, -1, len(value))
        + value
        + struct.pack(">iii", 1, 1, 0)[:4]
        + (struct.pack(">i", 1) + b"n" + struct.pack(">i", -1))
    )


def line(offset: int, value: bytes) -> bytes:
    return json.dumps({"partition": 0, "offset": offset, "value": value.decode()}).encode() + b"\n"


@pytest.mark.parametrize(
    ("form", "response", "expected"),
    [
        ("raw", chunked(b"a/0/\n", b"a/1/..\n"), [Read(name(0), None), Read(name(1), None)]),
        (
            "raw",
            HEAD + b"Content-Length: 4\r\nX-Partition: 0\r\nX-Offset: 3\r\n\r\na/0/",
            [Read(name(0), Place(0, 3))],
        ),
        (
            "ndjson",
            chunked(line(3, b"a/0/") + b"\n", line(4, b"a/1/")),
            [Read(name(0), Place(0, 3)), Read(name(1), Place(0, 4))],
        ),
        (
            "frames",
            chunked(frame(0, 3, b"a/0/"), frame(-1, 0, b""), frame(0, 4, b"a/1/")),
            [Read(name(0), Place(0, 3)), Read(name(1), Place(0, 4))],
        ),
    ],
)
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_records_count_once_they_are_whole(form: str, response: bytes, expected: list[Read], step: int) -> None:
    incoming = Incoming(form)
    read = []
    for at in range(0, len(response), step):
        assert not incoming.complete
        read += incoming.feed(response[at : at + step])
    assert incoming.complete
    assert read == expected


def test_half_a_record_does_not_count() -> None:
    incoming = Incoming("raw")
    assert incoming.feed(chunked(b"a/0/\n", b"a/1/")[:-9]) == [Read(name(0), None)]
    assert not incoming.complete
