"""Holds a history against the log at its end: records lost, there twice, out of order, or claimed wrongly.

Nothing here asks our own code: the log is what another client reads.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields

from history.record import Delivery, History, Ident, Place, ident


@dataclass
class Final:
    """The state after the last writer and reader.

    ``log``: partition → (offset, value) in order. ``committed``: partition → next to read. ``drained``: readers
    went on until nothing came, so that everything must have been delivered, not only what lies before ``committed``.
    """

    log: Mapping[int, Sequence[tuple[int, bytes]]]
    committed: Mapping[int, int] = field(default_factory=dict)
    drained: bool = False


@dataclass
class Report:
    """Lists are faults, numbers are not."""

    acknowledged: int = 0
    """Records answered 201."""
    present: int = 0
    """Records in the log, each counted once."""
    delivered: int = 0
    """Records that a reader's program had whole, each counted once."""
    redelivered: int = 0
    """Deliveries after a record's first."""
    unacknowledged: int = 0
    """Records in the log whose writer had no answer or a 504: present, never acknowledged."""
    unacknowledged_seen: int = 0
    """Those of them that a reader was given."""

    lost: list[Ident] = field(default_factory=list)
    """Answered 201 and not in the log, or not where the answer said."""
    lost_on_delivery: list[Place] = field(default_factory=list)
    """In the log and before the committed offset, and no program ever had it."""
    duplicated: list[Ident] = field(default_factory=list)
    """In the log more than once."""
    denied: list[Ident] = field(default_factory=list)
    """In the log, though every answer said that nothing was written."""
    foreign: list[Place] = field(default_factory=list)
    """In the log, and never published."""
    invented: list[Ident] = field(default_factory=list)
    """Delivered, and not in the log or not at the place that the reader was told."""
    disordered: list[Ident] = field(default_factory=list)
    """Acknowledged, and behind a record of its lane that was acknowledged later."""
    disordered_deliveries: list[Place] = field(default_factory=list)
    """Delivered for the first time after a later record of its partition, or out of order in one response."""
    repeated: list[Place] = field(default_factory=list)
    """Delivered again after it was settled or acknowledged, and no outage just then excuses it."""

    def faults(self) -> dict[str, list[Ident] | list[Place]]:
        """The faults, by kind; empty when all is well."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, list) and value}

    def row(self) -> str:
        """The figures, for people."""
        numbers = (
            f"acknowledged {self.acknowledged}, present {self.present}, delivered {self.delivered}, "
            f"delivered again {self.redelivered}, present without acknowledgement {self.unacknowledged}"
        )
        wrong = ", ".join(f"{name} {len(value)}" for name, value in self.faults().items())
        return f"{numbers}; {wrong or 'nothing lost, doubled or out of order'}"


def check(
    history: History,
    final: Final,
    *,
    in_order: bool = True,
    outages: Collection[tuple[float, float]] = (),
    commit_seconds: float = 1.0,
) -> Report:
    """Finds every fault.

    ``in_order``: deliveries have to be in order (not so with ``ack=explicit``, where what comes back comes late).
    ``outages``: from when until when something was dead that had to commit; what was settled meanwhile, or at most
    ``commit_seconds`` before, may be delivered again after its beginning.
    """
    report = Report()
    places: dict[Ident, list[Place]] = defaultdict(list)
    for partition, records in final.log.items():
        for offset, value in records:
            place = Place(partition, offset)
            try:
                places[ident(value)].append(place)
            except ValueError:
                report.foreign.append(place)
    _check_log(history, places, report)
    _check_deliveries(history, final, places, report)
    if in_order:
        _check_delivery_order(history, places, report)
    _check_repeats(history, places, report, outages, commit_seconds)
    return report


def trace(history: History, final: Final, place: Place) -> list[str]:
    """The readers of the record at a place, with times, for people in search of the reason."""
    name = next(ident(value) for offset, value in final.log[place.partition] if offset == place.offset)
    lines = [f"{each.at:.3f} published {name}: {each.status}" for each in history.published if each.ident == name]
    since = max((each.at for each in history.published if each.ident == name), default=0.0)
    for each in history.delivered:
        if each.ident == name:
            session = history.sessions[each.session]
            when = "" if session.clean_at is None else f", clean at {session.clean_at:.3f}"
            late = " late" if each.late else ""
            lines.append(f"{each.at:.3f} delivered{late} in session {each.session} ({session.reader}){when}")
    if len(lines) > 1:
        return lines
    # no reader had it: those that were there until one of them had a later record
    behind = [each for each in history.delivered if each.place and each.place.partition == place.partition]
    until = min((each.at for each in behind if each.place and each.place.offset > place.offset), default=since + 60)
    had = Counter(each.session for each in history.delivered)
    lines.append(f"{until:.3f} a later one of the partition was delivered")
    lines += [f"{each.at:.3f} {each.name}" for each in history.faults if since - 20 < each.at < until]
    for number, session in history.sessions.items():
        if session.begun_at < until and (session.ended_at or until) > since:
            times = f"{session.begun_at:.3f} to {session.ended_at or 0:.3f}"
            lines.append(f"{times} session {number} ({session.reader}) had {had[number]}")
    return lines


def _check_log(history: History, places: Mapping[Ident, list[Place]], report: Report) -> None:
    answers: dict[Ident, list[int]] = defaultdict(list)
    maybe: set[Ident] = set()
    lanes: dict[str, list[tuple[int, Place]]] = defaultdict(list)
    for each in history.published:
        answers[each.ident].append(each.status)
        if each.status == 0 or each.maybe_written:
            maybe.add(each.ident)
        found = places.get(each.ident, [])
        if each.status == 201:
            report.acknowledged += 1
            if not found or (each.place is not None and each.place not in found):
                report.lost.append(each.ident)
            elif each.place is not None:
                lanes[each.ident.lane].append((each.ident.number, each.place))
    for name, found in places.items():
        report.present += 1
        if name not in answers:
            report.foreign.extend(found)
            continue
        # a publisher that repeats after no answer asks for a second copy; one that repeats after a refusal does not
        if len(found) > 1 and not (name in maybe and len(answers[name]) > 1):
            report.duplicated.append(name)
        if 201 not in answers[name]:
            if name in maybe:
                report.unacknowledged += 1
            else:
                report.denied.append(name)
    for lane, written in lanes.items():
        last: dict[int, int] = {}
        for number, place in sorted(written):
            if place.offset <= last.get(place.partition, -1):
                report.disordered.append(Ident(lane, number))
            last[place.partition] = max(place.offset, last.get(place.partition, -1))


def _check_deliveries(history: History, final: Final, places: Mapping[Ident, list[Place]], report: Report) -> None:
    seen: Counter[Ident] = Counter()
    for each in history.delivered:
        seen[each.ident] += 1
        found = places.get(each.ident)
        if not found or (each.place is not None and each.place not in found):
            report.invented.append(each.ident)
    report.delivered = len(seen)
    acknowledged = {each.ident for each in history.published if each.status == 201}
    for name, found in places.items():
        report.redelivered += max(seen[name] - len(found), 0)
        if name in seen:
            report.unacknowledged_seen += name not in acknowledged
            continue
        for place in found:
            if final.drained or place.offset < final.committed.get(place.partition, 0):
                report.lost_on_delivery.append(place)


def _place(delivery: Delivery, places: Mapping[Ident, list[Place]]) -> Place | None:
    """Where a delivered record is; ``None`` where it is in the log twice and the reader was not told which it had."""
    if delivery.place is not None:
        return delivery.place
    found = places.get(delivery.ident, [])
    return found[0] if len(found) == 1 else None


def _check_delivery_order(history: History, places: Mapping[Ident, list[Place]], report: Report) -> None:
    highest: dict[int, int] = {}
    in_session: dict[tuple[int, int], int] = {}
    seen: set[Place] = set()
    for each in sorted(history.delivered, key=lambda each: each.at):
        place = _place(each, places)
        if place is None:
            continue
        behind = place not in seen and place.offset < highest.get(place.partition, -1)
        key = (each.session, place.partition)
        if (behind and not each.late) or place.offset <= in_session.get(key, -1):
            report.disordered_deliveries.append(place)
        seen.add(place)
        in_session[key] = place.offset
        if each.late:
            continue
        highest[place.partition] = max(place.offset, highest.get(place.partition, -1))


def _check_repeats(
    history: History,
    places: Mapping[Ident, list[Place]],
    report: Report,
    outages: Collection[tuple[float, float]],
    commit_seconds: float,
) -> None:
    settled: dict[Place, tuple[float, float]] = {}
    # place → when it came and when it was settled
    for each in history.delivered:
        clean_at = history.sessions[each.session].clean_at
        place = _place(each, places)
        # what is read after a half-close may have been given back already
        if (
            clean_at is not None
            and place is not None
            and not each.late
            and clean_at <= settled.get(place, (0, clean_at))[1]
        ):
            settled[place] = (each.at, clean_at)
    for acknowledged in history.acknowledged:
        if acknowledged.at <= settled.get(acknowledged.place, (0, acknowledged.at))[1]:
            settled[acknowledged.place] = (acknowledged.at, acknowledged.at)
    for each in history.delivered:
        place = _place(each, places)
        if place is None or each.late or place not in settled or each.at <= settled[place][1]:
            continue
        since, at = settled[place]
        if not any(begin - commit_seconds <= at and since <= end and begin <= each.at for begin, end in outages):
            report.repeated.append(place)
