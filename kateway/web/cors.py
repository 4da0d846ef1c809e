"""Browsers on the public listener: pages of other origins are refused unless they are listed, and then CORS is spoken.

Any web page can have a browser send requests to a loopback port or an internal host. It gives itself away by its
``Origin`` (Fetch standard, 3.1 and 3.2).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from kateway.errors import Denied
from kateway.web.exchange import Exchange, Response

EXPOSED = (
    b"X-Request-Id, X-Partition, X-Offset, X-Timestamp, X-Key, X-Key-Base64, X-Attempt, X-Lease, X-Tombstone, "
    b"Location, Retry-After, RateLimit, RateLimit-Policy, Deprecation, Sunset, Idempotency-Replayed, "
    b"traceparent, tracestate"
)
MAX_AGE_SECONDS = 600
_PORT = re.compile(rb":[0-9]+\Z")


def check_origin(exchange: Exchange, origins: Sequence[str]) -> None:
    """Lets a page of our own origin or a listed one pass; ``Denied`` for any other."""
    request = exchange.request
    origin = request.header(b"origin")
    if origin is None:
        return
    scheme = b"https://" if request.secure else b"http://"
    host = (request.header(b"host") or b"").lower()
    if origin.lower() == scheme + host and (request.secure or _cannot_be_led(host)):
        return
    if origin.decode("latin-1") not in origins:
        raise Denied("pages of this origin may not ask; [http] cors_origins lists those that may")
    exchange.extra_headers = (
        *exchange.extra_headers,
        (b"Access-Control-Allow-Origin", origin),
        (b"Access-Control-Expose-Headers", EXPOSED),
        (b"Vary", b"Origin"),
    )


def _cannot_be_led(host: bytes) -> bool:
    """Whether a ``Host`` is ``localhost`` or an address. Any other name may be one that DNS was made to lead to us
    (rebinding), so that a page of it would look like one of ours; our certificate would not be that name's.
    """
    name = host.decode("latin-1").rpartition(":")[0] if _PORT.search(host) else host.decode("latin-1")
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def preflight(exchange: Exchange, methods: str) -> Response | None:
    """The answer to a browser that asks whether it may ask; ``None`` where that is not the question."""
    request = exchange.request
    if request.header(b"access-control-request-method") is None or request.header(b"origin") is None:
        return None
    wanted = request.header(b"access-control-request-headers")
    headers = [
        (b"Access-Control-Allow-Methods", methods.encode("ascii")),
        (b"Access-Control-Max-Age", b"%d" % MAX_AGE_SECONDS),
    ]
    if wanted is not None:
        headers.append((b"Access-Control-Allow-Headers", wanted))
    return Response(204, headers, b"")
