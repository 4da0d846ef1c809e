"""Tells readers, in the reactor's next turn and never from inside a call of theirs, what happened meanwhile."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from kateway.core.groups.reader import Reader
from kateway.errors import KatewayError


class Waking:
    """Readers to be told that they may find something, or that they cannot go on. One delayed call for all."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._readers: dict[Reader, KatewayError | None] = {}
        self._call: IDelayedCall | None = None
        self._stopped = False

    def wake(self, reader: Reader) -> None:
        """``take`` may give something."""
        if reader.reading and reader not in self._readers:
            self._readers[reader] = None
            self._soon()

    def fail(self, reader: Reader, error: KatewayError) -> None:
        """The reader cannot go on."""
        self._readers[reader] = error
        self._soon()

    def forget(self, reader: Reader) -> None:
        self._readers.pop(reader, None)

    def stop(self) -> None:
        """Tells nobody anything any more."""
        self._stopped = True
        self._readers.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _soon(self) -> None:
        if self._call is None and not self._stopped:
            self._call = self._clock.callLater(0, self._tell)

    def _tell(self) -> None:
        self._call = None
        readers, self._readers = self._readers, {}
        for reader, error in readers.items():
            if error is not None:
                reader.fail(error)
            elif reader.reading:
                reader.call()
