"""Carries changes out with their events in the audit, and records what came of them.

A change goes on to its end when its caller goes away: half of one would be worse, and its event would be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

from twisted.internet.defer import CancelledError, Deferred

from kateway.core.audit.events import Audit
from kateway.errors import KatewayError
from kateway.shield import shield

R = TypeVar("R")
Changed = Callable[[R], tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]]
"""The entry's table before and after a change, from what was done."""
Told = Callable[[R], tuple[str, str]]
"""The object and the outcome of an event, from what was done."""


class By(NamedTuple):
    """The actor of a change, for the audit."""

    actor: str
    request_id: str = ""
    address: str = ""


class AuditedChanges:
    """Carries out and records, for one gateway's audit."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    async def __call__(
        self,
        change: Coroutine[Any, Any, R],
        by: By,
        action: str,
        object: str,
        told: Told[R] | None = None,
        changed: Changed[R] | None = None,
    ) -> R:
        """Carries a change out with its event. ``told`` gives the event's object and outcome from what was done,
        ``changed`` the entry before and after.
        """
        return await shield(Deferred.fromCoroutine(self._with_event(change, by, action, object, told, changed)))

    async def read(self, reading: Coroutine[Any, Any, R], by: By, action: str, object: str, told: Told[R]) -> R:
        """Carries out a read of records with its event; unlike a change it ends when its caller goes away."""
        return await self._with_event(reading, by, action, object, told)

    def record(self, by: By, action: str, object: str, outcome: str) -> None:
        """Records what came of a change that went on behind its call."""
        self._audit.record(by.actor, action, object, outcome, request_id=by.request_id, address=by.address, change=True)

    def record_refusal(self, by: By, action: str, object: str, error: KatewayError) -> None:
        """Records a change that was refused before it was tried. Without an actor it has no reserved room: such a
        request can come from any caller.
        """
        change = bool(by.actor)
        self._audit.record(
            by.actor, action, object, error.code, request_id=by.request_id, address=by.address, change=change
        )

    async def _with_event(
        self,
        doing: Coroutine[Any, Any, R],
        by: By,
        action: str,
        object: str,
        told: Told[R] | None,
        changed: Changed[R] | None = None,
    ) -> R:
        event = object, "ok"
        before: Mapping[str, Any] | None = None
        after: Mapping[str, Any] | None = None
        try:
            done = await doing
            if changed is not None:
                before, after = changed(done)
            if told is not None:
                event = told(done)
            return done
        except KatewayError as error:
            event = object, error.code
            raise
        except CancelledError:
            event = object, "cancelled"
            raise
        except Exception:
            event = object, KatewayError.code
            raise
        finally:
            self._audit.record(
                by.actor,
                action,
                *event,
                request_id=by.request_id,
                address=by.address,
                change=True,
                before=before,
                after=after,
            )
