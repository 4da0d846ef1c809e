"""Which form of records a client wants: ``Accept`` to a form, or 406 that lists what there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from kateway.errors import NotAcceptable
from kateway.web.formats import Form
from kateway.web.formats.frames import FramesForm
from kateway.web.formats.jsonarray import JsonForm
from kateway.web.formats.ndjson import NdjsonForm
from kateway.web.formats.raw import OCTETS, RawForm
from kateway.web.formats.sse import SseForm
from kateway.web.params import Cache

T = TypeVar("T")

TEXT = b"text/plain"
_FORMS: dict[bytes, Callable[[], Form]] = {
    OCTETS: RawForm,
    TEXT: lambda: RawForm(TEXT),
    b"application/x-ndjson": NdjsonForm,
    b"application/json": JsonForm,
    b"application/vnd.kateway.frames": FramesForm,
    b"text/event-stream": SseForm,
}
_WILD = {b"*/*": OCTETS, b"application/*": OCTETS, b"text/*": TEXT}


def choose(accept: bytes, known: Mapping[bytes, T], wild: Mapping[bytes, bytes]) -> T:
    """Finds what is known of the highest q; of equals, what is named first; exact names before wildcards, which stand
    for one of the known. ``NotAcceptable``.
    """
    ranked: list[tuple[float, int, int, bytes]] = []
    refused: set[bytes] = set()
    for index, part in enumerate(accept.split(b",")):
        name, *parameters = (piece.strip().lower() for piece in part.split(b";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith(b"q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        if not 0 < quality <= 1:
            refused.add(name)
        elif name in known:
            ranked.append((-quality, 0, index, name))
        elif name in wild:
            ranked.append((-quality, 1, index, wild[name]))
    for _quality, _wild, _index, name in sorted(ranked):
        if name not in refused and name in known:
            return known[name]
    raise NotAcceptable("give Accept one of " + ", ".join(sorted(name.decode() for name in known)) + " or */*")


_cached = Cache(lambda accept: choose(accept, _FORMS, _WILD))


def form(accept: bytes | None) -> Form:
    """The form that ``Accept`` asks for; raw where it is absent."""
    return _cached(accept)() if accept else RawForm()
