"""The table of docs/errors.rst is the tree of kateway/errors.py."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from kateway import errors
from kateway.errors import ConfigError, DataDirectoryLocked, KatewayError

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "errors.rst").read_text(encoding="utf-8")
NEVER_SENT = (ConfigError, DataDirectoryLocked)


def classes(kind: type[KatewayError] = KatewayError) -> Iterator[type[KatewayError]]:
    if kind.__module__ == errors.__name__:
        yield kind
        for below in kind.__subclasses__():
            yield from classes(below)


def row(kind: type[KatewayError]) -> tuple[str, ...]:
    flags = ("yes" if flag else "no" for flag in (kind.retriable, kind.maybe_written))
    return (str(kind.status), kind.code, kind.title, *flags)


def table() -> list[tuple[str, ...]]:
    lines = re.findall(r"^   \d{3}, .*$", PAGE, re.MULTILINE)
    return [tuple(each) for each in csv.reader((line.strip() for line in lines), skipinitialspace=True)]


def test_the_page_lists_every_error_that_is_sent_once_by_status_and_code() -> None:
    expected = sorted(row(kind) for kind in set(classes()) if kind not in NEVER_SENT)
    assert [each for each in expected if each not in table()] == []
    assert table() == expected


def test_the_page_names_those_that_are_never_sent() -> None:
    assert all(f"``{kind.code}``" in PAGE for kind in NEVER_SENT)


def test_no_two_errors_have_one_code() -> None:
    codes = [kind.code for kind in classes()]
    assert sorted(codes) == sorted(set(codes))


def test_only_504_may_have_been_written() -> None:
    assert {kind.status for kind in classes() if kind.maybe_written} == {504}
