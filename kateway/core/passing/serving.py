"""Answers other gateways about the groups that this one holds, and gives readers to their clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from kateway.cluster.interface import Stream, StreamEnd
from kateway.core.delivery.batch import Ack, Client
from kateway.core.groups.memberships import Key, Memberships
from kateway.core.groups.reader import Reader
from kateway.core.groups.wanted import Wanted
from kateway.core.passing import messages
from kateway.core.passing.messages import NOT_HERE, Malformed
from kateway.core.passing.passed_reader import PassedConnection, PassedReader
from kateway.core.transforms.in_force import TransformsInForce, View
from kateway.errors import BadRequest, Draining, KatewayError, NotHere
from kateway.observe.delivery import DeliveryCells

CellsFor = Callable[[Sequence[str], str], DeliveryCells | None]
"""Finds what the deliveries of a group (its names) of a cluster are counted in."""
STATE_SECONDS = 0.25
"""How often other gateways whose readers wait are told of a membership's state where it has changed."""

_goes_on = Logger().failureHandler("a reader of another gateway could not be told; the others are")


class Serving:
    """The home's end of what is passed on (``cluster.interface.Answering``)."""

    def __init__(
        self,
        groups: Memberships,
        transforms: TransformsInForce,
        clock: IReactorTime,
        cells_for: CellsFor = lambda _names, _cluster: None,
    ) -> None:
        self._groups = groups
        self._transforms = transforms
        self._clock = clock
        self._cells_for = cells_for
        self._readers: dict[PassedReader, None] = {}
        self._draining = False
        self.passed: dict[str, int] = {}
        """How many requests came, by what they asked."""

    @property
    def readers(self) -> int:
        """How many clients of other gateways read here."""
        return len(self._readers)

    async def tell_states(self) -> None:
        """Tells of changed memberships; regular work."""
        for passed in list(self._readers):
            if passed.waits:
                with _goes_on:
                    passed.tell_state()

    def drain(self) -> None:
        """Ends the readers of other gateways' clients with what they have; what they were sent can still be settled."""
        self._draining = True
        for passed in list(self._readers):
            with _goes_on:
                passed.fail(Draining())

    def call(self, request: bytes) -> Deferred[bytes]:
        """Answers a call."""
        asked = self._read(request)
        answer = _CALLS.get(asked["what"])
        if answer is None:
            raise BadRequest("this gateway does not know the call; is it of another version?")
        return answer(self, (asked["cluster"], asked["group"], asked["topic"]), asked)

    def opened(self, stream: Stream, request: bytes) -> StreamEnd:
        """Gives a reader, where this gateway holds partitions. ``NotHere``, and what ``Memberships.reader`` raises."""
        asked = self._read(request)
        if self._draining:
            raise NotHere("the gateway that holds the group is being stopped; try again")
        key = (asked["cluster"], asked["group"], asked["topic"])
        if not self._holds(key):
            raise NotHere("another gateway holds the group by now; try again")
        try:
            wanted = Wanted(
                asked["mode"],
                asked["reset"],
                asked["short"],
                asked["ack_timeout"],
                asked["max_deliveries"],
                asked["partitions"],
                self._view(asked["view"]),
                self._cells_for(asked["names"], key[0]),
                Client(*asked["client"]),
                spare=asked.get("spare", False),
            )

            def begin(connection: PassedConnection) -> Reader:
                return self._groups.reader(key, wanted, connection)

            passed = PassedReader(stream, begin, _state, self._over)
        except (KeyError, TypeError) as error:
            raise BadRequest("a reader is asked for in a form that this gateway does not know") from error
        self._readers[passed] = None
        return passed

    def _over(self, passed: PassedReader) -> None:
        self._readers.pop(passed, None)

    def _read(self, request: bytes) -> Mapping[str, Any]:
        try:
            asked = messages.request_of(request)
        except Malformed as error:
            raise BadRequest(str(error)) from error
        what = asked["what"]
        if what in self.passed or len(self.passed) < 16:
            self.passed[what] = self.passed.get(what, 0) + 1
        return asked

    def _holds(self, key: Key) -> bool:
        member = self._groups.live.get(key)
        return member is not None and bool(member.dispatch.all)

    def _view(self, said: Any) -> View | None:
        if said is None:
            return None
        extra = None if said["filter"] is None else self._transforms.filter(said["filter"])
        owner, topic, version = said["topic"]
        return View(self._transforms, said["subscriber"], (owner, topic, version), extra, dead=said["dead"])

    # --- calls -----------------------------------------------------------------------------------------------------

    def _acknowledge(self, key: Key, asked: Mapping[str, Any]) -> Deferred[bytes]:
        try:
            acks = messages.acks_of(asked["acks"])
            sync = bool(asked["sync"])
        except (Malformed, KeyError) as error:
            raise BadRequest(str(error)) from error
        return Deferred.fromCoroutine(self._apply(key, acks, sync))

    async def _apply(self, key: Key, acks: Sequence[Ack], sync: bool) -> bytes:
        member = self._groups.live.get(key)
        if member is not None and member.awaits(acks):
            await member.rebalancing.over()
            member = self._groups.live.get(key)
        if member is None:
            await self._groups.left(key)
        held = {} if member is None else member.dispatch.owned_partitions
        found: list[KatewayError | None] = [NOT_HERE] * len(acks)
        here = [index for index, ack in enumerate(acks) if ack.partition in held]
        if here:
            outcomes = await self._groups.acknowledge(*key, [acks[index] for index in here], sync=sync)
            for index, outcome in zip(here, outcomes, strict=True):
                found[index] = outcome
        return messages.outcomes(found)

    def _unacknowledged(self, key: Key, _asked: Mapping[str, Any]) -> Deferred[bytes]:
        found = self._groups.unacknowledged(*key)
        return succeed(orjson.dumps([[partition, *said] for partition, said in found.items()]))

    def _let_go(self, key: Key, _asked: Mapping[str, Any]) -> Deferred[bytes]:
        return Deferred.fromCoroutine(self._leave(key))

    async def _leave(self, key: Key) -> bytes:
        await self._groups.let_go(*key)
        return b""

    def _dead_letters_written(self, key: Key, _asked: Mapping[str, Any]) -> Deferred[bytes]:
        return Deferred.fromCoroutine(self._written(key))

    async def _written(self, key: Key) -> bytes:
        await self._groups.dead_letters_written(*key)
        return b""


_CALLS: Mapping[str, Callable[[Serving, Key, Mapping[str, Any]], Deferred[bytes]]] = {
    "acknowledge": Serving._acknowledge,
    "unacknowledged": Serving._unacknowledged,
    "let_go": Serving._let_go,
    "dead_letters_written": Serving._dead_letters_written,
}


def _state(reader: Reader) -> bytes:
    return messages.state(
        expects=reader.expects(), available=reader.available_since is not None, last_error=reader.last_error
    )
