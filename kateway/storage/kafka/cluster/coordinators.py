"""Finds a group's coordinator: asked for once, forgotten when it turns out wrong; and says how one is joined there."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from kateway.bounded_cache import BoundedCache
from kateway.errors import KatewayError, Unavailable
from kateway.gathering import gathered
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.cluster.connection import RequestFailed
from kateway.storage.kafka.cluster.pool import Pool
from kateway.storage.kafka.cluster.waiting import SharedQuestions
from kateway.storage.kafka.protocol.consumer_group_requests import (
    CONSUMER_GROUP_HEARTBEAT,
    CONSUMER_GROUP_HEARTBEAT_VERSION,
)
from kateway.storage.kafka.protocol.errors import error_for
from kateway.storage.kafka.protocol.group_members import CONSUMER_GROUP_DESCRIBE
from kateway.storage.kafka.protocol.group_requests import (
    JOIN_GROUP,
    JOIN_GROUP_VERSION,
    NAMING_JOIN_GROUP_VERSION,
    STATIC_JOIN_GROUP_VERSION,
)
from kateway.storage.kafka.protocol.metadata import API_VERSIONS, API_VERSIONS_VERSION, decode_api_versions
from kateway.storage.kafka.protocol.primitives import MalformedResponse
from kateway.storage.kafka.protocol.requests import (
    FIND_COORDINATOR,
    FIND_COORDINATOR_VERSION,
    FIND_COORDINATORS_VERSION,
    decode_find_coordinator,
    decode_find_coordinators,
    encode_find_coordinator,
    encode_find_coordinators,
)

NOT_HERE = frozenset({14, 15, 16})
"""Loading, none just now, another broker: ask again."""

MAX_KNOWN_GROUPS = 10000
MOST_GROUPS_AT_ONCE = 500
"""In one question."""
ASK_TIMEOUT_SECONDS = 3.0

_log = Logger()


class Coordinators:
    """The coordinators of groups, as last heard."""

    def __init__(self, client: Client, pool: Pool) -> None:
        self._client = client
        self._pool = pool
        self._known: BoundedCache[str, int] = BoundedCache(MAX_KNOWN_GROUPS)
        self._versions: dict[int, Mapping[int, tuple[int, int]]] = {}
        self._under_way: dict[str, list[Deferred[int]]] = {}
        self._asked: dict[str, list[Deferred[int]]] = {}
        """Groups whose coordinator is to be asked for, with the callers that wait."""
        self._asking = False
        # hundreds of members that begin at once ask the same, on one connection: 437 times for 50 groups
        self._learning: SharedQuestions[Mapping[int, tuple[int, int]]] = SharedQuestions()

    async def find(self, group: str) -> int:
        """The node that coordinates ``group``; ``Unavailable`` where no broker knows it just now."""
        known = self._known.get(group)
        return known if known is not None else await self.ask(group)

    async def ask(self, group: str) -> int:
        """The same, asked anew."""
        answer: Deferred[int] = Deferred()
        waiting = self._under_way.get(group)
        if waiting is None:
            waiting = self._asked.setdefault(group, [])
        waiting.append(answer)
        if not self._asking:
            self._asking = True
            asking = Deferred.fromCoroutine(self._ask())
            asking.addErrback(lambda failure: _log.failure("the question for coordinators broke", failure))
        return await answer

    async def _ask(self) -> None:
        """Asks for all groups that came while the question before was under way, at once: hundreds that are joined
        together would wait for each other, as a connection to Kafka is serial, and for longer than a request may.
        """
        try:
            while self._asked:
                asked = {group: self._asked.pop(group) for group in list(self._asked)[:MOST_GROUPS_AT_ONCE]}
                self._under_way = asked
                try:
                    found = await self._look(asked)
                except KatewayError as error:
                    found = dict.fromkeys(asked, error)
                except Exception:
                    _log.failure("the question for coordinators broke")
                    found = dict.fromkeys(asked, Unavailable("the gateway's log says why no coordinator was found"))
                self._under_way = {}
                for group, answers in asked.items():
                    outcome = found[group]
                    for answer in answers:
                        if answer.called:
                            continue  # its caller has given up
                        if isinstance(outcome, KatewayError):
                            answer.errback(outcome)
                        else:
                            answer.callback(outcome)
        finally:
            self._asking, self._under_way = False, {}

    async def _look(self, groups: Iterable[str]) -> dict[str, int | KatewayError]:
        """Each group's node, or why it is not known, from the first broker that says."""
        nodes = list(self._client.view.brokers)
        random.shuffle(nodes)
        nodes.sort(key=lambda node: node != self._client.source)  # first the one that proved to be alive last
        failures = dict.fromkeys(groups, "no broker is known")
        found: dict[str, int | KatewayError] = {}
        for node in nodes:
            if not failures:
                break
            try:
                heard = await self._coordinators_by(node, list(failures))
            except (RequestFailed, MalformedResponse) as failed:
                failures = dict.fromkeys(failures, str(failed))
                continue
            for group, (error, coordinator) in heard.items():
                if error in NOT_HERE:
                    failures[group] = f"error {error}"
                    continue
                failures.pop(group, None)
                if error:
                    found[group] = error_for(error, f"asking for the coordinator of group {group}")
                else:
                    found[group] = self._known.keep(group, coordinator)
        if any(isinstance(node, int) and node not in self._client.view.brokers for node in found.values()):
            await self._client.refresh()
        for group, why in failures.items():
            found[group] = Unavailable(f"the coordinator of group {group} is not known just now: {why}")
        return found

    async def _coordinators_by(self, node: int, groups: Sequence[str]) -> Mapping[str, tuple[int, int]]:
        """Error and node of each group's coordinator, as a broker says."""
        _lowest, highest = (await self._versions_of(node)).get(FIND_COORDINATOR, (0, 0))
        if highest >= FIND_COORDINATORS_VERSION:
            body = encode_find_coordinators(groups)
            return decode_find_coordinators(await self._request(node, FIND_COORDINATORS_VERSION, body))
        asking = [self._request(node, FIND_COORDINATOR_VERSION, encode_find_coordinator(group)) for group in groups]
        answers = await gathered(asking)
        return {group: decode_find_coordinator(body) for group, body in zip(groups, answers, strict=True)}

    def _request(self, node: int, version: int, body: bytes) -> Deferred[bytes]:
        return self._pool.request(node, FIND_COORDINATOR, version, body, timeout_seconds=ASK_TIMEOUT_SECONDS)

    async def join_version(self, node: int) -> int:
        """The JoinGroup that a broker is to be spoken to in. ``RequestFailed``, ``MalformedResponse``."""
        _lowest, highest = (await self._versions_of(node)).get(JOIN_GROUP, (0, 0))
        known = (STATIC_JOIN_GROUP_VERSION, NAMING_JOIN_GROUP_VERSION)
        return next((each for each in known if each <= highest), JOIN_GROUP_VERSION)

    async def lists_consumer_protocol(self, node: int) -> bool:
        """Whether a broker knows the protocol in which it assigns; it may have it switched off all the same."""
        _lowest, highest = (await self._versions_of(node)).get(CONSUMER_GROUP_HEARTBEAT, (0, -1))
        return highest >= CONSUMER_GROUP_HEARTBEAT_VERSION

    async def describes_consumer_groups(self, node: int) -> bool:
        """Whether a broker names members of groups in which it assigns. ``RequestFailed``, ``MalformedResponse``."""
        return CONSUMER_GROUP_DESCRIBE in await self._versions_of(node)

    async def _versions_of(self, node: int) -> Mapping[int, tuple[int, int]]:
        """What a broker speaks; asked once."""
        versions = self._versions.get(node)
        return await self._learning.ask(node, lambda: self._learn(node)) if versions is None else versions

    async def _learn(self, node: int) -> Mapping[int, tuple[int, int]]:
        body = await self._pool.request(
            node, API_VERSIONS, API_VERSIONS_VERSION, b"", timeout_seconds=ASK_TIMEOUT_SECONDS
        )
        versions = self._versions[node] = decode_api_versions(body)
        return versions

    def forget(self, group: str) -> None:
        """Forgets the coordinator, and what it speaks: a broker may come back as another version."""
        node = self._known.pop(group, None)
        if node is not None:
            self._versions.pop(node, None)
