"""A group whose clients are partly those of another gateway, over a link in memory."""

from __future__ import annotations

from typing import Any

from links_in_memory import Pipe
from test_memberships import Client, Wire, World

from kateway.core.delivery.batch import Batch
from kateway.core.groups.reader import Reader
from kateway.core.groups.wanted import Wanted
from kateway.core.passing import messages
from kateway.core.passing.remote_source import RemoteSource
from kateway.core.passing.serving import Serving


class PumpedReader(Reader):
    """A reader whose next batch comes over the link while it is asked for."""

    __slots__ = ("home", "pipe")

    def take(self, max_records: int, max_bytes: int) -> Batch | None:
        batch = super().take(max_records, max_bytes)
        if batch is None and self.error is None and self.reading:
            self.pipe.pump()
            batch = super().take(max_records, max_bytes)
        return batch


class LinkedWorld(World):
    """Three of four clients are those of another gateway."""

    def __init__(self, partitions: int = 1, **config: float) -> None:
        super().__init__(partitions, **config)
        self.serving = Serving(self.groups, None, self.clock)  # type: ignore[arg-type]
        self.pipe = Pipe(self.clock, self.serving)
        self.came = 0
        self.clients: list[Client] = []

    def reader(self, wire: Wire | None = None, mode: str = "auto", short: bool = True, **options: Any) -> Client:
        """Gives three of four clients to the other gateway, where the group is held at all."""
        self.came += 1
        member = self.groups.live.get(("default", "g", "t"))
        if self.came % 4 == 1 or member is None or not member.dispatch.all:
            return super().reader(wire, mode, short, **options)
        return self.remote(wire, mode, short)

    def remote(self, wire: Wire | None = None, mode: str = "auto", short: bool = True) -> Client:
        """A client of the other gateway."""
        member = self.membership
        wire = wire or Wire()
        source = RemoteSource(self.clock, self.config)
        request = messages.request(
            "read", "default", "g", "t", mode=mode, reset="earliest", short=short, ack_timeout=60.0,
            max_deliveries=None, partitions=1 << 31, view=None, names=[], client=["", ""],
        )  # fmt: skip
        before = dict(member.readers)
        source.attach(self.pipe.near.open(request, source))
        self.pipe.pump()
        failures: list[Any] = []
        source.opened.addErrback(failures.append)
        if failures:
            failures[0].raiseException()
        reader = PumpedReader(source, Wanted(mode=mode, short=short), wire)  # type: ignore[arg-type]
        reader.pipe = self.pipe
        reader.home = next(each for each in member.readers if each not in before)
        source.serve(reader)
        client = Client(self, reader, wire)
        self.clients.append(client)
        return client

    def portion(self, reader: Reader) -> list[int]:
        return super().portion(getattr(reader, "home", reader))

    def turn(self) -> None:
        super().turn()
        self.pipe.pump()
        super().turn()
