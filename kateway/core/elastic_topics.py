"""Places the keyed messages of elastic topics by the registry, and holds those back whose key moves.

Each gateway goes by its own copy of a placement, and copies are up to a second apart. So a change has steps
(``registry.interface.Placement``): as soon as it is announced here, the keys that will move are held back; when nothing
that was placed before is on its way any more this gateway says so in its entry, and only when all gateways have said so
do the new partitions come into force.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from math import inf

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from kateway.core.access.control import Place
from kateway.core.elastic_topic import LONGEST_PUBLISH_SECONDS, ElasticTopic, Pulse
from kateway.core.held_back import Counts, Room
from kateway.errors import KatewayError
from kateway.registry.interface import Elastic, Placement, Snapshot, Topic
from kateway.storage.interface import Store

ASK_SECONDS = 1.0
"""A registry that does not answer is asked so often."""

_log = Logger()


class ElasticTopics:
    """The elastic topics of this gateway. ``unheard_since``: as the registry's; ``lease_seconds``: so long it may be
    unheard before keyed messages are held back; ``told`` is called when an acknowledgement is to be told; ``ask``
    asks the registry anything: where the answer comes, what was changed before is known here, or ``unheard_since``
    says so.
    """

    def __init__(
        self,
        stores: Mapping[str, Store],
        clock: IReactorTime,
        unheard_since: Callable[[], float | None],
        counts: Counts,
        told: Callable[[], None],
        ask: Callable[[], Awaitable[object]],
        *,
        kept: Callable[[str, str], bool] = lambda _cluster, _topic: False,
        lease_seconds: float,
        max_held_bytes: int,
    ) -> None:
        self.topics: dict[tuple[str, str], ElasticTopic] = {}
        """By cluster and name in the store. Looked at by every publish: empty where no topic is elastic."""
        self._stores = stores
        self._clock = clock
        self._unheard_since = unheard_since
        self._counts = counts
        self._told = told
        self._kept = kept
        self._lease_seconds = lease_seconds
        self._ask = ask
        self._pulse = Pulse(clock, lease_seconds or inf)
        self._asking = False
        self._stood_still = False
        self.room = Room(max_held_bytes)
        self._ask_at = 0.0
        self._before = Snapshot()
        self._left: dict[tuple[str, str], float] = {}
        """Since when topics are not registered any more; publishes to them may be under way."""
        self._elsewhere: dict[str, int] = {}
        """The placements of topics whose cluster this gateway does not have: it writes nothing to them."""

    def of(self, place: Place) -> ElasticTopic | None:
        """Returns a place's elastic topic."""
        return self.topics.get((place.cluster, place.topic))

    def update(self, snapshot: Snapshot) -> None:
        """Goes by the registry's entries."""
        if not snapshot.known:
            return
        since = self._clock.seconds()
        wanted: dict[tuple[str, str], tuple[Topic, Placement | None]] = {}
        told, self._elsewhere = self._elsewhere, {}
        for topic in snapshot.topics.values():
            placement = snapshot.placements.get(topic.name)
            if topic.elastic is None and placement is None:
                continue
            if topic.cluster in self._stores:
                wanted[topic.cluster, topic.stored_as] = topic, placement
            else:
                self._elsewhere["/".join(topic.name)] = 0 if placement is None else placement.generation
        self._note_left(snapshot, since)
        former: set[tuple[str, str]] | None = None
        gone = {
            key
            for key, found in self.topics.items()
            # a name in the store may be another topic's by now
            if key not in wanted or found.name != "/".join(wanted[key][0].name)
        }
        for key in gone:
            self.topics.pop(key).stop()
        for key, (topic, placement) in wanted.items():
            found = self.topics.get(key)
            if found is None:
                if former is None:
                    former = {_place_of(each) for each in self._before.topics.values()}
                # one that was not known before, under any name, has none on its way that were placed by the store
                since_then = since if key in former else self._left.get(key, -inf)
                found = self.topics[key] = ElasticTopic(
                    topic,
                    self._stores[topic.cluster],
                    self._clock,
                    self.room,
                    self._counts,
                    partial(self._kept, *key),
                    self._pulse,
                    since_then,
                )
            found.take(placement, topic.elastic or Elastic())
        self._before = snapshot
        if (gone and not self.topics) or told != self._elsewhere:
            self._told()
        self.look()

    def _note_left(self, snapshot: Snapshot, since: float) -> None:
        """Notes which topics are not registered any more, or lie elsewhere."""
        self._left = {key: at for key, at in self._left.items() if since - at < LONGEST_PUBLISH_SECONDS}
        former, topics = self._before.topics, snapshot.topics
        if former is topics:
            return
        for name, topic in former.items():
            later = topics.get(name)
            # of ten thousand topics mostly one has changed
            if later is not topic and (later is None or _place_of(later) != _place_of(topic)):
                self._left[_place_of(topic)] = since

    def look(self) -> None:
        """Looks at each topic; to be called several times a second while there are any."""
        now = self._clock.seconds()
        if now - self._pulse.looked_at > self._pulse.longest_seconds and self.topics:
            self._stood_still = True
        self._pulse.looked_at = now
        if not self.topics:
            return
        if self._stood_still and not self._asking and now >= self._ask_at:
            self._asking = True
            self._ask_at = now + ASK_SECONDS
            asking = Deferred.fromCoroutine(self._find_out())
            asking.addErrback(lambda failure: _log.failure("the registry could not be asked", failure))
        since = self._unheard_since()
        cut_off = self._stood_still or (since is not None and now - since >= self._lease_seconds)
        before = self.placed()
        for topic in self.topics.values():
            if cut_off != topic.cut_off or topic.restless:
                topic.look(cut_off)
        if self.placed() != before:
            self._told()

    async def _find_out(self) -> None:
        """Finds out whether this gateway was taken for dead while it stood still."""
        try:
            await self._ask()
            self._stood_still = False
        except KatewayError:
            # until it is asked again, at a later look
            pass
        finally:
            self._asking = False

    def placed(self) -> Mapping[str, int]:
        """Returns the generations that this gateway goes by, for its entry in the registry."""
        own = {topic.name: topic.acknowledged for topic in self.topics.values() if topic.acknowledged is not None}
        return {**self._elsewhere, **own}

    def stop(self) -> None:
        """Answers everything that is held back."""
        for topic in self.topics.values():
            topic.fail()


def _place_of(topic: Topic) -> tuple[str, str]:
    return topic.cluster, topic.stored_as
