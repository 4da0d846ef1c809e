"""Makes and redeems portal links: each lets one tenant in, once, soon. Only their digests are kept."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import orjson

from kateway.config.schema import AdminConfig
from kateway.web.admin.actors import Actor, digest, tenant
from kateway.web.admin.kept import SharedMemory, actor_of, actor_row, changing

LINK_BYTES: Final = 32


class PortalLinks:
    """Makes and redeems links. ``seconds`` is a clock that never goes back, ``config`` gives the bounds."""

    def __init__(
        self,
        seconds: Callable[[], float],
        config: Callable[[], AdminConfig],
        shared: SharedMemory | None = None,
    ) -> None:
        """``shared``: where the processes of a gateway have the same links, by a clock that they share too."""
        self._seconds = seconds
        self._config = config
        self._shared = shared
        self._links: dict[bytes, tuple[Actor, float]] = {}
        """With the time when each ends; the latest comes last."""

    def __len__(self) -> int:
        return len(self._links)

    def make(self, application: str, maker: Actor) -> str:
        """Makes a link, good for as long as its maker's token is. The oldest gives way where there is no room."""
        with self._changing():
            now = self._seconds()
            self._keep(lambda _actor: True)
            while len(self._links) >= self._config().max_portal_links:
                del self._links[next(iter(self._links))]
            link = secrets.token_urlsafe(LINK_BYTES)
            until = now + self._config().portal_link_seconds
            self._links[digest(link.encode())] = tenant(application, maker.proof), until
            return link

    def redeem(self, link: bytes) -> Actor | None:
        """Returns the tenant that a link lets in, this once."""
        with self._changing():
            actor, until = self._links.pop(digest(link), (None, 0.0))
        return actor if self._seconds() < until else None

    def keep(self, stands: Callable[[Actor], bool]) -> None:
        """Forgets links that are over, or whose tenant is not to be let in any more."""
        self._refresh()
        if not all(stands(actor) for actor, _ in self._links.values()):
            with self._changing():
                self._keep(stands)

    def _keep(self, stands: Callable[[Actor], bool]) -> None:
        now = self._seconds()
        self._links = {name: one for name, one in self._links.items() if now < one[1] and stands(one[0])}

    def _changing(self) -> AbstractContextManager[None]:
        return changing(self._shared, self._refresh, self._rows)

    def _rows(self) -> list[list[Any]]:
        return [[name.hex(), actor_row(actor), until] for name, (actor, until) in self._links.items()]

    def _refresh(self) -> None:
        document = None if self._shared is None else self._shared.news()
        if document is not None:
            self._links = {bytes.fromhex(name): (actor_of(row), until) for name, row, until in orjson.loads(document)}
