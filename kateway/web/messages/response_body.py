"""A response's records in some form, as a stream that is compressed where the client takes that and it is worth it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kateway.core.delivery.confirmation import Span
from kateway.web.exchange import NO_STORE, Exchange
from kateway.web.formats import Form
from kateway.web.messages.compression import Compressor, compressor

KEPT = b'{"handoff":"stored"}'
"""Says of a published record that it is kept on the gateway's disk."""


class FormBody:
    """Begun with the first records, or before, by one that follows."""

    def __init__(self, exchange: Exchange, form: Form) -> None:
        self.begun = False
        self._exchange = exchange
        self._form = form
        self._compressor: Compressor | None = None

    def begin(self, size: float = math.inf) -> None:
        """Sends the head, for a body of at least ``size`` bytes."""
        self.begun = True
        headers = [(b"Content-Type", self._form.content_type), NO_STORE]
        accepted = self._exchange.request.listed(b"accept-encoding")
        self._compressor = compressor(accepted, self._form.content_type, size)
        if self._compressor is not None:
            headers += [(b"Content-Encoding", self._compressor.encoding), (b"Vary", b"Accept-Encoding")]
        self._exchange.begin(200, headers)
        self.write(self._form.opening)

    def send(self, pieces: list[bytes]) -> tuple[int, Span]:
        """Sends records, one in each piece: their bytes before compression, and where they lie in the stream."""
        size = sum(map(len, pieces))
        if not self.begun:
            self.begin(size)
        found: Sequence[bytes] = pieces
        if self._compressor is not None:
            found = [self._compressor.piece(b"".join(pieces))]
        return size, self._exchange.write(found, one_chunk=self._form.one_chunk)

    def write(self, piece: bytes) -> None:
        """Sends bytes that are no record: an opening, a heartbeat."""
        if piece:
            self._exchange.write([piece if self._compressor is None else self._compressor.piece(piece)])

    def end(self) -> None:
        """Ends the body."""
        self.write(self._form.closing)
        if self._compressor is not None:
            self._exchange.write([self._compressor.end()])
        self._exchange.finish()
