"""Validates an entry's members: raises ``InvalidName`` or ``InvalidParameter``, naming the member."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from kateway.errors import InvalidName, InvalidParameter

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
VERSION = re.compile(r"v(0|[1-9][0-9]{0,8})")
STORAGE_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
KAFKAS_OWN = frozenset(
    {"__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata", "__remote_log_metadata"}
)
"""Kafka's internal topics."""
SECRET_HASH = re.compile(r"sha256\$[0-9a-f]{32}\$[0-9a-f]{64}")

MAX_DESCRIPTION_CHARACTERS = 1024
MAX_GROUPS = 1000
MAX_STEPS = 32
MAX_EXPRESSION_CHARACTERS = 1024

TOPIC_STATES = ("active", "deprecated", "retired")
PLACEMENT_STATES = ("settled", "announced", "reading")

Validator = Callable[[Any, Any, Any], None]


def is_name(value: object) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def name(_instance: Any, attribute: Any, value: Any) -> None:
    if not is_name(value):
        raise InvalidName(f"{attribute.name} must be 1 to 64 of A-Z a-z 0-9 _ -, is {_short(value)}")


def version(_instance: Any, attribute: Any, value: Any) -> None:
    if not isinstance(value, str) or not VERSION.fullmatch(value):
        raise InvalidName(f"{attribute.name} must be v and a number, is {_short(value)}")


def storage_name(_instance: Any, attribute: Any, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not STORAGE_NAME.fullmatch(value) or value in {".", ".."}:
        raise InvalidName(f"{attribute.name} must be 1 to 249 of A-Z a-z 0-9 . _ -, is {_short(value)}")
    if value in KAFKAS_OWN:
        raise InvalidName(f"{attribute.name}: {value} is Kafka's own")


def topic(_instance: Any, attribute: Any, value: Any) -> None:
    """A topic's name: a registered one, or in open mode one of Kafka's own grammar."""
    if not isinstance(value, str) or not STORAGE_NAME.fullmatch(value) or value in {".", ".."}:
        raise InvalidName(f"{attribute.name} must be 1 to 249 of A-Z a-z 0-9 . _ -, is {_short(value)}")


def groups(_instance: Any, attribute: Any, value: Collection[str]) -> None:
    if not 1 <= len(value) <= MAX_GROUPS:
        raise InvalidParameter(f"{attribute.name} must be 1 to {MAX_GROUPS} groups, or *")
    for group in value:
        if group != "*" and not is_name(group):
            raise InvalidName(f"{attribute.name}: a group is 1 to 64 of A-Z a-z 0-9 _ -, or *; not {_short(group)}")


def text(_instance: Any, attribute: Any, value: Any) -> None:
    if not isinstance(value, str) or len(value) > MAX_DESCRIPTION_CHARACTERS:
        raise InvalidParameter(f"{attribute.name} must be a text of at most {MAX_DESCRIPTION_CHARACTERS} characters")


def secret_hash(_instance: Any, attribute: Any, value: Any) -> None:
    if not isinstance(value, str) or not SECRET_HASH.fullmatch(value):
        raise InvalidParameter(f"{attribute.name} must be as `kateway-admin hash-secret` prints it: sha256$SALT$DIGEST")


def optional_secret_hash(instance: Any, attribute: Any, value: Any) -> None:
    if value is not None:
        secret_hash(instance, attribute, value)


def steps(_instance: Any, attribute: Any, value: Any) -> None:
    """A list of transform steps; their meaning is checked where they are compiled."""
    # "in" cannot be an attribute's name
    member = {"incoming": "in", "outgoing": "out"}.get(attribute.name, attribute.name)
    if not isinstance(value, tuple) or not all(isinstance(step, Mapping) for step in value):
        raise InvalidParameter(f"{member} must be a list of steps, each an object")
    if len(value) > MAX_STEPS:
        raise InvalidParameter(f"{member} must be at most {MAX_STEPS} steps, is {len(value)}")


def filter_text(_instance: Any, attribute: Any, value: Any) -> None:
    if value is not None and (not isinstance(value, str) or not 1 <= len(value) <= MAX_EXPRESSION_CHARACTERS):
        raise InvalidParameter(f"{attribute.name} must be an expression of 1 to {MAX_EXPRESSION_CHARACTERS} characters")


def rate(_instance: Any, attribute: Any, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1e15 or math.isnan(value):
        raise InvalidParameter(f"{attribute.name} must be a number above 0, or null for no limit; is {_short(value)}")


def yes_or_no(_instance: Any, attribute: Any, value: Any) -> None:
    if not isinstance(value, bool):
        raise InvalidParameter(f"{attribute.name} must be true or false")


def fence(_instance: Any, attribute: Any, value: Any) -> None:
    """Offsets by partition, as JSON has them."""
    if not isinstance(value, Mapping) or not all(isinstance(offset, int) for offset in value.values()):
        raise InvalidParameter(f"{attribute.name} must be an object of offsets by partition")


def _whole(low: int, high: int, *, optional: bool) -> Validator:
    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if value is None and optional:
            return
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InvalidParameter(f"{attribute.name} must be a whole number from {low} to {high}, is {_short(value)}")

    return check


def _one_of(*choices: str) -> Validator:
    def check(_instance: Any, attribute: Any, value: Any) -> None:
        if value not in choices:
            raise InvalidParameter(f"{attribute.name} must be one of {', '.join(choices)}; is {_short(value)}")

    return check


count = _whole(0, 1_000_000, optional=True)
partitions = _whole(1, 10_000, optional=True)
replicas = _whole(1, 100, optional=False)
retention = _whole(1, 1_000_000, optional=True)
deliveries = _whole(0, 1_000_000, optional=False)
most_partitions = _whole(1, 10_000, optional=False)
cooldown = _whole(0, 31_536_000, optional=False)
handover = _whole(5, 3600, optional=False)
"""Seconds; in fewer the gateways could not tell each other, and every change would be given up."""
in_force = _whole(1, 10_000, optional=False)
next_partitions = _whole(0, 10_000, optional=False)
generation = _whole(1, 2**53, optional=False)
key_hash = _one_of("jump", "murmur2")
placement_state = _one_of(*PLACEMENT_STATES)
kind = _one_of("pub", "sub")
state = _one_of(*TOPIC_STATES)
on_error = _one_of("dead", "pass", "stop")


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"
