"""Opens a payload with cramjam: gzip, zstd, and what of the other codecs the kernels leave to a library."""

from __future__ import annotations

from typing import Any

import cramjam

from agent.decode.kernels.open_batches import GZIP, LZ4, ZSTD

_LIBRARY: dict[int, Any] = {GZIP: cramjam.gzip, LZ4: cramjam.lz4, ZSTD: cramjam.zstd}
_NO_ROOM = "failed to write whole buffer"  # what cramjam says of its output


class NoRoom(Exception):
    """What is in the payload is larger than the room it was given, or may be."""


class BadPayload(Exception):
    """The payload is not what its codec writes; the message says why."""


def open_payload(codec: int, payload: memoryview, room: memoryview) -> int:
    """Decompress `payload` to the start of `room`; returns the number of bytes written.

    Raises NoRoom and BadPayload; the room is then overwritten in part.
    """
    try:
        return int(_LIBRARY[codec].decompress_into(payload, room))
    except cramjam.DecompressionError as error:
        if str(error) == _NO_ROOM:
            raise NoRoom from None
        raise BadPayload(str(error)) from None
