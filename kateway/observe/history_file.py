"""The history as a file: written whole beside the last one and then renamed, so that a crash leaves one of the two.

A line names the form, one describes the rings as JSON; their slots follow, compressed.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from kateway.observe.history import SHAPES, History, Kind, Labels
from kateway.observe.own_file import replacing
from kateway.observe.rings import Rings, Shape, Tier

FORM = b"kateway-history 1"
COMPRESSION = 1


class Kept(NamedTuple):
    """The rings of one object, as they were at one moment."""

    kind: Kind
    labels: Labels
    shape: Shape
    last: int
    active_at: float
    slots: bytes


class Damaged(Exception):
    """The file is not what was written."""


def copied(history: History) -> Iterator[Kept]:
    """Gives a copy of each object's rings."""
    yield _copy("gateway", (), history.gateway)
    for (kind, labels), rings in list(history.objects.items()):
        yield _copy(kind, labels, rings)


def _copy(kind: Kind, labels: Labels, rings: Rings) -> Kept:
    return Kept(kind, labels, rings.shape, rings.last, rings.active_at, rings.data.tobytes())


def write(path: Path, kept: Sequence[Kept]) -> None:
    """Writes the file. Blocks; raises ``OSError``."""
    described = {
        "byte_order": sys.byteorder,
        "rings": [
            [each.kind, each.labels, [list(tier) for tier in each.shape.tiers], each.shape.series, each.shape.peaks,
             each.last, each.active_at]
            for each in kept
        ],
    }  # fmt: skip
    with replacing(path) as file:
        file.write(FORM + b"\n" + orjson.dumps(described) + b"\n")
        compressing = zlib.compressobj(COMPRESSION)
        for each in kept:
            file.write(compressing.compress(each.slots))
        file.write(compressing.flush())


def read(path: Path) -> list[Kept]:
    """Reads the file; empty where there is none. Blocks; raises ``OSError`` and ``Damaged``."""
    try:
        form, described, packed = path.read_bytes().split(b"\n", 2)
        if form != FORM:
            raise Damaged(f"{path} is of another form")
        found = orjson.loads(described)
        slots = zlib.decompress(packed)
        return list(_rings(found["rings"], slots, swapped=found["byte_order"] != sys.byteorder))
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError, IndexError, zlib.error) as error:
        raise Damaged(f"{path} is damaged: {error}") from error


def _rings(described: Iterable[Any], slots: bytes, *, swapped: bool) -> Iterator[Kept]:
    place = 0
    for kind, labels, tiers, series, peaks, last, active_at in described:
        shape = Shape(tuple(Tier(*tier) for tier in tiers), tuple(series), tuple(peaks))
        piece = slots[place : place + 2 * shape.slots]
        if len(piece) != 2 * shape.slots:
            raise ValueError("slots are missing")
        place += len(piece)
        if swapped:
            turned = array("H", piece)
            turned.byteswap()
            piece = turned.tobytes()
        yield Kept(kind, tuple(labels), shape, int(last), float(active_at), piece)


def restore(history: History, kept: Iterable[Kept]) -> None:
    """Takes over what was read; rings of another shape, which another version wrote, are left out."""
    for each in kept:
        shape = history.gateway.shape if each.kind == "gateway" else SHAPES.get(each.kind)
        if shape != each.shape:
            continue
        rings = Rings(shape, array("H", each.slots), each.last, each.active_at)
        if each.kind == "gateway":
            if not history.gateway.last:
                history.gateway = rings
        else:
            history.restore(each.kind, each.labels, rings)
