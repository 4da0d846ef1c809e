"""Serves the tail of a topic over the admin API, as server-sent events: the newest records of each second, and how many
there were beside them. It moves no group.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from kateway.config.schema import AdminConfig
from kateway.core.administration import Administration
from kateway.core.gateway import Gateway
from kateway.core.operator.naming import Names
from kateway.core.operator.peek import Bounds
from kateway.core.operator.tail import Tail
from kateway.web.admin.event_streams import Event, EventStreams
from kateway.web.admin.records import shown
from kateway.web.admin.requests import AdminCall, by
from kateway.web.exchange import Response

MOST_A_SECOND = 50
"""Records that are shown: a person reads no more."""


class TailCalls:
    """Handlers. ``config`` gives the bounds of now."""

    def __init__(
        self,
        names: Names,
        gateway: Gateway,
        administration: Administration,
        config: Callable[[], AdminConfig],
        streams: EventStreams,
        clock: IReactorTime,
    ) -> None:
        self._names = names
        self._gateway = gateway
        self._do = administration
        self._config = config
        self._streams = streams
        self._clock = clock

    async def tail(self, call: AdminCall) -> Response | None:
        """Begins a stream."""
        names = call.names
        place = self._names.topic(names["app"], names["topic"], names["version"])
        answered = await self._streams.check(call)
        if answered is not None:
            return answered
        tail = Tail(self._gateway, place, self._clock)
        name = "/".join(names.values())
        # where its end is has to be known before the head is sent: what is written from then on is told
        await self._do.audited.read(
            tail.look(0, self._bounds()), by(call), "records.tail", name, lambda _looked: (name, "ok")
        )
        await self._streams.check(call)  # others may have begun meanwhile
        begun = False

        async def step() -> Event | None:
            nonlocal begun
            if not begun:
                begun = True
                return "state", {"records": [], "dropped": 0}
            found = await tail.look(MOST_A_SECOND, self._bounds())
            if not found.records and not found.dropped:
                return None
            cut = self._config().peek_value_bytes
            records = [shown(partition, record, cut) for partition, record in found.records]
            return "records", {"records": records, "dropped": found.dropped}

        self._streams.begin(call, "tail", step)
        return None

    def _bounds(self) -> Bounds:
        config = self._config()
        return Bounds(config.peek_max_records, config.peek_max_bytes, config.peek_max_seconds)
