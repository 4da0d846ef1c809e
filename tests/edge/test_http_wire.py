"""Bytes on the wire and how they may be misread: request smuggling and malformed requests, refused, then closed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.web.resource import Resource
from twisted.web.server import Site

from kateway.config.schema import HttpConfig
from kateway.web.exchange import Exchange, Response
from kateway.web.http1.factory import HttpFactory

HOST = b"Host: a\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
GET = b"GET / HTTP/1.1\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"


class Conversation:
    """A connection whose every request is answered with its parsed parts."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, bytes, bytes]] = []
        factory = HttpFactory(lambda _request: self.answer, Site(Resource()), HttpConfig(), Clock())
        channel = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        assert channel is not None
        self.channel = channel
        self.transport = StringTransport()
        channel.makeConnection(self.transport)

    def answer(self, exchange: Exchange) -> None:
        request = exchange.request
        self.seen.append((request.method, request.target, request.body))
        exchange.respond(Response(200, [], b""))

    def send(self, data: bytes) -> list[int]:
        self.channel.dataReceived(data)
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", self.transport.value())]


REFUSED = {
    "Content-Length with Transfer-Encoding": (
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "Transfer-Encoding with Content-Length": (
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two lengths that differ": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "two lengths alike": (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "a list of lengths": (POST + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "a length with a plus": (POST + b"Content-Length: +3\r\n\r\nabc", 400),
    "a length with a minus": (POST + b"Content-Length: -3\r\n\r\nabc", 400),
    "a length in hexadecimal": (POST + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "a length with an underscore": (POST + b"Content-Length: 1_0\r\n\r\nabc", 400),
    "a length with a space inside": (POST + b"Content-Length: 3 3\r\n\r\nabc", 400),
    "an empty length": (POST + b"Content-Length:\r\n\r\nabc", 400),
    "a length beyond 64 bits": (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
    "a length of 19 digits": (POST + b"Content-Length: 1000000000000000000\r\n\r\n", 413),
    "a length with letters": (POST + b"Content-Length: abc\r\n\r\n", 400),
    "a length in Arabic digits": (POST + b"Content-Length: \xd9\xa3\r\n\r\nabc", 400),
    "a coding we do not know": (POST + b"Transfer-Encoding: gzip\r\n\r\nabc", 501),
    "gzip, chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "identity, chunked": (POST + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", 501),
    "chunked, identity": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "two Transfer-Encodings": (
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        400,
    ),
    "xchunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "quoted chunked": (POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', 501),
    "chunked after a vertical tab": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "an empty Transfer-Encoding": (POST + b"Transfer-Encoding:\r\n\r\n", 400),
    "a space before the colon": (POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "a tab before the colon": (POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400),
    "a length with a space before the colon": (POST + b"Content-Length : 3\r\n\r\nabc", 400),
    "chunked in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "lines that end in LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "one line that ends in LF": (GET + b"Host: a\n\r\n", 400),
    "an empty line of LF": (GET + b"Host: a\r\n\n", 400),
    "a CR too many": (GET + b"Host: a\r\r\n\r\n", 400),
    "a CR inside a value": (GET + b"Host: a\r\nX: a\rb\r\n\r\n", 400),
    "a folded header": (GET + b"Host: a\r\nX: a\r\n b\r\n\r\n", 400),
    "a folded header by a tab": (GET + b"Host: a\r\nX: a\r\n\tb\r\n\r\n", 400),
    "a folded Transfer-Encoding": (POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "a space before the first header": (GET + b" Host: a\r\n\r\n", 400),
    "a NUL in a value": (GET + HOST + b"X: a\0b\r\n\r\n", 400),
    "a control character in a value": (GET + HOST + b"X: a\x01b\r\n\r\n", 400),
    "a DEL in a value": (GET + HOST + b"X: a\x7fb\r\n\r\n", 400),
    "a NUL in a name": (GET + HOST + b"X\0: a\r\n\r\n", 400),
    "a header without a name": (GET + HOST + b": a\r\n\r\n", 400),
    "a header without a colon": (GET + HOST + b"X\r\n\r\n", 400),
    "a name with a space": (GET + HOST + b"X Y: a\r\n\r\n", 400),
    "a name with a parenthesis": (GET + HOST + b"X(: a\r\n\r\n", 400),
    "a name beyond ASCII": (GET + HOST + b"X\xe9: a\r\n\r\n", 400),
    "no Host": (GET + b"\r\n", 400),
    "two Hosts": (GET + HOST + b"Host: b\r\n\r\n", 400),
    "two Hosts alike": (GET + HOST + HOST + b"\r\n", 400),
    "a Host with a user": (GET + b"Host: user@a\r\n\r\n", 400),
    "a Host with a path": (GET + b"Host: a/b\r\n\r\n", 400),
    "a Host with a space": (GET + b"Host: a b\r\n\r\n", 400),
    "a chunk size with a sign": (CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n", 400),
    "a chunk size with 0x": (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", 400),
    "a chunk size after a space": (CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n", 400),
    "a chunk size before a space": (CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", 400),
    "a chunk size beyond 64 bits": (CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n", 400),
    "no chunk size": (CHUNKED + b"\r\nabc\r\n0\r\n\r\n", 400),
    "a negative chunk size": (CHUNKED + b"-1\r\nabc\r\n0\r\n\r\n", 400),
    "a chunk size that ends in LF": (CHUNKED + b"3\nabc\r\n0\r\n\r\n", 400),
    "a chunk that ends in LF": (CHUNKED + b"3\r\nabc\n0\r\n\r\n", 400),
    "a chunk that ends in CR": (CHUNKED + b"3\r\nabc\r0\r\n\r\n", 400),
    "a chunk longer than its size": (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", 400),
    "a chunk extension that ends in LF": (CHUNKED + b"3;a\nabc\r\n0\r\n\r\n", 400),
    "a chunk extension with a CR": (CHUNKED + b"3;a\rb\r\nabc\r\n0\r\n\r\n", 400),
    "a length in the trailer": (CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n", 400),
    "a coding in the trailer": (CHUNKED + b"0\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    "a Host in the trailer": (CHUNKED + b"0\r\nHost: b\r\n\r\n", 400),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "http in lower case": (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    "another protocol": (b"GET / HTCPCP/1.0\r\nHost: a\r\n\r\n", 400),
    "a space after the version": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "a tab after the method": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target beyond ASCII": (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a control character in the target": (b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a fragment": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target without a slash": (b"GET foo HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "another scheme": (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "an absolute target with a user": (b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "* for GET": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "a method in lower case": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "a method nobody knows": (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "a method that begins like another": (b"GETS / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "a method of another protocol": (b"SETUP / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "no space after the method": (b"GET/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "TLS on a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 100, 400),
    "an expectation nobody knows": (POST + b"Expect: 200-ok\r\nContent-Length: 1\r\n\r\na", 417),
}

TAKEN = {
    "a length": (POST + b"Content-Length: 3\r\n\r\nabc", (b"POST", b"/", b"abc")),
    "a length with blanks round it": (POST + b"Content-Length: \t3 \t\r\n\r\nabc", (b"POST", b"/", b"abc")),
    "a length with leading zeros": (POST + b"Content-Length: 003\r\n\r\nabc", (b"POST", b"/", b"abc")),
    "a body of GET": (GET + HOST + b"Content-Length: 3\r\n\r\nabc", (b"GET", b"/", b"abc")),
    "a POST without a body": (POST + b"\r\n", (b"POST", b"/", b"")),
    "chunks": (CHUNKED + b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", (b"POST", b"/", b"abc0123456789")),
    "chunked in capitals": (POST + b"Transfer-Encoding: CHUNKED\r\n\r\n1\r\na\r\n0\r\n\r\n", (b"POST", b"/", b"a")),
    "a chunk extension": (CHUNKED + b'3;a=b;c="d"\r\nabc\r\n0\r\n\r\n', (b"POST", b"/", b"abc")),
    "a trailer, which is dropped": (CHUNKED + b"1\r\na\r\n0\r\nX: y\r\n\r\n", (b"POST", b"/", b"a")),
    "empty lines before a request": (b"\r\n\r\n" + GET + HOST + b"\r\n", (b"GET", b"/", b"")),
    "an empty header": (GET + HOST + b"X:\r\n\r\n", (b"GET", b"/", b"")),
    "bytes beyond ASCII in a value": (GET + HOST + b"X: \xc3\xa9\r\n\r\n", (b"GET", b"/", b"")),
    "an absolute target": (b"GET http://a:80/x?y=z HTTP/1.1\r\nHost: a\r\n\r\n", (b"GET", b"/x?y=z", b"")),
    "an absolute target without a path": (b"GET HTTP://a?y HTTP/1.1\r\nHost: a\r\n\r\n", (b"GET", b"/?y", b"")),
    "* for OPTIONS": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", (b"OPTIONS", b"*", b"")),
    "an IPv6 Host": (b"GET / HTTP/1.1\r\nHost: [::1]:9090\r\n\r\n", (b"GET", b"/", b"")),
    "an empty Host": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", (b"GET", b"/", b"")),
    "an upgrade that is not to be had, with a length": (
        POST + b"Content-Length: 5\r\n" + H2C + b"\r\nhello",
        (b"POST", b"/", b"hello"),
    ),
    "an upgrade that is not to be had, with chunks": (
        POST + H2C + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        (b"POST", b"/", b"hello"),
    ),
    "an upgrade with an absolute target and a body": (
        b"POST http://a/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n" + H2C + b"\r\nhello",
        (b"POST", b"/x", b"hello"),
    ),
    "an upgrade without a body": (POST + H2C + b"Content-Length: 0\r\n\r\n", (b"POST", b"/", b"")),
    "a slash or two": (b"GET //a HTTP/1.1\r\nHost: a\r\n\r\n", (b"GET", b"//a", b"")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_and_nothing_after_it_is_read(what: str) -> None:
    data, status = REFUSED[what]
    conversation = Conversation()
    assert conversation.send(data + NEXT) == [status]
    assert conversation.seen == []
    assert conversation.transport.disconnecting
    assert b"Connection: close\r\n" in conversation.transport.value()
    assert b"Content-Type: application/problem+json\r\n" in conversation.transport.value()
    assert (b"\r\nAllow: " in conversation.transport.value()) is (status == 405)
    assert conversation.send(NEXT) == [status]


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_byte_by_byte_too_and_after_a_good_request(what: str) -> None:
    data, status = REFUSED[what]
    conversation = Conversation()
    for byte in NEXT + data + NEXT:
        conversation.send(bytes([byte]))
    assert conversation.send(b"") == [200, status]
    assert conversation.seen == [(b"GET", b"/next", b"")]


@pytest.mark.parametrize("what", TAKEN)
def test_it_is_taken_and_so_is_the_next(what: str) -> None:
    data, seen = TAKEN[what]
    conversation = Conversation()
    assert conversation.send(data + NEXT) == [200, 200]
    assert conversation.seen == [seen, (b"GET", b"/next", b"")]


@pytest.mark.parametrize("what", TAKEN)
def test_it_is_taken_byte_by_byte_too(what: str) -> None:
    data, seen = TAKEN[what]
    conversation = Conversation()
    for byte in data:
        conversation.send(bytes([byte]))
    assert conversation.seen == [seen]


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8), st.data())
def test_bodies_arrive_as_sent_however_the_bytes_are_cut(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b""
    for number, body in enumerate(bodies):
        if number % 2:
            stream += POST + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        else:
            middle = len(body) // 2
            chunks = [part for part in (body[:middle], body[middle:]) if part]
            stream += CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in chunks) + b"0\r\n\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    conversation = Conversation()
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        conversation.send(stream[start:end])
    assert [body for _, _, body in conversation.seen] == bodies


@given(st.binary(max_size=600))
def test_whatever_bytes_come_the_answer_is_well_formed(data: bytes) -> None:
    conversation = Conversation()
    assert all(status in {200, 400, 405, 413, 414, 417, 431, 501, 505} for status in conversation.send(data))
