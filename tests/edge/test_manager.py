"""The manager's files over the admin listener's own HTTP."""

from __future__ import annotations

import pytest
import pytest_twisted
from administered import Administered

from kateway.web.site.manager import POLICY

here = pytest_twisted.ensureDeferred


@here
@pytest.mark.parametrize("path", ["/", "/ui"])
async def test_root_and_folder_without_a_slash_lead_to_the_manager(hot: Administered, path: str) -> None:
    found = await hot.ask_admin("GET", path, allow_redirects=False)
    assert (found.status, found.header("location")) == (302, "ui/")


@here
async def test_pages_come_under_their_policy_and_not_on_the_public_listener(hot: Administered) -> None:
    page = await hot.ask_admin("GET", "/ui/")
    assert page.status == 200
    assert page.header("content-type") == "text/html; charset=utf-8"
    assert page.header("content-security-policy") == POLICY.decode()
    assert page.header("x-content-type-options") == "nosniff"
    assert page.header("referrer-policy") == "no-referrer"
    known = await hot.ask_admin("GET", "/ui/", headers={"If-None-Match": page.header("etag")})
    assert (known.status, known.body) == (304, b"")
    script = await hot.ask_admin("GET", "/ui/pages/topic.js")
    assert script.header("content-type") == "text/javascript; charset=utf-8"
    assert (await hot.request("GET", "/ui/")).status == 404


@here
@pytest.mark.parametrize("path", ["/ui/nothing.js", "/ui/pages/", "/ui/%2e%2e/openapi.json"])
async def test_file_that_there_is_not_is_a_problem(hot: Administered, path: str) -> None:
    found = await hot.ask_admin("GET", path)
    assert found.status == 404
    assert found.header("content-type") == "application/problem+json"
