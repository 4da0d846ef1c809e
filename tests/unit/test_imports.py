"""What import-linter cannot see: parts of Twisted that a layer must not know. (The rest is ``tox -e imports``.)"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "kateway"
ENTRIES = ("daemon/options.py", "daemon/service.py", "cli/main.py")
"""Where a program begins: these may take the one reactor that there is."""


def imported(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("folder", ["core", "storage", "registry"])
def test_only_the_edge_knows_http(folder: str) -> None:
    found = {
        f"{module.relative_to(PACKAGE)} imports {name}"
        for module in (PACKAGE / folder).rglob("*.py")
        for name in imported(module)
        if name.startswith("twisted.web")
    }
    assert found == set()


def test_the_reactor_arrives_as_an_argument() -> None:
    found = {
        str(module.relative_to(PACKAGE))
        for module in PACKAGE.rglob("*.py")
        for name in imported(module)
        if name == "twisted.internet.reactor"
    }
    assert found <= set(ENTRIES)
