"""Writes lines to an InfluxDB: ``/write`` of version 1, ``/api/v2/write`` of version 2."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

from kateway import __version__
from kateway.observe.influx import Outcome
from kateway.shield import shield

MAX_ANSWER_BYTES = 4096
"""Of an answer; it is nothing when all is well, and one sentence else."""
MAX_WHY_CHARS = 300
NOT_THE_BODYS = frozenset({401, 403, 404, 408, 429})
"""Refused for now: the token or the database may be mended, while the body is as it is."""


def v1_target(url: str, database: str) -> str:
    """Where a version 1, or a later one that plays it, takes lines."""
    return f"{url}/write?{urlencode({'db': database, 'precision': 's'})}"


def v2_target(url: str, org: str, bucket: str) -> str:
    """Where a version 2 takes lines."""
    return f"{url}/api/v2/write?{urlencode({'org': org, 'bucket': bucket, 'precision': 's'})}"


def by_token(token: str) -> dict[bytes, bytes]:
    """The headers of a caller with a token."""
    return {b"Authorization": b"Token " + token.encode()}


def by_password(user: str, password: str) -> dict[bytes, bytes]:
    """The headers of a caller with a user's name and password."""
    return {b"Authorization": b"Basic " + b64encode(f"{user}:{password}".encode())}


def certificates(pem: bytes) -> list[Certificate]:
    """Reads certificates; ``ValueError`` where there is none, or one is broken."""
    end = b"-----END CERTIFICATE-----"
    try:
        found = [Certificate.loadPEM(each + end) for each in pem.split(end)[:-1]]
    except Exception as error:
        raise ValueError("a certificate in it cannot be read") from error
    if not found:
        raise ValueError("holds no certificate")
    return found


class InfluxClient:
    """One server, by at most one connection, which is kept. ``trusted``: certificates; without, the system's."""

    def __init__(
        self,
        reactor: Any,
        target: str,
        credentials: Mapping[bytes, bytes],
        timeout_seconds: float,
        trusted: Sequence[Certificate] = (),
    ) -> None:
        self._reactor = reactor
        self._target = target.encode("ascii")
        self._headers = Headers(
            {
                b"Content-Type": [b"text/plain; charset=utf-8"],
                b"Content-Encoding": [b"gzip"],
                b"User-Agent": [f"kateway/{__version__}".encode()],
                **{name: [value] for name, value in credentials.items()},
            }
        )
        self._timeout_seconds = timeout_seconds
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.maxPersistentPerHost = 1
        self._pool.retryAutomatically = False
        trust = (
            BrowserLikePolicyForHTTPS(trustRootFromCertificates(trusted)) if trusted else BrowserLikePolicyForHTTPS()
        )
        self._agent = Agent(reactor, trust, connectTimeout=timeout_seconds, pool=self._pool)

    async def write(self, content: bytes) -> Outcome:
        """Sends lines, compressed with gzip, once."""
        posting = Deferred.fromCoroutine(self._post(content))
        posting.addTimeout(self._timeout_seconds, self._reactor, self._no_answer)
        try:
            # what Twisted's client makes of a cancel is one of several errors
            return await shield(posting)
        except CancelledError:
            raise
        except Exception as error:
            return Outcome("failed", _why(error))
        finally:
            posting.cancel()

    async def close(self) -> None:
        """Ends the connection."""
        await self._pool.closeCachedConnections()

    def _no_answer(self, _found: object, seconds: float) -> Outcome:
        return Outcome("failed", f"no answer within {seconds:g} s")

    async def _post(self, content: bytes) -> Outcome:
        response: IResponse = await self._agent.request(b"POST", self._target, self._headers, _Content(content))
        text = await _answer(response)
        code: int = response.code
        if 200 <= code < 300:
            return Outcome("written")
        why = f"{code} {text}".strip()[:MAX_WHY_CHARS]
        if 400 <= code < 500 and code not in NOT_THE_BODYS:
            return Outcome("refused", why)
        return Outcome("failed", why, _retry_after(response))


def _why(error: Exception) -> str:
    reasons = getattr(error, "reasons", None)
    if reasons:
        # a connection that broke before the answer: what Twisted says of it is in there
        error = reasons[0].value
    return f"{type(error).__name__} {error}".strip()[:MAX_WHY_CHARS]


def _retry_after(response: IResponse) -> float:
    values = response.headers.getRawHeaders(b"retry-after") or [b""]
    return float(values[0]) if values[0].isdigit() else 0.0


@implementer(IBodyProducer)
class _Content:
    """A body that is there as a whole."""

    def __init__(self, content: bytes) -> None:
        self.length = len(content)
        self._content = content

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._content)
        return succeed(None)

    def stopProducing(self) -> None: ...

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...


class _Answer(Protocol):
    """Keeps an answer's beginning; ``ended`` fires with it, and an answer that is too long is cut."""

    def __init__(self) -> None:
        self._found = b""
        self.ended: Deferred[bytes] = Deferred(lambda _ended: self._cut())

    def dataReceived(self, data: bytes) -> None:
        self._found += data[: MAX_ANSWER_BYTES - len(self._found)]
        if len(self._found) >= MAX_ANSWER_BYTES:
            self._cut()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.ended.called:
            self.ended.callback(self._found)

    def _cut(self) -> None:
        abort = getattr(self.transport, "abortConnection", None)
        if abort is not None:
            abort()


async def _answer(response: IResponse) -> str:
    answer = _Answer()
    response.deliverBody(answer)
    found = await answer.ended
    return " ".join(found.decode(errors="replace").split())
