"""Makes request ids, and takes a caller's own where it is sane."""

from __future__ import annotations

import re
from itertools import count
from os import urandom

sane_id = re.compile(rb"[A-Za-z0-9._~:/+=-]{1,128}").fullmatch
_number = count()
_PREFIX = urandom(6).hex() + "-"


def given_request_id(value: bytes) -> str | None:
    """The caller's own request id, if it is a sane one."""
    return value.decode("ascii") if sane_id(value) else None


def new_request_id() -> str:
    """A cheap id that is unique across restarts: a random prefix and a number."""
    return f"{_PREFIX}{next(_number)}"
