"""The front of the message plane: each request's credentials, leave, quotas and audit, the same for every edge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import ceil
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError

from kateway.core.access.authentication import Credentials, Purpose
from kateway.core.access.authorization import AccessRequest
from kateway.core.access.control import AccessControl, AuthorizedRequest
from kateway.core.access.open_streams import OpenStreams
from kateway.core.access.rate_limits import Allowance
from kateway.core.audit.events import Audit, actor
from kateway.core.transforms.expressions import Expression
from kateway.core.transforms.in_force import TransformsInForce, View
from kateway.errors import ExpressionInvalid, KatewayError, QuotaExceeded
from kateway.model import Message
from kateway.observe import families
from kateway.observe.series import Series
from kateway.web.exchange import Exchange, Head
from kateway.web.messages import paths
from kateway.web.messages.credentials import Shown, credentials, shown

CLIENT_GONE = "client-gone"
"""The outcome of a request whose client did not wait for it."""

REMEMBERED_SECONDS = 0.5
"""For so long a connection's last visit need not be looked into again, unless its credentials are known to expire."""


class Remembered(NamedTuple):
    """A visit as its connection remembers it, and what it rests on."""

    path: paths.TopicPath
    purpose: Purpose
    head: Head | None
    shown: Shown
    until: float
    rules: Any
    authorized: AuthorizedRequest
    caller: str


class Admission:
    """Lets requests in and keeps count of them. ``seconds`` is the reactor's clock."""

    def __init__(
        self,
        control: AccessControl,
        open_streams: OpenStreams,
        audit: Audit,
        seconds: Callable[[], float],
        transforms: TransformsInForce,
        series: Series | None = None,
    ) -> None:
        self.transforms = transforms
        self._series = series
        self.control = control
        self.open_streams = open_streams
        self.audit = audit
        self.quota_headers = True
        """Whether responses have the rest of a quota; a reload may change it."""
        self._seconds = seconds

    def enter(self, exchange: Exchange, purpose: Purpose, path: paths.TopicPath) -> AuthorizedRequest:
        """The visit that a request makes. 401, 403, 404, 409, 410, 429 and 503 as errors."""
        control = self.control
        if control.open:
            return control.enter(AccessRequest(purpose, path.version, path.topic, path.group), _nobody)
        connection = exchange.connection
        request = exchange.request
        head = request.head
        seen: Shown | None = None
        now = self._seconds()
        last: Remembered | None = connection.remembered
        # most requests are like the one before on their connection: a caller admitted a moment ago is admitted again,
        # unless anything at all has changed in the registry or the rules
        if (
            last is not None
            and last.path is path
            and last.purpose is purpose
            and now < last.until
            # the same head shows the same, unread
            and ((head is not None and last.head is head) or last.shown == (seen := shown(request.headers)))
            and control.same_rules(last.rules)
        ):
            authorized = last.authorized
            exchange.caller = last.caller
        else:
            rules = control.rules()
            brought = seen or shown(request.headers)
            authorized = control.enter(
                AccessRequest(purpose, path.version, path.topic, path.group),
                lambda purpose: credentials(brought, request.peer, purpose, connection.subject),
            )
            exchange.caller = actor(authorized.principal)
            until = now + REMEMBERED_SECONDS if authorized.principal.expires is None else 0.0
            connection.remembered = Remembered(path, purpose, head, brought, until, rules, authorized, exchange.caller)
        if authorized.headers:
            exchange.extra_headers = (*exchange.extra_headers, *authorized.headers)
        return authorized

    def view(self, authorized: AuthorizedRequest, wanted: str | None, *, dead: bool = False) -> View:
        """What a caller sees of a topic's records; ``wanted``: the filter that it asks for. ``ExpressionInvalid``."""
        subscriber = authorized.principal.application
        extra = None if wanted is None else self._filter(wanted)
        return View(self.transforms, subscriber, authorized.registered, extra, dead=dead)

    def _filter(self, text: str) -> Expression:
        try:
            return self.transforms.filter(text)
        except ExpressionInvalid as error:
            if "+" not in text:
                raise
            # curl -G --data-urlencode makes a plus of a space, as forms do
            raise ExpressionInvalid(f"{error.detail} (in a query + is a plus: write %20 for a space)") from error

    # --- quotas ----------------------------------------------------------------------------------------------------

    def count_request(self, exchange: Exchange, authorized: AuthorizedRequest) -> None:
        """Counts a request that publishes nothing; ``QuotaExceeded``."""
        allowance = authorized.allowance
        if allowance is not None:
            now = self._seconds()
            try:
                allowance.request(now)
            except QuotaExceeded as error:
                self._throttled(authorized, error.quota)
                _told_to_wait(exchange, error)
                raise
            finally:
                self._tell(exchange, allowance, now)

    def count_publish(self, exchange: Exchange, authorized: AuthorizedRequest, messages: Sequence[Message]) -> None:
        """Counts what a request publishes; ``QuotaExceeded``, and then nothing is counted."""
        allowance = authorized.allowance
        if allowance is not None:
            now = self._seconds()
            try:
                allowance.publish(len(messages), _size(messages), now)
            except QuotaExceeded as error:
                self._throttled(authorized, error.quota)
                _told_to_wait(exchange, error)
                raise
            finally:
                self._tell(exchange, allowance, now)

    def count_message(self, authorized: AuthorizedRequest, message: Message) -> None:
        """Counts a message on a socket that was opened some time ago; ``QuotaExceeded``. The quota is that of now."""
        allowance = self.control.allowance(authorized)
        if allowance is not None:
            try:
                allowance.publish(1, _size((message,)), self._seconds())
            except QuotaExceeded as error:
                self._throttled(authorized, error.quota)
                raise

    def _tell(self, exchange: Exchange, allowance: Allowance, now: float) -> None:
        if self.quota_headers:
            told = allowance.headers(now)
            exchange.extra_headers = (*exchange.extra_headers, *told) if exchange.extra_headers else told

    def enter_reader(self, authorized: AuthorizedRequest) -> Callable[[], None]:
        """Counts a reader until the callable returned is called; ``QuotaExceeded``."""
        allowance = authorized.allowance
        if allowance is None:
            return _nothing
        try:
            return allowance.enter()
        except QuotaExceeded as error:
            self._throttled(authorized, error.quota)
            raise

    def _throttled(self, authorized: AuthorizedRequest, quota: str) -> None:
        if self._series is not None:
            self._series.counter(families.QUOTA_THROTTLED, (authorized.principal.application, quota)).value += 1

    def pause(self, authorized: AuthorizedRequest) -> Callable[[int], float] | None:
        """Returns the counter of bytes read, which returns the seconds to wait; ``None`` where nothing is counted."""
        if authorized.permission is None:
            return None
        control = self.control

        def pause(size: int) -> float:
            wait = control.read_pause(authorized, size)
            if wait:
                self._throttled(authorized, "subscribe_bytes")
            return wait

        return pause

    # --- audit -----------------------------------------------------------------------------------------------------
    # the edges ask beforehand whether a kind of event is wanted: one that is not costs a look at a flag

    def record(
        self,
        exchange: Exchange,
        authorized: AuthorizedRequest,
        action: str,
        error: BaseException | None = None,
        gateway: str = "",
    ) -> None:
        """An event of a request that was let in, with what became of it."""
        permission = authorized.permission
        if permission is None:
            # without a registry a dot means nothing
            owner, topic = authorized.principal.application, authorized.asked.topic
        else:
            owner, topic = permission.grant.owner, authorized.asked.topic.rpartition(".")[2]
        what = _object(owner, topic, authorized.asked.version, authorized.asked.group)
        self._event(exchange, actor(authorized.principal), action, what, error, gateway)

    def record_refused(self, exchange: Exchange, action: str, path: paths.TopicPath, error: BaseException) -> None:
        """Records a request that was not admitted. It has no actor where the caller was not recognised."""
        who = error.actor if isinstance(error, KatewayError) else ""
        owner, _, topic = path.topic.rpartition(".")
        what = _object(owner or who.partition("/")[0], topic, path.version, path.group)
        self._event(exchange, who, action, what, error)

    def record_failed(
        self,
        exchange: Exchange,
        action: str,
        path: paths.TopicPath,
        authorized: AuthorizedRequest | None,
        error: BaseException,
    ) -> None:
        """An event of a request that failed, before or after it was let in (``authorized``)."""
        if authorized is None:
            self.record_refused(exchange, action, path, error)
        else:
            self.record(exchange, authorized, action, error)

    def recorded(self, exchange: Exchange, action: str, path: paths.TopicPath, *, wanted: bool) -> Recorded:
        """Records the outcome of the block, where ``wanted``. Not for the hot path."""
        return Recorded(self, exchange, action, path, wanted)

    def _event(
        self, exchange: Exchange, who: str, action: str, what: str, error: BaseException | None, gateway: str = ""
    ) -> None:
        if error is None:
            outcome = "ok"
        elif isinstance(error, KatewayError):
            outcome = error.code
        else:
            outcome = CLIENT_GONE if isinstance(error, CancelledError) else KatewayError.code
        request = exchange.request
        self.audit.record(who, action, what, outcome, request_id=request.id, address=request.peer, gateway=gateway)


class Recorded:
    """A context whose outcome becomes an event: ``authorized`` is set as soon as the request is let in."""

    def __init__(
        self, admission: Admission, exchange: Exchange, action: str, path: paths.TopicPath, wanted: bool
    ) -> None:
        self.authorized: AuthorizedRequest | None = None
        self.gateway = ""
        """The gateways that answered, where it was passed on."""
        self._admission = admission
        self._exchange = exchange
        self._action = action
        self._path = path
        self._wanted = wanted

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not self._wanted:
            return
        if error is not None:
            self._admission.record_failed(self._exchange, self._action, self._path, self.authorized, error)
        elif self.authorized is not None:
            self._admission.record(self._exchange, self.authorized, self._action, gateway=self.gateway)


def answered_by(exchange: Exchange, own: str, names: Iterable[str]) -> str:
    """Says in the response which gateways answered; nothing where this one (``own``) stands alone. Returns the names
    where it was passed on.
    """
    if not own:
        return ""
    told = ", ".join(sorted(names)) or own
    exchange.extra_headers = (*exchange.extra_headers, (b"Kateway-Gateway", told.encode()))
    return "" if told == own else told


def _told_to_wait(exchange: Exchange, error: QuotaExceeded) -> None:
    # as Retry-After says it: in whole seconds
    if error.retry_after_seconds is not None:
        exchange.connection.told_to_wait(ceil(error.retry_after_seconds))


def _object(owner: str, topic: str, version: str, group: str | None) -> str:
    return "/".join(part for part in (owner, topic, version, group) if part)


def _size(messages: Sequence[Message]) -> int:
    if len(messages) == 1:
        # by far the most are: a generator less
        message = messages[0]
        return len(message.value or b"") + len(message.key or b"")
    return sum(len(message.value or b"") + len(message.key or b"") for message in messages)


def _nobody(_purpose: Purpose) -> Credentials:
    return Credentials("")


def _nothing() -> None:
    pass
