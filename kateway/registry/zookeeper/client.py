"""A ZooKeeper client for Twisted: kazoo behind Deferreds, in txzookeeper's shape.

kazoo has threads of its own; everything crosses to the reactor's by ``callFromThread``, and only there are callers
called. Calls fail with kazoo's exceptions (``kazoo.exceptions``). The ``…_and_watch`` calls answer two Deferreds:
the result, and a watch that fires once, when the node changes or when the watch itself is lost with the connection
(``WatchEvent.lost``): the caller reads again either way. A watch whose call failed never fires.

The session is kept for as long as it can be and begun anew when it has expired; ``on_state`` tells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any, Final, Literal, NamedTuple

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionClosedError, KazooException, NoNodeError, UnimplementedError
from kazoo.protocol.states import EventType, KazooState, WatchedEvent
from kazoo.retry import KazooRetry
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, READ_ACL_UNSAFE
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from kateway.registry.zookeeper.multi_read import MultiRead, Node

State = Literal["connected", "suspended", "lost"]
Access = Literal["open", "creator", "creator-world-read"]
Operation = tuple[Literal["create", "set", "delete"], str, bytes, int]
"""Of a ``commit``: what, path, data (ignored by delete), expected version (ignored by create; -1: any)."""

MAX_RECONNECT_DELAY_SECONDS: Final = 2.0
READ_AT_ONCE: Final = 200
"""Nodes in one request, or requests under way at once: kazoo wakes its thread with a byte each through a pipe."""
STOP_SECONDS: Final = 3.0

_STATES: Final[dict[str, State]] = {
    KazooState.CONNECTED: "connected",
    KazooState.SUSPENDED: "suspended",
    KazooState.LOST: "lost",
}
_ACLS: Final = {
    "open": OPEN_ACL_UNSAFE,
    "creator": CREATOR_ALL_ACL,
    "creator-world-read": CREATOR_ALL_ACL + READ_ACL_UNSAFE,
}


EventKind = Literal["created", "deleted", "changed", "lost"]


class WatchEvent(NamedTuple):
    """What a watch saw. ``lost``: nothing; the connection went and the watch with it."""

    kind: EventKind
    path: str

    @property
    def lost(self) -> bool:
        return self.kind == "lost"


_EVENTS: Final[dict[str, EventKind]] = {
    EventType.CREATED: "created",
    EventType.DELETED: "deleted",
    EventType.CHANGED: "changed",
}


class ZookeeperClient:
    """One session at a time with a ZooKeeper ensemble.

    ``hosts``: ``host:port,host:port``. ``credentials``: ``user:password`` of the digest scheme, or none.
    ``access``: the ACL of the nodes made. ``read_many``: false for servers that cannot (before 3.6), which is also
    found out by asking them.
    """

    def __init__(
        self,
        reactor: Any,
        hosts: str,
        *,
        session_timeout_seconds: float = 6.0,
        credentials: str = "",
        access: Access = "open",
        read_many: bool = True,
    ) -> None:
        self._reactor = reactor
        self._client = KazooClient(
            hosts=hosts,
            timeout=session_timeout_seconds,
            default_acl=_ACLS[access],
            auth_data=[("digest", credentials)] if credentials else None,
            # kazoo's own default backs off to an hour
            connection_retry=KazooRetry(max_tries=-1, max_delay=MAX_RECONNECT_DELAY_SECONDS),
            logger=_quiet_logger(),
        )
        self._client.add_listener(self._changed_state)
        self._listeners: list[Callable[[State], None]] = []
        self._outstanding: set[Deferred[Any]] = set()
        self._started = False
        self._stopped = False
        self._reads_many = read_many
        self.state: State = "lost"

    def on_state(self, callback: Callable[[State], None]) -> None:
        """Calls back on the reactor's thread with every state that the session enters."""
        self._listeners.append(callback)

    @property
    def session(self) -> tuple[int, bytes]:
        """The session's id and password; the id is what ``ephemeralOwner`` of its nodes says."""
        number, password = self._client.client_id or (0, b"")
        return number, password

    def start(self) -> None:
        """Begins to connect, and goes on until ``stop``. Once only."""
        if self._started:
            return
        self._started = True
        self._client.start_async()

    def stop(self) -> Deferred[None]:
        """Ends the session, and with it its ephemeral nodes. Calls under way fail. Bounded in time: where the server
        does not answer, the session is left to expire.
        """
        self._stopped = True
        for answer in list(self._outstanding):
            answer.errback(ConnectionClosedError("the client is stopped"))

        done: Deferred[None] = Deferred()

        def stop() -> None:
            try:
                self._client.stop()
                self._client.close()
            except Exception as error:
                _log.debug("ZooKeeper's client: {error}", error=error)
            self._hop(done, None, None)

        # a thread of its own, and a daemon: one of the reactor's pool would hold up the end of the process
        Thread(target=stop, name="zookeeper-stop", daemon=True).start()
        return done.addTimeout(STOP_SECONDS, self._reactor, lambda _result, _seconds: None)

    # --- reading -----------------------------------------------------------------------------------------------

    def get(self, path: str) -> Deferred[Node]:
        return self._ask(self._client.get_async, path)

    def get_and_watch(self, path: str) -> tuple[Deferred[Node], Deferred[WatchEvent]]:
        watch, heard = self._watch()
        return self._ask(self._client.get_async, path, heard), watch

    def exists_and_watch(self, path: str) -> tuple[Deferred[Any], Deferred[WatchEvent]]:
        """The node's stat, or ``None``; the watch fires for a node that is made, too."""
        watch, heard = self._watch()
        return self._ask(self._client.exists_async, path, heard), watch

    def get_children(self, path: str) -> Deferred[list[str]]:
        return self._ask(self._client.get_children_async, path)

    def get_many(self, paths: Sequence[str]) -> Deferred[dict[str, Node]]:
        """Data and stat of many nodes, those that do not exist left out. Not of one moment: others write meanwhile."""
        return Deferred.fromCoroutine(self._get_many(paths))

    async def _get_many(self, paths: Sequence[str]) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for start in range(0, len(paths), READ_AT_ONCE):
            some = paths[start : start + READ_AT_ONCE]
            try:
                if self._reads_many:
                    found |= await self._ask(self._read_many, some)
                    continue
            except UnimplementedError:
                # ZooKeeper before 3.6
                self._reads_many = False
            found |= await self._get_each(some)
        return found

    def _read_many(self, paths: Sequence[str]) -> Any:
        result = self._client.handler.async_result()
        self._client._call(MultiRead(paths), result)
        return result

    async def _get_each(self, paths: Sequence[str]) -> dict[str, Node]:
        asked = [self.get(path) for path in paths]
        found: dict[str, Node] = {}
        fault: KazooException | None = None
        for path, answer in zip(paths, asked, strict=True):
            try:
                found[path] = await answer
            except NoNodeError:
                pass
            except KazooException as error:
                fault = fault or error
        if fault is not None:
            raise fault
        return found

    def sync(self, path: str) -> Deferred[str]:
        """Makes our server catch up with the leader: later reads are not stale."""
        return self._ask(self._client.sync_async, path)

    # --- writing -----------------------------------------------------------------------------------------------

    def create(self, path: str, data: bytes = b"", *, ephemeral: bool = False) -> Deferred[str]:
        """Makes a node and answers its path."""
        return self._ask(self._client.create_async, path, data, ephemeral=ephemeral)

    def ensure_path(self, path: str) -> Deferred[str]:
        """Makes a node and those above it, as far as they are missing."""
        return self._ask(self._client.ensure_path_async, path)

    def set(self, path: str, data: bytes, version: int = -1) -> Deferred[Any]:
        """Answers the node's new stat."""
        return self._ask(self._client.set_async, path, data, version)

    def delete(self, path: str, version: int = -1) -> Deferred[bool]:
        return self._ask(self._client.delete_async, path, version)

    def commit(self, operations: Sequence[Operation]) -> Deferred[list[Any]]:
        """All or nothing. Answers each operation's result in order; where nothing was done, its exception."""
        transaction = self._client.transaction()
        for what, path, data, version in operations:
            match what:
                case "create":
                    transaction.create(path, data)
                case "set":
                    transaction.set_data(path, data, version)
                case "delete":
                    transaction.delete(path, version)
        return self._ask(transaction.commit_async)

    # --- between the threads -----------------------------------------------------------------------------------

    def _answer(self) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self._outstanding.add(answer)

        def gone(result: Any) -> Any:
            self._outstanding.discard(answer)
            return result

        return answer.addBoth(gone)

    def _ask(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        answer = self._answer()
        if self._stopped:
            answer.errback(ConnectionClosedError("the client is stopped"))
            return answer
        # on kazoo's completion thread
        call(*args, **kwargs).rawlink(lambda done: self._hop(answer, done.exception, done.value))
        return answer

    def _hop(self, answer: Deferred[Any], error: BaseException | None, value: Any) -> None:
        self._reactor.callFromThread(self._deliver, answer, error, value)

    def _deliver(self, answer: Deferred[Any], error: BaseException | None, value: Any) -> None:
        # answered already: cancelled by its caller, or failed by stop
        if answer.called:
            return
        if error is not None:
            answer.errback(error)
        else:
            answer.callback(value)

    def _watch(self) -> tuple[Deferred[WatchEvent], Callable[[WatchedEvent], None]]:
        watch: Deferred[WatchEvent] = Deferred()

        # on kazoo's event thread
        def heard(event: WatchedEvent) -> None:
            kind = _EVENTS.get(event.type, "lost")
            self._hop(watch, None, WatchEvent(kind, event.path or ""))

        return watch, heard

    def _changed_state(self, state: str) -> None:
        # on kazoo's connection thread
        self._reactor.callFromThread(self._enter, _STATES[state])

    def _enter(self, state: State) -> None:
        self.state = state
        if not self._stopped:
            for callback in list(self._listeners):
                with _goes_on:
                    callback(state)


_log = Logger(namespace="kateway.registry.zookeeper.client")
_goes_on = _log.failureHandler("a listener of the ZooKeeper session broke; the others are called")


class _ToTwisted(logging.Handler):
    """kazoo's own messages, for debugging: it warns of every refused connection, which the registry reports once."""

    def emit(self, record: logging.LogRecord) -> None:
        _log.debug("kazoo: {message}", message=record.getMessage())


def _quiet_logger() -> logging.Logger:
    # below INFO kazoo logs requests, and with them credentials
    logger = logging.getLogger("kateway.kazoo")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(_ToTwisted())
    return logger
