"""Everything that can go wrong, as one tree.

A class says what a failure is called (``code``, the last part of the problem's ``type``), which HTTP status it is,
whether the same request may succeed later (``retriable``) and whether the records may have been written all the same
(``maybe_written``). Raise one of these anywhere; only ``web/problems.py`` turns it into a response. Drivers translate
their vendor's errors at their border, with ``raise … from``.

``docs/errors.rst`` lists the same table; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")


class KatewayError(Exception):
    """A failure with a name. ``detail`` is one sentence for the client: the fault and the remedy.

    ``retry_after_seconds`` is sent as ``Retry-After``; every 429 and 503 has one.
    ``headers`` are further response headers (``Allow``, ``WWW-Authenticate``).
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "The gateway failed"
    retriable: ClassVar[bool] = False
    maybe_written: ClassVar[bool] = False
    default_retry_after_seconds: ClassVar[float | None] = None

    def __init_subclass__(
        cls,
        *,
        status: int | None = None,
        code: str = "",
        title: str = "",
        retriable: bool | None = None,
        maybe_written: bool | None = None,
        default_retry_after_seconds: float | None = None,
    ) -> None:
        """Takes a class's row of the table; members that are not given are the base's."""
        given = {
            "status": status,
            "code": code or None,
            "title": title or None,
            "retriable": retriable,
            "maybe_written": maybe_written,
            "default_retry_after_seconds": default_retry_after_seconds,
        }
        for name, value in given.items():
            if value is not None:
                setattr(cls, name, value)

    def __init__(
        self,
        detail: str = "",
        *,
        retry_after_seconds: float | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.retry_after_seconds = (
            self.default_retry_after_seconds if retry_after_seconds is None else retry_after_seconds
        )
        self.headers = headers
        self.actor = ""
        """The refused caller, where it was known by then: for the audit."""


def codes() -> frozenset[str]:
    """Returns the codes of all errors, those of plugins included."""
    found, left = {KatewayError.code}, KatewayError.__subclasses__()
    while left:
        kind = left.pop()
        found.add(kind.code)
        left += kind.__subclasses__()
    return frozenset(found)


# --- the caller's: nothing was written -------------------------------------------------------------------------


class BadRequest(KatewayError, status=400, code="bad-request", title="The request is malformed"): ...


class InvalidName(BadRequest, code="invalid-name", title="A version, topic or group is outside its grammar"): ...


class InvalidParameter(BadRequest, code="invalid-parameter", title="A parameter has a value it cannot have"): ...


class UnknownParameter(BadRequest, code="unknown-parameter", title="There is no such query parameter"): ...


class Contradiction(BadRequest, code="contradiction", title="A query parameter and its header differ"): ...


class MalformedBatch(BadRequest, code="malformed-batch", title="The batch cannot be read; nothing was written"): ...


class InvalidTopic(BadRequest, code="invalid-topic", title="The store does not allow such a topic"): ...


class InvalidRecord(BadRequest, code="invalid-record", title="The store refuses the record"): ...


class ExpressionInvalid(BadRequest, code="invalid-expression", title="An expression cannot be used"): ...


class Unauthorized(KatewayError, status=401, code="unauthorized", title="The credentials are missing or wrong"): ...


class CredentialsExpired(
    Unauthorized, code="credentials-expired", title="The credentials were good once and have expired"
): ...


class Denied(KatewayError, status=403, code="denied", title="The credentials do not allow this"): ...


class NotFound(KatewayError, status=404, code="not-found", title="There is nothing here"): ...


class TopicNotFound(NotFound, code="topic-not-found", title="There is no such topic"): ...


class PartitionNotFound(NotFound, code="partition-not-found", title="The topic has no such partition"): ...


class RegistryEntryNotFound(NotFound, code="registry-entry-not-found", title="The registry has no such entry"): ...


class MethodNotAllowed(KatewayError, status=405, code="method-not-allowed", title="The method is not allowed here"): ...


class NotAcceptable(
    KatewayError, status=406, code="not-acceptable", title="None of the accepted media types can be given"
): ...


class RequestTimeout(KatewayError, status=408, code="request-timeout", title="The request did not arrive in time"): ...


class Conflict(KatewayError, status=409, code="conflict", title="The request conflicts with what is there"): ...


class TooManyConsumers(
    Conflict, code="too-many-consumers", title="Every partition is held by another reader of the group", retriable=True
): ...


class GroupBusy(Conflict, code="group-busy", title="The group has readers", retriable=True): ...


class StillReferred(Conflict, code="still-referred", title="Other entries refer to it"): ...


class AmbiguousTopic(
    Conflict, code="ambiguous-topic", title="Topics of several applications have that name; say application.name"
): ...


class TopicRetired(KatewayError, status=410, code="topic-retired", title="The topic is retired"): ...


class RegistryReadOnly(
    Conflict, code="registry-read-only", title="The registry cannot be changed through the gateway"
): ...


class RegistryOpen(Conflict, code="registry-open", title="The gateway is open: it has no registry to change"): ...


class LengthRequired(
    KatewayError, status=411, code="length-required", title="The request needs a Content-Length or a chunked body"
): ...


class IdempotencyKeyInUse(
    Conflict, code="idempotency-key-in-use", title="A request with this Idempotency-Key is under way", retriable=True
): ...


class PreconditionFailed(
    KatewayError, status=412, code="precondition-failed", title="The entry is not the one that If-Match names"
): ...


class TooLarge(KatewayError, status=413, code="too-large", title="The body or a record is too large"): ...


class UriTooLong(KatewayError, status=414, code="uri-too-long", title="The request line is too long"): ...


class UnsupportedMediaType(
    KatewayError,
    status=415,
    code="unsupported-media-type",
    title="The body's media type is not one that is understood here",
): ...


class OffsetOutOfRange(
    KatewayError, status=416, code="offset-out-of-range", title="The partition does not hold that offset"
): ...


class Misdirected(KatewayError, status=421, code="misdirected", title="The Host is not one of this listener"): ...


class ExpectationFailed(KatewayError, status=417, code="expectation-failed", title="The expectation cannot be met"): ...


class Unprocessable(KatewayError, status=422, code="unprocessable", title="The content cannot be applied"): ...


class IdempotencyKeyReused(
    Unprocessable, code="idempotency-key-reused", title="The Idempotency-Key was used for another request"
): ...


class TransformRejected(
    Unprocessable, code="rejected-by-transform", title="The topic's transforms refuse the record"
): ...


class SchemaInvalid(
    Unprocessable, code="invalid-against-schema", title="The record is not what the schema asks for"
): ...


class TransformFailed(Unprocessable, code="transform-failed", title="A transform fails on the record"):
    """``temporary``: not for the record's sake, so that others would fare no better: a plugin is taken out."""

    def __init__(self, detail: str = "", *, temporary: bool = False) -> None:
        super().__init__(detail)
        self.temporary = temporary


class TooManyRequests(
    KatewayError,
    status=429,
    code="too-many-requests",
    title="Too much at once",
    retriable=True,
    default_retry_after_seconds=1.0,
): ...


class Throttled(TooManyRequests, code="throttled", title="The store throttles the gateway"): ...


class QuotaExceeded(TooManyRequests, code="quota-exceeded", title="The application's quota is used up"):
    quota = ""
    """Which one, as the registry names it without its unit of time."""


class TooManyFailures(
    TooManyRequests, code="too-many-failures", title="Too many wrong credentials for this key from this address"
): ...


class UpgradeRequired(
    KatewayError, status=426, code="upgrade-required", title="Another version of the protocol is needed"
): ...


class HeadersTooLarge(
    KatewayError, status=431, code="headers-too-large", title="The request headers are too large or too many"
): ...


# --- ours ------------------------------------------------------------------------------------------------------


class NotImplementedHere(KatewayError, status=501, code="not-implemented", title="The gateway does not do that"): ...


class Unsupported(NotImplementedHere, code="unsupported-by-store", title="The store does not support that"): ...


class Unavailable(
    KatewayError,
    status=503,
    code="unavailable",
    title="The store cannot be reached",
    retriable=True,
    default_retry_after_seconds=1.0,
):
    """Nothing was written; try again."""


class StoreUnavailable(Unavailable, code="store-unavailable", title="Nothing can be written to the store just now"): ...


class NotEnoughReplicas(Unavailable, code="not-enough-replicas", title="Too few replicas are in sync"): ...


class Overloaded(Unavailable, code="overloaded", title="The gateway holds as much as it may"):
    """``late``: the store takes less than arrives, and would have written the record after its caller's deadline."""

    def __init__(self, detail: str = "", *, retry_after_seconds: float | None = None, late: bool = False) -> None:
        super().__init__(detail, retry_after_seconds=retry_after_seconds)
        self.late = late


class KeyMoving(Unavailable, code="key-moving", title="The key goes over to another partition just now"): ...


class PluginFailed(Unavailable, code="plugin-failed", title="A plugin of the gateway fails"): ...


class StorageFull(
    Unavailable, code="storage-full", title="The store has no room left", default_retry_after_seconds=5.0
): ...


class Draining(Unavailable, code="draining", title="The gateway is shutting down"): ...


class GatewayUnavailable(
    Unavailable, code="gateway-unavailable", title="The gateway that holds the group cannot be reached"
): ...


class GatewayGone(GatewayUnavailable, code="gateway-gone", title="The gateway that held the group has ended"):
    """No process listens where it was."""


class NotHere(GatewayUnavailable, code="not-here", title="Another gateway holds the group by now"): ...


class RegistryUnavailable(Unavailable, code="registry-unavailable", title="The registry cannot be reached"):
    """Nothing was changed; try again."""


class OutcomeUnknown(
    KatewayError,
    status=504,
    code="outcome-unknown",
    title="The store did not answer in time",
    retriable=True,
    maybe_written=True,
):
    """The request was sent and no answer came: it may have been written."""


class WrittenTooNarrowly(
    OutcomeUnknown, code="written-too-narrowly", title="Written, but to fewer replicas than asked for"
): ...


class CorruptRecords(KatewayError, code="corrupt-records", title="The store holds records that cannot be read"):
    """What the store gave back cannot be read; it was not damaged by reading it."""


class HttpVersionNotSupported(
    KatewayError, status=505, code="http-version-not-supported", title="Only HTTP/1.0 and HTTP/1.1 are spoken here"
): ...


# --- of starting and configuring, never sent to a client ---------------------------------------------------------


class ConfigError(KatewayError):
    """The configuration cannot be used; ``problems`` names each fault by its path."""

    code = "bad-configuration"
    title = "The configuration cannot be used"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Problems:
    """Gathers the faults that several steps find, so that a person reads all of them at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def take(self, step: Callable[..., T], *arguments: Any, below: str = "") -> T | None:
        """What the step returns; ``None`` where it raised ``ConfigError``, whose problems are kept, each with
        ``below`` before it.
        """
        try:
            return step(*arguments)
        except ConfigError as error:
            self.found += [f"{below}{problem}" for problem in error.problems]
            return None

    def refuse(self) -> None:
        """``ConfigError`` if there were any, each once."""
        if self.found:
            raise ConfigError(list(dict.fromkeys(self.found)))


class DataDirectoryLocked(
    KatewayError, code="data-directory-locked", title="Another process uses the data directory"
): ...
