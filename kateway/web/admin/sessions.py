"""Keeps sessions of the manager, each in two halves: one in a cookie, one in a header. Only their digests are kept.

A cookie goes to every port of a host, and with a request that another page has made; the header half never leaves the
page that signed in. A session ends when it is idle, old, signed out, or when the token that let it in is gone; its
streams are told at once.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple

import orjson
from twisted.logger import Logger

from kateway.config.schema import AdminConfig
from kateway.web.admin.actors import Actor, digest
from kateway.web.admin.kept import SharedMemory, actor_of, actor_row, changing

HALF_BYTES: Final = 32
SWEEP_SECONDS: Final = 0.5
"""How often is looked for those that have ended by themselves."""

USES_SECONDS: Final = 10.0
"""How often is written down for the other processes when sessions were used: they may end so much earlier."""

Ended = Callable[[], None]
_log = Logger()


class Opened(NamedTuple):
    """A new session: its halves are known this once."""

    actor: Actor
    cookie: str
    header: str

    def __repr__(self) -> str:
        return f"Opened(actor={self.actor!r}, …)"


class _Session:
    __slots__ = ("actor", "began", "cookie", "used", "watching")

    def __init__(self, actor: Actor, cookie: bytes, now: float) -> None:
        self.actor = actor
        self.cookie = cookie
        self.began = self.used = now
        self.watching: dict[object, Ended] = {}
        """Streams. An open one is a use."""


class Sessions:
    """Opens, finds and ends sessions. ``seconds`` is a clock that never goes back, ``config`` gives the bounds."""

    def __init__(
        self,
        seconds: Callable[[], float],
        config: Callable[[], AdminConfig],
        shared: SharedMemory | None = None,
    ) -> None:
        """``shared``: where the processes of a gateway have the same sessions, by a clock that they share too."""
        self._seconds = seconds
        self._config = config
        self._shared = shared
        self._written_at = float("-inf")
        self._sessions: dict[bytes, _Session] = {}
        """By the digest of the header half; the one used last comes last."""
        self._bearers: dict[object, tuple[Actor, Ended]] = {}
        """Streams of callers that have no session."""

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, actor: Actor) -> Opened:
        """Opens a session. The one that was not used for longest gives way where there is no room."""
        with self._changing():
            return self._open(actor)

    def _open(self, actor: Actor) -> Opened:
        self._sweep()
        while len(self._sessions) >= self._config().max_sessions:
            self._end(next(iter(self._sessions)))
        cookie, header = secrets.token_urlsafe(HALF_BYTES), secrets.token_urlsafe(HALF_BYTES)
        actor = actor._replace(session=digest(header.encode()))
        self._sessions[actor.session] = _Session(actor, digest(cookie.encode()), self._seconds())
        return Opened(actor, cookie, header)

    def find(self, header: bytes, cookies: Iterable[bytes]) -> Actor | None:
        """Returns the caller whose session has both halves, one of the cookies being its own, and counts the use."""
        self._refresh()
        name = digest(header)
        session = self._sessions.get(name)
        if session is None or not any(hmac.compare_digest(digest(cookie), session.cookie) for cookie in cookies):
            return None
        now = self._seconds()
        if self._over(session, now):
            self.end(session.actor)
            return None
        session.used = now
        self._sessions[name] = self._sessions.pop(name)
        return session.actor

    def seconds_left(self, actor: Actor) -> float:
        """Returns how long a session lasts at most, however much it is used."""
        session = self._sessions.get(actor.session)
        return 0.0 if session is None else session.began + self._config().session_max_seconds - self._seconds()

    def end(self, actor: Actor) -> None:
        """Ends the caller's session, where it has one."""
        with self._changing():
            self._end(actor.session)

    def on_end(self, actor: Actor, ended: Ended) -> Callable[[], None]:
        """Has ``ended`` called once the caller's session, or the token that it showed, is no longer good. To be given
        up by what this returns. One whose session is over already is told at once.
        """
        entry = object()
        if not actor.session:
            self._bearers[entry] = actor, ended
            return lambda: (self._bearers.pop(entry, None), None)[1]
        session = self._sessions.get(actor.session)
        if session is None:
            ended()
            return lambda: None
        watching = session.watching
        watching[entry] = ended

        def give_up() -> None:
            if watching.pop(entry, None) is not None:
                session.used = self._seconds()

        return give_up

    def sweep(self) -> None:
        """Ends those that are idle or old, and those that another process has ended; tells the others of uses."""
        self._refresh()
        now = self._seconds()
        over = any(self._over(session, now) for session in self._sessions.values())
        if over or (self._shared is not None and now - self._written_at >= USES_SECONDS and self._used()):
            with self._changing():
                self._sweep()

    def _used(self) -> bool:
        """Whether a session was used here since the others were told."""
        return any(session.watching or session.used > self._written_at for session in self._sessions.values())

    def _sweep(self) -> None:
        now = self._seconds()
        for name in [name for name, session in self._sessions.items() if self._over(session, now)]:
            self._end(name)

    def keep(self, stands: Callable[[Actor], bool]) -> None:
        """Ends the sessions, and tells the streams without one, whose caller is not let in any more."""
        self._refresh()
        gone = [name for name, session in self._sessions.items() if not stands(session.actor)]
        if gone:
            with self._changing():
                for name in gone:
                    self._end(name)
        for entry in [entry for entry, (actor, _ended) in self._bearers.items() if not stands(actor)]:
            _tell(self._bearers.pop(entry)[1])

    def _over(self, session: _Session, now: float) -> bool:
        config = self._config()
        if now - session.began >= config.session_max_seconds:
            return True
        return not session.watching and now - session.used >= config.session_idle_seconds

    def _end(self, name: bytes) -> None:
        session = self._sessions.pop(name, None)
        while session is not None and session.watching:
            _tell(session.watching.popitem()[1])

    # --- shared with other processes --------------------------------------------------------------------------------

    def _changing(self) -> AbstractContextManager[None]:
        return changing(self._shared, self._refresh, self._rows, _too_many)

    def _rows(self) -> list[list[Any]]:
        self._written_at = now = self._seconds()
        return [
            [*actor_row(one.actor), one.cookie.hex(), one.began, now if one.watching else one.used]
            for one in self._sessions.values()
        ]

    def _refresh(self) -> None:
        """Takes over what other processes have changed."""
        document = None if self._shared is None else self._shared.news()
        if document is None:
            return
        self._written_at = self._seconds()
        before, self._sessions = self._sessions, {}
        for *row, cookie, began, used in orjson.loads(document):
            actor = actor_of(row)
            session = before.pop(actor.session, None)
            if session is None:
                session = _Session(actor, bytes.fromhex(cookie), began)
            session.used = max(session.used, used)
            self._sessions[actor.session] = session
        for name in list(before):
            # ended there
            self._sessions[name] = before.pop(name)
            self._end(name)


def _too_many() -> None:
    _log.error("there are too many sessions to outlive this process: lower [admin] max_sessions")


def _tell(ended: Ended) -> None:
    try:
        ended()
    except Exception:
        # the others are told all the same
        _log.failure("a stream could not be ended with its session")
