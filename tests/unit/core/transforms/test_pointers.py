"""JSON pointers with ``*``: what they find and replace."""

from __future__ import annotations

import copy
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.core.transforms import pointers

DOCUMENT = {"card": {"number": "4711"}, "user": [{"email": "a"}, {"email": "b", "n": 1}, 3], "a/b": {"~": [1, 2]}}
NAMES = st.sampled_from(["a", "b", "*", "", "0", "~", "/"])
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda below: st.one_of(st.lists(below), st.dictionaries(NAMES, below)),
    max_leaves=20,
)
POINTERS = st.lists(st.sampled_from(["a", "b", "*", "", "0", "1", "~0", "~1", "-"]), min_size=1, max_size=5).map(
    lambda members: "/" + "/".join(members)
)


def masked(document: object, *texts: str) -> object:
    return pointers.mask(document, [pointers.parse(text) for text in texts], "****")


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("/card/number", ("card", "number"), "****"),
        ("/user/1/email", ("user", 1, "email"), "****"),
        ("/a~1b/~0/*", ("a/b", "~"), ["****", "****"]),
        ("/user/*", ("user",), ["****"] * 3),
        ("/*", (), {"card": "****", "user": "****", "a/b": "****"}),
    ],
)
def test_pointer_masks_its_members(text: str, place: tuple[str | int, ...], expected: object) -> None:
    found: object = masked(DOCUMENT, text)
    for member in place:
        found = found[member]  # type: ignore[index]
    assert found == expected


def test_star_masks_the_member_of_each_and_leaves_the_rest() -> None:
    assert masked(DOCUMENT, "/user/*/email") == {
        **DOCUMENT,
        "user": [{"email": "****"}, {"email": "****", "n": 1}, 3],
    }


@pytest.mark.parametrize("text", ["/nothing", "/user/3", "/user/01", "/user/-", "/card/number/deeper", "/user/*/none"])
def test_pointer_to_nothing_gives_the_same_object(text: str) -> None:
    assert masked(DOCUMENT, text) is DOCUMENT


def test_masked_document_masked_again_is_the_same_object() -> None:
    once = masked(DOCUMENT, "/user/*/email", "/card/number")
    assert masked(once, "/user/*/email", "/card/number") is once


@pytest.mark.parametrize("text", ["", "card", "/a~2", "/~", "/a" * 33])
def test_wrong_pointer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"pointer|~0|members"):
        pointers.parse(text)


@given(JSON, st.lists(POINTERS, max_size=3))
def test_mask_changes_no_part_of_the_document(document: object, texts: list[str]) -> None:
    before = copy.deepcopy(document)
    once = masked(document, *texts)
    assert document == before
    assert masked(once, *texts) is once
    if once == document:
        assert once is document


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_written_pointer_is_read_back(members: list[str]) -> None:
    assert pointers.parse(pointers.written(members)) == tuple(members)


@given(st.text())
def test_any_text_is_a_pointer_or_refused(text: str) -> None:
    with suppress(ValueError):
        pointers.mask(DOCUMENT, [pointers.parse(text)], "x")
