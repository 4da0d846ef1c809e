"""conf/kateway.toml names every option that there is, with its default, and no other."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest

from kateway.config.file import from_table, load
from kateway.config.schema import Config, EmbeddedStorageConfig, KafkaStorageConfig, PluginStorageConfig
from kateway.daemon.check import across

FILE = Path(__file__).resolve().parents[3] / "conf" / "kateway.toml"
LINES = FILE.read_text(encoding="utf-8").splitlines()
OPTION = re.compile(r"#([a-z_0-9]+) = ")


def uncommented() -> dict[str, Any]:
    """The file's table once every option's ``#`` is gone; ``# `` begins prose and stays."""
    return tomllib.loads("\n".join(re.sub(r"^#(?! |$)", "", line) for line in LINES))


def defaults(kind: type, **given: Any) -> dict[str, Any]:
    """What a class's options are when nothing is said, as TOML would give them."""

    def plain(value: Any) -> Any:
        if attrs.has(type(value)):
            return {name: plain(each) for name, each in attrs.asdict(value, recurse=False).items()}
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items()}
        return list(value) if isinstance(value, tuple) else value

    found: dict[str, Any] = plain(kind(**given))
    return found


def expected() -> dict[str, Any]:
    everything = defaults(Config)
    everything["storage"] = {
        "default": defaults(EmbeddedStorageConfig),
        "main": defaults(KafkaStorageConfig, driver="kafka"),
        "other": defaults(PluginStorageConfig, driver="other"),
    }
    return everything


def paths(table: dict[str, Any], above: str = "") -> dict[str, Any]:
    """path → value, tables that are empty included."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict) and value:
            found.update(paths(value, f"{above}{name}."))
        else:
            found[above + name] = value
    return found


def test_the_file_names_every_option_and_no_other() -> None:
    assert sorted(paths(uncommented())) == sorted(paths(expected()))


@pytest.mark.parametrize(("path", "default"), sorted(paths(expected()).items(), key=lambda item: item[0]))
def test_the_file_gives_the_option_its_default(path: str, default: Any) -> None:
    assert paths(uncommented()).get(path, "not in the file") == default


def test_the_file_as_it_stands_changes_nothing() -> None:
    assert load(FILE) == Config()


def test_the_file_without_comment_signs_is_a_valid_configuration() -> None:
    config = from_table(uncommented())
    assert across(config) == []
    assert config.storage["main"] == KafkaStorageConfig(driver="kafka")


def test_each_option_is_explained_in_the_line_above_it() -> None:
    bare = [line for before, line in itertools.pairwise(LINES) if OPTION.match(line) and before[:2] != "# "]
    assert bare == []


def test_the_service_unit_gives_a_shutdown_the_time_it_may_take() -> None:
    unit = FILE.with_name("kateway.service").read_text(encoding="utf-8")
    allowed = float(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1])  # type: ignore[index]
    assert allowed > Config().http.drain_seconds
