"""The front of the message plane: each request's credentials, leave, quotas and audit, the same for every edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kateway.core.audit import Audit, actor
from kateway.core.auth import Purpose
from kateway.core.authorize import Asked
from kateway.core.entrance import Entrance, Visit
from kateway.core.permits import Permits
from kateway.errors import KatewayError
from kateway.model import Message
from kateway.web import params
from kateway.web.credentials import credentials
from kateway.web.exchange import Exchange


class Front:
    """Lets requests in and keeps count of them. ``seconds`` is the reactor's clock."""

    def __init__(self, entrance: Entrance, permits: Permits, audit: Audit, seconds: Callable[[], float]) -> None:
        self.entrance = entrance
        self.permits = permits
        self.audit = audit
        self.quota_headers = True
        """Whether responses tell what is left of a quota; a reload may change it."""
        self._seconds = seconds

    def enter(self, exchange: Exchange, purpose: Purpose, path: params.TopicPath) -> Visit:
        """The visit that a request makes. 401, 403, 404, 409, 410, 429 and 503 as errors."""
        visit = self._enter(exchange, Asked(purpose, path.version, path.topic, path.group))
        if visit.admission is not None:
            exchange.caller = actor(visit.principal)
            if visit.headers:
                exchange.extra_headers = (*exchange.extra_headers, *visit.headers)
        return visit

    def again(self, exchange: Exchange, visit: Visit) -> Visit:
        """The same visit as it is now: for a message on a socket that was opened some time ago."""
        return self._enter(exchange, visit.asked)

    def _enter(self, exchange: Exchange, asked: Asked) -> Visit:
        request = exchange.request
        return self.entrance.enter(
            asked, lambda purpose: credentials(request.headers, request.peer, purpose, exchange.connection.subject)
        )

    def count_request(self, exchange: Exchange, visit: Visit) -> None:
        """Counts a request that publishes nothing; ``QuotaExceeded``."""
        allowance = visit.allowance
        if allowance is not None:
            now = self._seconds()
            try:
                allowance.request(now)
            finally:
                self._tell(exchange, visit, now)

    def count_publish(self, exchange: Exchange, visit: Visit, messages: Sequence[Message]) -> None:
        """Counts what a request publishes; ``QuotaExceeded``, and then nothing is counted."""
        allowance = visit.allowance
        if allowance is not None:
            now = self._seconds()
            size = sum(len(message.value or b"") + len(message.key or b"") for message in messages)
            try:
                allowance.publish(len(messages), size, now)
            finally:
                self._tell(exchange, visit, now)

    def _tell(self, exchange: Exchange, visit: Visit, now: float) -> None:
        if self.quota_headers and visit.allowance is not None:
            exchange.extra_headers = (*exchange.extra_headers, *visit.allowance.headers(now))

    def enter_reader(self, visit: Visit) -> Callable[[], None]:
        """Counts a reader until the callable returned is called; ``QuotaExceeded``."""
        return visit.allowance.enter() if visit.allowance is not None else _nothing

    def record(self, exchange: Exchange, visit: Visit, action: str, error: KatewayError | None = None) -> None:
        """An audit event of the message plane. Whether that kind is wanted is asked beforehand."""
        topic = f"{visit.asked.topic}/{visit.asked.version}"
        self.audit.record(
            actor(visit.principal),
            action,
            topic if visit.asked.group is None else f"{topic}/{visit.asked.group}",
            "ok" if error is None else error.code,
            request_id=exchange.request.id,
            address=exchange.request.peer,
        )


def _nothing() -> None:
    pass
