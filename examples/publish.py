"""Publishes each line of its input as a record:  seq 5 | python publish.py http://localhost:9090/v1/topics/foobar [KEY]

Prints where each record went. Retriable failures (503, 429) are repeated, later each time; a record that may have been
written (504) is reported and not repeated, for that could write it twice.
"""

import sys

import treq
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

ATTEMPTS = 5


async def publish(reactor, url: str, value: bytes, key: str | None) -> dict:
    """Gives the receipt, ``{"partition": …, "offset": …}``; raises ``RuntimeError`` with the problem's text."""
    parameters = {} if key is None else {"key": key}
    for attempt in range(1, ATTEMPTS + 1):
        response = await treq.post(url, params=parameters, data=value, timeout=30, reactor=reactor)
        answer = await response.json()
        if response.code == 201:
            return answer
        if answer["maybe_written"] or not answer["retriable"] or attempt == ATTEMPTS:
            break
        await deferLater(reactor, float(response.headers.getRawHeaders("Retry-After", ["1"])[0]) * attempt)
    raise RuntimeError(f"{answer['title']}: {answer['detail']}")


async def main(reactor, url: str, key: str | None = None) -> None:
    for line in sys.stdin.buffer:
        receipt = await publish(reactor, url, line.rstrip(b"\r\n"), key)
        print(f"{receipt['partition']}:{receipt['offset']}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    react(lambda reactor, *arguments: Deferred.fromCoroutine(main(reactor, *arguments)), sys.argv[1:])
