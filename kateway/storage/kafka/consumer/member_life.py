"""Runs a group's member by either protocol, anew after each failure, until it is stopped or cannot go on."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.errors import KatewayError, Unavailable
from kateway.storage.kafka.cluster.connection import RequestFailed
from kateway.storage.kafka.cluster.waiting import at_most
from kateway.storage.kafka.consumer.membership import (
    LEAVE_SECONDS,
    NEWS_AFTER_FAILURES,
    RETRY_SECONDS,
    Joining,
    Rest,
    Session,
)
from kateway.storage.kafka.protocol.primitives import MalformedResponse


class Expelled(Exception):
    """The coordinator does not know this member or its generation any more, or has not been heard for too long."""


class Over(Exception):
    """The member's life has ended, and the holder need not hear of it."""


class MemberLife:
    """One member's. ``turn`` is a protocol's work until it has to be done again: it answers how long to rest before, or
    ``None`` where there is to be no rest. ``lose`` gives up what the coordinator has taken away. ``unserved`` says
    whether the holder is to hear of failures just now; ``expelled`` is what it hears where the member was expelled.
    """

    _log = Logger()

    def __init__(
        self,
        joining: Joining,
        turn: Callable[[], Coroutine[Any, Any, float | None]],
        lose: Callable[[], None],
        look_at_topics: Callable[[], None],
        *,
        expelled: str,
        unserved: Callable[[], bool] = lambda: True,
    ) -> None:
        self._client = joining.client
        self._coordinators = joining.coordinators
        self._holder = joining.holder
        self._group = joining.group
        self._turn = turn
        self._lose = lose
        self._look_at_topics = look_at_topics
        self._expelled = expelled
        self._unserved = unserved
        self._failures = self._told_of = 0
        self._running: Deferred[None] | None = None
        self.session = Session(joining.client.reactor, lose)
        self.rest = Rest(joining.client.reactor)

    def start(self) -> None:
        """Begins to join."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._ended)

    def succeeded(self) -> None:
        """The coordinator has the member: failures are counted anew."""
        self._failures = self._told_of = 0

    def stop(self) -> None:
        """Ends the turns; the group is not left yet."""
        if self._running is not None:
            self._running.cancel()
        self.session.cancel()

    async def leave(self, ask: Callable[[int], Deferred[bytes]]) -> None:
        """Leaves the group by what ``ask`` sends to its coordinator. Takes at most ``LEAVE_SECONDS``."""
        leaving = Deferred.fromCoroutine(self._leave(ask))
        await at_most(self._client.reactor, LEAVE_SECONDS, leaving)
        leaving.cancel()

    async def _leave(self, ask: Callable[[int], Deferred[bytes]]) -> None:
        try:
            await ask(await self._coordinators.find(self._group))
        except (RequestFailed, MalformedResponse, CancelledError, KatewayError) as error:
            self._log.info("group {group} was not left: {error}", group=self._group, error=str(error))

    def _ended(self, failure: Failure) -> None:
        if not isinstance(failure.value, CancelledError):
            self._log.failure("the membership in {group} broke", failure=failure, group=self._group)
            self._lose()
            self._holder.failed(KatewayError("the group membership broke; see the log"))

    async def _run(self) -> None:
        forget = self._client.watch(self._look_at_topics)
        try:
            while True:
                try:
                    pause = await self._turn()
                    if pause is not None:
                        await self.rest.sleep(pause)
                    continue
                except Expelled:
                    self._lose()
                    error: Exception = Unavailable(self._expelled)
                except (RequestFailed, MalformedResponse, KatewayError) as caught:
                    if isinstance(caught, KatewayError) and not caught.retriable:
                        raise
                    self._coordinators.forget(self._group)
                    error = caught
                except (CancelledError, Over):
                    raise
                except Exception:
                    # the clients of the group must not wait for ever because of it
                    self._log.failure("the membership in {group} broke, and begins anew", group=self._group)
                    self._lose()
                    error = Unavailable("the group membership broke; the gateway's log says why")
                self._failures += 1
                self._tell(error)
                await self.rest.sleep(RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS)) - 1])
        except Over:
            pass
        except KatewayError as error:
            self._lose()
            self._holder.failed(error)
        finally:
            forget()
            self.session.cancel()

    def _tell(self, error: Exception) -> None:
        if self._unserved():
            self._told_of += 1
            if self._told_of == NEWS_AFTER_FAILURES:
                self._holder.failed(error if isinstance(error, KatewayError) else Unavailable(str(error)))
