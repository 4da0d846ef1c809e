"""Places the keyed messages of one elastic topic by the registry, and holds those back whose key moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.core.held_back import Counts, Held, HeldBack, Room, both
from kateway.core.key_places import Going, KeyPlace, announced_by, earlier_places, going, target
from kateway.errors import KatewayError, Unavailable
from kateway.model import Message
from kateway.registry.interface import Elastic, Placement, Topic
from kateway.storage.interface import Outcome, Store
from kateway.storage.partitioner import Partitioner

LONGEST_PUBLISH_SECONDS = 65.0
"""No publish is under way for longer, but for those that the store says are undecided."""
FRESH_SECONDS = 1.0
"""A store that does not show all partitions that keys are placed over is asked for them so often."""

_log = Logger()

MOVES, BY_STORE = -1, -2
"""In the place of a partition."""

R = TypeVar("R")


class Placed(NamedTuple):
    """Messages with their partitions; those that are not placed wait, by their index."""

    messages: list[Message]
    moving: list[int]
    keyed: bool


Send = Callable[[list[Message], bool], Deferred[list[Outcome]]]
"""Sends placed messages; false: they may not be kept to be written later."""


class Pulse:
    """When this process last looked after its elastic topics. One that stood still for ``longest_seconds`` may have
    been taken for dead, and must not go on by what it knew.
    """

    def __init__(self, clock: IReactorTime, longest_seconds: float) -> None:
        self.longest_seconds = longest_seconds
        self.looked_at = clock.seconds()


class ElasticTopic:
    """One topic: where its keys are placed, what is on its way, what is held back."""

    def __init__(
        self,
        topic: Topic,
        store: Store,
        clock: IReactorTime,
        room: Room,
        counts: Counts,
        kept: Callable[[], bool],
        pulse: Pulse,
        tracked_since: float,
    ) -> None:
        """``kept``: whether messages of it are kept on disk, to be written later; ``tracked_since``: when publishes
        to it began to be counted.
        """
        self._kept = kept
        self._pulse = pulse
        self.name = "/".join(topic.name)
        self.stored_as = topic.stored_as
        self._store = store
        self._clock = clock
        self._tracked_since = tracked_since
        self._placement: Placement | None = None
        self._going: Going | None = None
        self._handover_seconds = 0.0
        self._change = 0
        """The generation that announced the change under way; 0: none is."""
        self._changing_since: float | None = None
        self._generation = 0
        self._under_way: dict[int, int] = {}
        """Publishes by the generation that they were placed in."""
        self.acknowledged: int | None = None
        """The last generation for which nothing placed before is on its way any more."""
        self.cut_off = False
        """Whether the registry has been unheard for so long that the others may have gone over without us."""
        self.held_back = HeldBack(clock, room, counts, self._why)
        self._short = False
        """Whether the store did not show all partitions that keys are placed over when it was last looked at."""
        self._asking: Deferred[Any] | None = None
        self._ask_at = 0.0
        self._partitioner = Partitioner()

    # --- the registry's word ----------------------------------------------------------------------------------

    def take(self, placement: Placement | None, rules: Elastic) -> None:
        """Goes by a placement from now on."""
        self._handover_seconds = rules.handover_seconds
        if placement is not None and self._placement is not None and placement == self._placement:
            return
        if placement is None and self._placement is None:
            return
        self._placement = placement
        self._generation = 0 if placement is None else placement.generation
        self._going = None if placement is None else going(placement)
        change = announced_by(placement)
        if change != self._change:
            # a gateway that was cut off may find another change under way: its keys are held back from now on
            self._change = change
            self._changing_since = self._clock.seconds() if change else None
        self._short = self._lacks_partitions()
        self.held_back.release()

    def look(self, cut_off: bool) -> None:
        """Looks whether what was placed before has come to its end, and whether keys were held back long enough."""
        now = self._clock.seconds()
        was_cut_off, self.cut_off = self.cut_off, cut_off
        placement = self._placement
        since = self._changing_since
        if (
            placement is not None
            and placement.state == "reading"
            and since is not None
            and now - since >= self._handover_seconds
        ):
            # no gateway writes to the old partitions any more: only the order of a late reader is at stake
            self._going = Going(target(placement))
            self._changing_since = None
            was_cut_off = True
        was_short, self._short = self._short, self._lacks_partitions()
        if self._short:
            self._ask_for_partitions(now)
        if (was_cut_off and not cut_off) or (was_short and not self._short):
            self.held_back.release()
        # one that does not see the partitions yet would hold keys back when they are in force
        if (
            self.acknowledged != self._generation
            and not self._short
            and now - self._tracked_since >= LONGEST_PUBLISH_SECONDS
        ):
            former = any(count for generation, count in self._under_way.items() if generation != self._generation)
            if not former and not self._undecided():
                self.acknowledged = self._generation

    @property
    def restless(self) -> bool:
        """Whether a look is worth while."""
        return self.acknowledged != self._generation or bool(self.held_back) or self._short

    def _lacks_partitions(self) -> bool:
        """Whether the store, as it was last heard, has fewer partitions than keys are placed over: another gateway has
        made them, or the topic was made anew.
        """
        placement, known = self._placement, self._store.partitions(self.stored_as)
        return (
            placement is not None and known is not None and known < max(placement.partitions, placement.next_partitions)
        )

    def _ask_for_partitions(self, now: float) -> None:
        if self._asking is not None or now < self._ask_at:
            return
        self._ask_at = now + FRESH_SECONDS
        self._asking = asking = Deferred.fromCoroutine(self._store.topics())
        asking.addBoth(self._asked)

    def _asked(self, answer: object) -> None:
        self._asking = None
        # until it is asked again, at a later look
        if isinstance(answer, Failure) and not answer.check(KatewayError, CancelledError):
            _log.failure("the store could not be asked for its partitions", answer)

    def _undecided(self) -> bool:
        if self._kept():
            return True
        partitions = self._store.partitions(self.stored_as) or 0
        return any(self._store.undecided(self.stored_as, partition) for partition in range(partitions))

    # --- publishing -------------------------------------------------------------------------------------------

    def publish(
        self, messages: Sequence[Message], deadline: float, send: Send, *, again: bool = False
    ) -> Deferred[list[Outcome]]:
        """Sends messages to their partitions, those whose key moves as soon as it has; each key's in their order.
        ``again``: they were held back before.
        """
        placed = self._place(messages)
        if not placed.moving:
            return self._send(placed.messages, placed.keyed, send)
        moving = [messages[index] for index in placed.moving]
        if not placed.messages:
            return self._hold(moving, deadline, send, again)
        among = [False] * len(messages)
        for index in placed.moving:
            among[index] = True
        sending = self._send(placed.messages, placed.keyed, send)
        return both(sending, self._hold(moving, deadline, send, again), among)

    def _place(self, messages: Sequence[Message]) -> Placed:
        placed: list[Message] = []
        moving: list[int] = []
        keyed = False
        for index, message in enumerate(messages):
            if message.partition is None:
                if message.key is None:
                    placed.append(message._replace(partition=self._spread()))
                    continue
                partition = self._partition_of(message.key)
                if partition == MOVES:
                    moving.append(index)
                    continue
                keyed = True
                message = message._replace(partition=None if partition < 0 else partition)  # noqa: PLW2901
            placed.append(message)
        return Placed(placed, moving, keyed)

    def _partition_of(self, key: bytes) -> int:
        """Returns a key's partition; ``MOVES``, or ``BY_STORE`` where there is no placement yet."""
        pulse = self._pulse
        if self.cut_off or self._clock.seconds() - pulse.looked_at > pulse.longest_seconds:
            return MOVES
        if self._going is None:
            return BY_STORE
        partition = self._going.place(key)
        if partition is None:
            return MOVES
        known = self._store.partitions(self.stored_as)
        if known is not None and partition >= known:
            self._short = True
            return MOVES
        return partition

    def _spread(self) -> int | None:
        """Chooses a partition in force; ``None``: the store chooses among all that it has."""
        if self._going is None or self._placement is None:
            return None
        reading = self._placement.state == "reading" and self._going.after is not None
        partitions = self._placement.next_partitions if reading else self._going.now.partitions
        known = self._store.partitions(self.stored_as)
        if known is None or known <= partitions:
            # it passes over a partition without a leader
            return None
        return self._partitioner.choose(partitions, None)

    def _send(self, messages: list[Message], keyed: bool, send: Send) -> Deferred[list[Outcome]]:
        if not keyed:
            return send(messages, True)
        generation = self._begin()
        try:
            sending = send(messages, False)
        except BaseException:
            self._end(generation)
            raise
        return sending.addBoth(self._sent, generation)

    def _sent(self, result: R, generation: int) -> R:
        self._end(generation)
        return result

    def _begin(self) -> int:
        self._under_way[self._generation] = self._under_way.get(self._generation, 0) + 1
        return self._generation

    def _end(self, generation: int) -> None:
        left = self._under_way[generation] - 1
        if left:
            self._under_way[generation] = left
        else:
            del self._under_way[generation]

    # --- publishes under an idempotency key ---------------------------------------------------------------------

    async def enter(self, keys: Sequence[bytes], messages: Sequence[Message], deadline: float) -> int:
        """Waits until none of the keys of messages moves, and answers what ``leave`` takes: until then the keys stay
        where ``partition_of`` says. ``KeyMoving`` at the deadline, or where there is no room to wait.
        """
        if not self._moves(keys):
            return self._begin()

        def refuse(error: KatewayError) -> None:
            entered.errback(error)

        def go() -> None:
            if self._moves(keys):
                hold(again=True)
            else:
                entered.callback(self._begin())

        def hold(*, again: bool = False) -> None:
            refusal = self.held_back.hold(held, again=again)
            if refusal is not None:
                refuse(refusal)

        held = Held(messages, deadline, go, refuse)
        entered: Deferred[int] = Deferred(lambda _entered: self.held_back.drop(held))
        hold()
        return await entered

    def _moves(self, keys: Sequence[bytes]) -> bool:
        return any(self._partition_of(key) == MOVES for key in keys)

    def leave(self, entered: int) -> None:
        """Ends what ``enter`` began."""
        self._end(entered)

    async def partitions(self) -> int:
        """Returns as many partitions as the store has, not fewer than keys may lie in. ``Unavailable`` where it does
        not show so many: a key would be looked for in too few of them.
        """
        if self._lacks_partitions():
            await self._store.topics()
        if self._lacks_partitions():
            raise Unavailable(
                f"the store shows fewer partitions of {self.stored_as} than keys are placed over; repeat it soon"
            )
        return self._store.partitions(self.stored_as) or (await self._store.topic(self.stored_as)).partitions

    def partition_of(self, key: bytes, partitions: int) -> int:
        """Returns a key's partition, of one that has entered; ``partitions``: as many as the store has."""
        if self._going is None:
            return KeyPlace("murmur2", partitions).of(key)
        return self._going.now.of(key)

    def earlier_places(self, key: bytes, partitions: int, now_ms: int, window_ms: int) -> frozenset[int]:
        """Returns the other partitions in which a record with a key may have been placed within a window; only where
        the registry says where keys go.
        """
        assert self._placement is not None
        found = earlier_places(self._placement, key, now_ms, window_ms)
        return frozenset(each for each in found if each < partitions) - {self.partition_of(key, partitions)}

    @property
    def placed(self) -> bool:
        """Whether the registry says where its keys go."""
        return self._placement is not None

    # --- holding back ----------------------------------------------------------------------------------------

    def _hold(self, messages: list[Message], deadline: float, send: Send, again: bool) -> Deferred[list[Outcome]]:
        def go() -> None:
            try:
                publishing = self.publish(messages, deadline, send, again=True)
            except Exception:
                # those behind it have to be sent all the same
                answer.errback(Failure())
                return
            again_under_way.append(publishing)
            publishing.addBoth(publish_ended)
            publishing.addErrback(lambda failure: _log.failure("an answer of a publish broke", failure))

        def publish_ended(result: list[Outcome] | Failure) -> None:
            if not answer.called:  # else it was cancelled
                answer.callback(result)

        def cancelled(_answer: Deferred[list[Outcome]]) -> None:
            self.held_back.drop(held)
            for publishing in again_under_way:
                # it may be held back anew: it must not be written later either
                publishing.cancel()

        held = Held(messages, deadline, go, lambda error: answer.callback([error] * len(messages)))
        again_under_way: list[Deferred[list[Outcome]]] = []
        answer: Deferred[list[Outcome]] = Deferred(cancelled)
        refusal = self.held_back.hold(held, again=again)
        if refusal is not None:
            return succeed([refusal] * len(messages))
        return answer

    def _why(self) -> str:
        if self.cut_off:
            return "the registry has not been heard of for too long: the key's partition may be another one by now"
        if self._short:
            return f"the store does not show all partitions of {self.stored_as} that keys are placed over yet"
        return f"the keys of {self.stored_as} go over to more partitions; nothing was written"

    def stop(self) -> None:
        """Sends what is held back on its way: it is not elastic any more."""
        self._placement, self._going, self.cut_off, self._short = None, None, False, False
        self.held_back.release()
        self._end_asking()

    def fail(self) -> None:
        """Answers what is held back: the gateway stops."""
        self.held_back.refuse_all()
        self._end_asking()

    def _end_asking(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
