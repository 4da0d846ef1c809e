"""Tells whether what is asked about is there: an application, a topic, a group. What a store does not tell just now is
taken for there.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from kateway.core.gateway import Gateway
from kateway.core.groups.memberships import Memberships
from kateway.core.operator.naming import GroupName, Names
from kateway.errors import KatewayError, NotFound

T = TypeVar("T")


class Known:
    """Raises ``NotFound`` for what is not there, ``InvalidName`` for what cannot be."""

    def __init__(self, names: Names, gateway: Gateway, groups: Memberships) -> None:
        self._names = names
        self._gateway = gateway
        self._groups = groups

    def application(self, name: str) -> None:
        """An application must be registered; in open mode there is one."""
        self._names.application(name)

    async def topic(self, application: str, topic: str, version: str) -> None:
        """A topic must be registered; in open mode its store must have it."""
        place = self._names.topic(application, topic, version)
        if self._names.open:
            await _unless_away(self._gateway.topic(place))

    async def group(self, name: GroupName, *, dead: bool) -> None:
        """A group must be read here, or have committed something at its topic, or at its dead letters."""
        place, group = self._names.group(name, dead=dead)
        if (place.cluster, group, place.topic) in self._groups.live:
            return
        committed = await _unless_away(self._gateway.committed(place, group))
        if committed is not None and all(at is None for at in committed.values()):
            raise NotFound(f"the group {self._names.shown(name)} has committed nothing there, and is not read here")


async def _unless_away(asking: Coroutine[Any, Any, T]) -> T | None:
    try:
        return await asking
    except NotFound:
        raise
    except KatewayError:
        return None
