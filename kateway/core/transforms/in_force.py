"""Finds the transforms that apply to a request, as the registry has them at this moment, compiled.

Transforms are compiled when they are first needed and kept for as long as their entry is in the registry's snapshot.
An entry that does not compile (a newer gateway may have written it) refuses every record on its way in and ends every
stream on its way out: to pass records through unmasked would be worse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs
from twisted.logger import Logger

from kateway.bounded_cache import BoundedCache
from kateway.core.transforms import document
from kateway.core.transforms.document import Plugins
from kateway.core.transforms.expressions import Expression
from kateway.core.transforms.pipeline import Dropped, Kept, Pipeline, Rejected
from kateway.core.transforms.record_view import RecordView
from kateway.core.transforms.steps import SchemaStep
from kateway.errors import KatewayError, TransformFailed
from kateway.model import Record
from kateway.registry.interface import (
    DEAD_SUFFIX,
    Binding,
    OnError,
    OutgoingTransforms,
    Snapshot,
    TopicName,
    Transforms,
    open_topic,
)

_log = Logger()
MOST_FILTERS = 1000
"""Compiled filters that are kept."""


@attrs.frozen
class Shown:
    """A record as its subscriber sees it."""

    record: Record


@attrs.frozen
class Failed:
    """A step failed on a record, and ``on_error`` says what becomes of it."""

    error: KatewayError
    on_error: OnError


PASSED_OVER = Dropped()
Outcome = Shown | Dropped | Failed


@attrs.frozen
class Outgoing:
    """What one subscriber sees of a topic: the topic's steps, its binding's, and the filters of both ends."""

    pipelines: tuple[Pipeline, ...] = ()
    filters: tuple[Expression, ...] = ()
    no_dead_letters: bool = False
    """Of dead letters, and of a subscriber that has none: a record on which a step fails ends the stream."""

    def show(self, record: Record, partition: int, now: float) -> Outcome:
        """Runs the steps, then the filters. ``now``: seconds since the epoch."""
        for pipeline in self.pipelines:
            outcome = pipeline.apply(record, now, partition)
            if isinstance(outcome, Kept):
                record = outcome.record
            elif isinstance(outcome, Rejected):
                return Failed(_without_values(pipeline, outcome), self._instead(pipeline.on_error, outcome.error))
            else:
                return PASSED_OVER
        if self.filters:
            view = RecordView.of(record, partition)
            for each in self.filters:
                try:
                    if not each.is_true(view, now):
                        return PASSED_OVER
                except TransformFailed:
                    # what it is not true of is passed over, and it is true of no record that it cannot be asked of
                    return PASSED_OVER
        return Shown(record)

    def _instead(self, on_error: OnError, error: KatewayError) -> OnError:
        # a plugin that is taken out for a minute must not send everything that is read meanwhile to the dead letters
        temporary = isinstance(error, TransformFailed) and error.temporary
        return "stop" if on_error == "dead" and (self.no_dead_letters or temporary) else on_error


def _without_values(pipeline: Pipeline, outcome: Rejected) -> TransformFailed:
    """The failure as a subscriber may see it: the words of a library have values of the record, which a later step
    would have masked.
    """
    step = pipeline.steps[outcome.step]
    if isinstance(step, Broken):
        return TransformFailed("the topic's transforms cannot be used by this gateway; its log says why")
    return TransformFailed(
        f"step {outcome.step} ({step.kind}) of the topic's transforms on the way out fails on this record; "
        "a try of them by an operator says why"
    )


class Broken:
    """The one step of transforms that do not compile."""

    kind: ClassVar[str] = "broken"

    def __init__(self, error: KatewayError) -> None:
        self._detail = f"the transforms in force do not compile: {error.detail}"

    def run(self, view: RecordView, now: float) -> RecordView | None:
        raise TransformFailed(self._detail)

    def table(self) -> dict[str, Any]:
        return {}


class TransformsInForce:
    """The compiled transforms of the snapshot in force."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], now: Callable[[], float], plugins: Plugins | None = None
    ) -> None:
        self.now = now
        """Seconds since the epoch, for the expressions."""
        self.plugins: Plugins = {} if plugins is None else plugins
        self._snapshot = snapshot
        self._seen: Snapshot | None = None
        self._topics: Mapping[TopicName, Transforms] = {}
        self._stored: Mapping[str, Transforms] = {}
        """In open mode: by the topic's name in the store."""
        self._filters: BoundedCache[str, Expression] = BoundedCache(MOST_FILTERS)
        self._compiled: dict[int, tuple[object, Any]] = {}
        """By the identity of the entry, which is kept with it: what was made of it."""

    @property
    def any_topic(self) -> bool:
        """Whether any topic has transforms. Hot: publishes look at nothing else where none has."""
        snapshot = self._snapshot()
        if snapshot is not self._seen:
            self._changed(snapshot)
        return bool(self._topics)

    def incoming(self, name: TopicName) -> Pipeline | None:
        """The steps of a topic for records on their way in; ``None`` where there are none. Hot."""
        snapshot = self._snapshot()
        if snapshot is not self._seen:
            self._changed(snapshot)
        if not self._topics:
            return None
        entry = self._topics.get(name) or self._alias(name)
        if entry is None or not entry.incoming:
            return None
        return self._compile(entry)[0]

    def outgoing(
        self, subscriber: str, name: TopicName, extra: Expression | None, *, dead: bool = False
    ) -> Outgoing | None:
        """What a subscriber sees of a topic; ``None`` where that is every record as it is. ``extra``: the filter of
        its request.
        """
        snapshot = self._snapshot()
        if snapshot is not self._seen:
            self._changed(snapshot)
        pipelines: list[Pipeline] = []
        filters: list[Expression] = []
        entry = (self._topics.get(name) or self._alias(name)) if self._topics else None
        if entry is not None and entry.name != name:
            dead = dead or name[1].endswith(DEAD_SUFFIX)
        if entry is not None and entry.outgoing:
            pipelines.append(self._compile(entry)[1])
        binding = snapshot.bindings.get((subscriber, *name))
        if binding is not None and (binding.transforms is not None or binding.filter is not None):
            pipeline, expression = self._compile_binding(binding)
            if pipeline is not None:
                pipelines.append(pipeline)
            if expression is not None:
                filters.append(expression)
        if extra is not None:
            filters.append(extra)
        if not pipelines and not filters:
            return None
        no_letters = dead or (binding is not None and not binding.dead_letter)
        return Outgoing(tuple(pipelines), tuple(filters), no_letters)

    def filter(self, text: str) -> Expression:
        """Compiles the filter that a request asks for. ``ExpressionInvalid`` names line, column and fault."""
        found = self._filters.get(text)
        return self._filters.keep(text, Expression.compile(text)) if found is None else found

    def schema(self, name: TopicName) -> Any:
        """The JSON Schema that a topic's records must satisfy on their way in; ``None`` where there is none."""
        pipeline = self.incoming(name)
        steps = () if pipeline is None else pipeline.steps
        return next((step.schema.document for step in steps if isinstance(step, SchemaStep)), None)

    def compile(self, entry: Transforms) -> tuple[Pipeline, Pipeline]:
        """Compiles the steps of both directions. ``ExpressionInvalid`` or ``BadRequest`` names each fault's place."""
        read = document.read(
            {"in": list(entry.incoming), "out": list(entry.outgoing), "on_error": entry.on_error}, self.plugins
        )
        return (
            Pipeline.of(read, "in", generation=entry.generation),
            Pipeline.of(read, "out", generation=entry.generation),
        )

    def compile_binding(self, binding: Binding) -> tuple[Pipeline | None, Expression | None]:
        """Compiles a binding's own steps and filter; errors as of ``compile``."""
        pipeline = None if binding.transforms is None else self._of_binding(binding.transforms)
        return pipeline, None if binding.filter is None else Expression.compile(binding.filter)

    def _of_binding(self, transforms: OutgoingTransforms) -> Pipeline:
        read = document.read({"out": list(transforms.outgoing), "on_error": transforms.on_error}, self.plugins)
        return Pipeline.of(read, "out")

    def _alias(self, name: TopicName) -> Transforms | None:
        """In open mode: the transforms of the same topic by another name (``orders.v2`` of ``v1`` is ``orders`` of
        ``v2``), or of the topic whose dead letters these are.
        """
        if not self._stored:
            return None
        stored = open_topic(name[1], name[2])
        found = self._stored.get(stored)
        if found is None and stored.endswith(DEAD_SUFFIX):
            # <topic>.<group>.dead, and both may have dots: the longest that has transforms
            parts = stored.split(".")
            for count in range(len(parts) - 2, 0, -1):
                found = self._stored.get(".".join(parts[:count]))
                if found is not None:
                    break
        return found

    def _changed(self, snapshot: Snapshot) -> None:
        self._seen = snapshot
        self._topics = snapshot.transforms
        self._stored = (
            {open_topic(entry.topic, entry.version): entry for entry in snapshot.transforms.values()}
            if snapshot.open
            else {}
        )
        kept = {id(entry) for entry in snapshot.transforms.values()}
        kept.update(id(binding) for binding in snapshot.bindings.values() if id(binding) in self._compiled)
        self._compiled = {key: found for key, found in self._compiled.items() if key in kept}

    def _compile(self, entry: Transforms) -> tuple[Pipeline, Pipeline]:
        found: tuple[Pipeline, Pipeline]
        known = self._compiled.get(id(entry))
        if known is not None:
            found = known[1]
            return found
        try:
            found = self.compile(entry)
        except KatewayError as error:
            _log.warn("transforms.{name}: {error}", name="/".join(entry.name), error=error.detail)
            broken = (Broken(error),)
            found = (Pipeline(broken, "stop"), Pipeline(broken, "stop"))
        self._compiled[id(entry)] = (entry, found)
        return found

    def _compile_binding(self, binding: Binding) -> tuple[Pipeline | None, Expression | None]:
        found: tuple[Pipeline | None, Expression | None]
        known = self._compiled.get(id(binding))
        if known is not None:
            found = known[1]
            return found
        try:
            found = self.compile_binding(binding)
        except KatewayError as error:
            _log.warn("bindings.{name}: {error}", name="/".join(binding.name), error=error.detail)
            found = (Pipeline((Broken(error),), "stop"), None)
        self._compiled[id(binding)] = (binding, found)
        return found


def faults(snapshot: Snapshot, plugins: Plugins) -> list[str]:
    """Compiles all transforms and filters of a snapshot; each fault with its entry and place. Some 0.2 ms an entry."""
    compiler = TransformsInForce(lambda: snapshot, lambda: 0.0, plugins)
    found: list[str] = []
    for entry in snapshot.transforms.values():
        try:
            compiler.compile(entry)
        except KatewayError as error:
            found.append(f"transforms.{'/'.join(entry.name)}: {error.detail}")
    for binding in snapshot.bindings.values():
        try:
            compiler.compile_binding(binding)
        except KatewayError as error:
            found.append(f"bindings.{'/'.join(binding.name)}: {error.detail}")
    return found


class View:
    """One caller's view of a topic: follows each change of the registry, between two records of a stream."""

    __slots__ = ("_outgoing", "_seen", "dead", "extra", "in_force", "subscriber", "topic")

    def __init__(
        self,
        in_force: TransformsInForce,
        subscriber: str,
        name: TopicName,
        extra: Expression | None = None,
        *,
        dead: bool = False,
    ) -> None:
        self.in_force = in_force
        self.extra = extra
        """The filter that the caller asked for."""
        self.subscriber = subscriber
        self.topic = name
        self.dead = dead
        self._seen: Snapshot | None = None
        self._outgoing: Outgoing | None = None

    def outgoing(self) -> Outgoing | None:
        """What applies now; ``None`` where records go out as they are. Hot: asked for each batch."""
        snapshot = self.in_force._snapshot()
        if snapshot is not self._seen:
            self._seen = snapshot
            self._outgoing = self.in_force.outgoing(self.subscriber, self.topic, self.extra, dead=self.dead)
        return self._outgoing
