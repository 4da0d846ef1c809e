"""Errors to problem+json (RFC 9457): the only way out for a failure."""

from __future__ import annotations

import math
from typing import Any

import orjson
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.errors import KatewayError
from kateway.web.exchange import Response

_log = Logger()
_CONTENT_TYPE = (b"Content-Type", b"application/problem+json")


def problem_object(error: BaseException, instance: str) -> dict[str, Any]:
    """The members of a problem; ``instance`` is the request's id. Anything but a ``KatewayError`` is ``internal``,
    its detail kept from the client.
    """
    if not isinstance(error, KatewayError):
        error = KatewayError("The gateway failed; its log has the reason under this request's id.")
    members: dict[str, Any] = {
        "type": f"urn:kateway:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "instance": instance,
        "retriable": error.retriable,
        "maybe_written": error.maybe_written,
    }
    return members


def problem(error: BaseException, request_id: str) -> Response:
    """The response to a failure. Logs any other error than a ``KatewayError`` with its traceback; a ``CancelledError``
    and an error that is no ``Exception`` (a keyboard interrupt) are raised again: they are not failures to answer.
    """
    if isinstance(error, CancelledError) or not isinstance(error, Exception):
        raise error
    headers = [_CONTENT_TYPE]
    if isinstance(error, KatewayError):
        if error.retry_after_seconds is not None:
            # RFC 9110 10.2.3: whole seconds
            headers.append((b"Retry-After", b"%d" % math.ceil(error.retry_after_seconds)))
        headers.extend((name.encode("latin-1"), value.encode("latin-1")) for name, value in error.headers)
        status = error.status
    else:
        _log.failure("request {request_id} failed", Failure(error), request_id=request_id)
        status = 500
    return Response(status, headers, orjson.dumps(problem_object(error, request_id)))


def problem_of(failure: Failure, request_id: str) -> Response:
    """The response to a Deferred's failure."""
    return problem(failure.value or KatewayError(), request_id)
