"""Tells a process what it inherits from its supervisor: its place, its link, its listening descriptors."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, MutableMapping
from typing import Any

import attrs

from kateway.daemon.processes.peers import MOST_PROBLEM_BYTES, encode, fitting

READERS = "readers"
DOCUMENTS = ("sessions", "links")
"""Names of the memories that processes share."""

VARIABLE = "_KATEWAY_PROCESS"
"""Of the environment; not an option, which is why it does not begin as those do."""


def members_of(index: int) -> str:
    """Names the memory in which a process notes its members of groups."""
    return f"members-{index}"


@attrs.frozen(kw_only=True)
class Inherited:
    """One process's place among equal ones. Descriptors are by the endpoint strings."""

    index: int
    count: int
    generation: int
    gateway: str
    """The name that all processes share."""
    began: float = 0.0
    """When the gateway was started, in seconds since the epoch."""
    link: int
    quotas: int
    """The memory in which the processes count quotas."""
    memories: Mapping[str, int] = attrs.field(factory=dict)
    """Others that they share, by their names; a supervisor of an older version has none."""
    public: Mapping[str, int] = attrs.field(factory=dict)
    admin: Mapping[str, int] = attrs.field(factory=dict)
    """Of the process that answers operators; the others have none."""
    cluster: Mapping[str, int] = attrs.field(factory=dict)
    """For links from other gateways."""


def to_environment(inherited: Inherited) -> str:
    """The value of ``VARIABLE``."""
    return json.dumps(attrs.asdict(inherited))


def take_inherited(environ: MutableMapping[str, str]) -> Inherited | None:
    """Returns what a supervisor has told, and takes it out of the environment; ``None`` in a process of its own."""
    text = environ.pop(VARIABLE, None)
    return None if text is None else from_text(text)


def from_text(text: str) -> Inherited:
    """Reads it; members that another version has added are passed over."""
    table: dict[str, Any] = json.loads(text)
    known = {field.name for field in attrs.fields(Inherited)}
    return Inherited(**{name: value for name, value in table.items() if name in known})


def tell_problems(environ: Mapping[str, str], problems: list[str]) -> None:
    """Tells the supervisor, where there is one, why this process cannot start."""
    text = environ.get(VARIABLE)
    if text is None:
        return
    link = socket.socket(fileno=os.dup(from_text(text).link))
    try:
        link.send(encode({"failed": fitting(problems, MOST_PROBLEM_BYTES)}))
    except OSError:
        pass  # it is gone: the problems are on standard error all the same
    finally:
        link.close()
