"""Prints the values of a topic's records as they come:  python subscribe.py http://localhost:9090/v1/topics/foobar/group1

The group is in the URL: run it twice and the two share the topic's partitions. It goes on until Ctrl-C, and connects
again when the gateway goes away. A record may come twice after that; none is left out.
"""

import json
import sys
from base64 import b64decode
from collections.abc import Callable

import treq
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater, react
from twisted.web.client import ResponseFailed

AGAIN_SECONDS = 1.0


class Lines:
    """Cuts the stream into lines and passes each record on."""

    def __init__(self, handle: Callable[[dict], None]) -> None:
        self._handle = handle
        self._rest = b""

    def __call__(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line:  # a blank line is a heartbeat
                self._handle(json.loads(line))


def show(record: dict) -> None:
    value = b64decode(record["value_base64"]) if "value_base64" in record else (record["value"] or "").encode()
    sys.stdout.buffer.write(value + b"\n")
    sys.stdout.buffer.flush()


async def follow(reactor, url: str) -> None:
    """Reads one response to its end."""
    response = await treq.get(
        url,
        params={"follow": "1"},
        headers={"Accept": "application/x-ndjson"},
        unbuffered=True,
        reactor=reactor,
    )
    if response.code == 200:
        await treq.collect(response, Lines(show))
        return
    problem = await response.json()
    print(f"{problem['title']}: {problem['detail']}", file=sys.stderr)
    if not problem["retriable"]:
        sys.exit(1)


async def main(reactor, url: str) -> None:
    while True:
        try:
            await follow(reactor, url)
        except (ConnectError, ResponseFailed) as error:
            print(f"{error}; trying again", file=sys.stderr)
        await deferLater(reactor, AGAIN_SECONDS)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    react(lambda reactor, *arguments: Deferred.fromCoroutine(main(reactor, *arguments)), sys.argv[1:])
