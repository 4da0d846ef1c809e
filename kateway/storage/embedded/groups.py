"""Groups: several subscriptions of this process share a topic's partitions by range, and hand them over in order.

The store is used by one process, so a group lives here whole. A partition has one owner at a time: it is given to the
next only when its owner has let go of it, which its listener may hold up for a bounded grace.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.errors import Conflict, KatewayError
from kateway.model import Committed, Record
from kateway.storage.embedded.cursor import Cursor
from kateway.storage.embedded.partition import TopicState
from kateway.storage.embedded.sqlite_thread import Reactor, SqlThread
from kateway.storage.embedded.writer import Writer
from kateway.storage.interface import Listener, Reset

_log = Logger()


class Soon:
    """Calls listeners in the reactor's next turn, so that none hears anything from inside a call of its own; one
    delayed call for all that is due.
    """

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._due: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._turn: IDelayedCall | None = None

    def __call__(self, call: Callable[..., Any], *args: Any) -> None:
        self._due.append((call, args))
        if self._turn is None:
            self._turn = self._reactor.callLater(0, self._run)

    def _run(self) -> None:
        due, self._due = self._due, deque()
        self._turn = None
        for call, args in due:
            try:
                call(*args)
            except Exception:
                _log.failure("a listener of the embedded store failed")


class Member:
    """A subscription: what one member of a group owns, and how it is told."""

    def __init__(self, group: Group, listener: Listener, reset: Reset) -> None:
        self._group = group
        self.listener = listener
        self.reset: Reset = reset
        self.owned: dict[int, Cursor] = {}
        """By partition number; those being revoked are still here."""
        self.leaving: set[int] = set()
        self.over = False
        """It owns nothing and never will again."""
        self.closing: list[Deferred[None]] | None = None
        self._told: set[int] = set()
        self._graces: list[IDelayedCall] = []

    def take(self, partition: int, max_records: int, max_bytes: int) -> list[Record]:
        cursor = self.owned.get(partition)
        if cursor is None or partition in self.leaving:
            return []
        return cursor.take(max_records, max_bytes)

    def position(self, partition: int) -> int | None:
        cursor = self.owned.get(partition)
        return None if cursor is None else cursor.position

    def commit(self, offsets: Mapping[int, Committed]) -> Deferred[None]:
        foreign = [str(partition) for partition in offsets if partition not in self.owned]
        if foreign:
            answer: Deferred[None] = Deferred()
            answer.errback(Conflict(f"partition {', '.join(foreign)} is not this reader's any more"))
            return answer
        return self._group.commit(offsets)

    def seek(self, partition: int, offset: int) -> None:
        cursor = self.owned.get(partition)
        if cursor is not None and partition not in self.leaving:
            cursor.seek(offset)

    def pause(self, partition: int) -> None:
        cursor = self.owned.get(partition)
        if cursor is not None and partition not in self.leaving:
            cursor.pause()

    def lag(self, partition: int) -> int | None:
        cursor = self.owned.get(partition)
        return None if cursor is None else cursor.lag

    def close(self) -> Deferred[None]:
        if self.over:
            return succeed(None)
        answer: Deferred[None] = Deferred()
        if self.closing is None:
            self.closing = [answer]
            self._group.leave(self)
        else:
            self.closing.append(answer)
        return answer

    # --- what the group does with it

    def assign(self, cursors: dict[int, Cursor], committed: dict[int, Committed | None]) -> None:
        self.owned.update(cursors)
        self._group.soon(self._assigned, cursors, committed)

    def _assigned(self, cursors: dict[int, Cursor], committed: dict[int, Committed | None]) -> None:
        kept = {number for number, cursor in cursors.items() if self.owned.get(number) is cursor}
        if kept:
            self.listener.assigned({number: committed[number] for number in cursors if number in kept})
            for number in kept - self.leaving:
                cursors[number].start()

    def readable(self, partition: int) -> None:
        """Tells it in the next turn, once."""
        if partition not in self._told:
            self._told.add(partition)
            self._group.soon(self._readable, partition)

    def _readable(self, partition: int) -> None:
        self._told.discard(partition)
        if partition in self.owned and partition not in self.leaving:
            self.listener.readable(partition)

    def failed(self, error: KatewayError) -> None:
        self._group.soon(self.listener.failed, error)

    def revoke(self, partitions: frozenset[int]) -> None:
        """Takes partitions away; the group hears ``released`` when the listener has let go or the grace is over."""
        self.leaving |= partitions
        for number in partitions:
            self.owned[number].close()
        self._group.soon(self._revoked, partitions)

    def _revoked(self, partitions: frozenset[int]) -> None:
        if not partitions & self.leaving:
            return
        held: Deferred[None] | None = None
        try:
            held = self.listener.revoked(partitions)
        finally:
            if held is None:
                self._release(partitions)
            else:
                self._release_after(held, partitions)

    def _release_after(self, held: Deferred[None], partitions: frozenset[int]) -> None:
        grace = self._group.reactor.callLater(self._group.grace_seconds, self._release, partitions)
        self._graces.append(grace)

        def let_go(result: object) -> None:
            if isinstance(result, Failure):
                _log.failure("a listener failed to let go of partitions", failure=result)
            if grace.active():
                grace.cancel()
                self._release(partitions)

        held.addBoth(let_go)

    def _release(self, partitions: frozenset[int]) -> None:
        self._graces = [grace for grace in self._graces if grace.active()]
        gone = partitions & self.leaving
        for number in gone:
            del self.owned[number]
        self.leaving -= gone
        self._group.released(self)

    def lose(self, error: KatewayError) -> None:
        """Ends it: nothing can be read or committed any more."""
        partitions = frozenset(self.owned)
        for cursor in self.owned.values():
            cursor.close()
        self.owned.clear()
        self.leaving.clear()
        for grace in self._graces:
            if grace.active():
                grace.cancel()
        if partitions:
            self._group.soon(self.listener.lost, partitions)
        self._group.soon(self.listener.failed, error)
        self.end()

    def end(self) -> None:
        """It is over; who waits for its close hears so."""
        self.over = True
        closing, self.closing = self.closing, None
        for answer in closing or ():
            answer.callback(None)


class Group:
    """The members that share one topic, in the order they came."""

    def __init__(
        self,
        name: str,
        topic: TopicState,
        reactor: Reactor,
        soon: Soon,
        reader: SqlThread,
        writer: Writer,
        grace_seconds: float,
        prefetch_max_bytes: int,
        on_empty: Callable[[Group], None],
    ) -> None:
        self.name = name
        self.topic = topic
        self.reactor = reactor
        self.soon = soon
        self.grace_seconds = grace_seconds
        self._reader = reader
        self._writer = writer
        self._prefetch_max_bytes = prefetch_max_bytes
        self._on_empty = on_empty
        self._committed: dict[int, Committed] | None = None
        self._starting = False
        """The places where the group begins are being committed."""
        self._start_failed = False
        self._members: list[Member] = []
        self._leaving: list[Member] = []

    def join(self, listener: Listener, reset: Reset) -> Member:
        member = Member(self, listener, reset)
        self._members.append(member)
        self.balance()
        return member

    def leave(self, member: Member) -> None:
        self._members.remove(member)
        self._leaving.append(member)
        self.released(member)

    def loaded(self, committed: Mapping[int, Committed]) -> None:
        """What the group has committed so far, by partition id: now members can be given partitions."""
        self._committed = dict(committed)
        self.balance()

    def lose(self, error: KatewayError) -> None:
        """Ends every member at once, as when the topic is gone."""
        members, self._members, self._leaving = self._members + self._leaving, [], []
        for member in members:
            member.lose(error)
        self._on_empty(self)

    def failed(self, error: KatewayError) -> None:
        """Notifies every member of a failure that it outlives."""
        for member in self._members:
            member.failed(error)

    def refuse(self, listener: Listener, error: KatewayError) -> Member:
        """A member that never begins."""
        member = Member(self, listener, "earliest")
        member.over = True
        member.failed(error)
        return member

    def close(self) -> list[Deferred[None]]:
        return [member.close() for member in self._members + self._leaving]

    def commit(self, offsets: Mapping[int, Committed]) -> Deferred[None]:
        by_id = [(self.topic.partitions[number].id, committed) for number, committed in offsets.items()]

        def written(_: None) -> None:
            if self._committed is not None:
                self._committed.update(by_id)

        return self._writer.commit(self.name, by_id).addCallback(written)

    def released(self, member: Member) -> None:
        """A member has let go of something, or has left."""
        gone = member in self._leaving and not member.owned
        if gone:
            self._leaving.remove(member)
        self.balance()
        if not self._members and not self._leaving:
            self._on_empty(self)
        if gone:
            member.end()

    def balance(self) -> None:
        """Moves towards each member having its range: takes away what another should have, gives what is free."""
        if self._committed is None or self._starting:
            return
        if self._members and self._commit_starts():
            return
        target = self._ranges()
        for member in self._members + self._leaving:
            gone = frozenset(
                number for number in member.owned if number not in member.leaving and target.get(number) is not member
            )
            if gone:
                member.revoke(gone)
        owned = {number for member in self._members + self._leaving for number in member.owned}
        for member in self._members:
            free = [number for number, owner in target.items() if owner is member and number not in owned]
            if free:
                self._assign(member, free)

    def _commit_starts(self) -> bool:
        """Commits where the group begins, so that it goes on from there even if nothing comes: at ``latest``, in a
        topic without records, and in partitions that were added to a topic that it reads already, which it reads from
        their beginning. Returns whether it is under way; ``balance`` goes on behind it, also where it fails.
        """
        assert self._committed is not None
        partitions = self.topic.partitions
        new = [partition for partition in partitions if partition.id not in self._committed]
        if len(new) < len(partitions):
            starts = [(partition.id, Committed(partition.earliest)) for partition in new]
        elif self._members[0].reset == "latest" or all(partition.earliest == partition.end for partition in new):
            starts = [(partition.id, Committed(partition.end)) for partition in new]
        else:
            starts = []
        if not starts or self._start_failed:
            return False
        self._starting = True

        def go_on(result: object) -> None:
            self._starting = False
            if isinstance(result, Failure):
                self._start_failed = True
                _log.warn("where a group begins was not committed: {e}", e=result.getErrorMessage())
            elif self._committed is not None:
                self._committed.update(starts)
            self.balance()

        self._writer.commit(self.name, starts).addBoth(go_on).addErrback(
            lambda failure: _log.failure("the beginning of a group broke", failure)
        )
        return True

    def _ranges(self) -> dict[int, Member]:
        """Whose each partition should be: Kafka's range assignment, members in the order they came."""
        members, count = self._members, len(self.topic.partitions)
        target: dict[int, Member] = {}
        start = 0
        for index, member in enumerate(members):
            share = count // len(members) + (1 if index < count % len(members) else 0)
            target.update((number, member) for number in range(start, start + share))
            start += share
        return target

    def _assign(self, member: Member, numbers: list[int]) -> None:
        assert self._committed is not None
        cursors: dict[int, Cursor] = {}
        committed: dict[int, Committed | None] = {}
        for number in numbers:
            partition = self.topic.partitions[number]
            at = committed[number] = self._committed.get(partition.id)
            if at is not None:
                offset = at.offset
            else:
                offset = partition.earliest if member.reset == "earliest" else partition.end
            cursors[number] = Cursor(
                self.reactor,
                self._reader,
                partition,
                offset,
                member.reset,
                self._prefetch_max_bytes,
                member.readable,
                member.failed,
                len(numbers),
            )
        member.assign(cursors, committed)
