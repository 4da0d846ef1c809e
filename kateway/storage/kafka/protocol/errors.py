"""Maps Kafka's error codes to errors.

Source of the codes: https://kafka.apache.org/protocol#protocol_error_codes
"""

from __future__ import annotations

from types import MappingProxyType

from kateway.errors import (
    Conflict,
    Denied,
    GroupBusy,
    InvalidRecord,
    InvalidTopic,
    KatewayError,
    NotEnoughReplicas,
    OffsetOutOfRange,
    OutcomeUnknown,
    Throttled,
    TooLarge,
    TooManyConsumers,
    TopicNotFound,
    Unavailable,
    Unprocessable,
    Unsupported,
    WrittenTooNarrowly,
)

NONE = 0
OFFSET_OUT_OF_RANGE = 1
UNKNOWN_TOPIC_OR_PARTITION = 3
CLUSTER_AUTHORIZATION_FAILED = 31
TOPIC_ALREADY_EXISTS = 36
NOT_LEADER = 6
DUPLICATE_SEQUENCE = 46

SESSION_LOST = frozenset({70, 71})
"""Of a fetch: the broker does not know the fetch session, or is at another request of it."""

REROUTE = frozenset({3, 5, 6, 9, 72, 74, 75, 100, 103})
"""The view of leaders is old: look again."""

_TABLE: MappingProxyType[int, tuple[str, type[KatewayError]]] = MappingProxyType(
    {
        -1: ("UNKNOWN_SERVER_ERROR", OutcomeUnknown),
        1: ("OFFSET_OUT_OF_RANGE", OffsetOutOfRange),
        2: ("CORRUPT_MESSAGE", InvalidRecord),
        3: ("UNKNOWN_TOPIC_OR_PARTITION", TopicNotFound),
        5: ("LEADER_NOT_AVAILABLE", Unavailable),
        6: ("NOT_LEADER_OR_FOLLOWER", Unavailable),
        7: ("REQUEST_TIMED_OUT", OutcomeUnknown),
        8: ("BROKER_NOT_AVAILABLE", Unavailable),
        9: ("REPLICA_NOT_AVAILABLE", Unavailable),
        10: ("MESSAGE_TOO_LARGE", TooLarge),
        12: ("OFFSET_METADATA_TOO_LARGE", TooLarge),
        13: ("NETWORK_EXCEPTION", Unavailable),
        14: ("COORDINATOR_LOAD_IN_PROGRESS", Unavailable),
        15: ("COORDINATOR_NOT_AVAILABLE", Unavailable),
        16: ("NOT_COORDINATOR", Unavailable),
        17: ("INVALID_TOPIC_EXCEPTION", InvalidTopic),
        18: ("RECORD_LIST_TOO_LARGE", TooLarge),
        19: ("NOT_ENOUGH_REPLICAS", NotEnoughReplicas),
        20: ("NOT_ENOUGH_REPLICAS_AFTER_APPEND", WrittenTooNarrowly),
        22: ("ILLEGAL_GENERATION", Conflict),
        23: ("INCONSISTENT_GROUP_PROTOCOL", Conflict),
        24: ("INVALID_GROUP_ID", Conflict),
        25: ("UNKNOWN_MEMBER_ID", Conflict),
        27: ("REBALANCE_IN_PROGRESS", Unavailable),
        28: ("INVALID_COMMIT_OFFSET_SIZE", TooLarge),
        29: ("TOPIC_AUTHORIZATION_FAILED", Denied),
        30: ("GROUP_AUTHORIZATION_FAILED", Denied),
        31: ("CLUSTER_AUTHORIZATION_FAILED", Denied),
        32: ("INVALID_TIMESTAMP", InvalidRecord),
        35: ("UNSUPPORTED_VERSION", Unsupported),
        36: ("TOPIC_ALREADY_EXISTS", Conflict),
        37: ("INVALID_PARTITIONS", Conflict),
        38: ("INVALID_REPLICATION_FACTOR", Unprocessable),
        40: ("INVALID_CONFIG", Unprocessable),
        41: ("NOT_CONTROLLER", Unavailable),
        42: ("INVALID_REQUEST", Unprocessable),
        43: ("UNSUPPORTED_FOR_MESSAGE_FORMAT", Unsupported),
        44: ("POLICY_VIOLATION", Unprocessable),
        56: ("KAFKA_STORAGE_ERROR", Unavailable),
        58: ("SASL_AUTHENTICATION_FAILED", Denied),
        68: ("NON_EMPTY_GROUP", GroupBusy),
        69: ("GROUP_ID_NOT_FOUND", Conflict),
        72: ("LISTENER_NOT_FOUND", Unavailable),
        74: ("FENCED_LEADER_EPOCH", Unavailable),
        75: ("UNKNOWN_LEADER_EPOCH", Unavailable),
        76: ("UNSUPPORTED_COMPRESSION_TYPE", Unsupported),
        81: ("GROUP_MAX_SIZE_REACHED", TooManyConsumers),
        87: ("INVALID_RECORD", InvalidRecord),
        89: ("THROTTLING_QUOTA_EXCEEDED", Throttled),
        100: ("UNKNOWN_TOPIC_ID", Unavailable),
        103: ("INCONSISTENT_TOPIC_ID", Unavailable),
        110: ("FENCED_MEMBER_EPOCH", Conflict),
        111: ("UNRELEASED_INSTANCE_ID", Conflict),
        112: ("UNSUPPORTED_ASSIGNOR", Unprocessable),
        113: ("STALE_MEMBER_EPOCH", Unavailable),
    }
)


def name_of(code: int) -> str:
    """Kafka's own name of a code."""
    known = _TABLE.get(code)
    return known[0] if known is not None else f"error {code}"


def error_for(code: int, about: str = "") -> KatewayError:
    """Returns the error for a code that is not 0; ``about`` names the object, for a person. An unknown code may have
    any effect: the outcome is unknown.
    """
    known = _TABLE.get(code)
    kind = OutcomeUnknown if known is None else known[1]
    prefix = f"{about}: " if about else ""
    return kind(f"{prefix}{kind.title[0].lower()}{kind.title[1:]} (Kafka: {name_of(code)})")
