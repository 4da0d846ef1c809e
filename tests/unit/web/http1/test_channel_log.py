"""The access log's lines, and errors as problems."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from kateway.config.schema import LogConfig
from kateway.errors import MethodNotAllowed, OutcomeUnknown, TopicNotFound, Unavailable
from kateway.web.access_log import AccessLog
from kateway.web.exchange import Request
from kateway.web.problems import problem, problem_object


def request(target: bytes = b"/v1/topics/t?key=secret", agent: bytes = b'curl/8 "quoted" \\') -> Request:
    return Request(
        b"POST",
        target,
        [(b"user-agent", agent)],
        b"",
        http_1_1=True,
        peer="10.0.0.1",
        secure=False,
        id="id-1",
        received=2.0,
    )


def test_a_json_line_says_what_happened_and_never_the_query() -> None:
    clock = Clock()
    clock.advance(2.0125)
    written: list[bytes] = []
    log = AccessLog(LogConfig(format="json"), clock, written.append, wall=lambda: 1732269600.25)
    log.note(request(), 201, 180, "default")
    assert written == []
    clock.advance(0.25)
    assert json.loads(b"".join(written)) == {
        "time": "2024-11-22T10:00:00.250Z",
        "event": "request",
        "id": "id-1",
        "peer": "10.0.0.1",
        "method": "POST",
        "path": "/v1/topics/t",
        "status": 201,
        "bytes": 180,
        "milliseconds": 12.5,
        "caller": "default",
        "agent": 'curl/8 "quoted" \\',
    }
    assert clock.getDelayedCalls() == []


def test_a_text_line_is_one_line() -> None:
    clock = Clock()
    clock.advance(2.001)
    written: list[bytes] = []
    log = AccessLog(LogConfig(), clock, written.append, wall=lambda: 1732269600.25)
    log.note(request(agent=b"a\xff\tb"), 404, 10, "")
    log.stop()
    assert written == [
        b'2024-11-22T10:00:00.250Z 10.0.0.1 - POST /v1/topics/t 404 10 1.000ms id-1 "a\\xff\tb"\n',
    ]
    assert clock.getDelayedCalls() == []


def test_waiting_requests_are_bounded() -> None:
    written: list[bytes] = []
    log = AccessLog(LogConfig(format="json"), Clock(), written.append)
    for _ in range(1024):
        log.note(request(), 200, 1, "")
    assert b"".join(written).count(b"\n") == 1024


def test_lines_go_to_the_file_and_to_the_new_one_after_it_was_moved(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "access.log"
    log = AccessLog(LogConfig(access_file=str(path)), clock)
    log.note(request(), 200, 1, "")
    clock.advance(1)
    path.rename(tmp_path / "old.log")
    log.reopen()
    log.note(request(), 200, 1, "")
    log.stop()
    assert path.read_bytes().count(b"\n") == (tmp_path / "old.log").read_bytes().count(b"\n") == 1


def test_a_problem_has_the_contracts_members() -> None:
    response = problem(TopicNotFound("no topic t"), "id-1")
    assert response.status == 404
    assert (b"Content-Type", b"application/problem+json") in response.headers
    assert json.loads(response.body) == {
        "type": "urn:kateway:error:topic-not-found",
        "title": "There is no such topic",
        "status": 404,
        "detail": "no topic t",
        "instance": "id-1",
        "retriable": False,
        "maybe_written": False,
    }


def test_retry_after_is_whole_seconds_rounded_up() -> None:
    assert (b"Retry-After", b"3") in problem(Unavailable(retry_after_seconds=2.1), "i").headers


def test_an_errors_own_headers_are_sent() -> None:
    assert (b"Allow", b"GET") in problem(MethodNotAllowed(headers=(("Allow", "GET"),)), "i").headers


def test_an_unknown_outcome_may_have_been_written() -> None:
    assert problem_object(OutcomeUnknown(), "i")["maybe_written"] is True


def test_any_other_exception_is_internal_logged_and_not_told(logged_errors: list[dict[str, Any]]) -> None:
    response = problem(ValueError("secret"), "id-1")
    assert response.status == 500
    assert b"secret" not in response.body
    assert json.loads(response.body)["type"] == "urn:kateway:error:internal"
    assert [event["request_id"] for event in logged_errors] == ["id-1"]
    logged_errors.clear()


def test_a_cancel_is_not_a_failure_to_answer() -> None:
    with pytest.raises(CancelledError):
        problem(CancelledError(), "i")
