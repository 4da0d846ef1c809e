"""Applies the steps of one direction to records, in order, within the time that a record may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import attrs
from twisted.logger import Logger

from kateway.core.transforms import document as documents
from kateway.core.transforms.document import Direction, Plugins, Transforms
from kateway.core.transforms.record_view import RecordView
from kateway.core.transforms.steps import Fields, Step, fields_of
from kateway.errors import KatewayError, SchemaInvalid, TransformFailed, TransformRejected
from kateway.model import Headers, Message, Record
from kateway.registry.interface import OnError

TRANSFORMED = "kateway-transformed"
"""The header of a record that was changed: the generation of the transforms."""
MAX_SECONDS = 0.05
"""Of all steps on one record. A step that has begun is bounded by itself; no further one is begun after this."""

R = TypeVar("R", Message, Record)
_log = Logger()


@attrs.frozen
class Kept(Generic[R]):
    """The record goes on, as the same object if no step changed it."""

    record: R


@attrs.frozen
class Dropped:
    """The record is passed over."""


@attrs.frozen
class Rejected:
    """The record is refused, or a step fails on it. ``error`` is to raise on the way in."""

    error: TransformRejected | SchemaInvalid | TransformFailed
    step: int = 0
    """The number of the step, from 0."""

    @property
    def code(self) -> str:
        return self.error.code

    @property
    def detail(self) -> str:
        return self.error.detail


DROPPED = Dropped()


@attrs.frozen
class TracedStep:
    """A step of a dry run. ``after`` is null where the record was dropped or refused; ``error`` says why."""

    kind: str
    before: Fields
    after: Fields | None
    seconds: float
    dropped: bool = False
    error: KatewayError | None = None


@attrs.frozen
class Pipeline:
    """The compiled steps of one direction. It holds no state of records."""

    steps: tuple[Step, ...]
    on_error: OnError = "dead"
    generation: int = 1
    skips: bool = False
    """A step that fails is skipped, and those behind it are run (``on_error`` is ``pass``, on the way out)."""
    _seconds: Callable[[], float] = attrs.field(default=time.perf_counter, repr=False, eq=False)
    _used: Callable[[], float] = attrs.field(default=time.thread_time, repr=False, eq=False)
    """What the thread has used of the processor: a machine that stands still between two steps fails no record."""

    @classmethod
    def compile(
        cls,
        document: object,
        direction: Direction,
        plugins: Plugins,
        *,
        generation: int = 1,
        seconds: Callable[[], float] = time.perf_counter,
        used: Callable[[], float] = time.thread_time,
    ) -> Pipeline:
        """Compiles one direction of a document. ``ExpressionInvalid`` or ``BadRequest`` names every fault and place."""
        transforms = documents.read(document, plugins)
        return cls.of(transforms, direction, generation=generation, seconds=seconds, used=used)

    @classmethod
    def of(
        cls,
        transforms: Transforms,
        direction: Direction,
        *,
        generation: int = 1,
        seconds: Callable[[], float] = time.perf_counter,
        used: Callable[[], float] = time.thread_time,
    ) -> Pipeline:
        """The pipeline of one direction of transforms that were read."""
        steps = transforms.in_ if direction == "in" else transforms.out
        skips = direction == "out" and transforms.on_error == "pass"
        return cls(steps, transforms.on_error, generation, skips, seconds, used)

    def apply(self, source: R, now: float, partition: int | None = None) -> Kept[R] | Dropped | Rejected:
        """Runs the steps. ``now``: seconds since the epoch; ``partition``: of a record, which does not know its own."""
        first = view = RecordView.of(source, partition)
        several = len(self.steps) > 1
        begun, used = (self._seconds(), self._used()) if several else (0.0, 0.0)
        for number, step in enumerate(self.steps):
            try:
                # the cheaper clock first: the other takes 0.7 µs
                if number and self._seconds() - begun > MAX_SECONDS and self._used() - used > MAX_SECONDS:
                    raise TransformFailed(f"the steps before {number} took longer than {MAX_SECONDS:g} seconds")
                found = step.run(view, now)
            except Exception as error:
                if not self.skips:
                    return Rejected(_of_a_step(error, step), number)
                continue
            if found is None:
                return DROPPED
            view = found
        return Kept(source if view is first else self._changed(source, first, view))

    def _changed(self, source: R, first: RecordView, view: RecordView) -> R:
        if (view.value, view.key, view.headers, view.partition) == (
            first.value,
            first.key,
            first.headers,
            first.partition,
        ):
            return source
        headers = marked(view.headers, self.generation)
        if isinstance(source, Message):
            return source._replace(value=view.value, key=view.key, headers=headers, partition=view.partition)
        return source._replace(value=view.value, key=view.key, headers=headers)

    def trace(self, source: Message | Record, now: float, partition: int | None = None) -> Sequence[TracedStep]:
        """Runs the steps for a dry run: each with the record before and after it, and its time."""
        view = RecordView.of(source, partition)
        told: list[TracedStep] = []
        spent_before = 0.0
        for step in self.steps:
            before = fields_of(view)
            if spent_before > MAX_SECONDS:
                late = TransformFailed(f"the steps before took longer than {MAX_SECONDS:g} seconds")
                told.append(TracedStep(step.kind, before, None, 0.0, error=late))
                break
            begun = self._seconds()
            try:
                found = step.run(view, now)
            except Exception as error:
                told.append(TracedStep(step.kind, before, None, self._seconds() - begun, error=_of_a_step(error, step)))
                break
            spent = self._seconds() - begun
            spent_before += spent
            if found is None:
                told.append(TracedStep(step.kind, before, None, spent, dropped=True))
                break
            told.append(TracedStep(step.kind, before, fields_of(found), spent))
            view = found
        return told


def _of_a_step(error: Exception, step: Step) -> TransformRejected | SchemaInvalid | TransformFailed:
    """The failure of a step. One that no step should raise is logged: it must not hold up those behind the record."""
    if isinstance(error, (TransformRejected, SchemaInvalid, TransformFailed)):
        return error
    _log.failure("a step {kind} broke on a record", kind=step.kind)
    return TransformFailed(f"the step {step.kind} broke: {type(error).__name__}; the gateway's log says where")


def marked(headers: Headers, generation: int) -> Headers:
    """The headers with the generation of the transforms, which replaces that of an earlier change."""
    return (*(each for each in headers if each[0] != TRANSFORMED), (TRANSFORMED, b"%d" % generation))
