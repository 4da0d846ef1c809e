"""README.rst and .ci/run give the same command for the tests, so that people run the tests that CI runs."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python3 -m venv .venv && .venv/bin/pip install --quiet tox && .venv/bin/tox p"


def commands(path: str) -> list[str]:
    return [line.strip() for line in (ROOT / path).read_text(encoding="utf-8").splitlines()]


def test_the_readme_gives_one_command_for_the_tests() -> None:
    assert commands("README.rst").count(COMMAND) == 1


def test_ci_runs_that_command_with_real_servers_required() -> None:
    lines = commands(".ci/run")
    assert lines.count(COMMAND) == 1
    assert lines.index("export KATEWAY_REQUIRE_KAFKA=1") < lines.index(COMMAND)
