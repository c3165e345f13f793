"""Large pages in pieces: made, compressed and sent one by one, so that none holds the GIL, or the loop, for long.

One `orjson.dumps` of the state of 10,000 series holds the GIL for an eighth of a second, and the loop with it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson

from agent.types import Json

#: A piece is closed at this size: a copy of it takes some 50 us.
PIECE_BYTES: Final = 256 << 10

_GZIP: Final = 16 + zlib.MAX_WBITS
#: zlib's own default is 6, at twice the time for a tenth of the size.
_LEVEL: Final = 4


def encoded(value: Any) -> bytes:
    """JSON. NaN and infinity become null: JSON has no other word for them."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def fragment(document: Json) -> orjson.Fragment:
    """A part of a page, encoded where it is made: it takes a tenth of the document's memory, and is freed at once."""
    return orjson.Fragment(encoded(document))


def json_pieces(document: Json) -> list[bytes]:
    """The document as JSON and a line end. Each entry of its lists is encoded by itself."""
    return list(_joined(_parts(document)))


def _parts(document: Json) -> Iterator[bytes]:
    between = b"{"
    for key, value in document.items():
        yield between + encoded(key) + b":"
        between = b","
        if not isinstance(value, list) or not value:
            yield encoded(value)
            continue
        comma = b"["
        for entry in value:
            yield comma + encoded(entry)
            comma = b","
        yield b"]"
    yield b"}\n" if document else b"{}\n"


def _joined(parts: Iterable[bytes]) -> Iterator[bytes]:
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def taken(pieces: list[bytes]) -> Iterator[bytes]:
    """The pieces in order, each gone from the list: 30 MB freed at once hold the GIL for 20 ms."""
    pieces.reverse()
    while pieces:
        yield pieces.pop()


def gzipped(pieces: list[bytes]) -> list[bytes]:
    """The same as one gzip member; zlib gives the GIL away while it works. The list is empty then."""
    squeezer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    out = [squeezer.compress(piece) for piece in taken(pieces)]
    return [piece for piece in [*out, squeezer.flush()] if piece]
