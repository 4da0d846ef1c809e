"""The manager's files: bounded, self-contained, and without a way to make markup of text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kateway.web
from kateway.errors import NotFound
from kateway.web.exchange import Request
from kateway.web.site.manager import POLICY, manager, pages, to_manager

FOLDER = Path(kateway.web.__file__).parent / "ui"
SCRIPTS = sorted(FOLDER.rglob("*.js"))
MOST_LINES, MOST_LINES_OF_A_MODULE = 3000, 250


def asked(target: bytes, *headers: tuple[bytes, bytes]) -> Request:
    return Request(b"GET", target, list(headers), b"", http_1_1=True, peer="", secure=False, id="1", received=0.0)


def test_scripts_stay_within_their_bounds() -> None:
    lines = {script: len(script.read_text().splitlines()) for script in SCRIPTS}
    assert max(lines.values()) <= MOST_LINES_OF_A_MODULE
    assert sum(lines.values()) <= MOST_LINES


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_script_makes_no_markup_and_names_no_other_origin(script: Path) -> None:
    text = script.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    # the namespace of SVG is a name, not an address; the examples are texts
    assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org", "http://GATEWAY"}
    for name in re.findall(r'from "([^"]+)"', text):
        assert (script.parent / name).resolve() in SCRIPTS


@pytest.mark.parametrize("name", sorted(pages()))
def test_file_is_answered_under_the_policy(name: str) -> None:
    response = manager(asked(f"/ui/{name}?v=1".encode()))
    headers = dict(response.headers)
    assert response.status == 200
    assert response.body == (FOLDER / name).read_bytes()
    assert headers[b"Content-Security-Policy"] == POLICY


def test_folder_is_its_index() -> None:
    assert manager(asked(b"/ui/")).body == (FOLDER / "index.html").read_bytes()


def test_file_that_the_browser_has_is_304() -> None:
    first = manager(asked(b"/ui/main.js"))
    etag = dict(first.headers)[b"ETag"]
    second = manager(asked(b"/ui/main.js", (b"if-none-match", etag)))
    assert (second.status, second.body) == (304, b"")


@pytest.mark.parametrize("target", [b"/ui/nothing.js", b"/ui/../problems.py", b"/ui/pages", b"/ui/%2e%2e/openapi.json"])
def test_anything_else_is_not_found(target: bytes) -> None:
    with pytest.raises(NotFound):
        manager(asked(target))


def test_root_leads_to_the_manager_by_a_relative_reference() -> None:
    assert dict(to_manager(asked(b"/")).headers)[b"Location"] == b"ui/"
