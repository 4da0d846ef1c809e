"""Pages of rows: every row once, in order, whatever is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.errors import InvalidParameter
from kateway.web.admin.rows import page_of


def page(rows: list[dict[str, Any]], **query: str) -> dict[str, Any]:
    return page_of(rows, query, ["lag"])


def named(*lags: int | None) -> list[dict[str, Any]]:
    states = ("even", "odd")
    return [{"name": f"g{index}", "lag": lag, "state": states[index % 2]} for index, lag in enumerate(lags)]


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=12),
    st.integers(1, 5),
    st.sampled_from(["name", "lag"]),
    st.booleans(),
)
def test_pages_hold_every_row_once_in_order(lags: list[int | None], limit: int, sort: str, desc: bool) -> None:
    rows = named(*lags)
    seen: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        found = page(rows, limit=str(limit), sort=sort, desc="1" if desc else "0", **after)
        seen += found["items"]
        if found["next"] is None:
            break
        after = {"after": found["next"]}
    if sort == "name":
        assert seen == sorted(rows, key=lambda row: str(row["name"]), reverse=desc)
        return
    assert sorted(row["name"] for row in seen) == sorted(row["name"] for row in rows)
    known = [row["lag"] for row in seen if row["lag"] is not None]
    assert [row["lag"] for row in seen[: len(known)]] == sorted(known, reverse=desc)


def test_rows_are_filtered_by_name_and_state() -> None:
    rows = named(1, 2, 3, 4)
    assert [row["name"] for row in page(rows, contains="G1")["items"]] == ["g1"]
    assert [row["name"] for row in page(rows, state="even")["items"]] == ["g0", "g2"]


@pytest.mark.parametrize(
    "query",
    [
        {"sort": "other"},
        {"desc": "yes"},
        {"limit": "0"},
        {"sort": "lag", "after": "x"},
        {"sort": "lag", "after": "WzFd"},
        {"sort": "lag", "after": "WyJ4IiwiZyJd"},
        {"sort": "lag", "after": "WzEsMl0="},
    ],
)
def test_fault_in_the_query_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(InvalidParameter):
        page(named(1, 2), **query)
