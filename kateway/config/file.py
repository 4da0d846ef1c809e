"""The configuration file: TOML to a ``Config``, or ``ConfigError`` that names every fault by its path
(``storage.main.brokers: …``). Options that do not exist are faults.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import attrs
import cattrs

from kateway.config.schema import (
    AdminTokenConfig,
    AdminTokens,
    Config,
    EmbeddedStorageConfig,
    KafkaStorageConfig,
    OptionsTable,
    PluginOptions,
    PluginStorageConfig,
    ProcessCount,
    StorageConfig,
)
from kateway.errors import ConfigError

T = TypeVar("T")


def read_table(path: Path) -> dict[str, Any]:
    """Reads a TOML file. ``ConfigError`` names the line that is not TOML."""
    return parse_table(path, read_text(path))


def read_text(path: Path) -> str:
    """Reads a file. ``ConfigError`` names it."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: not UTF-8 text"]) from error


def parse_table(path: Path, text: str) -> dict[str, Any]:
    """Parses the text of a TOML file. ``ConfigError`` names the line that is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: {error}"]) from error


def load(path: Path) -> Config:
    """Reads a TOML file as a ``Config``. ``ConfigError`` names every fault by its path."""
    return from_table(read_table(path))


def from_table(table: dict[str, Any]) -> Config:
    """Turns parsed TOML into a ``Config``; ``ConfigError`` names every fault. What several options together mean is
    for ``check``.
    """
    return _converter.structure(table, Config)


def structure(table: Mapping[str, Any], kind: type[T]) -> T:
    """Makes an attrs class of a table as strictly as the gateway's own; ``ConfigError`` names every fault by its path
    in the table.
    """
    try:
        return _converter.structure(table, kind)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        # of several options together, as the class's own ``__attrs_post_init__`` finds them
        raise ConfigError([str(error)]) from error


def _strict(kind: type, name: str, *accepted: type) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _type: Any) -> Any:
        if (isinstance(value, bool) and kind is not bool) or not isinstance(value, (kind, *accepted)):
            raise TypeError(f"must be {name}, is {value!r}")
        return kind(value)

    return structure


def _texts(value: Any, _type: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"must be a list of texts, is {value!r}")
    return tuple(value)


def _texts_by_name(value: Any, _type: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise TypeError(f"must be a table of texts, is {value!r}")
    return dict(value)


def _tables(value: Any, _type: Any) -> PluginOptions:
    if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
        raise TypeError(f"must be tables, one for each name, is {value!r}")
    return dict(value)


def _any_table(value: Any, _type: Any) -> OptionsTable:
    if not isinstance(value, dict):
        raise TypeError(f"must be a table, is {value!r}")
    return dict(value)


def _admin_tokens(value: Any, _type: Any) -> AdminTokens:
    if not isinstance(value, dict):
        raise TypeError("must be tables, one a token: [admin.tokens.NAME]")
    found: AdminTokens = {}
    problems: list[str] = []
    for name, table in value.items():
        try:
            found[name] = _converter.structure(table, AdminTokenConfig)
        except ConfigError as error:
            problems.extend(_below(name, error))
        except TypeError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ConfigError(problems)
    return found


def _choice(value: Any, kind: Any) -> Any:
    choices = get_args(kind)
    if value not in choices:
        raise ValueError(f"must be one of {', '.join(map(repr, choices))}, is {value!r}")
    return value


def _process_count(value: Any, _type: Any) -> ProcessCount:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool)):
        return cast(ProcessCount, value)
    raise TypeError(f"must be a whole number or 'auto', is {value!r}")


def _clusters(value: Any, _type: Any) -> dict[str, StorageConfig]:
    if not isinstance(value, dict):
        raise TypeError("must be tables, one a cluster: [storage.default]")
    found: dict[str, StorageConfig] = {}
    problems: list[str] = []
    for name, table in value.items():
        driver = table.get("driver", "embedded") if isinstance(table, dict) else "embedded"
        # any other name is a plugin's, which is looked for when the store is made
        kind = _DRIVERS.get(driver, PluginStorageConfig) if isinstance(driver, str) else PluginStorageConfig
        try:
            found[name] = _converter.structure(table, kind)
        except ConfigError as error:
            problems.extend(_below(name, error))
    if problems:
        raise ConfigError(problems)
    return found


def _table(kind: type[T]) -> Callable[[Any, Any], T]:
    """A hook that reads one class's table option by option, so that every fault is found, not the first alone."""
    fields = attrs.fields_dict(attrs.resolve_types(kind))  # type: ignore[arg-type, type-var]

    def structure(value: Any, _type: Any) -> T:
        if not isinstance(value, dict):
            raise TypeError(f"must be a table, is {value!r}")
        given: dict[str, Any] = {}
        problems = [f"{name}: there is no such option" for name in value if name not in fields]
        problems += [
            f"{name}: is needed"
            for name, field in fields.items()
            if name not in value and field.default is attrs.NOTHING and field.init
        ]
        for name, field in fields.items():
            if name not in value:
                continue
            try:
                given[name] = structure_option(value[name], field)
            except ConfigError as error:
                problems.extend(_below(name, error))
            except (TypeError, ValueError) as error:
                problems.append(f"{name}: {error}")
        if problems:
            raise ConfigError(problems)
        return kind(**given)

    return structure


def structure_option(value: Any, field: attrs.Attribute[Any]) -> Any:
    """Returns an option's value, checked. ``TypeError`` and ``ValueError`` say what it must be."""
    found = _converter.structure(value, cast(Any, field.type))
    if field.validator is not None:
        field.validator(None, field, found)
    return found


def _below(name: str, error: ConfigError) -> list[str]:
    return [f"{name}.{problem}" for problem in error.problems]


_DRIVERS: dict[Any, Any] = {"embedded": EmbeddedStorageConfig, "kafka": KafkaStorageConfig}

_converter = cattrs.Converter()
_converter.register_structure_hook(str, _strict(str, "a text"))
_converter.register_structure_hook(int, _strict(int, "a whole number"))
_converter.register_structure_hook(float, _strict(float, "a number", int))
_converter.register_structure_hook(bool, _strict(bool, "true or false"))
_converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], _texts)
_converter.register_structure_hook_func(lambda kind: kind == ProcessCount, _process_count)
_converter.register_structure_hook_func(lambda kind: kind == dict[str, str], _texts_by_name)
_converter.register_structure_hook_func(lambda kind: kind == PluginOptions, _tables)
_converter.register_structure_hook_func(lambda kind: kind == OptionsTable, _any_table)
_converter.register_structure_hook_func(lambda kind: getattr(kind, "__origin__", None) is Literal, _choice)
_converter.register_structure_hook_func(lambda kind: kind == dict[str, StorageConfig], _clusters)
_converter.register_structure_hook_func(lambda kind: kind == AdminTokens, _admin_tokens)
_converter.register_structure_hook_factory(attrs.has, _table)
