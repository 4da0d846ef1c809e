"""Checks request targets (RFC 9112 3.2) and takes their origin form: path and query."""

from __future__ import annotations

import re

from kateway.errors import BadRequest, NotImplementedHere

# RFC 3986 3.2: a host and a port, no user
is_host = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*").fullmatch
_ABSOLUTE = re.compile(rb"(?i:https?)://([A-Za-z0-9._~!$&'()*+,;=%:\[\]-]+)((?:[/?].*)?)").fullmatch


def origin_form(method: bytes, target: bytes) -> bytes:
    """The path of an absolute URI; a path, and ``*`` of OPTIONS, as they are. ``BadRequest``, and
    ``NotImplementedHere`` for a tunnel.
    """
    if method == b"CONNECT":
        raise NotImplementedHere("This is not a proxy.")
    if b"#" in target:
        raise BadRequest("A request target has no fragment.")
    if target[:1] == b"/" or (target == b"*" and method == b"OPTIONS"):
        return target
    match = _ABSOLUTE(target)
    if match is None:
        raise BadRequest("The request target is neither a path nor an absolute URI.")
    path = match.group(2)
    return path if path[:1] == b"/" else b"/" + path
