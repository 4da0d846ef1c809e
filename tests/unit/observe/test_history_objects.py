"""The history of objects: made late, dropped when silent, bounded, and kept in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from kateway.observe.history import SHAPES, SILENT_SECONDS, History, size_of
from kateway.observe.history_file import Damaged, copied, read, restore, write

START = 1_800_000_000.0
ONE = ("app1",)
TWO = ("app2",)
GROUP = ("app1", "foo", "v1", "g1", "app2")
FIGURES = (1.0, 10.0, 0.0, 0.0, 0.0, 0.0)
SILENT = (0.0,) * 6
SIZE = size_of(SHAPES["application"])


def rounded(figures: list[float | None]) -> list[float | None]:
    return [None if each is None else float(f"{each:.2g}") for each in figures]


def history(objects: int = 100) -> History:
    made = History(("requests",), 0)
    made.max_bytes = made.bytes + objects * SIZE
    return made


def test_object_begins_with_its_first_sample_that_is_not_nothing() -> None:
    kept = history()
    kept.record("application", ONE, START, SILENT)
    assert kept.find("application", ONE) is None
    kept.record("application", ONE, START + 10, FIGURES)
    found = kept.find("application", ONE)
    assert found is not None
    kept.record("application", ONE, START + 20, SILENT)
    assert rounded(found.points("in_records", 0, START + 20, 30).figures) == [None, 1.0, 0.0]


def test_object_that_is_silent_for_two_days_is_dropped() -> None:
    kept = history()
    kept.record("application", ONE, START, FIGURES)
    kept.record("application", ONE, START + 10, SILENT)
    kept.sweep(START + SILENT_SECONDS - 1)
    assert kept.find("application", ONE) is not None
    before = kept.bytes
    kept.sweep(START + SILENT_SECONDS)
    assert kept.find("application", ONE) is None
    assert kept.bytes == before - SIZE


def test_full_history_forgets_the_longest_silent() -> None:
    kept = history(2)
    kept.record("application", ONE, START, FIGURES)
    kept.record("application", TWO, START + 10, FIGURES)
    kept.record("application", ("app3",), START + 60, FIGURES)
    assert {labels for _, labels in kept.objects} == {TWO, ("app3",)}
    assert kept.bytes <= kept.max_bytes


def test_full_history_of_objects_in_use_takes_no_other() -> None:
    kept = history(1)
    kept.record("application", ONE, START, FIGURES)
    kept.record("application", TWO, START + 5, FIGURES)
    assert {labels for _, labels in kept.objects} == {ONE}


def test_thousand_objects_of_each_kind_have_room_in_the_default_bytes() -> None:
    assert 1000 * sum(size_of(shape) for shape in SHAPES.values()) < 16777216


def test_file_gives_back_what_was_kept_with_its_gap(tmp_path: Path) -> None:
    kept = history()
    kept.gateway.record(START, (3.0,))
    kept.record("application", ONE, START, FIGURES)
    kept.record("group", GROUP, START, (1.0, 2.0, 1.0, 500.0, None))
    path = tmp_path / "data" / "history"
    write(path, list(copied(kept)))
    assert path.stat().st_mode & 0o777 == 0o600
    again = history()
    restore(again, read(path))
    assert set(again.objects) == set(kept.objects)
    assert again.bytes == kept.bytes
    again.gateway.record(START + 15, (4.0,))
    assert rounded(again.gateway.points("requests", 0, START + 15, 20).figures) == [3.0, None, None, 4.0]
    found = again.find("group", GROUP)
    assert found is not None
    assert rounded(found.points("lag", 0, START, 10).figures) == [500.0]
    assert found.points("oldest_seconds", 0, START, 10).figures == [None]


def test_sample_since_the_start_is_not_overwritten_by_the_file(tmp_path: Path) -> None:
    kept = history()
    kept.record("application", ONE, START, FIGURES)
    again = history()
    again.record("application", ONE, START + 100, FIGURES)
    restore(again, copied(kept))
    found = again.find("application", ONE)
    assert found is not None
    assert found.last == (START + 100) // 10


def test_file_of_another_shape_is_left_out(tmp_path: Path) -> None:
    kept = history()
    kept.record("application", ONE, START, FIGURES)
    other = History(("other",), 10**7)
    restore(other, copied(kept))
    assert other.gateway.last == 0
    assert set(other.objects) == {("application", ONE)}


def test_missing_file_is_an_empty_one(tmp_path: Path) -> None:
    assert read(tmp_path / "none") == []


@pytest.mark.parametrize("content", [b"", b"another\n{}\n", b"kateway-history 1\n{}\nxx", b"kateway-history 1\n[]\n"])
def test_damaged_file_is_said_to_be(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "history"
    path.write_bytes(content)
    with pytest.raises(Damaged):
        read(path)


def test_file_that_was_cut_short_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "history"
    write(path, list(copied(history())))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Damaged):
        read(path)
