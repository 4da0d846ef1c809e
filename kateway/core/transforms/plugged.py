"""Makes transforms of the entry points ``kateway.transforms``: a Python callable, record to record.

The entry point is the callable itself, or, with an attribute ``Options``, what makes one of a step's options. Modules
are imported when a step first names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kateway.core import entry_points
from kateway.core.plugin_watch import Watch, Watches, described
from kateway.core.transforms.steps import Fields, Plugin
from kateway.errors import BadRequest, ConfigError, PluginFailed, SchemaInvalid, TransformFailed, TransformRejected

Transform = Callable[[Fields], Fields | None]


class WatchedTransform:
    """A transform whose failures are counted. Its verdict on a record (``TransformRejected``, ``SchemaInvalid``,
    ``TransformFailed``) is none: one client's odd records must not take it out for all others.
    """

    def __init__(self, transform: Transform, watch: Watch) -> None:
        self._transform = transform
        self._watch = watch

    def transform(self, fields: Fields, now: float) -> Fields | None:
        try:
            return self._watch.call(lambda: self._run(fields), TransformRejected, SchemaInvalid, TransformFailed)
        except PluginFailed as error:
            raise TransformFailed(f"{error.detail} ({self._watch.last_error})", temporary=True) from error

    def _run(self, fields: Fields) -> Fields | None:
        made = self._transform(fields)
        if made is not None and not isinstance(made, Fields):
            raise TypeError(f"it gives {type(made).__name__}, not a record or None")
        return made


class TransformPlugins(Mapping[str, Callable[[Mapping[str, Any]], Plugin]]):
    """The installed transforms, by name."""

    def __init__(self, watches: Watches) -> None:
        self._watches = watches
        self._known: list[str] | None = None

    def _names(self) -> list[str]:
        # asked for once: installing a package takes a restart anyhow, and each look reads every package's metadata
        if self._known is None:
            self._known = [each.name for each in entry_points.installed(entry_points.TRANSFORMS)]
        return self._known

    def __getitem__(self, name: str) -> Callable[[Mapping[str, Any]], Plugin]:
        if name not in self._names():
            raise KeyError(name)
        return lambda options: self._make(name, options)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _make(self, name: str, options: Mapping[str, Any]) -> Plugin:
        watch = self._watches.of(entry_points.TRANSFORMS, name)
        try:
            found = entry_points.load(entry_points.TRANSFORMS, name, "the plugin")
        except ConfigError as error:
            watch.not_loaded(str(error))
            raise BadRequest(str(error)) from error
        try:
            entry_points.no_options(found, options, "")
            made = entry_points.options_of(found, options, "")
            transform = found(*made) if made else found
        except ConfigError as error:
            raise BadRequest("; ".join(error.problems)) from error
        except Exception as error:
            raise BadRequest(f"the plugin cannot be made: {described(error)}") from error
        if not callable(transform):
            raise BadRequest(f"the plugin is no transform: {type(transform).__name__} cannot be called")
        watch.loaded = True
        return WatchedTransform(transform, watch)
