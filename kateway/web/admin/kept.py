"""Keeps sessions and portal links in memory that outlives the process that made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import orjson

from kateway.web.admin.actors import Actor


class SharedMemory(Protocol):
    """A document that the processes of a gateway share."""

    def news(self) -> bytes | None:
        """The document, where another process has written it since."""

    def write(self, document: bytes) -> bool:
        """Puts a document in force; ``False`` where it is too large."""

    def changing(self, refresh: Callable[[], object]) -> AbstractContextManager[None]:
        """Keeps the others from writing meanwhile, and calls ``refresh`` first."""


@contextmanager
def changing(
    shared: SharedMemory | None,
    refresh: Callable[[], object],
    rows: Callable[[], list[list[Any]]],
    too_large: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Keeps in the memory, where there is one, what is changed meanwhile: ``refresh`` takes over the changes of other
    processes first, ``rows`` gives what is kept then. ``too_large`` is called where that does not fit.
    """
    if shared is None:
        yield
        return
    with shared.changing(refresh):
        yield
        if not shared.write(orjson.dumps(rows())):
            too_large()


def actor_row(actor: Actor) -> list[Any]:
    """A caller as JSON takes it."""
    return [actor.name, actor.role, actor.application, actor.proof.hex(), actor.session.hex()]


def actor_of(row: list[Any]) -> Actor:
    """Reads a caller that came as JSON."""
    name, role, application, proof, session = row
    return Actor(name, role, application, bytes.fromhex(proof), bytes.fromhex(session))
