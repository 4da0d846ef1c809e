"""Takes the paths of the message plane apart.

A request target is split while it is still bytes, then each part is percent-decoded once, so that an encoded slash
never makes a segment.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from kateway.errors import InvalidName

_VERSION = re.compile(r"v[0-9]{1,9}")


class TopicPath(NamedTuple):
    """``/{version}/topics/{topic}[/{group}[/{action}]]``, decoded and within its grammar."""

    version: str
    topic: str
    group: str | None
    action: str | None


def topic_path(path: bytes, topic_name: re.Pattern[str], group_name: re.Pattern[str]) -> TopicPath | None:
    """Takes a path apart; ``None`` where it is not one of a topic's. ``InvalidName`` names the part that is wrong."""
    parts = path.split(b"/")
    if not 4 <= len(parts) <= 6 or parts[0] or parts[2] != b"topics":
        return None
    version, topic, *rest = (_decoded(part) for part in (parts[1], *parts[3:]))
    if not _VERSION.fullmatch(version):
        raise InvalidName(f"the version {version[:64]!r} is not v and a number, such as v1")
    for kind, grammar, text in (("topic", topic_name, topic), *(("group", group_name, group) for group in rest[:1])):
        if not grammar.fullmatch(text) or text in {".", ".."}:
            raise InvalidName(f"the {kind} {text[:64]!r} does not match {grammar.pattern}")
    return TopicPath(version, topic, rest[0] if rest else None, rest[1] if len(rest) > 1 else None)


def topics_path(path: bytes) -> TopicPath | None:
    """``/{version}/topics``, as a path whose topic is empty; ``None`` where it is something else."""
    parts = path.split(b"/")
    if len(parts) != 3 or parts[0] or parts[2] != b"topics":
        return None
    version = _decoded(parts[1])
    if not _VERSION.fullmatch(version):
        raise InvalidName(f"the version {version[:64]!r} is not v and a number, such as v1")
    return TopicPath(version, "", None, None)


def _decoded(part: bytes) -> str:
    try:
        return unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidName("the path is not UTF-8") from error
