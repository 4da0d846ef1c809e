"""The file driver: all or nothing, every fault by its path."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from kateway.errors import ConfigError
from kateway.registry.file import FileRegistry, read
from kateway.registry.interface import Snapshot
from kateway.registry.secrets import hash_secret

HASH = hash_secret("secret", b"0123456789abcdef")
GOOD = '[applications.app1]\n[topics."app1/t/v1"]\n'


def problems(path: Path, text: str | bytes) -> list[str]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        read(path)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_every_fault_is_named_by_its_path(tmp_path: Path) -> None:
    found = problems(
        tmp_path / "registry.toml",
        f"""
        [applications.app1]
        colour = "red"
        [[applications.app1.keys]]
        key = "k1"
        kind = "pub"
        secret_hash = "plain text"
        [[applications.app1.keys]]
        key = "k2"
        kind = "sub"
        secret_hash = "{HASH}"
        [[applications.app2.keys]]
        key = "k2"
        kind = "sub"
        secret_hash = "{HASH}"
        [[applications.app2.keys]]
        kind = "sub"
        [topics."app1/t"]
        [bindings."app2/app1/t/v1"]
        groups = "g1"
        [keys.k3]
        """,
    )
    starts = [problem.partition(": ")[0] for problem in found]
    assert starts == [
        "keys",
        "applications.app1.keys[0]",
        "applications.app1",
        "applications.app2.keys[0].key",
        "applications.app2.keys[1]",
        "topics.app1/t",
        "bindings.app2/app1/t/v1",
    ]


def test_topic_that_would_be_another_ones_dead_letters_is_a_fault(tmp_path: Path) -> None:
    text = GOOD + '[topics."app1/u/v1"]\nstorage_name = "app1.t.v1.app1.g.dead"\n'
    (found,) = problems(tmp_path / "registry.toml", text)
    assert found.startswith(
        "topics.app1/u/v1: app1.t.v1.app1.g.dead of cluster default is for dead letters of app1/t/v1"
    )


def test_entry_that_is_referred_to_must_be_in_the_file(tmp_path: Path) -> None:
    text = GOOD + (
        '[topics."app2/t/v1"]\n[topics."app1/u/v1"]\nstorage_name = "app1.t.v1"\n'
        '[bindings."app3/app1/t/v1"]\ngroups = ["*"]\n[bindings."app1/app1/t/v2"]\ngroups = ["*"]\n'
    )
    found = problems(tmp_path / "registry.toml", text)
    assert len(found) == 4
    assert "topics.app2/t/v1: there is no application app2" in found
    assert "bindings.app3/app1/t/v1: there is no application app3" in found
    assert "bindings.app1/app1/t/v2: there is no topic app1/t/v2" in found
    assert [problem for problem in found if problem.startswith("topics.app1/u/v1: app1.t.v1 of cluster default")]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("applications = 7", "applications"),
        ("[applications]\napp1 = 7", "applications.app1"),
        ("[applications.app1]\nkeys = 7", "applications.app1.keys"),
        ("[applications.app1]\nkeys = [7]", "applications.app1.keys[0]"),
        ("[applications", "end of document"),
        (b"\xff", "utf-8"),
    ],
)
def test_file_that_is_no_registry_is_refused(tmp_path: Path, text: str | bytes, word: str) -> None:
    assert word in problems(tmp_path / "registry.toml", text)[0]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml: No such file"):
        read(tmp_path / "nothing.toml")


@pytest_twisted.ensureDeferred
async def test_a_reload_with_a_fault_leaves_the_old_in_force_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(GOOD)
    registry = FileRegistry(reactor, path)
    await registry.start()
    before = registry.snapshot
    heard: list[Snapshot] = []
    registry.watch(heard.append)
    path.write_text(GOOD + "[applications.app2]\n[applications.app3]\ncolour = 1\n")
    with pytest.raises(ConfigError, match=r"applications\.app3"):
        await registry.reload()
    assert registry.snapshot is before
    assert not heard
    assert "applications.app3" in registry.health().reason
    path.write_text(GOOD + "[applications.app2]\n")
    await registry.reload()
    assert registry.health().healthy
    assert set(registry.snapshot.applications) == {"app1", "app2"}
    assert registry.snapshot.applications["app1"].etag == before.applications["app1"].etag
    assert registry.snapshot.revision > before.revision
    assert heard == [registry.snapshot]
    await registry.stop()
