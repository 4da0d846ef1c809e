"""The registry in ZooKeeper, shared by any number of gateways. ``layout`` says how it lies there.

Each gateway has the whole as a snapshot and follows one node, ``revision``. In any state of the connection, the
snapshot stays in force, and everything is looked at again when there is one: watches do not outlive a connection,
ephemeral nodes do not outlive a session.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from math import inf
from typing import Any, Final, TypeVar

import attrs
from kazoo.exceptions import (
    BadVersionError,
    ConnectionClosedError,
    ConnectionLoss,
    KazooException,
    NodeExistsError,
    NoNodeError,
    OperationTimeoutError,
    SessionExpiredError,
    SessionMovedError,
)
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.errors import BadRequest, KatewayError, OutcomeUnknown, RegistryUnavailable
from kateway.model import Health
from kateway.registry import plans
from kateway.registry.changes import WritableRegistry
from kateway.registry.documents import Kind
from kateway.registry.interface import GatewayEntry, Snapshot
from kateway.registry.plans import Change, Plan
from kateway.registry.zookeeper import layout
from kateway.registry.zookeeper.client import Access, State, ZookeeperClient
from kateway.registry.zookeeper.gateways import Presence
from kateway.registry.zookeeper.key_use import KeyUse
from kateway.registry.zookeeper.multi_read import Node
from kateway.shield import shield

T = TypeVar("T")

REFUSED: Final = (BadVersionError, NodeExistsError, NoNodeError)
"""Failures of a transaction when the nodes are not as it was planned on."""
AWAY: Final = (ConnectionLoss, ConnectionClosedError, SessionExpiredError, SessionMovedError, OperationTimeoutError)
"""Failures of a call when the server, not the call, is at fault."""
RETRY_SECONDS: Final = 1.0
MAX_ATTEMPTS: Final = 100
"""Of a write that loses to others each time; its deadline comes first."""
MAX_NAMED_FAULTS: Final = 5


class ZookeeperRegistry(WritableRegistry):
    """Applications, keys, topics, bindings and live gateways in ZooKeeper.

    ``hosts``: ``host:port,host:port/root``; the root is made if it is missing. ``write_timeout_seconds`` bounds a
    write and the wait of ``start`` for a first answer.
    """

    driver = "zookeeper"
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        hosts: str,
        *,
        session_timeout_seconds: float = 6.0,
        write_timeout_seconds: float = 5.0,
        credentials: str = "",
        access: Access = "open",
    ) -> None:
        super().__init__()
        self._current.snapshot = Snapshot(known=False)
        self._reactor = reactor
        self._addresses, _slash, root = hosts.partition("/")
        self._root = f"/{root.strip('/') or 'kateway'}"
        self._revision_path = f"{self._root}/revision"
        self._write_timeout_seconds = write_timeout_seconds
        timeout = session_timeout_seconds
        self._client = ZookeeperClient(
            reactor, self._addresses, session_timeout_seconds=timeout, credentials=credentials, access=access
        )
        self._client.on_state(self._entered)
        self._lock = DeferredLock()
        self._following: Deferred[None] | None = None
        self._looking = False
        self._dirty = False
        self._retry: Any = None
        self._stopped = False
        self._rooted = False
        self._watched = False
        self._noticed: float | None = None
        """When the first change was heard of that is not in force."""
        self._presence = Presence(self._client, f"{self._root}/gateways", self._wake_soon)
        self._process = Presence(self._client, f"{self._root}/processes", self._wake_soon)
        self._use = KeyUse(self._client, self._root)
        self._away_since: float | None = reactor.seconds()
        self._unheard_since: float | None = -inf
        self._disconnects = 0
        self._fault = ""
        self._left_out: list[str] = []
        self._waiting: list[Deferred[None]] = []

    # --- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._client.start()
        first: Deferred[None] = Deferred()

        def loaded(_snapshot: Snapshot) -> None:
            if not first.called:
                first.callback(None)

        unwatch = self.watch(loaded)
        try:
            await first.addTimeout(self._write_timeout_seconds, self._reactor, lambda _failure, _seconds: None)
        finally:
            unwatch()
        if not self.snapshot.known:
            self._log.warn("{reason}", reason=self.health().reason)

    async def stop(self) -> None:
        self._stopped = True
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._wake_waiting()
        await self._client.stop()
        if self._following is not None:
            await shield(self._following)

    async def reload(self) -> None:
        await self._within(self._alone(self._load_all), self._refusal)

    def health(self) -> Health:
        details = {"driver": self.driver, "hosts": self._addresses, "root": self._root, **self._current.counts()}
        reason = ""
        if self._away_since is not None:
            since = self._reactor.seconds() - self._away_since
            force = "the last snapshot is in force" if self.snapshot.known else "nothing is known yet"
            reason = f"ZooKeeper at {self._addresses} has been away for {since:.0f} s: {force}"
        elif self._fault:
            reason = f"ZooKeeper at {self._addresses}: {self._fault}"
        elif self._left_out:
            reason = f"{len(self._left_out)} left out: {'; '.join(self._left_out[:MAX_NAMED_FAULTS])}"
        return Health(not reason, reason, details)

    @property
    def session(self) -> tuple[int, bytes]:
        """The ZooKeeper session's id and password."""
        return self._client.session

    def _entered(self, state: State) -> None:
        if state == "connected":
            if self._away_since is not None and self.snapshot.known:
                self._log.info("ZooKeeper at {hosts} is back", hosts=self._addresses)
            self._away_since = None
            self._watched = False
            self._presence.reconnected()
            self._process.reconnected()
            self._wake_waiting()
            self._wake()
            return
        self._disconnects += 1
        if self._unheard_since is None:
            self._unheard_since = self._reactor.seconds()
        if self._away_since is None:
            self._away_since = self._reactor.seconds()
            self._log.warn("ZooKeeper at {hosts} is away: the last snapshot is in force", hosts=self._addresses)

    # --- following ---------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Something may have changed. One look at a time; a wake during one makes it look again."""
        self._dirty = True
        if not self._looking and not self._stopped:
            self._looking = True
            self._following = Deferred.fromCoroutine(self._follow())
            self._following.addErrback(lambda failure: self._log.failure("Following the registry failed", failure))

    async def _follow(self) -> None:
        try:
            while self._dirty and not self._stopped and self._away_since is None:
                self._dirty = False
                try:
                    await self._alone(self._look)
                    self._fault = ""
                except KazooException as error:
                    self._again(error)
                except Exception as error:
                    self._fault = f"the registry could not be read: {error!r}"
                    self._log.failure("a look at the registry broke; it is tried again")
                    self._wake_soon()
        finally:
            self._looking = False

    def _again(self, error: KazooException) -> None:
        """After a failure: the connection's return wakes too, but not every failure is the connection's."""
        if not isinstance(error, AWAY):
            self._fault = f"{type(error).__name__} {error}".strip()
            self._log.warn("ZooKeeper at {hosts}: {fault}", hosts=self._addresses, fault=self._fault)
        self._wake_soon()

    def _wake_soon(self) -> None:
        if not self._stopped and (self._retry is None or not self._retry.active()):
            self._retry = self._reactor.callLater(RETRY_SECONDS, self._wake)

    async def _look(self) -> None:
        if not self._rooted:
            await self._make_root()
        disconnects = self._disconnects
        try:
            await self._catch_up(await self._read_revision())
            await self._enter_list(disconnects)
        except NoNodeError:
            # the root, or a folder below it, was deleted by hand
            self._rooted = False
            raise

    async def _enter_list(self, disconnects: int) -> None:
        """Enters this gateway in the list. From then on the one that leads waits for it, so what it announced before
        has to be known here, and is: a session sees all that was written before its own write.
        """
        made = await self._process.ensure()
        if await self._presence.ensure() or made:
            await self._catch_up(await self._read_revision())
        entered = self._presence.entry is not None or self._process.entry is not None
        if entered and disconnects == self._disconnects:
            self._unheard_since = None

    async def _read_revision(self) -> layout.Revision:
        if self._watched:
            return layout.read_revision(*await self._client.get(self._revision_path))
        result, watch = self._client.get_and_watch(self._revision_path)
        revision = layout.read_revision(*await result)
        self._watched = True
        watch.addCallback(self._heard)
        return revision

    def _heard(self, _event: object) -> None:
        if self._noticed is None:
            self._noticed = self._reactor.seconds()
        self._watched = False
        self._wake()

    async def _make_root(self) -> None:
        for folder in (*layout.KINDS, "gateways", "processes", "used"):
            await self._client.ensure_path(f"{self._root}/{folder}")
        await self._client.ensure_path(self._revision_path)
        self._rooted = True

    async def _catch_up(self, revision: layout.Revision) -> None:
        """Brings the snapshot to ``revision``, by its steps where they reach back far enough."""
        snapshot = self.snapshot
        if snapshot.known and snapshot.revision == revision.zxid:
            return
        steps = revision.since(snapshot.revision) if snapshot.known else None
        if steps is None:
            await self._load_all()
            return
        try:
            changes = [layout.change_of(step.zxid, *change) for step in steps for change in step.changes]
        except BadRequest:
            await self._load_all()
            return
        self._replace(plans.apply(snapshot, changes, revision.zxid))

    async def _load_all(self) -> None:
        """Reads every entry. Changes meanwhile are in the steps since, or wake us again."""
        revision = layout.read_revision(*await self._client.get(self._revision_path))
        nodes: dict[Kind, dict[str, Node]] = {}
        for kind in layout.KINDS:
            names = await self._client.get_children(f"{self._root}/{kind}")
            nodes[kind] = await self._client.get_many([f"{self._root}/{kind}/{name}" for name in names])
        # ten thousand entries take long enough to make that streams would notice
        pool = self._reactor.getThreadPool()
        snapshot, self._left_out = await deferToThreadPool(
            self._reactor, pool, layout.read_entries, nodes, revision.zxid
        )
        for fault in self._left_out:
            self._log.warn("Left out of the registry: {fault}", fault=fault)
        self._replace(snapshot)
        self._wake()

    def _replace(self, snapshot: Snapshot) -> None:
        noticed, self._noticed = self._noticed, None
        self._current.replace(snapshot, noticed)

    # --- writing -----------------------------------------------------------------------------------------------

    async def _commit(self, plan: Plan) -> tuple[Snapshot, Snapshot]:
        write = _Write(plan, self._reactor.seconds() + self._write_timeout_seconds)

        def refusal() -> KatewayError:
            if write.sent:
                return OutcomeUnknown("ZooKeeper did not answer in time: the change may be made or not, read it again")
            return self._refusal()

        if self._away_since is not None or not self.snapshot.known:
            raise self._refusal()
        return await self._within(self._alone(lambda: self._carry_out(write)), refusal)

    async def _carry_out(self, write: _Write) -> tuple[Snapshot, Snapshot]:
        """Plans and writes until no other writer was faster. Goes on, to its deadline, when its caller is gone."""
        for _attempt in range(MAX_ATTEMPTS):
            if self._stopped or self._reactor.seconds() >= write.deadline:
                break
            try:
                return await self._attempt(write)
            except REFUSED as error:
                if not isinstance(error, BadVersionError):
                    # nodes were changed by hand: our snapshot is out of date
                    await self._load_all()
            except AWAY as error:
                if not write.sent:
                    raise self._refusal() from error
                await self._connected(write.deadline)
        if write.sent:
            raise OutcomeUnknown("others change the registry all the time: read it again and repeat the change on that")
        raise self._refusal()

    async def _attempt(self, write: _Write) -> tuple[Snapshot, Snapshot]:
        await self._client.sync(self._revision_path)
        revision = layout.read_revision(*await self._client.get(self._revision_path))
        await self._catch_up(revision)
        if write.sent and revision.has(write.id):
            # an attempt that was not answered did it after all
            return write.before, self.snapshot
        write.before = before = self.snapshot
        changes = write.plan(before)
        if not changes:
            return before, before
        exists = [plans.found(before, change.kind, change.name) is not None for change in changes]
        content = layout.next_revision(revision, write.id, changes)
        write.sent = True
        results = await self._client.commit(
            [("set", self._revision_path, content, revision.version), *layout.operations(self._root, changes, exists)]
        )
        failures = [result for result in results if isinstance(result, KazooException)]
        if failures:
            # those that were merely rolled back along with the one at fault have no class of interest
            raise next((error for error in failures if type(error) in REFUSED), failures[0])
        zxid = results[0].mzxid
        stamped = [_stamped(change, layout.etag_of(zxid)) for change in changes]
        after = plans.apply(before, stamped, zxid)
        self._current.replace(after)
        return before, after

    async def _delete(self, plan: Plan) -> None:
        before, after = await self._commit(plan)
        # an application takes its keys with it
        for key in before.keys.keys() - after.keys.keys():
            await self._use.forget(key)

    # --- gateways and use --------------------------------------------------------------------------------------

    async def register_gateway(self, entry: GatewayEntry) -> None:
        self._presence.entry = entry
        await self._enter()

    async def register_process(self, entry: GatewayEntry) -> None:
        self._process.entry = entry
        await self._enter()

    async def _enter(self) -> None:
        if self._away_since is not None or not self._rooted:
            return
        disconnects = self._disconnects
        try:
            await self._alone(lambda: self._enter_list(disconnects))
        except KazooException as error:
            self._again(error)

    @property
    def unheard_since(self) -> float | None:
        return self._unheard_since

    async def lead(self, report: bytes) -> bool:
        return await self._within(self._lead(report), self._refusal)

    async def _lead(self, report: bytes) -> bool:
        path = f"{self._root}/leader"
        try:
            told, stat = await self._client.get(path)
        except NoNodeError:
            try:
                await self._client.create(path, report, ephemeral=True)
            except NodeExistsError:
                return False
            return True
        if stat.ephemeralOwner != self._client.session[0]:
            return False
        if told != report:
            await self._client.set(path, report)
        return True

    async def leader_report(self) -> bytes:
        return await self._within(self._read_report(), self._refusal)

    async def _read_report(self) -> bytes:
        try:
            told, _stat = await self._client.get(f"{self._root}/leader")
        except NoNodeError:
            return b""
        return told

    async def gateways(self) -> Sequence[GatewayEntry]:
        return await self._within(self._presence.list_all(), self._refusal)

    async def placing(self) -> Sequence[GatewayEntry]:
        return await self._within(self._list_placing(), self._refusal)

    async def _list_placing(self) -> Sequence[GatewayEntry]:
        # the processes last: what has come between the two is seen, and what has gone was seen before
        alone = [entry for entry in await self._presence.list_all() if entry.processes <= 1]
        return [*alone, *await self._process.list_all()]

    async def note_used(self, used: Mapping[str, int]) -> None:
        known = self.snapshot.keys
        await self._within(self._use.note({key: at for key, at in used.items() if key in known}), self._refusal)

    async def last_used(self, keys: Collection[str]) -> Mapping[str, int]:
        return await self._within(self._use.last(keys), self._refusal)

    # --- waiting -----------------------------------------------------------------------------------------------

    async def _alone(self, work: Callable[[], Awaitable[T]]) -> T:
        await self._lock.acquire()
        try:
            return await work()
        finally:
            self._lock.release()

    async def _within(self, work: Coroutine[Deferred[Any], Any, T], refusal: Callable[[], KatewayError]) -> T:
        """Answers with the result of ``work`` in time, or with ``refusal()``; the work itself goes on to its end."""
        if self._stopped or self._away_since is not None:
            work.close()
            raise refusal()

        def late(_result: T | Failure, _seconds: float) -> T:
            raise refusal()

        answer = shield(Deferred.fromCoroutine(work))
        try:
            return await answer.addTimeout(self._write_timeout_seconds, self._reactor, late)
        except AWAY as error:
            raise refusal() from error
        except KazooException as error:
            raise RegistryUnavailable(f"ZooKeeper: {type(error).__name__} {error}") from error

    def _refusal(self) -> KatewayError:
        return RegistryUnavailable(f"ZooKeeper at {self._addresses} cannot be reached")

    def _wake_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(None)

    async def _connected(self, deadline: float) -> None:
        """Waits for a connection, or for ``deadline``."""
        if self._away_since is None:
            return
        waiter: Deferred[None] = Deferred()
        self._waiting.append(waiter)
        left = max(0.0, deadline - self._reactor.seconds())
        await waiter.addTimeout(left, self._reactor, lambda _failure, _seconds: None)


class _Write:
    """A write under way: its purpose, its deadline, and whether an attempt of it has been sent."""

    def __init__(self, plan: Plan, deadline: float) -> None:
        self.plan = plan
        self.deadline = deadline
        self.id = secrets.token_hex(8)
        self.sent = False
        self.before = Snapshot()


def _stamped(change: Change, etag: str) -> Change:
    return change if change.entry is None else attrs.evolve(change, entry=attrs.evolve(change.entry, etag=etag))
