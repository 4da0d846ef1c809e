"""Wakes readers in the reactor's next turn, never from inside a call of theirs."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kateway.core.groups.reader import Reader
from kateway.errors import KatewayError

_goes_on = Logger().failureHandler("a reader broke when it was woken; the others are woken all the same")


class Wakeups:
    """Readers that may find something, or that cannot go on. One delayed call for all."""

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
        """Wakes no reader any more."""
        self._stopped = True
        self._readers.clear()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _soon(self) -> None:
        if self._call is None and not self._stopped:
            self._call = self._clock.callLater(0, self._wake_all)

    def _wake_all(self) -> None:
        self._call = None
        readers, self._readers = self._readers, {}
        for reader, error in readers.items():
            with _goes_on:
                if error is not None:
                    reader.fail(error)
                elif reader.reading:
                    reader.call()
