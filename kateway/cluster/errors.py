"""Carries errors over a link, and makes the same class of them again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kateway.errors import ConfigError, KatewayError, Unavailable


def error_object(error: KatewayError) -> dict[str, Any]:
    """Returns the JSON object of an error."""
    return {"code": error.code, "detail": error.detail, "retry_after": error.retry_after_seconds}


def error_of(given: Any) -> KatewayError:
    """Makes the error of its JSON object; one that this version does not know is ``Unavailable``."""
    kinds = {kind.code: kind for kind in _kinds(KatewayError)}
    try:
        error = kinds.get(given["code"], Unavailable)(str(given["detail"]))
        error.retry_after_seconds = given["retry_after"]
        return error
    except (TypeError, KeyError):
        return Unavailable("the other gateway failed; its log says why")


def _kinds(kind: type[KatewayError]) -> Iterator[type[KatewayError]]:
    # the base of a code last: a class that has its base's code is not told apart from it
    for each in kind.__subclasses__():
        yield from _kinds(each)
    if not issubclass(kind, ConfigError):
        yield kind
