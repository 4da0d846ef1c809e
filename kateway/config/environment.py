"""Environment variables over the configuration file: ``KATEWAY_<TABLE>_<OPTION>``, as ``KATEWAY_HTTP_MAX_BODY_BYTES``.

Texts, numbers, ``true`` and ``false``, and lists by comma; tables with names of their own (``[auth.options]``) stand in
the file alone. A cluster is ``KATEWAY_STORAGE_<NAME>_…``, with ``_`` for ``-``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import attrs

from kateway.config.file import structure_option
from kateway.config.schema import Config, EmbeddedStorageConfig, KafkaStorageConfig, ProcessCount
from kateway.errors import ConfigError

PREFIX = "KATEWAY_"
NOT_OPTIONS = re.compile(r"KATEWAY_(ADMIN_(URL|TOKEN)|CACHE|COMPILE|(REQUIRE|SERVICE|PORT)(_.*)?)")
"""Variables of kateway-admin, the tests and the build, and those that Kubernetes sets for a service named kateway."""

Path = tuple[str, ...]


class Overlay(NamedTuple):
    """The configuration file's table with the environment over it."""

    table: dict[str, Any]
    overrides: dict[str, str]
    """Variable → option, for those that are in force."""
    unknown: list[str]
    """Variables that begin like ours and belong to no table: perhaps misspelt, perhaps of another program."""


def overlay(table: Mapping[str, Any], environ: Mapping[str, str]) -> Overlay:
    """Lays the variables over a parsed file. ``ConfigError`` names each one without an option or with a bad value."""
    options = dict(_options(table))
    tables = sorted({name.split("_")[0] for name in options})
    laid: dict[str, Any] = _copy(table)
    overrides: dict[str, str] = {}
    unknown: list[str] = []
    problems: list[str] = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or NOT_OPTIONS.fullmatch(variable):
            continue
        name = variable.removeprefix(PREFIX)
        found = options.get(name)
        if found is None:
            if name.split("_")[0] in tables:
                problems.append(f"{variable}: there is no such option")
            else:
                unknown.append(variable)
            continue
        path, field = found
        try:
            value = _parse(text, field)
        except (TypeError, ValueError) as error:
            problems.append(f"{variable}: {error}")
            continue
        _put(laid, path, value)
        overrides[variable] = ".".join(path)
    if problems:
        raise ConfigError(problems)
    named = _named(laid)
    return Overlay(laid, overrides, [variable for variable in unknown if variable not in named])


def _options(table: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Path, attrs.Attribute[Any]]]]:
    for path, field in _fields(Config, ()):
        yield "_".join(path).upper(), (path, field)
    clusters = table.get("storage")
    for cluster in {"default", *(clusters if isinstance(clusters, dict) else ())}:
        for kind in (EmbeddedStorageConfig, KafkaStorageConfig):
            for path, field in _fields(kind, ("storage", cluster)):
                yield "_".join(path).upper().replace("-", "_"), (path, field)


def _fields(kind: type, above: Path) -> Iterator[tuple[Path, attrs.Attribute[Any]]]:
    for field in attrs.fields(attrs.resolve_types(kind)):
        path = (*above, field.name)
        if attrs.has(field.type):
            yield from _fields(field.type, path)
        elif not str(field.type).startswith("dict"):
            yield path, field


def _parse(text: str, field: attrs.Attribute[Any]) -> Any:
    """Reads a variable as its option's type, and checks it as the file's is."""
    kind = field.type
    parsed: Any = text
    if kind == tuple[str, ...]:
        parsed = [part.strip() for part in text.split(",") if part.strip()]
    elif kind == ProcessCount and text.strip().isdigit():
        parsed = int(text)
    elif kind is bool:
        parsed = {"true": True, "false": False}.get(text.strip().lower(), text)
    elif kind is int or kind is float:
        try:
            parsed = int(text) if re.fullmatch(r"\s*[+-]?[0-9]+\s*", text) else float(text)
        except ValueError:
            parsed = text
    if field.name == "driver" and getattr(kind, "__origin__", None) is Literal:
        # either driver; the table that comes of it is checked as the file's
        return parsed
    structure_option(parsed, field)
    return parsed


def _named(table: Mapping[str, Any]) -> set[str]:
    """Variables that the file itself names, as ``password_env`` does."""
    found = set()
    for name, value in table.items():
        if isinstance(value, dict):
            found |= _named(value)
        elif name.endswith("_env") and isinstance(value, str):
            found.add(value)
    return found


def _copy(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copy(value) if isinstance(value, dict) else value for name, value in table.items()}


def _put(table: dict[str, Any], path: Path, value: Any) -> None:
    *above, name = path
    for each in above:
        inner = table.setdefault(each, {})
        if not isinstance(inner, dict):
            return  # a fault of the file, which is named when its table is read
        table = inner
    table[name] = value
    if name == "brokers":
        # a cluster with brokers is a Kafka, as with --kafka
        table.setdefault("driver", "kafka")
