"""The channel on a transport in memory: order, keep-alive, framing, limits and timeouts, on a clock of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from kateway.config.schema import HttpConfig
from kateway.errors import NotFound
from kateway.web.coroutine_handler import serve
from kateway.web.exchange import Exchange, Request, Response
from kateway.web.http1.channel import HttpChannel
from kateway.web.http1.factory import HttpFactory

GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"


class Echo(Resource):
    """The site behind: answers the method, the path and the body."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        request.setHeader(b"X-Site", b"yes")
        return b"%b %b %b" % (request.method, request.uri, request.content.read())


class Held(Resource):
    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def render(self, request: Any) -> int:
        self.requests.append(request)
        return NOT_DONE_YET


class Wire:
    """A client's end, and what the handler was given."""

    def __init__(self, site: Resource | None = None, address: str = "10.0.0.1", **options: Any) -> None:
        self.clock = Clock()
        self.exchanges: list[Exchange] = []
        self.handler: Callable[[Exchange], None] | None = self.exchanges.append
        self.factory = HttpFactory(
            lambda _request: self.handler,
            Site(site or Echo()),
            HttpConfig(**options),
            self.clock,
            wall=lambda: 1732269600.0,
        )
        self.channel, self.transport = self.connect(address)

    def connect(self, address: str = "10.0.0.1") -> tuple[HttpChannel, StringTransport]:
        channel = self.factory.buildProtocol(IPv4Address("TCP", address, 4000))
        assert channel is not None
        transport = StringTransport(peerAddress=IPv4Address("TCP", address, 4000))
        channel.makeConnection(transport)
        return channel, transport

    def send(self, data: bytes) -> bytes:
        """Sends, and returns the answer."""
        self.transport.clear()
        self.channel.dataReceived(data)
        return bytes(self.transport.value())

    def lose(self) -> None:
        self.channel.connectionLost(Failure(ConnectionDone()))


def answer(exchange: Exchange) -> None:
    exchange.respond(Response(200, [(b"X-Path", exchange.request.target)], exchange.request.body))


@pytest.fixture
def wire() -> Wire:
    return Wire()


def statuses(data: bytes) -> list[int]:
    return [int(part[:3]) for part in data.split(b"HTTP/1.1 ")[1:]]


def test_a_response_is_one_write_with_date_id_and_length(wire: Wire) -> None:
    wire.handler = answer
    assert wire.send(b"POST /x HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine.1\r\nContent-Length: 3\r\n\r\nabc") == (
        b"HTTP/1.1 200 OK\r\nDate: Fri, 22 Nov 2024 10:00:00 GMT\r\nX-Request-Id: mine.1\r\nX-Path: /x\r\n"
        b"Content-Length: 3\r\n\r\nabc"
    )


def test_a_request_is_given_whole(wire: Wire) -> None:
    for byte in (
        b"POST /a?b=c HTTP/1.1\r\nHost: a\r\nX-One:  two \t\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n"
    ):
        wire.send(bytes([byte]))
    assert wire.exchanges == []
    wire.send(b"0\r\n\r\n")
    request = wire.exchanges[0].request
    assert (request.method, request.target, request.body, request.http_1_1) == (b"POST", b"/a?b=c", b"abc", True)
    assert request.header(b"x-one") == b"two"
    assert request.peer == "10.0.0.1"


@pytest.mark.parametrize("identity", [b"a b", b"x" * 129, b"<script>", b"\xff"])
def test_an_insane_request_id_is_replaced(wire: Wire, identity: bytes) -> None:
    wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: %b\r\n\r\n" % identity)
    wire.send(GET % b"")
    wire.exchanges[0].respond(Response(200, [], b""))
    assert wire.exchanges[0].request.id.encode() != identity
    assert wire.exchanges[0].request.id != wire.exchanges[1].request.id


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"Content-Length: 11\r\n\r\n", 413),
        (b"Transfer-Encoding: chunked\r\n\r\nz\r\n", 400),
        (b"Expect: x\r\n\r\n", 417),
        (b"X: y\r\n" * 10 + b"\r\n", 431),
        (b"Transfer-Encoding: x\r\n\r\n", 501),
        (b"Content-Length: 3\r\n\r\na", 408),
    ],
)
def test_a_refusal_carries_the_caller_s_id_too(rest: bytes, status: int) -> None:
    wire = Wire(max_body_bytes=10, max_header_count=10)
    wire.handler = answer
    head = b"POST / HTTP/1.1\r\nHost: a\r\nX-Request-Id: "
    wire.send(head + b"first\r\n\r\n")
    wire.send(head + b"mine\r\n" + rest)
    wire.clock.pump([0.5] * 62)
    assert statuses(wire.transport.value()) == [status]
    assert b"\r\nX-Request-Id: mine\r\n" in wire.transport.value()
    assert b'"instance":"mine"' in wire.transport.value()


def test_a_refusal_never_carries_the_id_of_the_request_before_it(wire: Wire) -> None:
    wire.handler = answer
    wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: first\r\n\r\n")
    assert b"X-Request-Id: first" not in wire.send(b"\x16\x03")
    assert statuses(wire.transport.value()) == [400]


def test_pipelined_requests_are_handled_one_by_one_and_answered_in_order(wire: Wire) -> None:
    wire.send(GET % b"1" + GET % b"2" + GET % b"3")
    assert [exchange.request.target for exchange in wire.exchanges] == [b"/1"]
    wire.exchanges[0].respond(Response(200, [], b"one"))
    wire.exchanges[1].respond(Response(200, [], b"two"))
    assert [exchange.request.target for exchange in wire.exchanges] == [b"/1", b"/2", b"/3"]
    assert wire.transport.value().index(b"one") < wire.transport.value().index(b"two")


def test_thousands_of_pipelined_requests_are_answered_without_recursion_or_queue() -> None:
    wire = Wire(max_pipelined_requests=8)
    wire.handler = answer
    assert statuses(wire.send(GET % b"" * 3000)) == [200] * 3000


def test_reading_pauses_while_more_requests_wait_than_may() -> None:
    wire = Wire(max_pipelined_requests=2)
    wire.send(b"".join(GET % (b"%d" % number + b"x" * 4000) for number in range(6)))
    assert wire.transport.producerState == "paused"
    while len(wire.exchanges) < 6:
        wire.exchanges[-1].respond(Response(200, [], b""))
    assert wire.transport.producerState == "producing"
    assert [exchange.request.target[:2] for exchange in wire.exchanges] == [b"/%d" % number for number in range(6)]


def test_http_1_0_closes_unless_asked_to_keep_alive(wire: Wire) -> None:
    wire.handler = answer
    kept = wire.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"Connection: keep-alive\r\n" in kept
    assert not wire.transport.disconnecting
    assert b"Connection: close\r\n" in wire.send(b"GET / HTTP/1.0\r\n\r\n")
    assert wire.transport.disconnecting


def test_connection_close_is_obeyed_and_what_follows_is_ignored(wire: Wire) -> None:
    wire.handler = answer
    data = wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET % b"2")
    assert statuses(data) == [200]
    assert b"Connection: close\r\n" in data
    assert wire.transport.disconnecting


@pytest.mark.parametrize("status", [204, 304])
def test_some_statuses_have_no_body(wire: Wire, status: int) -> None:
    wire.send(GET % b"")
    wire.exchanges[0].respond(Response(status, [], b""))
    head, _, body = wire.transport.value().partition(b"\r\n\r\n")
    assert body == b""
    assert b"Content-Length" not in head


def test_head_has_the_length_and_no_body(wire: Wire) -> None:
    wire.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    wire.exchanges[0].respond(Response(200, [], b"12345"))
    assert wire.transport.value().endswith(b"Content-Length: 5\r\n\r\n")
    wire.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    streamed = wire.exchanges[1]
    streamed.begin(200, [])
    span = streamed.write([b"abc"])
    streamed.finish()
    assert wire.transport.value().endswith(b"\r\n\r\n")
    assert span.start == span.end


def test_each_piece_is_a_chunk_of_its_own(wire: Wire) -> None:
    wire.send(GET % b"")
    exchange = wire.exchanges[0]
    exchange.begin(200, [(b"Content-Type", b"text/plain")])
    begun = len(wire.transport.value())
    span = exchange.write([b"abc", b"", b"x" * 16])
    assert wire.transport.value()[begun:] == b"3\r\nabc\r\n10\r\n" + b"x" * 16 + b"\r\n"
    assert (span.start, list(span.lengths), span.end) == (begun, [8, 0, 22], begun + 30)
    exchange.finish()
    assert wire.transport.value().endswith(b"\r\n0\r\n\r\n")
    assert b"Transfer-Encoding: chunked\r\n" in wire.transport.value()


def test_pieces_can_share_a_chunk(wire: Wire) -> None:
    wire.send(GET % b"")
    exchange = wire.exchanges[0]
    exchange.begin(200, [])
    begun = len(wire.transport.value())
    span = exchange.write([b"abc", b"", b"de"], one_chunk=True)
    assert wire.transport.value()[begun:] == b"5\r\nabcde\r\n"
    assert sum(span.lengths) == span.end - span.start == 10
    nothing = exchange.write([b""], one_chunk=True)
    assert nothing.start == nothing.end == span.end


def test_http_1_0_gets_a_stream_ended_by_the_close(wire: Wire) -> None:
    wire.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    exchange = wire.exchanges[0]
    exchange.begin(200, [])
    exchange.write([b"abc", b"de"])
    exchange.finish()
    head, _, body = wire.transport.value().partition(b"\r\n\r\n")
    assert body == b"abcde"
    assert b"Connection: close" in head
    assert b"chunked" not in head
    assert wire.transport.disconnecting


def test_an_aborted_response_has_no_last_chunk(wire: Wire) -> None:
    wire.send(GET % b"")
    exchange = wire.exchanges[0]
    exchange.begin(200, [])
    exchange.write([b"abc"])
    exchange.abort()
    exchange.finish()
    assert not wire.transport.value().endswith(b"0\r\n\r\n")
    assert wire.transport.disconnected


def test_a_header_value_cannot_end_the_head(wire: Wire) -> None:
    wire.send(GET % b"")
    wire.exchanges[0].respond(Response(200, [(b"X-Key", b"a\r\nSet-Cookie: b\n\r\n"), (b"X-B", b"c")], b""))
    head = wire.transport.value()
    assert b"X-Key: aSet-Cookie: b\r\nX-B: c\r\n" in head
    assert head.count(b"\r\n\r\n") == 1


def test_a_handler_that_raises_a_named_error_answers_a_problem(wire: Wire) -> None:
    def fail(_exchange: Exchange) -> None:
        raise NotFound("not here")

    wire.handler = fail
    data = wire.send(GET % b"")
    assert statuses(data) == [404]
    assert b"application/problem+json" in data
    assert b"not here" in data


def test_a_handler_that_fails_otherwise_is_logged_and_keeps_the_detail_in(
    wire: Wire, logged_errors: list[dict[str, Any]]
) -> None:
    def fail(_exchange: Exchange) -> None:
        raise ZeroDivisionError("secret")

    wire.handler = fail
    data = wire.send(GET % b"")
    assert statuses(data) == [500]
    assert b"secret" not in data
    assert len(logged_errors) == 1
    logged_errors.clear()


def test_continue_is_sent_when_the_body_is_wanted(wire: Wire) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n"
    assert wire.send(head) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert wire.send(b"abc") == b""
    assert wire.exchanges[0].request.body == b"abc"


def test_continue_is_not_sent_after_the_body_has_begun_or_when_there_is_none(wire: Wire) -> None:
    wire.handler = answer
    assert statuses(
        wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc")
    ) == [200]
    assert statuses(wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: 100-continue\r\n\r\n")) == [
        200
    ]


def test_continue_waits_for_the_responses_before_it(wire: Wire) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    assert wire.send(GET % b"" + head) == b""
    wire.exchanges[0].respond(Response(200, [], b""))
    assert statuses(wire.transport.value()) == [200, 100]


def test_another_expectation_fails(wire: Wire) -> None:
    assert statuses(wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: x\r\n\r\n")) == [417]
    assert wire.transport.disconnecting


def test_a_body_declared_too_large_is_refused_instead_of_continued() -> None:
    wire = Wire(max_body_bytes=10)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n"
    assert statuses(wire.send(head)) == [413]
    assert wire.transport.disconnecting


def test_a_chunked_body_is_refused_once_it_is_too_large() -> None:
    wire = Wire(max_body_bytes=10)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert wire.send(head + b"9\r\n123456789\r\n") == b""
    assert statuses(wire.send(b"2\r\n12\r\n")) == [413]
    assert wire.factory.bytes_in_flight == 0
    assert wire.send(b"2\r\n12\r\n") == b""


def test_a_body_of_just_the_limit_is_taken() -> None:
    wire = Wire(max_body_bytes=10)
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789")
    assert wire.exchanges[0].request.body == b"0123456789"


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /" + b"x" * 100, 414),
        (b"GET /" + b"x" * 10000, 414),
        (b"G" + b"x" * 10, 405),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 10 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 600 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 600, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"y" * 600, 431),
    ],
)
def test_a_head_beyond_a_limit_is_refused(request_head: bytes, status: int) -> None:
    wire = Wire(max_request_line_bytes=80, max_header_bytes=500, max_header_count=10)
    assert statuses(wire.send(request_head)) == [status]
    assert wire.transport.disconnecting


def test_a_head_sent_byte_by_byte_is_bounded() -> None:
    wire = Wire(max_request_line_bytes=80, max_header_bytes=500)
    data = b""
    for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 600:
        data += wire.send(bytes([byte]))
    assert statuses(data) == [431]


def test_trailers_say_nothing_of_their_request_or_of_the_next(wire: Wire) -> None:
    wire.handler = answer
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    wire.send(chunked + b"Expect: x\r\nX-Request-Id: trailer\r\n\r\n")
    answered = wire.transport.value() + wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na")
    assert statuses(answered) == [200, 200]
    assert b"trailer" not in answered


@pytest.mark.parametrize(
    "begin", [b"", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"]
)
def test_headers_and_trailers_are_counted_before_they_are_whole(begin: bytes) -> None:
    wire = Wire(max_header_count=10)
    sent = begin or b"GET / HTTP/1.1\r\n"
    assert statuses(wire.send(sent + b"a:\r\n" * 12)) == [431]


@pytest.mark.parametrize("size", [1, 2, 30, 511])
def test_body_in_small_pieces_is_kept_in_few_objects(wire: Wire, size: int) -> None:
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    wire.send((b"%x\r\n%b\r\n" % (size, b"x" * size)) * 1000)
    parser = wire.channel.connection.parser
    assert parser is not None
    assert len(parser._body) <= 2
    wire.send(b"258\r\n" + b"y" * 600 + b"\r\n1\r\nz\r\n0\r\n\r\n")
    assert wire.exchanges[0].request.body == b"x" * size * 1000 + b"y" * 600 + b"z"
    assert type(wire.exchanges[0].request.body) is bytes


def test_chunk_framing_without_data_is_bounded() -> None:
    wire = Wire(max_header_bytes=500)
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert statuses(b"".join(wire.send(b"0" * 100) for _ in range(8))) == [400]


def test_the_bodies_of_all_connections_together_are_bounded() -> None:
    wire = Wire(max_inflight_body_bytes=1048576)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 600000\r\n\r\n"
    wire.send(head + b"x" * 600000)
    assert wire.factory.bytes_in_flight == 600000
    other, transport = wire.connect()
    other.dataReceived(head)
    other.dataReceived(b"x" * 500000)
    assert statuses(transport.value()) == [503]
    assert b"Retry-After: 1\r\n" in transport.value()
    wire.exchanges[0].respond(Response(201, [], b""))
    assert wire.factory.bytes_in_flight == 0


def test_bodies_that_wait_behind_the_last_response_are_let_go_at_once(wire: Wire) -> None:
    wire.send((b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n" + b"x" * 50) * 3)
    assert wire.factory.bytes_in_flight == 150
    wire.factory.drain()
    wire.exchanges[0].respond(Response(200, [], b""))
    assert wire.transport.disconnecting
    assert wire.factory.bytes_in_flight == 0


def test_small_requests_behind_a_large_body_wait_beyond_the_pipeline_s_limit(wire: Wire) -> None:
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n")
    wire.send(b"x" * 5000 + (GET % b"") * 2000)
    wire.handler = answer
    parser = wire.channel.connection.parser
    assert parser is not None
    assert len(parser.ready) < 200
    wire.exchanges[0].respond(Response(200, [], b""))
    assert len(statuses(wire.transport.value())) == 2001


def test_a_head_that_does_not_arrive_in_time_is_answered_408(wire: Wire) -> None:
    wire.send(b"GET / HTTP/1.1\r\nHost")
    for _ in range(12):
        wire.clock.advance(0.5)
        wire.channel.dataReceived(b"x")
    assert wire.transport.value() == b""
    for _ in range(9):
        wire.clock.advance(0.5)
        wire.channel.dataReceived(b"x")
    assert statuses(wire.transport.value()) == [408]


def test_a_body_that_stops_arriving_is_answered_408(wire: Wire) -> None:
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
    for _ in range(5):
        wire.clock.pump([0.5] * 40)
        wire.channel.dataReceived(b"x")
    assert wire.transport.value() == b""
    wire.clock.pump([0.5] * 62)
    assert statuses(wire.transport.value()) == [408]
    assert wire.factory.bytes_in_flight == 0


def test_an_idle_connection_is_closed_silently(wire: Wire) -> None:
    wire.handler = answer
    wire.send(GET % b"")
    wire.transport.clear()
    wire.clock.pump([0.5] * 148)
    assert not wire.transport.disconnecting
    wire.clock.pump([0.5] * 4)
    assert wire.transport.disconnecting
    assert wire.transport.value() == b""


def test_a_connection_that_never_sends_is_closed_silently(wire: Wire) -> None:
    wire.clock.pump([0.5] * 22)
    assert wire.transport.disconnecting
    assert wire.transport.value() == b""


def test_a_request_under_way_has_no_deadline(wire: Wire) -> None:
    wire.send(GET % b"")
    wire.clock.pump([1.0] * 400)
    assert not wire.transport.disconnecting


def refuse(exchange: Exchange) -> None:
    exchange.connection.told_to_wait(2)
    exchange.respond(Response(429, (), b""))


def test_connection_that_waits_as_told_is_read_from_at_once(wire: Wire) -> None:
    wire.handler = refuse
    for _ in range(3):
        assert statuses(wire.send(GET % b"a")) == [429]
        assert wire.transport.producerState == "producing"
        wire.clock.advance(2)


def test_connection_that_goes_on_though_told_to_wait_is_read_from_after_a_pause(wire: Wire) -> None:
    wire.handler = refuse
    wire.send(GET % b"a")
    assert statuses(wire.send(GET % b"a" * 3)) == [429]
    assert wire.transport.producerState == "paused"
    wire.transport.clear()
    wire.clock.advance(0.05)
    assert statuses(wire.transport.value()) == [429]  # one more, and the next rest
    assert wire.transport.producerState == "paused"
    wire.handler = answer
    wire.clock.advance(0.05)
    assert statuses(wire.transport.value()) == [429, 200]
    assert wire.transport.producerState == "producing"


def test_known_head_that_comes_during_a_pause_waits_for_its_end(wire: Wire) -> None:
    # TLS goes on to deliver what it has decrypted of a read, paused or not
    wire.handler = answer
    wire.send(GET % b"a")
    wire.handler = refuse
    assert statuses(wire.send(GET % b"a")) == [429]
    assert statuses(wire.send(GET % b"a")) == [429]
    assert wire.transport.producerState == "paused"
    assert wire.send(GET % b"a") == b""
    assert wire.send(GET % b"a") == b""
    wire.clock.advance(0.05)
    assert statuses(wire.transport.value()) == [429]
    wire.clock.advance(0.05)
    assert statuses(wire.transport.value()) == [429, 429]


def test_a_request_that_passes_before_its_time_pauses_nothing(wire: Wire) -> None:
    wire.handler = refuse
    wire.send(GET % b"a")
    wire.handler = answer
    assert statuses(wire.send(GET % b"a" * 2)) == [200, 200]
    assert wire.transport.producerState == "producing"


def test_a_paused_connection_can_end(wire: Wire) -> None:
    wire.handler = refuse
    wire.send(GET % b"a")
    wire.send(GET % b"a")
    wire.lose()
    assert not wire.clock.getDelayedCalls()


def test_a_paused_connection_is_read_to_its_end_when_it_closes(wire: Wire) -> None:
    wire.handler = refuse
    wire.send(GET % b"a")
    wire.send(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert wire.transport.producerState == "producing"
    wire.clock.advance(1)


def test_connection_without_a_pause_does_not_rest() -> None:
    wire = Wire(refused_pause_seconds=0.0)
    wire.handler = refuse
    assert statuses(wire.send(GET % b"a" * 3)) == [429, 429, 429]


def test_nothing_is_scheduled_without_connections(wire: Wire) -> None:
    assert wire.clock.getDelayedCalls() != []
    wire.lose()
    assert wire.clock.getDelayedCalls() == []


def test_connections_beyond_the_limit_are_told_so() -> None:
    wire = Wire(max_connections=2, max_connections_per_address=1)
    _, same = wire.connect()
    assert statuses(same.value()) == [429]
    _, other = wire.connect("10.0.0.2")
    assert statuses(other.value()) == [503]
    assert b"Connection: close\r\n" in other.value()


def test_connections_far_beyond_the_limit_are_just_closed() -> None:
    wire = Wire(max_connections=1)
    for number in range(100):
        wire.connect(f"10.0.1.{number}")
    assert wire.factory.buildProtocol(IPv4Address("TCP", "10.0.2.1", 1)) is None


def test_draining_closes_idle_connections_now_and_busy_ones_after_their_response(wire: Wire) -> None:
    idle, idle_transport = wire.connect()
    idle.dataReceived(GET % b"")
    wire.exchanges[0].respond(Response(200, [], b""))
    wire.send(GET % b"")
    empty = wire.factory.empty()
    wire.factory.drain()
    assert idle_transport.disconnecting
    assert not wire.transport.disconnecting
    wire.exchanges[1].respond(Response(200, [], b""))
    assert b"Connection: close\r\n" in wire.transport.value()
    assert wire.transport.disconnecting
    assert not empty.called
    idle.connectionLost(Failure(ConnectionDone()))
    wire.lose()
    assert empty.called
    assert wire.factory.connections == 0


def test_draining_leaves_a_connection_that_was_just_accepted_the_time_for_its_request(wire: Wire) -> None:
    silent, silent_transport = wire.connect()
    wire.factory.drain()
    assert not silent_transport.disconnecting
    wire.send(GET % b"")
    wire.exchanges[0].respond(Response(200, [], b""))
    assert b"Connection: close\r\n" in wire.transport.value()
    wire.clock.pump([0.5] * 3)
    assert silent_transport.disconnecting
    silent.connectionLost(Failure(ConnectionDone()))
    wire.lose()


def test_connection_that_cannot_be_passed_on_ends_with_its_next_response_or_soon(wire: Wire) -> None:
    idle, idle_transport = wire.connect()
    idle.dataReceived(GET % b"")
    wire.exchanges[0].respond(Response(200, [], b""))
    wire.send(GET % b"")
    wire.exchanges[1].respond(Response(200, [], b""))
    wire.factory.drain(lambda _descriptor: False)
    wire.clock.pump([0.25] * 4)
    assert not idle_transport.disconnecting
    assert not wire.transport.disconnecting
    wire.send(GET % b"")
    wire.exchanges[2].respond(Response(200, [], b""))
    assert b"Connection: close\r\n" in wire.transport.value()
    assert wire.transport.disconnecting
    wire.clock.pump([0.25] * 8)
    assert idle_transport.disconnecting
    idle.connectionLost(Failure(ConnectionDone()))
    wire.lose()


def test_stop_that_is_announced_closes_connections_after_their_responses_and_leaves_the_others(wire: Wire) -> None:
    wire.factory.lead_away()
    silent, silent_transport = wire.connect()
    wire.send(GET % b"")
    wire.exchanges[0].respond(Response(200, [], b""))
    assert b"Connection: close\r\n" in wire.transport.value()
    assert wire.transport.disconnecting
    assert not silent_transport.disconnecting
    silent.connectionLost(Failure(ConnectionDone()))
    wire.lose()


def test_a_handler_hears_once_that_its_client_has_gone(wire: Wire) -> None:
    heard: list[str] = []
    wire.send(GET % b"")
    exchange = wire.exchanges[0]
    exchange.on_gone(lambda: heard.append("gone"))
    wire.lose()
    exchange.respond(Response(200, [], b""))
    exchange.abort()
    assert heard == ["gone"]
    assert wire.transport.value() == b""


def test_a_watcher_hears_the_next_request_and_then_the_end(wire: Wire) -> None:
    heard: list[Any] = []

    @attrs.frozen
    class Watch:
        def asked(self) -> None:
            heard.append("asked")

        def closed(self, confirmed: int, orderly: bool) -> None:
            heard.append((confirmed, orderly))

    wire.send(GET % b"1" + GET % b"2")
    wire.exchanges[0].connection.watch(Watch())
    wire.exchanges[0].respond(Response(200, [], b""))
    wire.exchanges[1].respond(Response(200, [], b""))
    assert heard == []
    wire.send(b"GE")
    assert heard == ["asked"]
    wire.lose()
    assert heard == ["asked", (wire.channel.connection.sent, True)]


def test_watcher_that_fails_does_not_keep_the_others_or_the_handler_from_the_end(
    wire: Wire, logged_errors: list[dict[str, Any]]
) -> None:
    heard: list[str] = []

    class Watching:
        def __init__(self, name: str) -> None:
            self.name = name

        def unsettled(self) -> bool:
            return False

        def asked(self) -> None:
            self.closed(0, True)

        def closed(self, _confirmed: int, _orderly: bool) -> None:
            if self.name == "broken":
                raise ZeroDivisionError
            heard.append(self.name)

    wire.handler = answer
    wire.send(GET % b"")
    for name in ("broken", "sound"):
        wire.channel.connection.watch(Watching(name))
    wire.handler = lambda exchange: exchange.on_gone(lambda: heard.append("handler"))
    wire.send(GET % b"")
    assert heard == ["sound"]
    wire.lose()
    assert heard == ["sound", "sound", "handler"]
    assert wire.factory.connections == 0
    assert len(logged_errors) == 2
    logged_errors.clear()


class Broken(StringTransport):
    """A transport that cannot be closed."""

    aborted = False

    def loseConnection(self) -> None:
        raise ZeroDivisionError

    def abortConnection(self) -> None:
        self.aborted = True


@pytest.mark.parametrize("what", ["sweep", "drain"])
def test_connection_that_fails_to_end_is_cut_and_keeps_no_other_open(
    wire: Wire, what: str, logged_errors: list[dict[str, Any]]
) -> None:
    transports: list[StringTransport] = [Broken(), StringTransport(), Broken(), StringTransport()]
    for transport in transports:
        channel = wire.factory.buildProtocol(IPv4Address("TCP", "10.0.0.2", 4000))
        assert channel is not None
        channel.makeConnection(transport)
    if what == "drain":
        wire.factory.drain()
    wire.clock.pump([0.5] * 30)
    for transport in transports:
        assert transport.aborted if isinstance(transport, Broken) else transport.disconnecting
    assert {event["log_failure"].type for event in logged_errors} == {ZeroDivisionError}
    logged_errors.clear()


def test_handler_that_is_cancelled_by_another_than_its_client_cuts_the_connection(wire: Wire) -> None:
    waited: Deferred[Response] = Deferred()

    async def handle() -> Response:
        return await waited

    wire.handler = lambda exchange: serve(exchange, handle())
    wire.send(GET % b"")
    waited.cancel()
    assert wire.transport.value() == b""
    assert wire.transport.disconnected


def test_an_upgrade_is_answered_as_if_not_asked_for(wire: Wire) -> None:
    wire.handler = answer
    upgrade = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert statuses(wire.send(upgrade + GET % b"2" + upgrade)) == [200, 200, 200]
    assert statuses(wire.send(GET % b"4")) == [200]


def test_a_body_behind_an_upgrade_is_the_request_s_own(wire: Wire) -> None:
    bodies: list[tuple[bytes, bool]] = []

    def note(exchange: Exchange) -> None:
        bodies.append((exchange.request.body, exchange.upgrade))
        exchange.respond(Response(200, [], b""))

    wire.handler = note
    upgrade = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n"
    assert statuses(wire.send((upgrade + b"\r\nab") * 1000 + GET % b"2")) == [200] * 1001
    assert wire.send(upgrade + b"Expect: 100-continue\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert statuses(wire.send(b"cd")) == [200]
    assert bodies == [(b"ab", False)] * 1000 + [(b"", False), (b"cd", False)]


def test_all_that_came_with_an_upgrade_is_handed_over(wire: Wire) -> None:
    early = bytes(range(256)) * 64
    wire.send(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + early)
    exchange: Any = wire.exchanges[0]
    assert exchange.take_over(wire, b"HTTP/1.1 101 Switching Protocols\r\n\r\n") == early


def test_a_connection_can_be_taken_over(wire: Wire) -> None:
    heard: list[Any] = []

    class Other:
        def dataReceived(self, data: bytes) -> None:
            heard.append(data)

        def connectionLost(self, reason: Failure) -> None:
            heard.append("lost")

    wire.send(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst")
    exchange: Any = wire.exchanges[0]
    assert exchange.upgrade
    assert exchange.take_over(Other(), b"HTTP/1.1 101 Switching Protocols\r\n\r\n") == b"first"
    assert wire.transport.value() == b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    wire.send(b"second")
    wire.lose()
    assert heard == [b"second", "lost"]


def test_path_without_a_hot_route_goes_through_the_site(wire: Wire) -> None:
    wire.handler = None
    data = wire.send(b"PUT /x?y=z HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" + GET % b"2")
    assert statuses(data) == [200, 200]
    assert b"PUT /x?y=z abc" in data
    assert b"X-Site: yes\r\n" in data
    assert data.count(b"X-Request-Id: ") == data.count(b"Date: ") == 2
    assert b"TwistedWeb" not in data


def test_options_of_the_server_are_answered(wire: Wire) -> None:
    wire.handler = None
    assert statuses(wire.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")) == [200]


def test_the_site_may_stream_and_hears_of_the_clients_going() -> None:
    held = Held()
    wire = Wire(held)
    wire.handler = None
    wire.send(GET % b"1")
    request = held.requests[0]
    request.write(b"abc")
    request.write(b"de")
    assert wire.transport.value().endswith(b"\r\n\r\n3\r\nabc\r\n2\r\nde\r\n")
    request.finish()
    assert wire.transport.value().endswith(b"0\r\n\r\n")
    wire.send(GET % b"2")
    failures: list[Failure] = []
    held.requests[1].notifyFinish().addErrback(failures.append)
    wire.lose()
    assert len(failures) == 1


def test_a_handler_behind_the_site_may_answer_through_the_exchange() -> None:
    held = Held()
    wire = Wire(held)
    wire.handler = None
    wire.send(GET % b"1")
    request = held.requests[0]
    exchange = request.channel.exchange
    exchange.begin(200, [])
    exchange.write([b"abc"])
    exchange.finish()
    request.write(b"ignored")
    request.finish()
    assert statuses(wire.transport.value()) == [200]
    assert b"ignored" not in wire.transport.value()
    wire.handler = answer
    assert statuses(wire.send(GET % b"2")) == [200]


def test_a_producer_behind_the_site_is_driven() -> None:
    held = Held()
    wire = Wire(held)
    wire.handler = None
    wire.send(GET % b"1")
    request = held.requests[0]

    class Pull:
        left = 3

        def resumeProducing(self) -> None:
            self.left -= 1
            request.write(b"piece")
            if not self.left:
                request.unregisterProducer()
                request.finish()

    request.registerProducer(Pull(), False)
    assert wire.transport.value().count(b"piece") == 3
    assert wire.transport.value().endswith(b"0\r\n\r\n")


def test_requests_are_values_of_the_contract(wire: Wire) -> None:
    wire.send(GET % b"")
    assert isinstance(wire.exchanges[0].request, Request)
    assert wire.exchanges[0].writable()
    assert wire.exchanges[0].connection.confirmed() is None
    assert not wire.exchanges[0].connection.stalled()
