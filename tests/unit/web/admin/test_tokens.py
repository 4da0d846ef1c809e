"""The admin listener's tokens: from their files, by name and role, each fault named."""

from __future__ import annotations

from pathlib import Path

import pytest

from kateway.config.file import from_table
from kateway.config.schema import AdminConfig, AdminTokenConfig
from kateway.errors import ConfigError
from kateway.web.admin.actors import Actor, digest
from kateway.web.admin.tokens import read_tokens

EXPOSED = ["tcp:9093"]


def written(folder: Path, name: str, token: str) -> str:
    (folder / name).write_text(f"{token}\n")
    return str(folder / name)


def test_tokens_are_read_with_their_names_and_roles(tmp_path: Path) -> None:
    tokens = {"carol": AdminTokenConfig(file=written(tmp_path, "c", "carols-token-is-long"), role="operator")}
    config = AdminConfig(token_file=written(tmp_path, "a", "the-admins-token-is"), tokens=tokens)
    admin, carol = digest(b"the-admins-token-is"), digest(b"carols-token-is-long")
    assert read_tokens(config, EXPOSED) == {
        admin: Actor("admin", "admin", proof=admin),
        carol: Actor("carol", "operator", proof=carol),
    }


def test_named_token_alone_is_enough_for_an_exposed_listener(tmp_path: Path) -> None:
    tokens = {"carol": AdminTokenConfig(file=written(tmp_path, "c", "carols-token-is-long"), role="admin")}
    assert len(read_tokens(AdminConfig(tokens=tokens), EXPOSED)) == 1


def test_every_fault_of_tokens_is_named(tmp_path: Path) -> None:
    same = written(tmp_path, "a", "the-admins-token-is")
    tokens = {
        "carol": AdminTokenConfig(file=same),
        "admin": AdminTokenConfig(file=written(tmp_path, "b", "some-other-token-is")),
        "no/name": AdminTokenConfig(file=written(tmp_path, "d", "one-more-token-is-it")),
        "dave": AdminTokenConfig(),
        "erin": AdminTokenConfig(file=str(tmp_path / "missing")),
    }
    with pytest.raises(ConfigError) as refused:
        read_tokens(AdminConfig(token_file=same, tokens=tokens), EXPOSED)
    assert [problem.partition(": ")[0] for problem in refused.value.problems] == [
        "admin.tokens.carol.file",
        "admin.tokens.admin",
        "admin.tokens.no/name",
        "admin.tokens.dave.file",
        "admin.tokens.erin.file",
    ]


def test_every_fault_of_a_tokens_table_is_named() -> None:
    tokens = {"a": {"file": 7}, "b": {"role": "tenant"}, "c": {"fill": ""}, "d": "x"}
    with pytest.raises(ConfigError) as refused:
        from_table({"admin": {"tokens": tokens}})
    assert [problem.partition(": ")[0] for problem in refused.value.problems] == [
        "admin.tokens.a.file",
        "admin.tokens.b.role",
        "admin.tokens.c.fill",
        "admin.tokens.d",
    ]
