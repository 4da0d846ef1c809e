"""The access log's file: moved away by logrotate, and written whole."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.task import Clock

from kateway.config.schema import LogConfig
from kateway.web.access_log import AccessLog
from kateway.web.exchange import Request


def note(log: AccessLog, clock: Clock) -> None:
    request = Request(b"GET", b"/x", [], b"", http_1_1=True, peer="a", secure=False, id="i", received=clock.seconds())
    log.note(request, 200, 1, "")
    log.flush()


def test_file_that_was_moved_away_is_opened_anew_within_a_second(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "access.log"
    log = AccessLog(LogConfig(access_file=str(path)), clock)
    note(log, clock)
    path.rename(tmp_path / "access.log.1")
    clock.advance(1.0)
    note(log, clock)
    note(log, clock)
    log.stop()
    assert len((tmp_path / "access.log.1").read_text().splitlines()) == 1
    assert len(path.read_text().splitlines()) == 2


def test_file_that_cannot_be_opened_anew_goes_on_where_it_is(tmp_path: Path) -> None:
    clock = Clock()
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "access.log"
    log = AccessLog(LogConfig(access_file=str(path)), clock)
    moved = tmp_path / "moved"
    folder.rename(moved)
    clock.advance(1.0)
    note(log, clock)
    log.stop()
    assert len((moved / "access.log").read_text().splitlines()) == 1
